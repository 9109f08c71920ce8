"""Parity: whether a runtime computes what the simulation of a quantised model computes, boundary by boundary.

The simulation in torch is the graph that is exported, so that there is one truth; parity says how far a runtime leaves
it, where first, and which layers it does not run on integers (docs/design/007-one-truth.md).
"""

import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import PenjingError, WorkloadError
from penjing.runtimes.agreement import rms_difference
from penjing.runtimes.base import Runtime, Session, find_runtime
from penjing.runtimes.boundaries import Boundary, Stored
from penjing.runtimes.capture import uses_quantized_operators
from penjing.runtimes.exporting import Taken, evaluating, export, take
from penjing.runtimes.fused import LayerKernel, layer_kernels
from penjing.runtimes.kernels import kernels_of
from penjing.runtimes.parity_report import MetricAgreement, OutputAgreement, Parity, StayedFloat
from penjing.runtimes.signature import Array, to_numpy
from penjing.types import LogRow, Split, choose
from penjing.workload import ExampleInputs, Workload, read_model

if TYPE_CHECKING:
    from penjing.techniques import Outcome

_STEPS = 255
_FLOAT = re.compile(r"(?P<layer>.+?)(?: that)? stays? in float: (?P<why>.+)", re.S)


def parity(
    model: "nn.Module | Outcome",
    workload_or_inputs: Any,
    runtime: str = "onnxruntime",
    *,
    options: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    batches: int = 4,
    split: Split | str = Split.SEARCH,
) -> Parity:
    r"""Compare the simulation of a quantised model with a runtime: at each boundary, in the outputs, in the metric.

    At each place where the model stores integers, the share of elements with |q_torch - q_runtime| <= 1; and which
    kernel each layer runs with. The model is exported twice, the second time with what each boundary stores as a
    further output; outputs, kernels and metric are those of the first file.

    model: what a Quantize step gave, or the whole Outcome, whose log says what was left in float and why.
    workload_or_inputs: a Workload, or inputs as the model is called. Of a workload, the example is compared and as many
    batches of its calibration data as `batches` says, cut to the example's size; and the metric on `split`, where it
    has one. options: those of the runtime. dynamic_shapes: as in `export`, by default those of the workload.

    Raises WorkloadError for a model without quantised operators, and what `export` raises.

    >>> import penjing as pj
    >>> net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), torch.randn(8, 1, 6, 6)
    >>> outcome = pj.apply(Workload(net, x, calibration=[(x,)]), pj.Quantize(method="minmax"))
    >>> found = parity(outcome, x)
    >>> found.passed, [boundary.where for boundary in found.boundaries][:2], found.layers[0].runs
    (True, ['input x', 'relu after 0'], 'int8')
    """
    network, log, kind = _model_of(model)
    workload = workload_or_inputs if isinstance(workload_or_inputs, Workload) else None
    example = workload.example if workload is not None else ExampleInputs.of(workload_or_inputs)
    if workload is not None and dynamic_shapes is None:
        dynamic_shapes = workload.dynamic_shapes
    part = choose(Split, split, "split", WorkloadError)
    target = find_runtime(runtime)
    settings = target.options(options or {})
    with evaluating(network), torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        taken = take(network, example, dynamic_shapes)
        if not uses_quantized_operators(taken.program.exported):
            raise WorkloadError(
                f"{kind} has no quantised operator, so that there is no simulation to compare; quantise it first, "
                "penjing.parity(penjing.apply(workload, penjing.Quantize()), workload)"
            )
        ships = export(
            network,
            example,
            Path(temporary) / "ships",
            runtime,
            dynamic_shapes=dynamic_shapes,
            options=settings,
            tolerance=math.inf,
        )
        session, stored = ships.load(), Stored(taken.program)
        layers = tuple(layer_kernels(stored.module, kernels_of(target, ships.path, settings)))
        inputs = [taken.leaves, *_more(taken, workload, example.batch_size, batches)]
        found = _compare(stored, target, settings, Path(temporary), session, inputs)
        return Parity(
            model=kind,
            runtime=runtime,
            options=dict(settings),
            samples=sum(len(leaves[0]) if leaves[0].ndim else 1 for leaves in inputs),
            boundaries=found.boundaries,
            outputs=found.outputs,
            layers=layers,
            floats=tuple(_floats(log)),
            changed=tuple(_changes(layers, found.layers)),
            metric=_metric(network, session, workload, part),
            hidden=found.hidden,
        )


