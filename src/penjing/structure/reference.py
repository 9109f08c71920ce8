"""The original in float64, operator by operator: as it is, or with the removed slices of its parameters zero.

Parameters are converted one at a time, when the graph reads them, so that no second model lies in memory.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal
from penjing.structure.precision import in_double
from penjing.structure.rules import Labels, Ruling
from penjing.structure.surgery import rewrite


class Original(fx.Interpreter):
    """The original graph in float64, with noise added to some of its tensors by name."""

    def __init__(self, captured: Captured, noise: Mapping[str, Tensor]) -> None:
        graph = in_double(captured.module.graph)
        super().__init__(fx.GraphModule({**captured.subgraphs, **captured.tensors}, graph))
        self.noise = noise

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "get_attr" and isinstance(result, Tensor):
            return self.parameter(n, result)
        return result

    def parameter(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """The value of a parameter, buffer or constant."""
        name = str(node.target)
        if not tensor.is_floating_point():
            return tensor
        return tensor.double() + self.noise[name] if name in self.noise else tensor.double()


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
        return super().run_node(n)

    def parameter(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """The value of a parameter with its removed slices zero."""
        return mask(super().parameter(node, tensor), self.labels[node.name][0], self.removal)

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
    for dim, label in enumerate(labels):
        gone = None if dim == but else removed_indices(label, removal)
        if gone is not None:
            tensor = tensor.index_fill(dim, gone.to(tensor.device), 0)
    return tensor


def removed_indices(label: Any, removal: Removal) -> Tensor | None:
    """The indices of a dimension that go, or None where all stay."""
    kept = removal.kept(label)
    return None if kept is None else torch.from_numpy((~kept).nonzero()[0])
