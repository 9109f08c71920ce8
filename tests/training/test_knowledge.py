"""What a student learns from its teacher: each loss is its formula, and each is learnt."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import penjing as pj
from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Recipe
from penjing.recipe.training_steps import LOSSES
from penjing.training import Hook, LoopState, Objective, finetune
from penjing.training.knowledge import (
    LAYER_LOSSES,
    Lessons,
    attention_matrices,
    attention_transfer,
    feature_distance,
    relational_angles,
    relational_distances,
    similarity,
)
from penjing.training.knowledge.features import projection
from penjing.workload import ResNet


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def huber(a: Any, b: Any) -> Any:
    d = np.abs(a - b)
    return np.where(d <= 1, d**2 / 2, d - 0.5)


def test_the_steps_know_all_losses() -> None:
    assert set(LOSSES) == {"task", "logits", *LAYER_LOSSES}


def test_attention_transfer_is_the_distance_of_normalised_maps() -> None:
    s, t = pair(3, 4, 5, 6)[0], torch.randn(3, 7, 5, 6, dtype=torch.float64)
    expected = []
    for a, b in zip(s.numpy(), t.numpy(), strict=True):
        qs, qt = (a**2).sum(0).ravel(), (b**2).sum(0).ravel()
        expected.append(((qs / np.linalg.norm(qs) - qt / np.linalg.norm(qt)) ** 2).sum())
    assert attention_transfer(s, t).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_relational_distances_are_the_formula() -> None:
    s, t = pair(5, 4)

    def relative(x: Any) -> Any:
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    found = relational_distances(s, t).item()
    assert found == pytest.approx(huber(relative(s.numpy()), relative(t.numpy())).mean(), rel=1e-5)


def test_relational_angles_are_the_formula() -> None:
    s, t = pair(4, 3)

    def cosines(x: Any) -> Any:
        out = np.zeros((4, 4, 4))
        for j, i, k in itertools.product(range(4), repeat=3):
            u, v = x[i] - x[j], x[k] - x[j]
            if i != j and k != j:
                out[j, i, k] = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        return out

    expected = huber(cosines(s.numpy()), cosines(t.numpy())).mean()
    assert relational_angles(s, t).item() == pytest.approx(expected, rel=1e-5)


def test_similarity_is_the_formula() -> None:
    s, t = pair(5, 3, 2)[0], torch.randn(5, 7, dtype=torch.float64)

    def gram(x: Any) -> Any:
        g = x.reshape(5, -1) @ x.reshape(5, -1).T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    expected = ((gram(s.numpy()) - gram(t.numpy())) ** 2).sum() / 25
    assert similarity(s, t).item() == pytest.approx(expected, rel=1e-5)


def test_attention_matrices_and_features_are_squared_errors() -> None:
    s, t = pair(2, 3, 4, 4)
    torch.testing.assert_close(attention_matrices(s, t), functional.mse_loss(s.float(), t.float()))
    fewer = attention_matrices(s[:, :2], t)
    torch.testing.assert_close(fewer, functional.mse_loss(s[:, :2].float().mean(1), t.float().mean(1)))
    torch.testing.assert_close(feature_distance(s, t), (s - t).square().mean().float())


@pytest.mark.parametrize("name", sorted(LAYER_LOSSES))
def test_each_is_zero_between_equals_and_has_finite_gradients(name: str) -> None:
    features = torch.randn(4, 3, 5, 5)
    features[1] = features[0]  # two samples alike
    student = features.clone().requires_grad_()
    loss = LAYER_LOSSES[name](student, features)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    LAYER_LOSSES[name](student, torch.zeros_like(features)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_projections_are_along_the_dimension_that_differs() -> None:
    assert isinstance(projection(torch.zeros(2, 4, 5), torch.zeros(3, 4, 5), "a and b"), nn.Identity)
    last = projection(torch.zeros(2, 7, 4), torch.zeros(2, 7, 6), "a and b")
    assert last(torch.zeros(2, 7, 4)).shape == (2, 7, 6)
    with pytest.raises(WorkloadError, match=r"a and b give features of shapes \(4, 5\) and \(6, 3\) for a sample"):
        projection(torch.zeros(2, 4, 5), torch.zeros(2, 6, 3), "a and b")
    with pytest.raises(WorkloadError, match=r"'attention' compares places of features .* not \(2, 4\) with \(2, 4\)"):
        attention_transfer(torch.zeros(2, 4), torch.zeros(2, 4))


def task(model: nn.Module, loss: Any = functional.cross_entropy) -> pj.Workload:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.randn(96, 1, 8, 8, generator=g) + labels[:, None, None, None]
    data = list(zip(images.split(16), labels.split(16), strict=True))
    return pj.Workload(model, images[:4], train=data[:4], evaluation=data[4:], loss=loss)


def resnet(*widths: int) -> ResNet:
    torch.manual_seed(0)
    return ResNet((2, 1), widths or (8, 16), classes=3)


@pytest.mark.parametrize("name", ["features", "attention", "distances", "angles", "similarity"])
def test_a_cut_student_comes_nearer_to_the_original_in_each(name: str) -> None:
    workload = task(resnet())
    step = pj.Distill(6, lr=0.05, losses={name: 1.0}, precision="fp32", temperature=2)
    outcome = pj.apply(workload, [pj.PruneChannels(0.5, round_to=None), step])
    cut = pj.apply(workload, pj.PruneChannels(0.5, round_to=None)).model
    student = outcome.model
    assert type(student) is ResNet
    assert student.state_dict().keys() == cut.state_dict().keys()  # projections are gone
    log = finetune(cut, workload, step, teacher=workload.model)
    assert log.objective == name
    losses = [row.loss for row in log.rows[1:]]
    assert losses[-1] < losses[0] * 0.9  # type: ignore[operator]


def test_a_mixture_is_the_weighted_sum_over_block_ends() -> None:
    teacher, student = resnet(), resnet(4, 16)
    workload = task(student)
    step = pj.Distill(losses={"task": 0.2, "logits": 0.5, "similarity": 2.0}, temperature=2)
    objective = Objective.of(workload, step, teacher.eval(), student)
    assert objective.name == "0.2 loss + 0.5 distillation + 2 similarity"
    assert [str(p) for p in objective.lessons.pairs["similarity"]] == [f"blocks.{i} and blocks.{i}" for i in range(3)]
    batch = next(workload.train_batches())
    x, y = batch.args[0], batch.target
    seen: dict[int, list[Tensor]] = {}
    for model in (student.eval(), teacher):
        h, seen[id(model)] = torch.relu(model.bn(model.conv(x))), []
        for block in model.blocks:
            h = block(h)
            seen[id(model)].append(h)
    relations = torch.stack([similarity(a, b) for a, b in zip(*seen.values(), strict=True)]).mean()
    expected = (
        0.2 * functional.cross_entropy(student(x), y)
        + 0.5 * pj_kl(student(x), teacher(x))
        + 2 * relations
    )  # fmt: skip
    torch.testing.assert_close(objective(student, batch), expected)
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())


def pj_kl(student: Tensor, teacher: Tensor) -> Tensor:
    log_s, log_t = (functional.log_softmax(z / 2, 1) for z in (student, teacher))
    return 4 * functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def test_another_teacher_without_labels_by_named_layers() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    workload = task(student, loss=None)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    step = pj.Distill(
        4, lr=0.05, teacher=teacher, losses={"task": 1, "logits": 1, "features": 1}, layers={"1": "1"}, precision="fp32"
    )
    outcome = pj.apply(workload, step)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert "1.5 distillation + 1.5 features" in outcome.log[0].what
    assert outcome.model.state_dict().keys() == student.state_dict().keys()
    lessons = Lessons.of({"features": 1.0}, {"1": "1"}, student, teacher, workload)
    assert [p.shape for p in lessons.projections.parameters()] == [(32, 8)]


class Attention(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.core = nn.MultiheadAttention(12, heads, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.core(x, x, x, average_attn_weights=False)
        return out


class Transformer(nn.Module):
    def __init__(self, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention(heads) for _ in range(layers)])
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)[0]
        logits: Tensor = self.head(x.mean(1))
        return logits


def test_a_transformer_learns_states_and_attention() -> None:
    torch.manual_seed(0)
    student, teacher = Transformer(2, heads=2), Transformer(4, heads=3)
    x, y = torch.randn(64, 5, 12), torch.arange(64) % 3
    data = list(zip(x.split(16), y.split(16), strict=True))
    workload = pj.Workload(student, x[:4], train=data[:2], evaluation=data[2:], loss=functional.cross_entropy)
    losses = {"features": 1.0, "attention_matrices": 1.0}
    by_depth = {"layers.0": "layers.1", "layers.1": "layers.3"}
    lessons = Lessons.of(losses, by_depth, student, teacher, workload)
    assert [str(p) for p in lessons.pairs["features"]] == ["layers.0 and layers.1", "layers.1 and layers.3"]
    alone = Lessons.of({"attention_matrices": 1.0}, None, student, teacher, workload)
    assert [p.student for p in alone.pairs["attention_matrices"]] == ["layers.0.core", "layers.1.core"]
    step = pj.Distill(8, lr=0.1, losses=losses, layers=by_depth, precision="fp32")
    log = finetune(student, workload, step, teacher=teacher)
    assert log.rows[-1].loss < log.rows[1].loss  # type: ignore[operator]


def test_a_resumed_distillation_keeps_its_projections(tmp_path: Path) -> None:
    class Kill(Hook):
        def after_epoch(self, state: LoopState) -> None:
            if state.epoch == 1:
                raise KeyboardInterrupt

    def run(folder: Path | None, *hooks: Hook) -> ResNet:
        student, teacher = resnet(4, 8), resnet()
        step = pj.Distill(3, lr=0.05, losses={"features": 1.0}, precision="fp32")
        finetune(student, task(student), step, teacher=teacher, hooks=hooks, resume_dir=folder)
        return student

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Kill())
    torch.testing.assert_close(run(tmp_path).state_dict(), run(None).state_dict(), rtol=0, atol=0)


def test_an_outcome_names_a_live_teacher_and_goes_on(tmp_path: Path) -> None:
    workload, teacher = task(resnet(4, 8)), resnet()
    recipe = [pj.Distill(1, teacher=teacher, precision="fp32"), pj.Finetune(0.5, precision="fp32")]
    outcome = pj.apply(workload, recipe, resume_dir=tmp_path / "steps")
    again = pj.apply(workload, recipe, resume_dir=tmp_path / "steps")
    assert again.log == outcome.log
    written = outcome.recipe.steps[0]
    assert isinstance(written, pj.Distill)
    assert str(written.teacher).startswith("ResNet ")
    assert Recipe.from_yaml(outcome.recipe.to_yaml()) == outcome.recipe
    with pytest.raises(RecipeError, match=r"step 0 \(distill\) was taught by ResNet .*; give Distill\(teacher=module"):
        pj.apply(workload, outcome.recipe)


def test_a_live_teacher_is_in_no_file() -> None:
    recipe = Recipe([pj.Distill(teacher=nn.Linear(1, 1))])
    assert recipe.explain() == "1. distill(teacher=Linear)"
    with pytest.raises(RecipeError, match="teacher is a live Linear, which a file cannot hold; leave it out"):
        recipe.to_yaml()
    plain = Recipe([pj.Distill(2, losses={"logits": 1.0, "angles": 0.5}, layers={"a.*": "b.*"})])
    assert Recipe.from_yaml(plain.to_yaml()) == plain


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pj.Distill(losses={"hints": 1.0}), "losses='hints' is unknown; use one of task, logits, features"),
        (lambda: pj.Distill(losses={"logits": -1.0}), r"losses\['logits'\]=-1.0 must be at least 0"),
        (lambda: pj.Distill(losses={"task": 1.0}), "asks nothing of the teacher"),
        (
            lambda: pj.apply(task(resnet()), pj.Distill(losses={"features": 1.0}, layers={"blocks.9": "blocks.0"})),
            "layers names 'blocks.9', which is no module; known: conv, bn, blocks",
        ),
        (
            lambda: pj.apply(task(resnet()), pj.Distill(losses={"features": 1.0}, layers={"blocks.*": "stages.*"})),
            "layers names 'stages.0', which is no module",
        ),
    ],
)
def test_bad_distillations_are_refused_with_the_remedy(make: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (pj.Distill(losses={"attention_matrices": 1.0}), "no modules of one name .* give what 'attention_matrices'"),
        (
            pj.Distill(losses={"attention_matrices": 1.0}, layers={"blocks.0": "blocks.0"}),
            "blocks.0 and blocks.0 do not both give what 'attention_matrices' compares; name layers=",
        ),
    ],
)
def test_layers_that_do_not_give_it(step: pj.Distill, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        pj.apply(task(resnet()), step)


def test_a_rewritten_graph_has_no_layers_to_listen_to() -> None:
    steps = [pj.PruneChannels(0.5, round_to=None), pj.Distill(losses={"features": 1.0})]
    with pytest.raises(WorkloadError, match="prefer='module'"):
        pj.apply(task(resnet()), steps, prefer="graph")
