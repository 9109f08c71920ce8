"""Weights that come back: each method against a loop written by hand, and sparsity that stays as asked."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import penjing as pj
from penjing.errors import RecipeError
from penjing.techniques import Outcome, apply
from penjing.techniques.sparsify.ramp import Ramp
from penjing.techniques.sparsify.regrow import REOPEN, exchange, ramp_of
from penjing.training import LoopState
from penjing.training.schedules import step_factor
from penjing.types import Regrow

BATCHES = 12


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    teacher, x = nn.Linear(8, 3), torch.randn(480, 8)
    y = teacher(x).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    model = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    train, rest = batches[:BATCHES], batches[BATCHES:]
    return pj.Workload(model, x[:2], train=train, evaluation=rest, loss=functional.cross_entropy)


def finetune(epochs: int = 4) -> pj.Finetune:
    return pj.Finetune(epochs=epochs, lr=0.1, distill=False, precision="fp32")


bits = st.integers(0, 2**20)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), bits, bits, st.floats(0, 1))
def test_an_exchange_is_the_sorting_that_one_would_write_by_hand(n: int, alive: int, barred: int, share: float) -> None:
    generator = torch.Generator().manual_seed(alive)
    magnitude, growth = torch.randperm(n, generator=generator).double(), torch.randperm(n, generator=generator).double()
    allowed = torch.tensor([not barred >> i & 1 for i in range(n)])
    lives = torch.tensor([bool(alive >> i & 1) for i in range(n)]) & allowed
    found = exchange(magnitude, growth, lives, allowed, share)
    mine = sorted((i for i in range(n) if lives[i]), key=lambda i: magnitude[i].item())
    kept = set(mine[round(share * len(mine)) :])
    free = sorted((i for i in range(n) if allowed[i] and i not in kept), key=lambda i: -growth[i].item())
    expected = kept | set(free[: len(mine) - len(kept)])
    assert set(found.nonzero().flatten().tolist()) == expected
    assert found.sum() == lives.sum()


def by_hand(
    workload: pj.Workload, epochs: int, step: Callable[[int, dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Plain SGD with momentum on dense weights; `step` gives the masks of a forward pass, and sees its gradients."""
    dense = {name: p.detach().clone() for name, p in workload.model.named_parameters()}
    moments = {name: torch.zeros_like(p) for name, p in dense.items()}
    total = epochs * BATCHES
    for t, batch in enumerate(b for _ in range(epochs) for b in workload.train_batches()):
        masks = step(t, dense, {})
        shown = {name: (p * masks.get(name, 1)).requires_grad_() for name, p in dense.items()}
        loss = functional.cross_entropy(torch.func.functional_call(workload.model, shown, batch.args), batch.target)
        gradients = dict(zip(shown, torch.autograd.grad(loss, list(shown.values())), strict=True))
        step(t, dense, gradients)
        lr = 0.1 * step_factor(t, total, pj.Finetune())
        for name, p in dense.items():
            decay = 1e-4 if p.ndim > 1 else 0.0
            g = gradients[name] + decay * p
            moments[name] = 0.9 * moments[name] + g if t else g.clone()
            p -= lr * (g + 0.9 * moments[name])
    final = step(total, dense, {})
    return {name: p * final.get(name, 1) for name, p in dense.items()}


def test_splicing_is_network_surgery(workload: pj.Workload) -> None:
    """Equation 3, |w| < a closes and |w| >= b = REOPEN a opens, with a at the sparsity that is asked for."""
    masks: dict[str, Tensor] = {}
    end = round(0.5 * 4 * BATCHES)

    def surgery(t: int, dense: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = {name: p for name, p in dense.items() if p.ndim > 1}
        if not gradients and t <= end:
            amount = 0.7 * (1 - (1 - t / end) ** 3)
            reach = {name: p.abs() / torch.where(masks.get(name, p == p), 1.0, REOPEN) for name, p in weights.items()}
            flat = torch.cat([each.flatten() for each in reach.values()]).sort().values
            a = flat[round(amount * len(flat))]
            masks.update({name: each >= a for name, each in reach.items()})
        if t >= end:  # what is closed then, stays
            for name, mask in masks.items():
                dense[name] *= mask
                if gradients:
                    gradients[name] *= mask
        return dict(masks)

    expected = by_hand(workload, 4, surgery)
    sparsify = pj.Sparsify(0.7, schedule="cubic", end=0.5, frequency=1, regrow="splice")
    outcome = apply(workload, [sparsify, finetune()], seed=1)
    for name, mask in masks.items():
        assert torch.equal(outcome.masks[name], mask), name
    for name, p in outcome.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], msg=name)
    assert any("came back (splice)" in row.what and not row.what.startswith("0 ") for row in outcome.log)