def _model_of(model: "nn.Module | Outcome") -> tuple[nn.Module, Sequence[LogRow], str]:
    """Give the module, the log of how it was made where it is known, and what to call it."""
    from penjing.techniques import Outcome

    log = model.log if isinstance(model, Outcome) else ()
    network = read_model(model.model if isinstance(model, Outcome) else model)
    return network, log, str(getattr(network, "_title", type(network).__name__))


def _more(taken: Taken, workload: Workload | None, size: int, batches: int) -> Iterator[list[Tensor]]:
    """Read batches of calibration data, cut to the size of the example; smaller ones only where the batch is free."""
    if workload is None or not workload.brings("calibration"):
        return
    signature = replace(taken.signature, inputs=taken.program.inputs)
    free = any(0 in dims for dims in taken.free)
    for _, batch in zip(range(batches), workload.calibration_batches(), strict=False):
        if batch.size >= size or free:
            some = batch.take(range(min(size, batch.size)))
            arrays = signature.feeds(some.args, dict(some.kwargs))
            yield [torch.from_numpy(array).to(taken.leaves[0].device) for array in arrays]


@dataclass(frozen=True)
class _Found:
    boundaries: tuple[Boundary, ...]
    outputs: tuple[OutputAgreement, ...]
    layers: tuple[LayerKernel, ...]
    hidden: str


def _compare(
    stored: Stored,
    target: Runtime,
    options: Mapping[str, Any],
    folder: Path,
    session: Session,
    inputs: Sequence[Sequence[Tensor]],
) -> _Found:
    """Run simulation, shipped file, and the file that shows its boundaries, on the same inputs."""
    own = len(stored.program.outputs)
    shown, hidden = None, "" if stored.nodes else "the model stores no activation in integers"
    layers: tuple[LayerKernel, ...] = ()
    if stored.nodes:
        path = folder / "shown"
        path.mkdir()
        try:
            program = stored.shown()
            target.export(program, path, options)
            shown = target.load(path, options)
            layers = tuple(layer_kernels(stored.module, kernels_of(target, path, options)))
        except PenjingError as problem:
            hidden = f"with them as outputs {target.name} fails ({problem})"
    simulated: list[list[Array]] = []
    deployed: list[list[Array]] = []
    for leaves in inputs:
        arrays = [to_numpy(leaf, "an input") for leaf in leaves]
        deployed.append(session.run(arrays))
        simulated.append(stored.compare(leaves, None if shown is None else shown(arrays)[own:]))
    outputs = tuple(
        _output(name, want, got)
        for name, want, got in zip(
            stored.program.outputs, zip(*simulated, strict=True), zip(*deployed, strict=True), strict=True
        )
    )
    return _Found(stored.boundaries() if shown is not None else (), outputs, layers, hidden)


def _output(name: str, wanted: Sequence[Array], given: Sequence[Array]) -> OutputAgreement:
    want, got = (np.concatenate([array.ravel() for array in arrays]) for arrays in (wanted, given))
    if want.dtype.kind != "f":
        return OutputAgreement(name, want.size, float(np.mean(want == got)), rms_difference(want, got))
    step = float(want.max() - want.min()) / _STEPS
    within = np.abs(want.astype(np.float64) - got) <= step
    return OutputAgreement(name, want.size, float(np.mean(within)), rms_difference(want, got))


def _changes(ships: Sequence[LayerKernel], shown: Sequence[LayerKernel]) -> Iterator[str]:
    """Say which layers run on integers in one of two files and not in the other."""
    for before, after in zip(ships, shown, strict=False):
        if {before.runs, after.runs} == {"int8", "float"}:
            yield f"{before.layer} ({before.operator}) runs in {after.runs} ({after.kernel}) instead of {before.runs}"


def _metric(
    network: nn.Module, session: Session, workload: Workload | None, split: Split
) -> MetricAgreement | None:
    """Score both on a split; None where there is no data for it."""
    if workload is None or not workload.brings(split):
        return None
    simulated, deployed = (workload.evaluate(each, split)[0] for each in (network, session))
    metric, apart = simulated.metric, abs(simulated.value - deployed.value)
    unit = metric.high - metric.low if metric.has_known_range else max(abs(simulated.value), 1e-12)
    return MetricAgreement(
        metric.name, str(split), len(simulated), simulated.value, deployed.value, 100 * apart / unit
    )


def _floats(log: Sequence[LogRow]) -> Iterator[StayedFloat]:
    """Read out of a log what was left in float; such a row is a fallback unless it was asked for."""
    for row in log:
        if (match := _FLOAT.fullmatch(row.what)) is not None:
            yield StayedFloat(match["layer"], match["why"], asked=not row.fell_back)
