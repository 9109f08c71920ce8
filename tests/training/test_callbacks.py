"""Hooks in loops that are not ours: each adapter does what a loop written by hand does."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import penjing as pj
from penjing.errors import RecipeError, WorkloadError
from penjing.training import Beside, Hook, LoopState, finetune, hf_callback, lightning_callback
from penjing.types import Regrow

STEP = pj.Sparsify(0.75, schedule="cubic")
BATCHES = list(torch.randn(12, 8, 4, generator=torch.Generator().manual_seed(0)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x).square().mean()


def by_hand(model: nn.Module, hook: Hook) -> None:
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    beside = Beside(model, optimizer, len(BATCHES), [hook])
    for x in BATCHES:
        beside.before_step()
        optimizer.zero_grad()
        loss(model, x).backward()
        beside.after_backward()
        optimizer.step()
        beside.after_step()
    assert beside.settled


def by_transformers(model: nn.Module, hook: Hook) -> None:
    """The calls of Trainer._inner_training_loop, made by transformers' own handler."""
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_callback import CallbackHandler, TrainerCallback

    callback = hf_callback(hook)
    assert isinstance(callback, TrainerCallback)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    handler = CallbackHandler([callback], model, None, optimizer, None)
    args, state, control = SimpleNamespace(), TrainerState(max_steps=len(BATCHES)), TrainerControl()
    handler.on_train_begin(args, state, control)
    handler.on_epoch_begin(args, state, control)
    for x in BATCHES:
        handler.on_step_begin(args, state, control)
        loss(model, x).backward()
        handler.on_pre_optimizer_step(args, state, control)
        optimizer.step()
        handler.on_optimizer_step(args, state, control)
        optimizer.zero_grad()
        state.global_step += 1
        handler.on_step_end(args, state, control)
    handler.on_epoch_end(args, state, control)
    handler.on_train_end(args, state, control)


def by_lightning(model: nn.Module, hook: Hook) -> None:
    """The calls that Lightning documents, for batches of which two make one step."""
    callback = lightning_callback(hook)
    assert type(callback).__mro__[2] is sys.modules["lightning.pytorch"].Callback
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    trainer = SimpleNamespace(estimated_stepping_batches=len(BATCHES), global_step=0, optimizers=[optimizer])
    callback.on_train_start(trainer, model)
    callback.on_train_epoch_start(trainer, model)
    for i, x in enumerate(torch.cat(BATCHES).split(4)):
        callback.on_train_batch_start(trainer, model, x, i)
        (loss(model, x) / 2).backward()
        if i % 2:
            callback.on_before_optimizer_step(trainer, model, optimizer)
            optimizer.step()
            optimizer.zero_grad()
            trainer.global_step += 1
        callback.on_train_batch_end(trainer, model, None, x, i)
    callback.on_train_epoch_end(trainer, model)


@pytest.fixture(autouse=True)
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    package, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
    inner.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", inner)


@pytest.mark.parametrize("train", [by_hand, by_transformers, by_lightning])
def test_zeros_grow_and_stay_in_every_loop(train: Callable[[nn.Module, Hook], None]) -> None:
    model, twin = network(), network()
    hook = pj.sparsity_hook(model, STEP)
    assert all(model.get_parameter(name).count_nonzero() == mask.numel() for name, mask in hook.masks.items())
    train(model, hook)
    assert set(hook.masks) == {"0.weight", "2.weight"}
    assert sum(int(mask.sum()) for mask in hook.masks.values()) == 16
    for name, mask in hook.masks.items():
        assert torch.equal(model.get_parameter(name) != 0, mask)

    by_hand(twin, pj.sparsity_hook(twin, STEP))
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("regrow", [None, *Regrow])
def test_the_loop_of_the_house_and_one_by_hand_are_one(regrow: Regrow | None) -> None:
    sparsify = replace(STEP, regrow=regrow)
    model, twin = network(), network()
    data = [(x, x) for x in BATCHES]
    other = [(x + 9, x + 9) for x in BATCHES[:4]]
    metric = pj.metrics.mean_squared_error()
    workload = pj.Workload(model, BATCHES[0], train=data, evaluation=other, metric=metric, loss=nn.functional.mse_loss)
    step = pj.Finetune(1, lr=0.1, schedule="constant", warmup=0, weight_decay=0, distill=False, precision="fp32")
    log = finetune(model, workload, step, hooks=[pj.sparsity_hook(model, sparsify)])
    assert log.best_epoch == 1

    torch.manual_seed(0)  # of the draws of SET
    by_hand(twin, pj.sparsity_hook(twin, sparsify))
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_without_a_schedule_zeros_are_set_at_once_and_kept() -> None:
    model = network()
    hook = pj.sparsity_hook(model, pj.Sparsify(0.5))
    before = {name: mask.clone() for name, mask in hook.masks.items()}
    assert torch.equal(model[0].weight != 0, before["0.weight"])
    by_hand(model, hook)
    assert all(torch.equal(model.get_parameter(name) != 0, mask) for name, mask in before.items())


def test_a_training_that_goes_on_begins_where_it_was() -> None:
    seen: list[int] = []

    class Watch(Hook):
        def before_step(self, state: LoopState) -> None:
            seen.append(state.step)

    model = network()
    beside = Beside(model, SGD(model.parameters(), lr=0.3), 10, [pj.sparsity_hook(model, STEP), Watch()], done=8)
    assert sum(int(model.get_parameter(n).count_nonzero()) for n in ("0.weight", "2.weight")) == 16
    beside.before_step()
    assert seen == [8]
    assert beside.state.lr == 0.3


def test_what_is_wrong_is_told_before_any_training() -> None:
    with pytest.raises(RecipeError, match="score='snip' needs a workload"):
        pj.sparsity_hook(network(), pj.Sparsify(0.5, score="snip"))
    with pytest.raises(RecipeError, match="method='auto' solves layers at once and replaces the parameters"):
        pj.sparsity_hook(network(), pj.Sparsify(0.5, method="auto"))
    with pytest.raises(RecipeError, match="cut=True replaces the parameters that a foreign loop holds"):
        pj.sparsity_hook(network(), pj.Sparsify(0.5, "rows", schedule="cubic", cut=True))
    model = network()
    with pytest.raises(WorkloadError, match="total_steps=0 must be the number of optimizer steps"):
        Beside(model, SGD(model.parameters(), lr=0.1), 0, [])


def test_lightning_under_its_former_name(monkeypatch: pytest.MonkeyPatch) -> None:
    former: Any = ModuleType("pytorch_lightning")
    former.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", former)
    assert isinstance(lightning_callback(), former.Callback)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(WorkloadError, match=r"lightning.pytorch or pytorch_lightning is not installed"):
        lightning_callback()


class Calls(Hook):
    """What was called, with the epoch and the number of steps."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def before_epoch(self, state: LoopState) -> None:
        self.seen.append(("epoch", state.epoch, state.step))

    def before_step(self, state: LoopState) -> None:
        self.seen.append(("step", state.epoch, state.step))


@pytest.mark.parametrize("loop", [by_transformers, by_lightning])
def test_each_epoch_and_each_step_begins_once(loop: Callable[[nn.Module, Hook], None]) -> None:
    calls = Calls()
    loop(network(), calls)
    assert calls.seen == [("epoch", 1, 0), *(("step", 1, i) for i in range(len(BATCHES)))]
