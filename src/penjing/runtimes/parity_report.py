"""What a comparison of a quantised model's simulation with a runtime found, as data and as text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penjing.runtimes.agreement import TOLERANCE_RMS
from penjing.runtimes.boundaries import SHARE, Boundary
from penjing.runtimes.fused import LayerKernel

POINTS = 0.1
"""What the metric may differ, in points."""


@dataclass(frozen=True)
class OutputAgreement:
    """How far an output of the deployed file differs from the simulation, over all that was compared.

    within: share of the elements that differ by a 255th of the output's range at most (of equal ones, for integers),
    end to end; alone: the same where torch goes on from what the runtime stored, None where that is not known.
    rms: root mean square of the difference over that of the output, end to end.
    """

    name: str
    elements: int
    within: float
    alone: float | None
    rms: float

    @property
    def agrees(self) -> bool:
        """Whether it keeps the tolerance of an export, and 99.9 % agree where both sides are given the same."""
        return self.rms <= TOLERANCE_RMS["int8"] and (self.alone is None or self.alone >= SHARE)


@dataclass(frozen=True)
class MetricAgreement:
    """The metric of the simulation and of the deployed file on one split.

    points: the difference in hundredths of the metric's range, or in percent of its value where it has no range.
    """

    name: str
    split: str
    samples: int
    simulated: float
    deployed: float
    points: float


@dataclass(frozen=True)
class StayedFloat:
    """What the recipe left in float, with its reason, and whether that was asked for."""

    layer: str
    why: str
    asked: bool


@dataclass(frozen=True)
class Parity:
    """The simulation of a quantised model and a runtime, compared.

    boundaries: every place where integers are stored, in the order of the graph; none where `hidden` says why not.
    layers: the kernel of each layer. floats: what quantisation left in float, known where an Outcome was compared.
    fused: boundaries inside a kernel of the runtime, which stores nothing there and may not round. unshown: boundaries
    that cannot be looked at without a change of kernels; what differs there shows at the next. changed: layers whose
    kernel is another one while boundaries are shown than in the file that ships. metric: None without a workload that
    has the data.
    """

    model: str
    runtime: str
    options: Mapping[str, Any]
    samples: int
    boundaries: tuple[Boundary, ...]
    outputs: tuple[OutputAgreement, ...]
    layers: tuple[LayerKernel, ...]
    floats: tuple[StayedFloat, ...] = ()
    fused: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    metric: MetricAgreement | None = None
    hidden: str = ""

    @property
    def first_difference(self) -> Boundary | None:
        """The first boundary that does not agree by itself: what the runtime computes otherwise than the simulation."""
        return next((boundary for boundary in self.boundaries if not boundary.agrees), None)

    @property
    def first_drift(self) -> Boundary | None:
        """The first boundary at which less than 99.9 % are within one step end to end, whatever the cause."""
        return next((boundary for boundary in self.boundaries if boundary.within < SHARE), None)

    @property
    def broken(self) -> tuple[LayerKernel, ...]:
        """Layers that the model stores in integers on all sides and the runtime computes in float."""
        return tuple(layer for layer in self.layers if layer.broken)

    @property
    def passed(self) -> bool:
        """Whether all boundaries and outputs agree, and the metric within 0.1 point."""
        agrees = [boundary.agrees for boundary in self.boundaries] + [output.agrees for output in self.outputs]
        return all(agrees) and (self.metric is None or self.metric.points <= POINTS)

    def to_data(self) -> dict[str, Any]:
        """Give the comparison as JSON values."""
        first, drift = self.first_difference, self.first_drift
        return {
            **asdict(self),
            "options": dict(self.options),
            "passed": self.passed,
            "first_difference": first and first.where,
            "first_drift": drift and drift.where,
            "broken": [layer.layer for layer in self.broken],
        }

    def sentence(self) -> str:
        """Say in one sentence whether they agree, and if not, where they part."""
        head = f"{self.runtime} and the simulation of {self.model}"
        if (first := self.first_difference) is not None:
            return (
                f"{head} differ first at {first.where}: given the same, {first.alone:.2%} of {first.elements} elements "
                f"are within one step, and the most is {first.largest_alone} steps{self._cause}."
            )
        for output in self.outputs:
            if not output.agrees:
                return f"{head} differ in {output.name!r}, by {output.rms:.2%} of its root mean square."
        if self.metric is not None and self.metric.points > POINTS:
            return (
                f"{head} agree at each boundary, and differ by {self.metric.points:.2f} points of {self.metric.name}."
            )
        what = f"at each of {len(self.boundaries)} boundaries" if self.boundaries else "in their outputs"
        return f"{head} agree {what} on {self.samples} samples."

    @property
    def explained(self) -> bool:
        """Whether all boundaries agree where torch, too, leaves out the rounding that the runtime fused away."""
        return all(boundary.agrees or (boundary.explained or 0.0) >= SHARE for boundary in self.boundaries)

    @property
    def _cause(self) -> str:
        if not (self.fused and self.explained):
            return ""
        return (
            f"; all agree where the simulation, too, does not round at {len(self.fused)} boundaries that are fused away"
        )

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(found: Parity) -> Iterator[str]:
    """The comparison as text: a sentence, then tables; what only moves is left out where it agrees."""
    yield found.sentence()
    yield ""
    rows = [row for row in found.boundaries if not (row.moved and row.agrees)]
    width = max(
        len(name) for name in ["within one step", *(row.where for row in rows), *(o.name for o in found.outputs)]
    )
    heads = f"{'by itself':>11}{'most':>6}{'end to end':>12}{'most':>6}{'floor':>10}"
    yield f"{'within one step':<{width}}{'elements':>10}{heads}"
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.3%}"
        yield (
            f"{row.where:<{width}}{row.elements:>10}{row.alone:>11.3%}{row.largest_alone:>6}{row.within:>12.3%}"
            f"{row.largest:>6}{floor:>10}{'' if row.agrees else '  differs'}"
        )
    for output in found.outputs:
        alone = "" if output.alone is None else f"{output.alone:.3%}"
        yield (
            f"{output.name:<{width}}{output.elements:>10}{alone:>11}{'':>6}{output.within:>12.3%}"
            f"   rms {output.rms:.2e}{'' if output.agrees else '  differs'}"
        )
    if found.hidden:
        yield f"the boundaries are not compared: {found.hidden}"
    if (metric := found.metric) is not None:
        yield (
            f"{metric.name} on {metric.samples} samples ({metric.split}): {metric.simulated:.4f} simulated, "
            f"{metric.deployed:.4f} in {found.runtime}, {metric.points:.3f} points apart"
        )
    yield ""
    yield from _kernel_lines(found)


def _kernel_lines(found: Parity) -> Iterator[str]:
    integer = Counter(row.kernel for row in found.layers if row.runs == "int8")
    if integer:
        yield "int8 kernels: " + ", ".join(f"{kind} ({count})" for kind, count in sorted(integer.items()))
    if found.layers and all(row.runs == "unknown" for row in found.layers):
        yield f"{found.runtime} does not say which kernels it runs"
        return
    for row in found.layers:
        if row.runs != "int8":
            what = f"{row.runs} ({row.kernel})" if row.kernel else row.runs
            yield f"{row.layer} ({row.operator}): {what}; {row.why}"
    told = {row.layer for row in found.layers}
    for kept in found.floats:
        if kept.layer not in told:
            yield f"{kept.layer}: float{' as asked' if kept.asked else ''}; {kept.why}"
    for where in found.fused:
        yield f"{where}: the runtime goes on in its kernel and stores nothing there, so that it may not round"
    for where in found.unshown:
        yield f"{where}: stored, and not shown, for that would change the kernel that reads it"
    for change in found.changed:
        yield f"while boundaries are shown, {change}"
