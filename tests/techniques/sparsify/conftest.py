"""A training that ends in the middle, as if it had been killed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import penjing as pj
from penjing.techniques import Outcome, apply
from penjing.techniques.sparsify.ramp import Ramp
from penjing.training import LoopState

Interrupted = Callable[[pj.Workload, Sequence[Any]], Outcome]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """Apply steps, stop in the second epoch of a ramp, and go on."""

    class InterruptionError(Exception):
        pass

    def stop(self: Ramp, state: LoopState) -> None:
        if state.epoch == 2:
            raise InterruptionError

    def run(workload: pj.Workload, steps: Sequence[Any]) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr(Ramp, "after_epoch", stop)
            with pytest.raises(InterruptionError):
                apply(workload, steps, seed=1, resume_dir=tmp_path)
        return apply(workload, steps, seed=1, resume_dir=tmp_path)

    return run
