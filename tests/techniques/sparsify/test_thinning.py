"""Units that a ramp has emptied are cut out while the training goes on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError
from penjing.techniques import apply, restore
from penjing.techniques.sparsify.thinning import Thin
from penjing.training import LoopState


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def workload_of(model: nn.Module) -> pj.Workload:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(480, 1, 6, 6, generator=generator)
    y = (x.flatten(1) @ torch.randn(36, 3, generator=generator)).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    return pj.Workload(model, x[:2], train=batches[:12], evaluation=batches[12:], loss=nn.functional.cross_entropy)


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    return workload_of(network())


def steps(end: float = 0.5, optimizer: str = "sgd", cut: bool = True) -> list[pj.steps.Step]:
    sparsify = pj.Sparsify(
        0.5, "filters", scope="local", parameters=["0.weight", "3.weight"], schedule="cubic", end=end, cut=cut
    )
    return [sparsify, pj.Finetune(4, 0.02, optimizer, distill=False, precision="fp32")]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_model_is_smaller_from_the_next_epoch_on(
    workload: pj.Workload, optimizer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    widths: list[tuple[int, int]] = []
    kept: list[tuple[Tensor, Tensor]] = []
    before_epoch, after_epoch = Thin.before_epoch, Thin.after_epoch
    x = torch.randn(7, 1, 6, 6)

    def watched(self: Thin, state: LoopState) -> None:
        old = state.model.get_parameter("3.weight")
        moments = {name: value.clone() for name, value in state.optimizer.state.get(old, {}).items()}
        was = state.model.eval()(x)
        before_epoch(self, state)
        new = state.model.get_parameter("3.weight")
        if new is not old:
            assert self.surgery is not None
            torch.testing.assert_close(state.model(x), was)
            for name, value in state.optimizer.state[new].items():
                expected = moments[name] if value.ndim == 0 else self.surgery.slice("3.weight", moments[name])
                assert torch.equal(value, expected)
            assert any(parameter is new for parameter in state.optimizer.param_groups[0]["params"])
            kept.append((old, new))
        state.model.train()

    def measured(self: Thin, state: LoopState) -> None:
        widths.append((state.model.get_parameter("0.weight").shape[0], state.model.get_parameter("3.weight").shape[0]))
        after_epoch(self, state)

    monkeypatch.setattr(Thin, "before_epoch", watched)
    monkeypatch.setattr(Thin, "after_epoch", measured)
    outcome = apply(workload, steps(optimizer=optimizer), seed=1)
    assert widths == [(16, 12), (16, 12), (8, 6), (8, 6)]
    assert len(kept) == 1
    assert outcome.model.get_parameter("3.weight").shape == (6, 8, 3, 3)
    assert outcome.masks["3.weight"].shape == (6, 8, 3, 3)
    assert any(row.proof is not None and "contributed nothing" in row.what for row in outcome.log)
    outcome.save(tmp_path / "saved")
    again = restore(network(), tmp_path / "saved").eval()
    assert torch.equal(again(x), outcome.model.eval()(x))
    assert sum(p.numel() for p in workload.model.parameters()) == sum(p.numel() for p in network().parameters())


def test_training_goes_on_as_the_masked_one_would(workload: pj.Workload) -> None:
    """What was cut was a constant, which moved into the layer behind it: both trainings nearly agree."""
    x = torch.randn(7, 1, 6, 6)
    small, whole = (apply(workload, steps(end=0.5, cut=cut), seed=1).model.eval() for cut in (True, False))
    assert torch.nn.functional.cosine_similarity(small(x).flatten(), whole(x).flatten(), dim=0) > 0.9


def test_an_interrupted_training_goes_on_with_the_smaller_model(
    workload: pj.Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InterruptionError(Exception):
        pass

    whole = apply(workload, steps(), seed=1)
    for last in (2, 3):

        def stop(self: Thin, state: LoopState, last: int = last) -> None:
            if state.epoch == last:
                raise InterruptionError

        with monkeypatch.context() as patch:
            patch.setattr(Thin, "after_epoch", stop)
            with pytest.raises(InterruptionError):
                apply(workload, steps(), seed=1, resume_dir=tmp_path / str(last))
        again = apply(workload, steps(), seed=1, resume_dir=tmp_path / str(last))
        assert whole.model.state_dict().keys() == again.model.state_dict().keys()
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name]), name
        assert [row for row in again.log if row.proof] == [row for row in whole.log if row.proof]
        assert all(torch.equal(mask, again.masks[name]) for name, mask in whole.masks.items())


def test_a_ramp_to_the_very_end_leaves_nothing_to_train(workload: pj.Workload) -> None:
    outcome = apply(workload, steps(end=1.0), seed=1)
    assert outcome.model.get_parameter("0.weight").shape[0] == 16
    (row,) = outcome.fallbacks
    assert "no epoch was left behind the ramp" in row.what


class Fixed(nn.Module):
    """Its code knows a width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(36, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.first(x.flatten(1))).view(-1, 16))
        return result


def test_a_class_that_cannot_be_cut_trains_on_whole() -> None:
    sparsify = pj.Sparsify(0.5, "rows", scope="local", parameters=["first.weight"], schedule="cubic", cut=True)
    whole = apply(workload_of(Fixed()), [sparsify, steps()[1]], seed=1)
    assert whole.model.get_parameter("first.weight").shape[0] == 16
    assert ["its own class cannot be cut while it trains" in row.what for row in whole.fallbacks] == [True]
    after = apply(workload_of(Fixed()), [sparsify, steps()[1], pj.Lossless()], seed=1)
    assert after.model.get_parameter("first.weight").shape[0] == 8


def test_what_cannot_be_asked() -> None:
    with pytest.raises(RecipeError, match=r"cut=True, pattern='filters', schedule=None"):
        pj.Sparsify(0.5, "filters", cut=True)
    with pytest.raises(RecipeError, match=r"cut=True, pattern='2:4'"):
        pj.Sparsify(pattern="2:4", schedule="cubic", cut=True)


@pytest.mark.parametrize(
    ("training", "named"),
    [
        (pj.Finetune(1, regularize=pj.Regularize("l1"), ema=0.9), "Finetune: regularize=, ema="),
        (pj.Distill(1, losses={"features": 1.0}, layers={"0": "0"}), "Distill: losses= of layers"),
    ],
)
def test_what_cannot_follow_a_cut_is_refused(workload: pj.Workload, training: pj.steps.Step, named: str) -> None:
    with pytest.raises(RecipeError, match=rf"{named} cannot follow when Sparsify\(cut=True\) cuts the model"):
        apply(workload, [steps()[0], training])


def test_movement_is_followed_until_the_ramp_has_ended(workload: pj.Workload) -> None:
    sparsify, training = steps()
    moved = pj.apply(workload, [replace(sparsify, score="movement"), training], seed=1)
    assert moved.model.get_parameter("0.weight").shape[0] < 16
