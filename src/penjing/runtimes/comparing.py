"""Parity: whether a runtime computes what the simulation of a quantised model computes, boundary by boundary.

The simulation in torch is the graph that is exported, so that there is one truth; parity says how far a runtime leaves
it, where first, and which layers it does not run on integers (docs/design/007-one-truth.md).
"""

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import PenjingError, WorkloadError
from penjing.runtimes.agreement import rms_difference
from penjing.runtimes.base import Run, Runtime, Session, find_runtime
from penjing.runtimes.boundaries import SHARE, Stored
from penjing.runtimes.capture import uses_quantized_operators
from penjing.runtimes.exporting import Taken, evaluating, export, take
from penjing.runtimes.fused import LayerKernel, bound_to, fused_away, layer_kernels, names_in_file
from penjing.runtimes.kernels import kernels_of
from penjing.runtimes.parity_report import MetricAgreement, OutputAgreement, Parity, StayedFloat
from penjing.runtimes.rewrite import plain_module
from penjing.runtimes.signature import Array, to_numpy
from penjing.types import LogRow, Split
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
) -> Parity:
    r"""Compare the simulation of a quantised model with a runtime: at each boundary, in the outputs, in the metric.

    At each place where the model stores integers, the share of elements with |q_torch - q_runtime| <= 1; and which
    kernel each layer runs with. The model is exported twice, the second time with what each boundary stores as a
    further output; outputs, kernels and metric are those of the first file.

    model: what a Quantize step gave, or the whole Outcome, whose log says what was left in float and why.
    workload_or_inputs: a Workload, or inputs as the model is called. Of a workload, the example is compared and as many
    batches of its calibration data as `batches` says, cut to the example's size; and the metric on the search
    split, where it has one: the certificate is the verdict's alone.
    options: those of the runtime. dynamic_shapes: as in `export`, by default those of the workload.

    Raises WorkloadError for a model without quantised operators, and what `export` raises.

    >>> import penjing as pj
    >>> net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)), torch.randn(8, 1, 6, 6)
    >>> outcome = pj.apply(Workload(net, x, calibration=[(x,)]), pj.Quantize(method="minmax"))
    >>> found = parity(outcome, x)
    >>> found.passed, [boundary.where for boundary in found.boundaries][:2], found.layers[0].runs
    (True, ['input input', '0'], 'int8')
    """
    network, log, kind = _model_of(model)
    workload = workload_or_inputs if isinstance(workload_or_inputs, Workload) else None
    example = workload.example if workload is not None else ExampleInputs.of(workload_or_inputs)
    if workload is not None and dynamic_shapes is None:
        dynamic_shapes = workload.dynamic_shapes
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
        session, module = ships.load(), plain_module(taken.program.exported)
        names = names_in_file(taken.program, module)
        kernels = kernels_of(target, ships.path, settings)
        floats = tuple(_floats(log))
        layers = tuple(_with_reasons(layer_kernels(module, kernels, names), floats))
        away = fused_away(module, kernels, names)
        bound = bound_to(away)
        stored = Stored(taken.program, module, away, bound)
        inputs = [taken.leaves, *_more(taken, workload, example.batch_size, batches)]
        shown, hidden = _showing(stored, target, settings, Path(temporary) / "shown")
        changed: tuple[str, ...] = ()
        if shown is not None:
            theirs = layer_kernels(module, kernels_of(target, Path(temporary) / "shown", settings), names)
            changed = tuple(_changes(layers, tuple(theirs)))
        outputs = _compare(stored, session, shown, inputs)
        return Parity(
            model=kind,
            runtime=runtime,
            options=dict(settings),
            samples=sum(len(leaves[0]) if leaves[0].ndim else 1 for leaves in inputs),
            boundaries=stored.boundaries() if shown is not None else (),
            outputs=outputs,
            layers=layers,
            floats=floats,
            fused=tuple(map(stored.where, away)),
            unshown=tuple(stored.where(node) for node in bound if node not in away),
            changed=changed,
            metric=_metric(network, session, workload),
            hidden=hidden,
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


def _showing(stored: Stored, target: Runtime, options: Mapping[str, Any], folder: Path) -> tuple[Run | None, str]:
    """Deploy the program once more with what its boundaries store as outputs; None, and why, where that fails."""
    if not stored.nodes:
        return None, "the model stores no activation in integers"
    folder.mkdir()
    try:
        target.export(stored.shown(), folder, options)
        return target.load(folder, options), ""
    except PenjingError as problem:
        return None, f"with them as outputs {target.name} fails ({problem})"


def _compare(
    stored: Stored, session: Session, shown: Run | None, inputs: Sequence[Sequence[Tensor]]
) -> tuple[OutputAgreement, ...]:
    """Run the simulation, the file that ships and the one that shows its boundaries on the same inputs."""
    names = stored.program.outputs
    simulated: list[list[Array]] = []
    deployed: list[list[Array]] = []
    led: list[list[Array]] = []
    leading: list[list[Array]] = []
    for leaves in inputs:
        arrays = [to_numpy(leaf, "an input") for leaf in leaves]
        simulated.append(stored.simulate(leaves))
        deployed.append(session.run(arrays))
        if shown is not None:
            found = shown(arrays)
            leading.append(found[: len(names)])
            led.append(stored.compare(leaves, found[len(names) :]))
    if shown is not None and any(boundary.within < SHARE for boundary in stored.boundaries()):
        for leaves in inputs:
            stored.find_floor(leaves)
    return tuple(
        OutputAgreement(
            name,
            _output(simulated, i).size,
            _within(_output(simulated, i), _output(deployed, i)),
            _within(_output(led, i), _output(leading, i)) if shown is not None else None,
            rms_difference(_output(simulated, i), _output(deployed, i)),
        )
        for i, name in enumerate(names)
    )


def _output(runs: Sequence[Sequence[Array]], i: int) -> Array:
    """One output over all runs, flat."""
    return np.concatenate([outputs[i].ravel() for outputs in runs])


def _within(want: Array, got: Array) -> float:
    """Share of the elements that differ by a 255th of the range at most; of equal ones where they are no floats."""
    if want.dtype.kind != "f":
        return float(np.mean(want == got))
    step = float(want.max() - want.min()) / _STEPS
    return float(np.mean(np.abs(want.astype(np.float64) - got) <= step))


def _changes(ships: Sequence[LayerKernel], shown: Sequence[LayerKernel]) -> Iterator[str]:
    """Say which layers have another kernel in one of two files than in the other."""
    for before, after in zip(ships, shown, strict=False):
        if "unknown" not in (before.runs, after.runs) and _kind(before) != _kind(after):
            yield f"{before.layer} ({before.operator}) runs in {after.kernel} instead of {before.kernel}"


def _kind(row: LayerKernel) -> tuple[str, str]:
    """The kernel's name without its variant, which depends on the memory around it, and what it computes on."""
    return row.kernel.partition(" (")[0], row.runs


def _metric(network: nn.Module, session: Session, workload: Workload | None) -> MetricAgreement | None:
    """Score both on the search split; None where there is none."""
    if workload is None or not workload.brings(Split.SEARCH):
        return None
    simulated, deployed = (workload.evaluate(each, Split.SEARCH)[0] for each in (network, session))
    metric, apart = simulated.metric, abs(simulated.value - deployed.value)
    unit = metric.high - metric.low if metric.has_known_range else max(abs(simulated.value), 1e-12)
    return MetricAgreement(
        metric.name, str(Split.SEARCH), len(simulated), simulated.value, deployed.value, 100 * apart / unit
    )


def _with_reasons(layers: Iterable[LayerKernel], floats: Sequence[StayedFloat]) -> Iterator[LayerKernel]:
    """Give layers that are float in the model the reason that the log has for it."""
    reasons = {kept.layer: kept.why for kept in floats}
    for row in layers:
        yield replace(row, why=reasons[row.layer]) if row.wanted == "float" and row.layer in reasons else row


def _floats(log: Sequence[LogRow]) -> Iterator[StayedFloat]:
    """Read out of a log what was left in float; such a row is a fallback unless it was asked for."""
    for row in log:
        if (match := _FLOAT.fullmatch(row.what)) is not None:
            yield StayedFloat(match["layer"], match["why"], asked=not row.fell_back)
