"""Fit a quantisation stage by stage, and keep of each stage what brings the outputs nearest to the float model's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from penjing.techniques.quantize.balance import BALANCES
from penjing.techniques.quantize.calibrate import Reference, observe
from penjing.techniques.quantize.data import Calibration
from penjing.techniques.quantize.importance import weigh
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.lapq import Ranges, joint_ranges
from penjing.techniques.quantize.observers import OBSERVERS, mse
from penjing.techniques.quantize.plan import Plan, make_plan
from penjing.techniques.quantize.refine import ROUNDINGS, correct_biases
from penjing.techniques.quantize.stages import AUTO, JOINT, Stages


@dataclass(frozen=True)
class Fitted:
    """One way to quantise: the float graph that it starts from, its plan, the quantised graph, and how good it is."""

    module: fx.GraphModule
    plan: Plan
    graph: fx.GraphModule
    decibel: float
    observer: str


class Fitting:
    """The search over stages on one model; `rows` says what was tried and what it was worth."""

    def __init__(self, module: fx.GraphModule, plan: Plan, data: Calibration) -> None:
        self._module, self._plan, self._data = module, plan, data
        self._reference = Reference(module, data.held_out)
        self._glance = Reference(module, data.glanced)
        self.rows: list[str] = []

    def choose(self, stages: Stages | None) -> fx.GraphModule:
        """Give the quantised graph. What the stages name is done; None tries what may help and keeps what does."""
        wanted = AUTO if stages is None else stages
        best = self._observed(wanted.observers)
        for name in wanted.balances:
            best = self._step(best, self._balanced(best, name, wanted.observers), must=stages is not None)
        nearest = best
        for name in wanted.roundings:
            best = self._step(best, self._rounded(best, name), must=stages is not None)
        if wanted.bias and (stages is not None or best is nearest):  # the roundings bring their own
            best = self._step(best, self._corrected(best), must=stages is not None)
        return best.graph

    def _step(self, best: Fitted, tried: tuple[str, Fitted] | None, *, must: bool) -> Fitted:
        """Keep what was tried if it is better, or must be; say what it was worth."""
        if tried is None:
            return best
        what, fitted = tried
        kept = must or fitted.decibel > best.decibel
        self.rows.append(
            f"{what} ({'kept' if kept else 'left out'}): outputs {fitted.decibel:.1f} dB above their error there, "
            f"{fitted.decibel - best.decibel:+.1f} dB"
        )
        return fitted if kept else best

    def _observed(self, observers: Sequence[str]) -> Fitted:
        """Observe once, and take the ranges of the best observer."""
        tried = self._candidates(self._module, self._plan, observers)
        best = self._best(tried)
        if not self._plan.observed:
            self.rows.append(
                f"weights to the nearest: outputs {best.decibel:.1f} dB above their error on {self._data.where}"
            )
            return best
        for fitted in tried:
            self.rows.append(
                f"ranges by {fitted.observer}{' (kept)' if fitted.observer == best.observer else ''}: outputs "
                f"{fitted.decibel:.1f} dB above their error on {self._data.where_glanced}"
            )
        return best

    def _best(self, tried: Sequence[Fitted]) -> Fitted:
        """The best at a glance, with what it is worth on all that is held out."""
        best = max(tried, key=lambda fitted: fitted.decibel)
        return self._with(best, best.graph)

    def _candidates(self, module: fx.GraphModule, plan: Plan, observers: Sequence[str]) -> list[Fitted]:
        """Observe once, and quantise with the ranges of each observer."""
        if not plan.observed:
            return [self._glanced(module, plan, {}, "")]
        histograms = observe(module, plan.observed, self._data.seen)
        if "fisher" in observers:
            histograms = weigh(module, histograms, self._data.few)

        def ranges(name: str) -> Ranges:
            if name == JOINT:
                judge = Reference(module, self._data.few)
                return joint_ranges(histograms, lambda each: judge.decibel(insert(module, plan, each)))
            return {
                node: mse(histogram, plan.bits[node]) if node in plan.bits else OBSERVERS[name](histogram)
                for node, histogram in histograms.items()
            }

        return [self._glanced(module, plan, ranges(name), name) for name in observers]

    def _balanced(self, start: Fitted, name: str, observers: Sequence[str]) -> tuple[str, Fitted] | None:
        module, count = BALANCES[name](start.module, start.plan, self._data.walked)
        if not count:
            return None
        plan = make_plan(module.graph, start.plan.formats)
        fitted = self._best(self._candidates(module, plan, observers))
        return f"{name} of {count} inputs, ranges by {fitted.observer}", fitted

    def _rounded(self, start: Fitted, name: str) -> tuple[str, Fitted]:
        graph = ROUNDINGS[name](start.module, start.graph, self._data.walked)
        return f"weights rounded by {name}", self._with(start, graph)

    def _corrected(self, start: Fitted) -> tuple[str, Fitted]:
        graph = correct_biases(start.module, start.graph, self._data.walked)
        return "bias correction", self._with(start, graph)

    def _with(self, start: Fitted, graph: fx.GraphModule) -> Fitted:
        return replace(start, graph=graph, decibel=self._reference.decibel(graph))

    def _glanced(self, module: fx.GraphModule, plan: Plan, ranges: Ranges, observer: str) -> Fitted:
        graph = insert(module, plan, ranges)
        return Fitted(module, plan, graph, self._glance.decibel(graph), observer)
