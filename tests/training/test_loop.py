from pathlib import Path
from typing import Any

import pytest
import torch
from spirals import Spirals, network
from torch import Tensor, fx, nn
from torch.nn import functional

from penjing.errors import RecipeError, ShapeError, WorkloadError
from penjing.recipe import Finetune
from penjing.training import Hook, KeepMasks, LoopState, TrainingLog, finetune
from penjing.training.log import EpochRow
from penjing.training.numerics import Numerics, Trial
from penjing.training.schedules import step_factor
from penjing.training.selection import out_of_patience
from penjing.types import Direction
from penjing.workload import Batch


def run(model: nn.Module, workload: Any, step: Finetune, **settings: Any) -> TrainingLog:
    return finetune(model, workload, step, **settings)


def test_it_learns_and_keeps_the_best() -> None:
    model, workload = network(), Spirals()
    log = run(model, workload, Finetune(epochs=30, lr=0.1, precision="fp32", distill=False))
    assert log.best.metric > log.rows[0].metric
    assert log.best.metric >= 0.9
    assert workload.evaluate(model)[0].value == log.best.metric
    assert [row.epoch for row in log.rows] == list(range(31))
    assert log.rows[0].loss is None
    assert log.steps == 30 * 6
    assert "accuracy" in log.summary()
    assert log.to_data()["rows"][1]["loss"] == log.rows[1].loss


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_the_loop_one_would_write_by_hand(optimizer: str) -> None:
    step = Finetune(epochs=2, optimizer=optimizer, precision="fp32", distill=False, clip_norm=0.5, warmup=0.25)
    model, workload = network(), Spirals()
    workload.values = [0.0, 0.1, 0.2]
    run(model, workload, step)

    twin = network()
    weights = [p for p in twin.parameters() if p.ndim > 1]
    others = [p for p in twin.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    peak = 0.01 if optimizer == "sgd" else 1e-3
    sgd = torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)
    opt = sgd if optimizer == "sgd" else torch.optim.AdamW(groups, lr=peak)
    twin.train()
    for i, (x, y) in enumerate([*workload.loader, *workload.loader]):
        for group in opt.param_groups:
            group["lr"] = peak * step_factor(i, 12, step)
        opt.zero_grad()
        functional.cross_entropy(twin(x), y).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        opt.step()
    for (name, mine), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_state_before_training_counts() -> None:
    model, workload = network(), Spirals()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    workload.values = [0.9, 0.5, 0.7]
    log = run(model, workload, Finetune(epochs=2, distill=False))
    assert log.best_epoch == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_lower_may_be_better() -> None:
    model, workload = network(), Spirals()
    workload.metric.direction = Direction.LOWER
    workload.values = [0.9, 0.5, 0.7]
    assert run(model, workload, Finetune(epochs=2, distill=False)).best_epoch == 1


def test_early_stop() -> None:
    workload = Spirals()
    workload.values = [0.1, 0.5, 0.5, 0.4, 0.9]
    log = run(network(), workload, Finetune(epochs=9, patience=2, distill=False))
    assert log.stopped_early
    assert len(log.rows) == 4
    assert log.best_epoch == 2  # of equal ones the later


def test_patience_counts_from_the_first_of_equal_epochs() -> None:
    rows = [EpochRow(i, None, m, 0.0, 0.0) for i, m in enumerate((0.1, 0.5, 0.5))]
    assert out_of_patience(rows, Direction.HIGHER, 1)
    assert not out_of_patience(rows, Direction.HIGHER, 2)
    assert not out_of_patience(rows, Direction.HIGHER, None)


@pytest.mark.parametrize(("epochs", "steps", "rows"), [(0, 0, 1), (0.5, 3, 2), (1.5, 9, 3), (0.01, 1, 2)])
def test_fractions_of_an_epoch(epochs: float, steps: int, rows: int) -> None:
    log = run(network(), Spirals(), Finetune(epochs=epochs, distill=False))
    assert (log.steps, len(log.rows), log.stopped_early) == (steps, rows, False)


def test_distilling_alone_brings_a_student_to_its_teacher() -> None:
    workload = Spirals(loss=None)
    teacher = network()
    run(teacher, Spirals(), Finetune(epochs=10, lr=0.1, distill=False, precision="fp32"))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    teacher.train()
    torch.manual_seed(5)
    student = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 2))
    log = run(student, workload, Finetune(epochs=12, lr=0.02, precision="fp32"), teacher=teacher)
    assert log.objective == "distillation"
    assert log.rows[-1].loss is not None
    assert log.rows[1].loss is not None
    assert log.rows[-1].loss < log.rows[1].loss / 4
    assert teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())  # batch norm ran in eval mode


