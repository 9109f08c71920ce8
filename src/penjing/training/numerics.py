"""Number format and memory layout of the training steps, chosen by timing them on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penjing.training.randomness import isolated_randomness
from penjing.workload.modes import preserved_buffers

TIMED_STEPS = 2
HOPELESS = 3.0  # a first step this many times slower than the best candidate ends the timing of that candidate
BF16_PAYS = 0.9  # bfloat16 loses digits, so it is taken only when it saves at least a tenth of the time


@dataclass(frozen=True)
class Numerics:
    """precision: "fp32", or "bf16" for bfloat16 autocast with float32 weights. channels_last: layout of 4-D weights."""

    precision: str = "fp32"
    channels_last: bool = False

    def autocast(self, device: torch.device) -> torch.autocast:
        """Give the context in which forward passes run."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        return f"{self.precision}, channels last" if self.channels_last else self.precision


@dataclass(frozen=True)
class Trial:
    """One candidate: the shortest forward and backward pass in milliseconds, or why it cannot run."""

    numerics: Numerics
    step_ms: float | None
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.numerics}: " + (f"{self.step_ms:.3g} ms" if self.step_ms is not None else f"{self.problem}")


def choose_numerics(
    precision: str, model: nn.Module, step: Callable[[Numerics], Tensor]
) -> tuple[Numerics, tuple[Trial, ...]]:
    """Pick numerics for training, and give the trials that decided.

    precision "auto" takes the fastest candidate. "fp32" and "bf16" are kept without looking at the clock, so that a run
    can be repeated exactly: channels last for models with 4-D weights if a step runs in it (a `view` in the model may
    forbid it). `step` gives the loss of one forward pass. The model's weights, buffers and mode and the generators are
    left as they were; gradients are cleared.

    Raises what `step` raises when no candidate runs.
    """
    layouts = (True, False) if any(p.ndim == 4 for p in model.parameters()) else (False,)
    precisions = ("bf16", "fp32") if precision == "auto" else (precision,)
    candidates = [Numerics(p, layout) for layout in layouts for p in precisions]
    if len(candidates) == 1:
        return candidates[0], ()
    trials: list[Trial] = []
    for numerics in candidates:
        best = min((t.step_ms for t in trials if t.step_ms is not None), default=float("inf"))
        try:
            trials.append(Trial(numerics, _time(numerics, model, step, give_up_ms=HOPELESS * best)))
        except RuntimeError as problem:  # an operator that refuses this layout or number format
            trials.append(Trial(numerics, None, str(problem).strip().splitlines()[0]))
            if numerics == candidates[-1] and all(t.step_ms is None for t in trials):
                raise
            continue
        if precision != "auto":
            return numerics, tuple(trials)
    return min((t for t in trials if t.step_ms is not None), key=_penalised).numerics, tuple(trials)


def _penalised(trial: Trial) -> float:
    assert trial.step_ms is not None
    return trial.step_ms if trial.numerics.precision == "fp32" else trial.step_ms / BF16_PAYS


def _time(numerics: Numerics, model: nn.Module, step: Callable[[Numerics], Tensor], give_up_ms: float) -> float:
    """Shortest time of one forward and backward pass, in milliseconds."""
    shortest = float("inf")
    with isolated_randomness(), layout(model, numerics.channels_last), preserved_buffers(model):
        try:
            for attempt in range(1 + TIMED_STEPS):
                start = time.perf_counter()
                step(numerics).backward()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                elapsed = (time.perf_counter() - start) * 1e3
                if attempt > 0 or elapsed > give_up_ms:
                    shortest = min(shortest, elapsed)
                if elapsed > give_up_ms:
                    break
        finally:
            model.zero_grad(set_to_none=True)
    return shortest


@contextmanager
def layout(model: nn.Module, channels_last: bool) -> Iterator[None]:
    """Keep 4-D parameters channels last inside, and in their former layout afterwards.

    >>> conv = nn.Conv2d(2, 3, 3)
    >>> with layout(conv, channels_last=True):
    ...     conv.weight.is_contiguous(memory_format=torch.channels_last)
    True
    >>> conv.weight.is_contiguous()
    True
    """
    formats = {True: torch.contiguous_format, False: torch.channels_last}
    before = [(p, formats[p.is_contiguous()]) for p in model.parameters() if channels_last and p.ndim == 4]
    try:
        for parameter, _ in before:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for parameter, memory_format in before:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
