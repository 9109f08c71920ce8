"""The only place that cuts: index sets leave parameters, and constants of the graph follow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from penjing.errors import ArtifactError, ShapeError
from penjing.structure.attributes import set_attributes
from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal, Units
from penjing.structure.graph_model import GraphModel
from penjing.structure.rules import Ruling

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Surgery:
    """What was kept of the original: parameter or buffer name -> dimension -> kept indices, in order.

    Names are those of the original's state_dict. Tensors and dimensions that are whole are not listed.

    >>> Surgery({"fc.weight": {1: np.array([0, 2])}}).to_json()
    '{"schema": 1, "parameters": {"fc.weight": {"1": [0, 2]}}}'
    """

    kept: Mapping[str, Mapping[int, Indices]]

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """What is left of a tensor of the original's shape: the same object where it is whole, else a new tensor."""
        for dim, kept in self.kept.get(name, {}).items():
            if dim >= tensor.ndim or (len(kept) and kept.max() >= tensor.shape[dim]):
                raise ShapeError(
                    f"{name} has shape {tuple(tensor.shape)}, but the surgery keeps index {int(kept.max())} of "
                    f"dimension {dim}; apply it to the model that it was made for"
                )
            tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
        return tensor

    def then(self, other: "Surgery") -> "Surgery":
        """One surgery for two cuts in a row, with indices that refer to the original.

        >>> first, second = Surgery({"w": {0: np.array([1, 3, 5])}}), Surgery({"w": {0: np.array([0, 2])}})
        >>> first.then(second).kept["w"][0].tolist()
        [1, 5]
        """
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in other.kept.items():
            for dim, indices in dims.items():
                before = kept.setdefault(name, {}).get(dim)
                kept[name][dim] = indices if before is None else before[indices]
        return Surgery(kept)

    def to_json(self) -> str:
        """The surgery as text: {"schema": 1, "parameters": {name: {"0": [...]}}}."""
        parameters = {
            name: {str(dim): indices.tolist() for dim, indices in dims.items()} for name, dims in self.kept.items()
        }
        return json.dumps({"schema": 1, "parameters": parameters})

    @classmethod
    def from_json(cls, text: str) -> "Surgery":
        """Read what `to_json` wrote. Raises ArtifactError for anything else."""
        try:
            data = json.loads(text)
            if data["schema"] != 1:
                raise ArtifactError(f"surgery of schema {data['schema']!r}; this version reads schema 1")
            kept = {
                str(name): {int(dim): _indices(name, indices) for dim, indices in dims.items()}
                for name, dims in data["parameters"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ArtifactError(f"this is no surgery ({problem}); give the text of a surgery.json") from problem
        return cls(kept)


def _indices(name: str, values: Any) -> Indices:
    indices = np.array(values)
    if (
        indices.ndim != 1
        or indices.dtype.kind != "i"
        or (len(indices) and indices.min() < 0)
        or (np.diff(indices) <= 0).any()
    ):
        raise ValueError(f"the kept indices of {name} must be rising integers")
    return indices.astype(np.int64)


@dataclass(frozen=True)
class Cut:
    """The result of the graph route: a trainable module, what was kept, and the smaller graph for another cut."""

    module: GraphModel
    surgery: Surgery
    coupling: Coupling
    captured: Captured


def cut(coupling: Coupling, removed: Mapping[str, Sequence[int] | Units]) -> Cut:
    """Remove units, by group name, from a captured model.

    Sliced tensors are new; the others are shared with the original, so nothing is copied that is not cut. The original
    and its graph are left as they were. Errors are those of `Coupling.removal`.

    >>> from penjing.structure import couple
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> done = cut(couple(model, torch.zeros(2, 3)), {"0": [1, 3]})
    >>> [tuple(p.shape) for p in done.module.parameters()]
    [(2, 3), (2,), (2, 2), (2,)]
    """
    removal = coupling.removal(removed)
    surgery = Surgery(kept_indices(coupling, removal))
    captured = _smaller(coupling, removal, surgery)
    return Cut(GraphModel.of(captured), surgery, coupling, captured)


def kept_indices(coupling: Coupling, removal: Removal) -> dict[str, dict[int, Indices]]:
    """Kept indices of every tensor that loses some; tied names are listed each."""
    found: dict[str, dict[int, Indices]] = {}
    for node in coupling.captured.module.graph.nodes:
        if node.op == "get_attr":
            for labels in coupling.labelling.labels.get(node.name, ()):
                for dim, label in enumerate(labels):
                    kept = removal.kept(label)
                    if kept is not None:
                        found.setdefault(str(node.target), {})[dim] = np.flatnonzero(kept)
    return found


def _smaller(coupling: Coupling, removal: Removal, surgery: Surgery) -> Captured:
    captured = coupling.captured
    graph = copy_graph(captured.module.graph)
    for node in graph.nodes:
        ruling = coupling.labelling.rulings.get(node.name)
        if ruling is not None and ruling.constants and removal.touches(coupling.labelling.labels_near(node.name)):
            rewrite(node, ruling, removal)
    tensors = slice_tensors(captured.tensors, surgery)
    module = fx.GraphModule({**captured.subgraphs, **tensors}, graph, class_name=captured.name)
    shapes = coupling.shapes_after(removal.removed)
    return replace(captured, module=module, shapes=shapes)


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph whose nodes keep their names."""
    copy = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copy.node_copy(node, nodes.__getitem__)
    return copy


def rewrite(node: fx.Node, ruling: Ruling, removal: Removal) -> None:
    """Write the constants of a call anew: arguments keep their place, defaults become keywords."""
    values = {name: removal.evaluate(value) for name, value in ruling.constants.items()}
    nodes = {source.name: source for source in node.all_input_nodes}
    values = {name: fx.node.map_arg(value, lambda source: nodes[source.name]) for name, value in values.items()}
    if ruling.target is not None:
        node.target, node.args, node.kwargs = ruling.target, tuple(values.values()), {}
        return
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    args = list(node.args)
    kwargs = dict(node.kwargs)
    for name, value in values.items():
        place = names.index(name)
        if place < len(args):
            args[place] = value
        else:
            kwargs[name] = value
    node.args, node.kwargs = tuple(args), kwargs


def slice_tensors(tensors: Mapping[str, Tensor], surgery: Surgery) -> dict[str, Tensor]:
    """Every tensor after a surgery; tied ones stay tied, whole ones stay the same object."""
    done: dict[int, Tensor] = {}
    return {name: _slice(name, tensor, surgery, done) for name, tensor in tensors.items()}


def _slice(name: str, tensor: Tensor, surgery: Surgery, done: dict[int, Tensor]) -> Tensor:
    if name not in surgery.kept:
        return tensor
    if id(tensor) not in done:
        smaller = surgery.slice(name, tensor.detach())
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        done[id(tensor)] = smaller
    return done[id(tensor)]


def cut_in_place(model: nn.Module, surgery: Surgery) -> nn.Module:
    """Cut the model itself, by the names of its state_dict: pass a copy to keep the original.

    Sliced parameters are new objects (an optimizer must be made anew) that keep dtype, device and requires_grad; tied
    ones stay tied. Standard modules have their attributes (out_channels, in_features, groups ...) set right. The class,
    its hooks and its code stay; whether its code still runs at the new widths is for `prove` to say.

    Raises ShapeError when the surgery does not fit the model.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> cut_in_place(model, Surgery({"0.weight": {0: np.array([0, 2])}, "0.bias": {0: np.array([0, 2])},
    ...     "2.weight": {1: np.array([0, 2])}}))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """

    done: dict[int, Tensor] = {}
    replaced: list[Tensor] = []  # kept alive, so that no id in `done` is used twice
    for path, module in model.named_modules():
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                name = f"{path}.{key}" if path else key
                if tensor is not None and name in surgery.kept:
                    replaced.append(tensor)
                    slots[key] = _slice(name, tensor, surgery, done)
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        kept = {name.removeprefix(prefix): dims for name, dims in surgery.kept.items() if name.startswith(prefix)}
        set_attributes(module, kept)
    return model
