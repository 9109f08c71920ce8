"""What a comparison of a quantised model's simulation with a runtime found, as data and as text."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penjing.runtimes.boundaries import SHARE, Boundary
from penjing.runtimes.fused import LayerKernel

POINTS = 0.1
"""What the metric may differ, in points."""


@dataclass(frozen=True)
class OutputAgreement:
    """How far an output of the deployed file differs from the simulation, over all that was compared.

    within: share of the elements that differ by a 255th of the largest range of the output at most; equal entries for
    integers. rms: root mean square of the difference over that of the output.
    """

    name: str
    elements: int
    within: float
    rms: float


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
    changed: layers that run with another kind of kernel while the boundaries are shown than in the file that ships.
    metric: None without a workload that has the data.
    """

    model: str
    runtime: str
    options: Mapping[str, Any]
    samples: int
    boundaries: tuple[Boundary, ...]
    outputs: tuple[OutputAgreement, ...]
    layers: tuple[LayerKernel, ...]
    floats: tuple[StayedFloat, ...] = ()
    changed: tuple[str, ...] = ()
    metric: MetricAgreement | None = None
    hidden: str = ""

    @property
    def first_difference(self) -> Boundary | None:
        """The first boundary at which less than 99.9 % of the elements are within one step, end to end."""
        return next((boundary for boundary in self.boundaries if not boundary.agrees), None)

    @property
    def first_cause(self) -> Boundary | None:
        """The first boundary at which that is so by itself, where the runtime's own values go in."""
        return next((boundary for boundary in self.boundaries if boundary.alone < SHARE), None)

    @property
    def broken(self) -> tuple[LayerKernel, ...]:
        """Layers that the model stores in integers on all sides and the runtime computes in float."""
        return tuple(layer for layer in self.layers if layer.broken)

    @property
    def passed(self) -> bool:
        """Whether boundaries and outputs agree on 99.9 % of their elements, and the metric within 0.1 point."""
        shares = [boundary.within for boundary in self.boundaries] + [output.within for output in self.outputs]
        return all(share >= SHARE for share in shares) and (self.metric is None or self.metric.points <= POINTS)

    def to_data(self) -> dict[str, Any]:
        """Give the comparison as JSON values."""
        first = self.first_difference
        return {
            **asdict(self),
            "options": dict(self.options),
            "passed": self.passed,
            "first_difference": first and first.name,
            "broken": [layer.layer for layer in self.broken],
        }

    def sentence(self) -> str:
        """Say in one sentence whether they agree, and if not, where they part."""
        head = f"{self.runtime} and the simulation of {self.model}"
        if self.passed:
            return f"{head} agree on {self.samples} samples."
        if (first := self.first_difference) is not None:
            alone = "there" if first.alone < SHARE else "by what came before, of which no place differs so by itself"
            if first.alone >= SHARE and (cause := self.first_cause) is not None:
                alone = f"by what came before; the first to differ by itself is {cause.where}"
            return (
                f"{head} differ first at {first.where} ({first.name}): {first.within:.2%} of {first.elements} elements "
                f"within one step, {first.largest} steps at most; it arises {alone}."
            )
        worst = min(self.outputs, key=lambda output: output.within)
        if worst.within < SHARE:
            return f"{head} differ in output {worst.name!r}: {worst.within:.2%} of its elements within one step."
        assert self.metric is not None
        return f"{head} differ by {self.metric.points:.2f} points of {self.metric.name}."

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(found: Parity) -> Iterator[str]:
    """The comparison as text: a sentence, then tables."""
    yield found.sentence()
    yield ""
    if found.hidden:
        yield f"the boundaries cannot be compared: {found.hidden}"
    else:
        yield f"{'boundary':<48}{'elements':>10}{'in a step':>11}{'equal':>9}{'most':>6}{'alone':>10}"
    for row in found.boundaries:
        mark = "" if row.agrees else "  differs"
        yield (
            f"{row.where:<48}{row.elements:>10}{row.within:>11.3%}{row.equal:>9.2%}{row.largest:>6}{row.alone:>10.3%}{mark}"
        )
    for output in found.outputs:
        yield f"{'output ' + output.name:<48}{output.elements:>10}{output.within:>11.3%}  rms {output.rms:.2e}"
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
    for row in found.layers:
        if row.runs != "int8":
            what = "unknown" if row.runs == "unknown" else f"float ({row.kernel})"
            mark = "broken up: " if row.broken else ""
            yield f"{row.layer} ({row.operator}): {what}; {mark}{row.why}"
    for kept in found.floats:
        yield f"{kept.layer}: float; {'asked: ' if kept.asked else 'no int8 form: '}{kept.why}"
    for change in found.changed:
        yield f"while boundaries are shown, {change}"