def test_a_loss_that_is_not_finite_names_place_and_remedy_and_keeps_the_best() -> None:
    model, workload = network(), Spirals()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calls: list[int] = []

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(outputs, target) * (float("nan") if len(calls) == 8 else 1.0)

    workload.loss, workload.values = loss, [0.9, 0.1]
    with pytest.raises(WorkloadError, match=r"nan in epoch 2, step 8 of 18, at learning rate .*lower it .*clip_norm"):
        run(model, workload, Finetune(epochs=3, distill=False, precision="bf16"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_metric_that_is_not_finite() -> None:
    workload = Spirals()
    workload.values = [0.5, float("nan")]
    with pytest.raises(WorkloadError, match="'accuracy' is nan after epoch 1"):
        run(network(), workload, Finetune(distill=False))


def test_a_model_cannot_teach_itself() -> None:
    model = network()
    with pytest.raises(WorkloadError, match="deepcopy"):
        run(model, Spirals(), Finetune(), teacher=model)


def test_an_empty_source() -> None:
    workload = Spirals()
    workload.train_steps, workload.loader = 0, []  # type: ignore[assignment]
    with pytest.raises(WorkloadError, match="no training batch"):
        run(network(), workload, Finetune(distill=False))


def test_a_source_that_runs_dry() -> None:
    workload = Spirals()
    once = list(workload.loader)
    sources = iter([once, once, []])  # first batch, epoch 1, epoch 2
    workload.train_batches = lambda: (Batch((x,), {}, y) for x, y in next(sources))  # type: ignore[method-assign]
    with pytest.raises(WorkloadError, match=r"no batch in epoch 2.*read again"):
        run(network(), workload, Finetune(epochs=2, distill=False))


class KilledError(Exception):
    pass


class Kill(Hook):
    def after_epoch(self, state: LoopState) -> None:
        if state.epoch == 1:
            raise KilledError


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, optimizer: str) -> None:
    step = Finetune(epochs=4, lr=0.02, optimizer=optimizer, distill_weight=0.5, precision="fp32")
    teacher = network()
    whole = network(dropout=0.3)
    torch.manual_seed(100)
    log = run(whole, Spirals(shuffle=True), step, teacher=teacher, seed=7)

    torch.manual_seed(200)
    first = network(dropout=0.3)
    with pytest.raises(KilledError):
        run(first, Spirals(shuffle=True), step, teacher=teacher, seed=7, hooks=[Kill()], resume_dir=tmp_path)
    torch.manual_seed(300)
    second = network(dropout=0.3)
    resumed = run(second, Spirals(shuffle=True), step, teacher=teacher, seed=7, hooks=[Kill()], resume_dir=tmp_path)

    assert resumed.resumed_from == 1
    assert [(r.loss, r.metric, r.lr) for r in resumed.rows] == [(r.loss, r.metric, r.lr) for r in log.rows]
    for (name, a), b in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    third = network(dropout=0.3)
    finished = run(third, Spirals(shuffle=True), step, teacher=teacher, seed=7, resume_dir=tmp_path)
    assert finished.resumed_from == 4
    assert finished.rows == resumed.rows
    assert all(
        torch.equal(a, b) for a, b in zip(third.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_numerics_are_timed_once_and_kept_on_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = 0

    def choose(*_: Any) -> tuple[Numerics, tuple[Trial, ...]]:
        nonlocal timed
        timed += 1
        return Numerics("bf16"), (Trial(Numerics("bf16"), 1.0), Trial(Numerics("fp32"), 2.0))

    monkeypatch.setattr("penjing.training.loop.choose_numerics", choose)
    step = Finetune(epochs=3, distill=False, precision="auto")
    with pytest.raises(KilledError):
        run(network(), Spirals(), step, hooks=[Kill()], resume_dir=tmp_path)
    resumed = run(network(), Spirals(), step, resume_dir=tmp_path)
    assert timed == 1
    assert resumed.resumed_from == 1
    assert resumed.precision == "bf16"
    assert resumed.trials == ("bf16: 1 ms", "fp32: 2 ms")


def test_another_training_is_never_taken_up(tmp_path: Path) -> None:
    run(network(), Spirals(), Finetune(distill=False), resume_dir=tmp_path)
    other = network()
    with torch.no_grad():
        other[0].bias.add_(1)
    for model, step, seed in [
        (other, Finetune(distill=False), 0),
        (network(), Finetune(distill=False, lr=0.5), 0),
        (network(), Finetune(distill=False), 1),
    ]:
        assert run(model, Spirals(), step, seed=seed, resume_dir=tmp_path).resumed_from is None


def test_surroundings_stay_as_they_were() -> None:
    model = network()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(9)
    run(model, Spirals(shuffle=True), Finetune(distill=False), seed=3)
    assert [m.training for m in model.modules()] == modes
    drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(9)))
    assert all(p.grad is None for p in model.parameters())


def test_the_seed_decides() -> None:
    def train(seed: int) -> Tensor:
        model, workload = network(dropout=0.5), Spirals(shuffle=True)
        workload.values = [0.0, 1.0]
        run(model, workload, Finetune(distill=False, precision="fp32"), seed=seed)
        return model[0].weight.detach()

    assert torch.equal(train(1), train(1))
    assert not torch.equal(train(1), train(2))


def test_hooks_run_in_order_and_see_the_state() -> None:
    seen: list[Any] = []

    class Watch(Hook):
        def before_training(self, state: LoopState) -> None:
            seen.append("training")

        def before_epoch(self, state: LoopState) -> None:
            seen.append(("epoch", state.epoch))

        def before_step(self, state: LoopState) -> None:
            seen.append(("step", state.step))
            assert state.lr == state.optimizer.param_groups[0]["lr"] > 0

        def after_backward(self, state: LoopState) -> None:
            seen.append("backward")
            assert all(p.grad is not None for p in state.model.parameters())

        def after_step(self, state: LoopState) -> None:
            seen.append(("stepped", state.step))
            assert state.loss > 0

        def after_epoch(self, state: LoopState) -> None:
            seen.append("done")

    run(network(), Spirals(n=32), Finetune(epochs=1, distill=False), hooks=[Watch()])
    step = lambda i: [("step", i), "backward", ("stepped", i + 1)]  # noqa: E731
    assert seen == ["training", ("epoch", 1), *step(0), *step(1), "done"]


def test_progress_is_told_of_every_step() -> None:
    told: list[tuple[int, int, str]] = []

    class Bar:
        def update(self, done: int, total: int, text: str) -> None:
            told.append((done, total, text))

    run(network(), Spirals(), Finetune(epochs=2, distill=False), progress=Bar())
    assert [(done, total) for done, total, _ in told] == [(i, 12) for i in range(1, 13)]
    assert told[-1][2].startswith("epoch 2/2, loss ")


def test_masks_are_kept() -> None:
    model, workload = network(), Spirals()
    mask = torch.rand_like(model[0].weight) > 0.5
    log = run(
        model,
        workload,
        Finetune(epochs=5, lr=0.1, distill=False, weight_decay=0.1),
        hooks=[KeepMasks({"0.weight": mask})],
    )
    assert log.best_epoch > 0
    assert (model[0].weight[~mask] == 0).all()
    assert (model[0].weight[mask] != 0).all()


def test_masks_come_after_what_other_hooks_do() -> None:
    class Revive(Hook):
        def after_step(self, state: LoopState) -> None:
            with torch.no_grad():
                next(state.model.parameters()).add_(1)

    model, mask = network(), torch.tensor([[1, 0]] * 32)
    workload = Spirals()
    workload.values = [0.0, 1.0]
    run(model, workload, Finetune(distill=False), hooks=[Revive(), KeepMasks({"0.weight": mask})])
    assert (model[0].weight[:, 1] == 0).all()
    assert (model[0].weight[:, 0] != 0).all()


def test_masks_do_not_count_in_the_clipped_norm() -> None:
    norms: list[float] = []

    class Watch(Hook):
        def after_backward(self, state: LoopState) -> None:
            grad = next(state.model.parameters()).grad
            assert grad is not None
            norms.append(grad.norm().item())

    dead = {"0.weight": torch.zeros(32, 2)}
    run(network(), Spirals(), Finetune(distill=False), hooks=[KeepMasks(dead), Watch()])
    assert norms == [0.0] * 6


def test_masks_hold_even_when_the_state_before_training_is_best() -> None:
    model, workload = network(), Spirals()
    workload.values = [0.9, 0.1]
    run(model, workload, Finetune(distill=False), hooks=[KeepMasks({"4.weight": torch.zeros(2, 32)})])
    assert (model[4].weight == 0).all()


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(RecipeError, match="no parameter 'nowhere'"):
        run(network(), Spirals(), Finetune(distill=False), hooks=[KeepMasks({"nowhere": torch.ones(1)})])
    with pytest.raises(ShapeError, match=r"'0.weight' has shape \(3,\)"):
        run(network(), Spirals(), Finetune(distill=False), hooks=[KeepMasks({"0.weight": torch.ones(3)})])


def test_a_graph_module_trains() -> None:
    model, workload = network(), Spirals()
    graph = fx.symbolic_trace(network())
    step = Finetune(epochs=3, lr=0.1, distill=False, precision="fp32")
    assert run(graph, workload, step).rows[-1].loss == run(model, workload, step).rows[-1].loss


def test_bfloat16_is_said_and_the_weights_stay_float32() -> None:
    model = network()
    log = run(model, Spirals(), Finetune(epochs=10, lr=0.1, distill=False, precision="bf16"))
    assert log.precision == "bf16"
    assert log.best.metric > log.rows[0].metric
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_auto_logs_the_figures_of_its_choice() -> None:
    log = run(network(), Spirals(), Finetune(distill=False))
    assert log.precision in ("fp32", "bf16")
    assert [t.split(":")[0] for t in log.trials] == ["bf16", "fp32"]
    assert all(t.endswith(" ms") for t in log.trials)
    assert "; ".join(log.trials) in log.summary()
