"""Zeros that grow while a model trains: along the schedule, to the amount, and kept."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError
from penjing.techniques import Outcome, apply
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.sparsify.schedules import SCHEDULES
from penjing.training import LoopState


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    teacher = nn.Linear(8, 3)
    x = torch.randn(480, 8)
    y = teacher(x).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    return pj.Workload(model, x[:2], train=batches[:12], evaluation=batches[12:], loss=nn.functional.cross_entropy)


def sparsity_of(model: nn.Module) -> float:
    weights = [model[0].weight, model[2].weight]  # type: ignore[index]
    return 1 - sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_end_at_the_whole_and_stay_within(name: str) -> None:
    schedule = SCHEDULES[name]
    values = [schedule(t / 100, 0.9) for t in range(101)]
    assert values[-1] == pytest.approx(1)
    assert all(0 <= value <= 1 for value in values)
    if name != "cyclic":
        assert all(a <= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("score", ["l1", "movement"])
def test_training_ends_as_sparse_as_asked_and_the_masks_say_so(
    workload: pj.Workload, schedule: str, score: str
) -> None:
    steps = [pj.Sparsify(0.75, schedule=schedule, score=score), pj.Finetune(epochs=4, distill=False, precision="fp32")]
    outcome = apply(workload, steps, seed=1)
    assert sparsity_of(outcome.model) == pytest.approx(0.75, abs=0.01)
    for name, mask in outcome.masks.items():
        assert torch.equal(outcome.model.get_parameter(name) != 0, mask)
    assert any(f"grow by the {schedule} schedule" in row.what for row in outcome.log)
    assert any("75.0% of 264 weights are zero" in row.what for row in outcome.log)
    assert sparsity_of(workload.model) == 0


class Watched(Ramp):
    """Remembers how sparse the model was before each step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[float] = []

    def after_step(self, state: LoopState) -> None:
        super().after_step(state)
        self.seen.append(sparsity_of(state.model))


def test_sparsity_follows_the_schedule_step_by_step(workload: pj.Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Watched] = []

    def watched(*args: Any) -> Watched:
        made.append(Watched(*args))
        return made[-1]

    monkeypatch.setattr("penjing.techniques.recover.ramp_of", watched)
    step = pj.Sparsify(0.8, schedule="cubic", begin=0.25, end=0.75, frequency=1)
    apply(workload, [step, pj.Finetune(epochs=4, distill=False, precision="fp32")], seed=1)
    (ramp,) = made
    assert len(ramp.seen) == 48
    for done, found in enumerate(ramp.seen):
        t = min(1.0, (done - 12) / 24)
        expected = 0.8 * (1 - (1 - t) ** 3) if t >= 0 else 0.0
        if done < 47 and ramp.progress(done + 1, 48) >= 1:
            expected = 0.8
        assert found == pytest.approx(expected, abs=0.01), done


def test_no_epoch_of_the_ramp_counts_as_the_best(workload: pj.Workload) -> None:
    outcome = apply(
        workload,
        [
            pj.Sparsify(0.95, schedule="linear", end=1.0),
            pj.Finetune(epochs=3, patience=1, distill=False, precision="fp32"),
        ],
        seed=1,
    )
    assert sparsity_of(outcome.model) == pytest.approx(0.95, abs=0.01)
    trained = next(row.what for row in outcome.log if row.what.startswith("accuracy"))
    assert "epoch 3 of 3" in trained


def test_an_interrupted_ramp_goes_on(
    workload: pj.Workload, interrupted: Callable[[pj.Workload, list[Any]], Outcome]
) -> None:
    steps = [pj.Sparsify(0.75, schedule="cubic"), pj.Finetune(epochs=4, distill=False, precision="fp32")]
    whole = apply(workload, steps, seed=1)
    again = interrupted(workload, steps)
    states: list[dict[str, Tensor]] = [whole.model.state_dict(), again.model.state_dict()]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_schedule_needs_a_training_behind_it(workload: pj.Workload) -> None:
    with pytest.raises(RecipeError, match="has schedule='cubic', by which zeros grow in training; a Finetune step"):
        apply(workload, [pj.Sparsify(0.5, schedule="cubic")])
    with pytest.raises(RecipeError, match=r"begin=0.8 and end=0.2 must be shares of the training"):
        pj.Sparsify(0.5, schedule="cubic", begin=0.8, end=0.2)
    with pytest.raises(RecipeError, match="frequency=0 must be at least 1"):
        pj.Sparsify(0.5, schedule="cubic", frequency=0)
