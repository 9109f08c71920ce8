from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import WorkloadError
from penjing.recipe import Finetune
from penjing.training import Objective, distillation, distillation_kl
from penjing.training.losses import class_dim
from penjing.workload import Batch


def fake(**settings: Any) -> Any:
    return SimpleNamespace(**{"loss": None, "training_step": None, "select": lambda outputs: outputs} | settings)


def batch(x: Tensor, y: Any) -> Batch:
    return Batch((x,), {}, y, raw=(x, y))


def test_kl_is_the_formula_of_hinton_et_al() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    T = 3.0
    p, q = torch.softmax(t / T, 1), torch.softmax(s / T, 1)
    expected = T**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(distillation_kl(s, t, T).double(), expected, rtol=1e-5, atol=1e-6)


def test_kl_gradient_is_that_of_matching_logits_at_high_temperature() -> None:
    """Equation 4 of the paper: dC/dz -> (z - v) / N for zero-mean logits, so T^2 makes the scale independent of T."""
    torch.manual_seed(0)
    s, t = torch.randn(1, 8), torch.randn(1, 8)
    s, t = (s - s.mean()).requires_grad_(), t - t.mean()
    distillation_kl(s, t, temperature=1000.0).sum().backward()
    torch.testing.assert_close(s.grad, (s.detach() - t) / 8, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("outputs", "target", "expected"),
    [
        (torch.zeros(4, 6, 9), torch.zeros(4, 6, dtype=torch.long), -1),  # tokens
        (torch.zeros(4, 9, 6), torch.zeros(4, 6, dtype=torch.long), 1),  # classes first
        (torch.zeros(4, 9), torch.zeros(4), None),  # a float target is no class number
        (torch.zeros(4, 9), torch.zeros(5, dtype=torch.long), None),
        (torch.zeros(4, 9), None, None),
    ],
)
def test_class_dimension(outputs: Tensor, target: Any, expected: int | None) -> None:
    assert class_dim(outputs, target) == expected


def test_ignored_positions_teach_nothing() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    target = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    kept = target != -100
    expected = distillation_kl(s[kept], t[kept], 2.0).mean()
    torch.testing.assert_close(distillation(s, t, target, 2.0), expected)
    assert distillation(s, t, torch.full((2, 3), -100), 2.0) == 0


def test_everything_else_is_mean_squared_error() -> None:
    s, t = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert distillation(s, t, None, 4.0) == 2.5


def test_shapes_must_agree() -> None:
    with pytest.raises(WorkloadError, match=r"\(2, 3\), its teacher \(2, 4\).*distill=False"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4), None, 1.0)


def test_mixture_weighs_task_and_distillation() -> None:
    torch.manual_seed(0)
    model, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    x, y = torch.randn(6, 3), torch.randint(4, (6,))
    objective = Objective.of(
        fake(loss=functional.cross_entropy), Finetune(distill_weight=0.75, temperature=2.0), teacher
    )
    expected = 0.25 * functional.cross_entropy(model(x), y) + 0.75 * distillation_kl(model(x), teacher(x), 2.0).mean()
    torch.testing.assert_close(objective(model, batch(x, y)), expected)
    assert objective.name == "0.25 loss + 0.75 distillation"


def test_without_a_loss_distillation_stands_alone() -> None:
    model, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    x = torch.randn(6, 3)
    objective = Objective.of(fake(), Finetune(distill_weight=0.1), teacher)
    assert objective.name == "distillation"
    torch.testing.assert_close(objective(model, batch(x, None)), functional.mse_loss(model(x), teacher(x)))


def test_without_a_teacher_the_loss_stands_alone() -> None:
    objective = Objective.of(fake(loss=functional.mse_loss), Finetune(distill=True), None)
    assert objective.name == "loss"
    assert objective.teacher is None


@pytest.mark.parametrize(("step", "teacher"), [(Finetune(), None), (Finetune(distill=False), nn.Linear(1, 1))])
def test_nothing_to_minimise(step: Finetune, teacher: nn.Module | None) -> None:
    with pytest.raises(WorkloadError, match="nothing to minimise"):
        Objective.of(fake(), step, teacher)


def test_a_training_step_is_distilled_from_the_call_it_makes() -> None:
    torch.manual_seed(0)
    model, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    x, y = torch.randn(6, 3), torch.randint(4, (6,))
    seen: list[Any] = []

    def training_step(module: nn.Module, raw: Any) -> Tensor:
        seen.append(raw)
        return functional.cross_entropy(module(raw[0] * 2), raw[1])

    objective = Objective.of(fake(training_step=training_step), Finetune(distill_weight=0.5), teacher)
    loss = objective(model, batch(x, y))
    expected = (
        0.5 * functional.cross_entropy(model(x * 2), y) + 0.5 * distillation_kl(model(x * 2), teacher(x * 2)).mean()
    )
    torch.testing.assert_close(loss, expected)
    assert seen[0][0] is x
    assert not model._forward_hooks


def test_a_training_step_that_never_calls_the_model() -> None:
    def around(module: nn.Module, raw: Any) -> Tensor:
        weight: Tensor = module.get_parameter("weight")
        return weight.sum()

    objective = Objective.of(fake(training_step=around), Finetune(), nn.Linear(3, 4))
    with pytest.raises(WorkloadError, match="never called"):
        objective(nn.Linear(3, 4), batch(torch.zeros(1, 3), None))


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda o, t: functional.cross_entropy(o, t, reduction="none"), r"shape \(2,\)"),
        (lambda o, t: functional.cross_entropy(o, t).detach(), r"shape \(\)"),
        (lambda o, t: 0.5, "float"),
    ],
)
def test_a_loss_that_cannot_be_minimised(loss: Any, got: str) -> None:
    objective = Objective.of(fake(loss=loss), Finetune(distill=False), None)
    with pytest.raises(WorkloadError, match=f"scalar tensor.*got {got}"):
        objective(nn.Linear(3, 4), batch(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)))


def test_the_teacher_gets_no_gradient() -> None:
    model, teacher = nn.Linear(3, 4), nn.Linear(3, 4)
    Objective.of(fake(), Finetune(), teacher)(model, batch(torch.ones(2, 3), None)).backward()
    assert model.weight.grad is not None
    assert teacher.weight.grad is None
