"""The figures that events hold: how long, how large, which layers; and what a report needs to know of the run."""

import time
from dataclasses import asdict
from statistics import median
from typing import Any

from torch import nn

from penjing._version import __version__
from penjing.measuring import Latency, machine
from penjing.optimizing.line import Line
from penjing.planning import objective
from penjing.profiling import Profile
from penjing.recipe import Contract, Finetune
from penjing.techniques.quantize import int8_layers
from penjing.techniques.sparsify import copy_pruned
from penjing.training import Hook, LoopState, finetune
from penjing.types import Split
from penjing.verdict import power
from penjing.workload import MetricKind, Workload

ASSUMED_DISCORDANCE = 0.05
TIMED_STEPS = 16


def epoch_seconds(workload: Workload) -> float:
    """Time a few steps of the original's recovery, its own teacher beside it, and give the seconds of a whole epoch."""
    clock = _StepClock()
    share = min(1.0, TIMED_STEPS / workload.train_steps)
    finetune(copy_pruned(workload.model), workload, Finetune(epochs=share), teacher=workload.model, hooks=(clock,))
    return median(clock.seconds) * workload.train_steps


class _StepClock(Hook):
    """Times each step of a training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def before_step(self, state: LoopState) -> None:
        self._started = time.monotonic()

    def after_step(self, state: LoopState) -> None:
        self.seconds.append(time.monotonic() - self._started)


def relative(latency: Latency) -> float:
    """Give the time as a share of that of the model it was measured against, 1 if it was measured alone."""
    return 1 / latency.ratio.value if latency.ratio is not None else 1.0


def layers(found: Profile, deployed: nn.Module | None) -> list[dict[str, Any]]:
    """Give the layers that compute, with format and width: dimension 1 of a convolution's output, else the last.

    deployed: the model whose file is deployed, which says what runs in int8; None for one that was left as it was.
    """
    int8 = set(int8_layers(deployed)) if deployed is not None else set()
    return [
        {
            "name": layer.name,
            "type": layer.type,
            "width": layer.output_shape[1 if layer.type.startswith("Conv") else -1],
            "params": layer.params,
            "macs": layer.macs,
            "format": "int8" if layer.name in int8 else "fp32",
        }
        for layer in found.layers
        if layer.macs and layer.output_shape
    ]


def facts(line: Line) -> dict[str, Any]:
    """Give what a report needs to know of the run besides its figures."""
    contract, metric, here = line.contract, line.workload.metric, machine()
    return {
        "runtime": line.runtime,
        "metric": {"name": metric.name, "direction": str(metric.direction), "low": metric.low, "high": metric.high},
        "contract": {
            "describe": contract.describe(metric.name, points=(metric.low, metric.high) == (0, 1)),
            "objective": objective(contract),
            "max_drop": contract.max_drop,
            "relative": contract.relative,
            "alpha": contract.alpha,
            "max_latency_ms": contract.max_latency_ms,
        },
        "machine": {
            "processor": here.cpu,
            "instructions": " ".join(here.instructions),
            "cores": here.cores,
            "memory": f"{here.memory_bytes / 2**30:.1f} GiB",
            "system": here.system,
            "fingerprint": here.fingerprint,
        },
        "versions": {"penjing": __version__, **here.versions},
        "power": _power(line),
        "hashes": {
            "model": line.workload.model_fingerprint(),
            "search data": line.workload.fingerprint(Split.SEARCH),
            "certificate data": line.workload.fingerprint(Split.CERTIFICATE),
        },
        "commands": {"report": f"penjing report {line.folder.path}", **_going_on(line)},
    }


def _going_on(line: Line) -> dict[str, str]:
    """Give the command that resumes the run, where the command line began it."""
    begun_there = (line.folder.path / "command.json").exists()
    return {"go on": f"penjing resume {line.folder.path}"} if begun_there else {}


def _power(line: Line) -> dict[str, Any]:
    """Tell what the certificate can certify, as plain values; the drop is None where it depends on unseen scores."""
    told = asdict(power(line.workload.size(Split.CERTIFICATE), ASSUMED_DISCORDANCE, line.contract.alpha))
    return told if foretold(line.workload, line.contract) else {**told, "smallest_drop": None}


def foretold(workload: Workload, contract: Contract) -> bool:
    """Whether the power of the certificate follows from its size and an assumed discordance alone."""
    return workload.metric.kind is MetricKind.BINARY and not contract.relative
