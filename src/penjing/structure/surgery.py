"""The only place that cuts: index sets leave parameters, and constants of the graph follow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from penjing.errors import ArtifactError, ShapeError
from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal, Units
from penjing.structure.graph_model import GraphModel
from penjing.structure.rules import Ruling

Indices = NDArray[np.int64]
Size: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class Surgery:
    """What was kept of the original: parameter or buffer name -> dimension -> kept indices, in order.

    Names are those of the original's state_dict. Tensors and dimensions that are whole are not listed. `attributes` are
    the numbers that the original's modules hold beside their tensors, as they are after a cut in place:
    {"layers.0.attention.num_heads": 3}. `bypassed` are the modules that only give their first tensor back, and how:
    {"layers.1": None}, or {"layers.1": 2} where it is the first of a tuple of two.

    >>> Surgery({"fc.weight": {1: np.array([0, 2])}}).to_json()
    '{"schema": 1, "parameters": {"fc.weight": {"1": [0, 2]}}}'
    """

    kept: Mapping[str, Mapping[int, Indices]]
    attributes: Mapping[str, Size] = field(default_factory=dict)
    bypassed: Mapping[str, int | None] = field(default_factory=dict)

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

    def spread(self, name: str, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The inverse of `slice`: a tensor of the original's shape, with zeros where something was removed.

        >>> Surgery({"w": {0: np.array([0, 2])}}).spread("w", torch.tensor([5.0, 7.0]), (3,))
        tensor([5., 0., 7.])
        """
        for dim, kept in self.kept.get(name, {}).items():
            sizes = [*tensor.shape[:dim], shape[dim], *tensor.shape[dim + 1 :]]
            index = torch.from_numpy(kept).to(tensor.device)
            tensor = tensor.new_zeros(sizes).index_copy(dim, index, tensor)
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
        bypassed = {**self.bypassed, **other.bypassed}

        def stays(name: str) -> bool:
            return not any(name.startswith(f"{path}.") for path in bypassed)

        return Surgery(
            {name: dims for name, dims in kept.items() if stays(name)},
            {name: size for name, size in {**self.attributes, **other.attributes}.items() if stays(name)},
            {path: items for path, items in bypassed.items() if stays(path)},
        )

    def below(self, path: str) -> "Surgery":
        """The same surgery of a module that is a submodule of another, at a path.

        >>> Surgery({"w": {0: np.array([1])}}).below("backbone").kept
        {'backbone.w': {0: array([1])}}
        """
        kept, attributes, bypassed = (
            {f"{path}.{name}": value for name, value in part.items()}
            for part in (self.kept, self.attributes, self.bypassed)
        )
        return Surgery(kept, attributes, bypassed)  # type: ignore[arg-type]

    def to_json(self) -> str:
        """The surgery as text: {"schema": 1, "parameters": {name: {"0": [...]}}}, with what else there is."""
        parameters = {
            name: {str(dim): indices.tolist() for dim, indices in dims.items()} for name, dims in self.kept.items()
        }
        others = {"attributes": dict(self.attributes), "bypassed": dict(self.bypassed)}
        return json.dumps({"schema": 1, "parameters": parameters, **{key: x for key, x in others.items() if x}})

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
            attributes = {str(name): _size(name, value) for name, value in data.get("attributes", {}).items()}
            bypassed = {str(path): _items(path, value) for path, value in data.get("bypassed", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ArtifactError(f"this is no surgery ({problem}); give the text of a surgery.json") from problem
        return cls(kept, attributes, bypassed)


def _items(path: str, value: Any) -> int | None:
    if value is not None and not (type(value) is int and value > 0):
        raise ValueError(f"the bypassed module {path} must return a tensor (null) or a tuple of so many, not {value!r}")
    return value


def _size(name: str, value: Any) -> Size:
    sizes = value if isinstance(value, list) else [value]
    least = -1 if isinstance(value, list) else 0  # in a list, as of a view, -1 is what is left
    if not all(type(size) is int and size >= least for size in sizes):
        raise ValueError(f"the attribute {name} must be a whole number or a list of some, not {value!r}")
    return tuple(sizes) if isinstance(value, list) else int(value)


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
    """The result of the graph route: a trainable module, what was kept, and the smaller graph for another cut.

    sliced: whether the tensors are cut; else the graph slices each whenever it reads it.
    """

    module: GraphModel
    surgery: Surgery
    coupling: Coupling
    captured: Captured
    sliced: bool = True


def cut(coupling: Coupling, removed: Mapping[str, Sequence[int] | Units], *, consume: bool = False) -> Cut:
    """Remove units, by group name, from a captured model.

    Sliced tensors are new; the others are shared with the original, so nothing is copied that is not cut. The original
    and its graph are left as they were, unless consume=True: then each original is emptied as soon as its slice exists,
    so that never more than the weights and one slice are held. The original, its graph and its coupling are of no use
    afterwards: prove the same choice before, since nothing is left to compare with. Errors are those of
    `Coupling.removal`.

    >>> from penjing.structure import couple
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> done = cut(couple(model, torch.zeros(2, 3)), {"0": [1, 3]})
    >>> [tuple(p.shape) for p in done.module.parameters()]
    [(2, 3), (2,), (2, 2), (2,)]
    """
    removal = coupling.removal(removed)
    surgery = Surgery(kept_indices(coupling, removal))
    captured = _smaller(coupling, removal, slice_tensors(coupling.captured.tensors, surgery, consume=consume))
    return Cut(GraphModel.of(captured), surgery, coupling, captured)


def cut_when_read(coupling: Coupling, removed: Mapping[str, Sequence[int] | Units]) -> Cut:
    """The same cut with no tensor copied: the graph holds the original's and slices each whenever it reads it.

    It is slow, and needs no memory: a proof of it is one of `cut` with the same units.

    >>> from penjing.structure import couple
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> done = cut_when_read(couple(model, torch.zeros(2, 3)), {"0": [1, 3]})
    >>> done.module.get_parameter("0.weight") is model[0].weight
    True
    """
    removal = coupling.removal(removed)
    surgery = Surgery(kept_indices(coupling, removal))
    captured = _smaller(coupling, removal, coupling.captured.tensors)
    graph = captured.module.graph
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op == "get_attr" and str(node.target) in surgery.kept and node.users:
            read = node
            with graph.inserting_before(min(node.users, key=place.__getitem__)):
                for dim, kept in surgery.kept[str(node.target)].items():
                    read = graph.call_function(take, (read, dim, kept.tolist()))
                    read.meta = dict(node.meta)
            node.replace_all_uses_with(read, delete_user_cb=lambda user: user.target is not take)
    return Cut(GraphModel.of(captured), surgery, coupling, captured, sliced=False)


def take(tensor: Tensor, dim: int, kept: Sequence[int]) -> Tensor:
    """The kept indices of a dimension, as the graph of `cut_when_read` takes them."""
    return tensor.index_select(dim, torch.tensor(kept, device=tensor.device))


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


def _smaller(coupling: Coupling, removal: Removal, tensors: Mapping[str, Tensor]) -> Captured:
    """The captured model with the constants of a cut, and the given tensors."""
    captured = coupling.captured
    graph = copy_graph(captured.module.graph)
    shapes = coupling.shapes_after(removal.removed)
    for node in list(graph.nodes):
        ruling = coupling.labelling.rulings.get(node.name)
        if ruling is not None and ruling.constants and removal.touches(coupling.labelling.labels_near(node.name)):
            rewrite(node, ruling, removal)
        if ruling is not None and ruling.contiguous:
            shapes |= {made.name: shapes[source.name] for source, made in _laid_out(node)}
    module = fx.GraphModule({**captured.subgraphs, **tensors}, graph, class_name=captured.name)
    return replace(captured, module=module, shapes=shapes)


def _laid_out(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Make the inputs of a call contiguous first; returns each with the node that does so."""
    made = []
    with node.graph.inserting_before(node):
        for source in node.all_input_nodes:
            if source.target is not torch.ops.aten.contiguous.default:
                call = node.graph.call_function(torch.ops.aten.contiguous.default, (source,))
                call.meta = dict(source.meta)
                node.replace_input_with(source, call)
                made.append((source, call))
    return made


def copy_graph(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph whose nodes keep their names."""
    copy = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        nodes[node] = copy.node_copy(node, nodes.__getitem__)
    return copy


def rewrite(node: fx.Node, ruling: Ruling, removal: Removal) -> None:
    """Write the constants of a call anew."""
    node.target, node.args, node.kwargs = rewritten(node, ruling, removal)


def rewritten(
    node: fx.Node, ruling: Ruling, removal: Removal
) -> tuple[fx.node.Target, tuple[Any, ...], dict[str, Any]]:
    """A call after a cut, target, arguments and keywords: arguments keep their place, defaults become keywords."""
    values = {name: removal.evaluate(value) for name, value in ruling.constants.items()}
    nodes = {source.name: source for source in node.all_input_nodes}
    values = {name: fx.node.map_arg(value, lambda source: nodes[source.name]) for name, value in values.items()}
    if ruling.target is not None:
        return ruling.target, tuple(values.values()), {}
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
    return node.target, tuple(args), kwargs


def slice_tensors(tensors: Mapping[str, Tensor], surgery: Surgery, *, consume: bool = False) -> dict[str, Tensor]:
    """Every tensor after a surgery; tied ones stay tied, whole ones stay the same object.

    consume: the memory of each original is given back, with its gradient, as soon as its slice exists.
    """
    done: dict[int, Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        found[name] = slice_tensor(name, tensor, surgery, done)
        if consume and found[name] is not tensor:
            tensor.data, tensor.grad = tensor.data.new_empty(0), None
    return found


def slice_tensor(name: str, tensor: Tensor, surgery: Surgery, done: dict[int, Tensor]) -> Tensor:
    """One tensor after a surgery; `done` remembers, by the id of the original, what tied ones became."""
    if name not in surgery.kept:
        return tensor
    if id(tensor) not in done:
        smaller = surgery.slice(name, tensor.detach())
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, requires_grad=tensor.requires_grad)
        done[id(tensor)] = smaller
    return done[id(tensor)]