@pytest.mark.parametrize("regrow", Regrow)
@pytest.mark.parametrize("schedule", ["constant", "cubic"])
@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "rows"])
def test_sparsity_stays_as_asked_while_weights_come_back(
    workload: pj.Workload, regrow: Regrow, schedule: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []

    def watched(step: pj.Sparsify, *args: Any) -> Ramp:
        ramp = ramp_of(step, *args)
        after_step = ramp.after_step

        def watch(state: LoopState) -> None:
            after_step(state)
            done = max(0.0, ramp.progress(state.step - 1, state.total_steps))
            weight = state.model.get_parameter("0.weight")
            assert not weight[~ramp.masks["0.weight"]].any()
            seen.append((done, 1 - float(ramp.masks["0.weight"].float().mean())))

        monkeypatch.setattr(ramp, "after_step", watch)
        return ramp

    monkeypatch.setattr("penjing.techniques.recover.ramp_of", watched)
    sparsify = pj.Sparsify(
        0.75, pattern, schedule=schedule, frequency=1, end=0.7, regrow=regrow, parameters=["0.weight"]
    )
    outcome = apply(workload, [sparsify, finetune()], seed=1)
    for done, found in seen[:-1]:
        factor = 1.0 if schedule == "constant" or done >= 1 else 1 - (1 - done) ** 3
        assert found == pytest.approx(0.75 * factor, abs=1 / 24 if done < 0.9 else 0.1)
    assert seen[-1][1] == 0.75
    (told,) = [row.what for row in outcome.log if "came back" in row.what]
    assert told.endswith(f"({regrow})")
    assert int(told.split()[0]) > 0 or regrow is Regrow.SPLICE


def test_rigl_opens_where_the_dense_gradient_is_largest(workload: pj.Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each update k = alpha / 2 (1 + cos(pi t)) of the living go, and the k largest gradients of the rest come."""
    checked = 0

    def watched(step: pj.Sparsify, *args: Any) -> Ramp:
        ramp = ramp_of(step, *args)
        after_backward = ramp.after_backward

        def watch(state: LoopState) -> None:
            nonlocal checked
            weight = state.model.get_parameter("0.weight")
            before, size, gradient = ramp.masks["0.weight"].flatten(), weight.detach().abs(), weight.grad
            assert gradient is not None
            gradient = gradient.abs().flatten().clone()
            after_backward(state)
            t = ramp.progress(state.step, state.total_steps)
            if not 0 < t < 1 or state.step % 4:
                assert torch.equal(before, ramp.masks["0.weight"].flatten())
                return
            mine = before.nonzero().flatten()
            k = round(0.2 / 2 * (1 + math.cos(math.pi * t)) * len(mine))
            kept = mine[size.flatten()[mine].argsort()[k:]]
            rest = torch.tensor(sorted(set(range(len(before))) - set(kept.tolist())))
            came = rest[gradient[rest].argsort(descending=True)[:k]]
            expected = torch.zeros_like(before)
            expected[torch.cat([kept, came])] = True
            assert torch.equal(ramp.masks["0.weight"].flatten(), expected)
            new = (expected & ~before).view(weight.shape)
            assert not weight[new].any()
            assert not state.optimizer.state[weight]["momentum_buffer"][new].any()
            checked += 1

        monkeypatch.setattr(ramp, "after_backward", watch)
        return ramp

    monkeypatch.setattr("penjing.techniques.recover.ramp_of", watched)
    sparsify = pj.Sparsify(0.6, schedule="constant", frequency=4, end=0.75, regrow="rigl", regrow_share=0.2)
    apply(workload, [sparsify, finetune()], seed=1)
    assert checked == 8


def test_masks_of_earlier_steps_are_not_opened(workload: pj.Workload) -> None:
    first = apply(workload, pj.Sparsify(0.5)).masks
    for regrow in Regrow:
        steps = [pj.Sparsify(0.5), pj.Sparsify(0.5, schedule="constant", regrow=regrow), finetune(2)]
        for name, mask in apply(workload, steps, seed=1).masks.items():
            assert not (mask & ~first[name]).any()


@pytest.mark.parametrize("how", [*({"regrow": regrow} for regrow in Regrow), {"score": "movement"}])
def test_an_interrupted_training_goes_on(
    workload: pj.Workload, how: dict[str, Any], interrupted: Callable[[pj.Workload, list[Any]], Outcome]
) -> None:
    steps = [pj.Sparsify(0.75, schedule="cubic", frequency=3, end=0.8, **how), finetune()]
    whole = apply(workload, steps, seed=1)
    again = interrupted(workload, steps)
    assert [row.what for row in whole.log if "came back" in row.what] == [
        row.what for row in again.log if "came back" in row.what
    ]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regrow": "rigl"}, "regrow='rigl' opens masks while a model trains; give schedule="),
        ({"regrow": "prune", "schedule": "cubic"}, "regrow='prune' is unknown; use one of 'splice', 'set', 'rigl'"),
        ({"regrow_share": 1.0}, r"regrow_share=1.0 must lie in \[0, 1\)"),
        ({"regrow": "splice", "schedule": "cubic", "score": "movement"}, "two thresholds, not score='movement'"),
        ({"regrow": "splice", "schedule": "cubic", "score": "random"}, "two thresholds, not score='random'"),
    ],
)
def test_what_cannot_be_asked(workload: pj.Workload, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        apply(workload, [pj.Sparsify(0.5, **settings), finetune()])
