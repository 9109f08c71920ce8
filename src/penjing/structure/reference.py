"""The original in float64, operator by operator: as it is, or with the removed slices of its parameters zero.

Parameters are converted one at a time, when the graph reads them, so that no second model lies in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal, is_number
from penjing.structure.precision import LONG, InDouble, in_double
from penjing.structure.probes import boldest, leaves
from penjing.structure.rules import Labels, Ruling, operator_name
from penjing.structure.surgery import rewrite, take
from penjing.workload.inputs import ExampleInputs


class InFloat64(fx.Interpreter):
    """A graph in float64, with something added to some of the tensors that it reads, by name; its modes are eval."""

    can_fail = False  # whether it can be nudged, and outputs must move then
    nudging = False  # whether the call that is being run is nudged

    def __init__(self, root: nn.Module, graph: fx.Graph, added: Mapping[str, Tensor]) -> None:
        super().__init__(root, graph=_read_late(in_double(graph)))
        self.added = added

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "get_attr" and isinstance(result, Tensor):
            return self.parameter(n, result)
        return False if n.op == "get_attr" and isinstance(result, bool) else result

    def parameter(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """The value of a parameter, buffer or constant: a new tensor."""
        tensor = tensor.to(LONG.get(tensor.dtype, tensor.dtype), copy=True)
        added = self.added.get(str(node.target))
        return tensor if added is None else tensor.add_(added)

    def run_all(self, calls: Sequence[Sequence[Any]], *, nudge: bool = False) -> list[Any]:
        """Run several calls node by node, so that each parameter is converted once for all; the last may be nudged."""
        environments: list[dict[fx.Node, Any]] = [{} for _ in calls]
        arguments = [iter(call) for call in calls]
        results: list[Any] = []
        for node in self.graph.nodes:
            shared = (node.op == "get_attr" or node.target is take) and not any(map(_may_write, node.users))
            for i, environment in enumerate(environments):
                self.env, self.args_iter = environment, arguments[i]
                self.nudging = nudge and i == len(calls) - 1
                environment[node] = environments[0][node] if shared and i else self.run_node(node)
            results = [environment[node] for environment in environments]
            for last in self.user_to_last_uses.get(node, ()):
                for environment in environments:
                    del environment[last]
        return results


def _read_late(graph: fx.Graph) -> fx.Graph:
    """Move every parameter to its first use: exported graphs read them all at the beginning."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.users:
            min(node.users, key=place.__getitem__).prepend(node)
    return graph


def _may_write(node: fx.Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.is_mutable
    return node.target is not take


Runs = TypeVar("Runs", bound=InFloat64)


def run_on_probes(
    make: Callable[[], Runs], captured: Captured, seed: int
) -> tuple[Runs, Sequence[ExampleInputs], list[Sequence[Tensor]]]:
    """Run an original on both probes, the boldest that it takes; where it can be nudged, also on the second nudged.

    Probes on which it gives nan, such as a mask that hides all, will not do, unless the example itself does.
    """

    def attempt(examples: Sequence[ExampleInputs]) -> tuple[Runs, Sequence[ExampleInputs], list[Sequence[Tensor]]]:
        run = make()
        return run, examples, run_on(run, captured, examples)

    return boldest(captured, seed, attempt, lambda found: _is_finite(found[2][1]) or not _is_finite(found[2][0]))


def run_on(run: InFloat64, captured: Captured, examples: Sequence[ExampleInputs]) -> list[Sequence[Tensor]]:
    """The outputs on each example and, where the original can be nudged, once more on the last."""
    calls = [captured.flatten(example.args, example.kwargs) for example in examples]
    with InDouble():  # not around the making of the examples, for nothing is random here
        return [leaves(each) for each in run.run_all(calls + calls[-1:] * run.can_fail, nudge=run.can_fail)]


def _is_finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(output.isfinite().all()) for output in outputs if is_number(output))


_UNDEFINED_AT_ZERO = tuple(
    f"aten::{name}" for name in ("div", "div_", "reciprocal", "rsqrt", "pow", "log", "log2", "log10")
)


class Original(InFloat64):
    """The original graph in float64, with noise added to some of its tensors by name."""

    def __init__(self, captured: Captured, noise: Mapping[str, Tensor]) -> None:
        super().__init__(captured.module, captured.module.graph, noise)


class Masked(Original):
    """The original with removed slices zero; statistics over a cut dimension see only what is kept."""

    def __init__(self, coupling: Coupling, removal: Removal, noise: Mapping[str, Tensor]) -> None:
        super().__init__(coupling.captured, noise)
        self.labels = coupling.labelling.labels
        self.removal = removal
        self._rulings = coupling.labelling.rulings

    def run_node(self, n: fx.Node) -> Any:
        ruling = self._rulings.get(n.name)
        if ruling is not None and self.removal.touches([statistic.label for statistic in ruling.inexact]):
            return self._restricted(n, ruling)
        result = super().run_node(n)
        if isinstance(result, Tensor) and operator_name(n.target) in _UNDEFINED_AT_ZERO and not _is_finite([result]):
            return mask(result, self.labels[n.name][0], self.removal)  # 0 / 0, in what is removed from both
        return result

    def parameter(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """The value of a parameter with its removed slices zero."""
        return mask_(super().parameter(node, tensor), self.labels[node.name][0], self.removal)

    def _restricted(self, node: fx.Node, ruling: Ruling) -> Any:
        """Run an operator on the kept indices of its inputs and put zeros around its outputs."""
        scratch = fx.Graph()
        places = {source: scratch.placeholder(source.name) for source in node.all_input_nodes}
        call = scratch.node_copy(node, places.__getitem__)
        rewrite(call, ruling, self.removal)
        values = {places[source]: self._gathered(source) for source in places}
        args, kwargs = fx.node.map_arg((call.args, call.kwargs), values.__getitem__)
        assert callable(call.target)
        result = call.target(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._scattered(node, 0, result)
        return tuple(self._scattered(node, i, each) for i, each in enumerate(result))

    def _gathered(self, node: fx.Node) -> Any:
        value = self.env[node]
        labels = self.labels[node.name]
        if isinstance(value, Tensor) and labels:
            for dim, label in enumerate(labels[0]):
                kept = self.removal.kept(label)
                if kept is not None:
                    value = value.index_select(dim, torch.from_numpy(kept.nonzero()[0]).to(value.device))
        return value

    def _scattered(self, node: fx.Node, output: int, value: Tensor) -> Tensor:
        for dim, label in enumerate(self.labels[node.name][output]):
            kept = self.removal.kept(label)
            if kept is not None:
                sizes = [*value.shape[:dim], len(kept), *value.shape[dim + 1 :]]
                index = torch.from_numpy(kept.nonzero()[0]).to(value.device)
                value = value.new_zeros(sizes).index_copy(dim, index, value)
        return value


def mask(tensor: Tensor, labels: Labels, removal: Removal, *, but: int | None = None) -> Tensor:
    """A tensor in which every removed slice is zero, along every dimension but one."""
    return mask_(tensor.clone(), labels, removal, but=but)


def mask_(tensor: Tensor, labels: Labels, removal: Removal, *, but: int | None = None) -> Tensor:
    """The same in place."""
    for dim, label in enumerate(labels):
        gone = None if dim == but else removed_indices(label, removal)
        if gone is not None:
            tensor.index_fill_(dim, gone.to(tensor.device), 0)
    return tensor


def removed_indices(label: Any, removal: Removal) -> Tensor | None:
    """The indices of a dimension that go, or None where all stay."""
    kept = removal.kept(label)
    return None if kept is None else torch.from_numpy((~kept).nonzero()[0])
