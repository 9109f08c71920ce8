r"""A removed channel is not always zero: what it gives without its incoming weights moves into the layers behind it.

With its weights gone, a channel still gives the constant c that biases leave: a bias, the shift of a batch norm
through a ReLU, a value's bias through attention. Every layer y = W x + b that reads it takes the constant into its own
bias,

    b' = b + sum_k W[:, removed, k] c,

or, where it has none, into the running mean of the batch norm behind it, mean' = mean - sum_k W[:, removed, k] c
(Ye et al. 2018, "Rethinking the Smaller-Norm-Less-Informative Assumption in Channel Pruning of Convolution Layers",
arXiv:1802.00124, section 4). Names and shapes stay as they are. Where neither is there, the channel counts as zero.

A convolution that pads sees zeros beyond the border; the fold stands for a channel that is c there too.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure.coupling import Coupling, Removal, Units
from penjing.structure.layers import Layer, Taker, is_read, taker_of
from penjing.structure.reference import Masked, Original, removed_indices, run_on_probes
from penjing.structure.rules import bind, operator_name
from penjing.structure.surgery import Surgery, kept_indices
from penjing.workload.modes import preserved_randomness

CONSTANT = 1e-12  # values that differ by less, relative to the largest, are one constant


@dataclass(frozen=True)
class Folding:
    """What removed channels still give, and where it goes.

    constants: by node that reads them, float64 [channels], zero where a channel is kept or not constant.
    shifts: what is added to a parameter or buffer of the cut model, float64, by name.
    intact: the constants are those of the original with all its weights, so that the cut changes nothing.
    """

    constants: Mapping[str, Tensor] = field(default_factory=dict)
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    intact: bool = False

    @property
    def moved(self) -> int:
        """How many constants move."""
        return sum(int(constants.count_nonzero()) for constants in self.constants.values())

    def install(self, *modules: nn.Module) -> None:
        """Add the shifts to the tensors of cut modules, each rounded once to its dtype.

        The tensors are replaced, not written to, for a cut shares with the original what it did not slice. Modules that
        share a tensor go on sharing it.
        """
        done: dict[int, tuple[Tensor, Tensor]] = {}
        for module in modules:
            for name, shift in self.shifts.items():
                path, _, key = name.rpartition(".")
                owner = module.get_submodule(path)
                slots: dict[str, Any] = owner._parameters if key in owner._parameters else owner._buffers
                tensor = slots[key]
                if id(tensor) not in done:  # the old one is held, so that its id stays its own
                    done[id(tensor)] = tensor, _added(tensor, shift)
                slots[key] = done[id(tensor)][1]


def fold(
    coupling: Coupling,
    removed: Mapping[str, Sequence[int] | Units],
    *,
    intact: bool = False,
    spare: Collection[str] = (),
    seed: int = 0,
) -> Folding:
    """Find the constants that removed channels leave, and what they shift.

    A constant is what is the same along every other dimension, on two inputs and all their samples. With `intact` no
    weight is set to zero to find it, and nothing is folded that is not exact at borders: it is for units that are dead
    already. spare: names of tensors that take nothing, such as biases that a mask keeps at zero.

    >>> from penjing.structure import couple
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> for parameter in model.parameters():
    ...     _ = nn.init.constant_(parameter, 3.0)
    >>> folding = fold(couple(model, torch.zeros(2, 1)), {"0": [1]})
    >>> folding.constants["linear_1"].tolist(), folding.shifts["2.bias"].tolist()
    ([0.0, 3.0], [9.0])
    """
    removal = coupling.removal(removed)
    readers = [reader for reader in _readers(coupling, removal) if reader.taker.name not in spare]
    if not readers or not (intact or _leaves_constants(coupling, removal, readers)):
        return Folding(intact=intact)
    with preserved_randomness(), torch.no_grad():
        run, _, _ = run_on_probes(lambda: _Constants(coupling, removal, readers, intact), coupling.captured, seed)
        constants = {reader.layer.node.name: run.constants(reader.layer) for reader in readers}
        return _settled(coupling, removal, readers, constants, run.space, intact)


def _added(tensor: Tensor, shift: Tensor) -> Tensor:
    value = (tensor.detach().double() + shift.to(tensor.device)).to(tensor.dtype)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


@dataclass(frozen=True)
class _Reader:
    """A layer that reads removed channels, and what can take their constants."""

    layer: Layer
    taker: Taker


def _readers(coupling: Coupling, removal: Removal) -> list[_Reader]:
    """Every layer that loses inputs and has a tensor of its own to take their constants."""
    tensors = coupling.captured.tensors
    found = []
    for node in coupling.captured.module.graph.nodes:
        layer = Layer.of(node, tensors)
        if layer is not None and removal.kept(_channels(coupling, layer)) is not None:
            taker = taker_of(layer, tensors) or _addend(layer, tensors)
            if taker is not None:
                found.append(_Reader(layer, taker))
    return found


def _channels(coupling: Coupling, layer: Layer) -> Any:
    return coupling.labelling.labels[layer.x.name][0][layer.axis]


def _addend(layer: Layer, tensors: Mapping[str, Tensor]) -> Taker | None:
    """A vector that is added behind a product without a bias: W x + c."""
    if layer.bias is not None or len(layer.node.users) != 1:
        return None
    (after,) = layer.node.users
    if operator_name(after.target) != "aten::add" or layer.axis != -1:
        return None
    terms = bind(after)
    other = terms["other"] if terms["self"] is layer.node else terms["self"]
    outputs = tensors[str(layer.weight.target)].shape[1 - layer.contracted]
    takes = terms["alpha"] == 1 and is_read(other, tensors) and tensors[str(other.target)].shape == (outputs,)
    return Taker(str(other.target), 1, after) if takes else None


def _leaves_constants(coupling: Coupling, removal: Removal, readers: Sequence[_Reader]) -> bool:
    """Whether there can be a constant: a vector of a removed channel that is not zero, or a sigmoid(0) on the way."""
    if any(reader.layer.x.name not in coupling.labelling.vanishing for reader in readers):
        return True
    for name, labels in coupling.labelling.parameters.items():
        tensor = coupling.captured.tensors[name]
        for dim, label in enumerate(labels):
            gone = removed_indices(label, removal) if _is_vector(tensor) and tensor.is_floating_point() else None
            if gone is not None and tensor.index_select(dim, gone.to(tensor.device)).any():
                return True
    return False


def _weights(coupling: Coupling) -> set[str]:
    """Names of the weights of layers."""
    tensors = coupling.captured.tensors
    layers = (Layer.of(node, tensors) for node in coupling.captured.module.graph.nodes)
    return {str(layer.weight.target) for layer in layers if layer is not None}


def _is_vector(tensor: Tensor) -> bool:
    """Whether a tensor holds one number for a channel: biases, norms, scales of layers [channels, 1, 1]."""
    return sum(size > 1 for size in tensor.shape) < 2


class _Constants(Masked):
    """The original whose removed channels lost their weights, but not their biases; it looks at what readers read."""

    def __init__(self, coupling: Coupling, removal: Removal, readers: Sequence[_Reader], intact: bool) -> None:
        super().__init__(coupling, coupling.removal({}) if intact else removal, {})
        self._layers = {reader.layer.node.name: reader.layer for reader in readers}
        self._removed = {
            name: removed_indices(_channels(coupling, layer), removal) for name, layer in self._layers.items()
        }
        self._weights = _weights(coupling)
        self._ranges: dict[str, tuple[Tensor, Tensor]] = {}
        self._sizes: dict[str, int] = {}
        self.space: dict[str, tuple[int, ...]] = {}

    def parameter(self, node: fx.Node, tensor: Tensor) -> Tensor:
        """The value of a parameter; a removed channel loses its weights, but no bias, norm or scale."""
        stays = _is_vector(tensor) and node.target not in self._weights
        return Original.parameter(self, node, tensor) if stays else super().parameter(node, tensor)

    def run_node(self, n: fx.Node) -> Any:
        layer = self._layers.get(n.name)
        if layer is not None:
            source = next(node for node in n.all_input_nodes if node.name == layer.x.name)
            self._look(n.name, layer.axis, self.env[source])
        result = super().run_node(n)
        return self._at_its_mean(n, result) if operator_name(n.target) == "aten::batch_norm" else result

    def _look(self, name: str, axis: int, x: Tensor) -> None:
        gone = self._removed[name]
        assert gone is not None
        low, high = x.index_select(axis, gone.to(x.device)).movedim(axis, 0).flatten(1).aminmax(dim=1)
        if name in self._ranges:
            low, high = low.minimum(self._ranges[name][0]), high.maximum(self._ranges[name][1])
        self._ranges[name], self._sizes[name] = (low, high), x.shape[axis]
        self.space[name] = tuple(x.shape[axis:][1:])

    def _at_its_mean(self, node: fx.Node, result: Tensor) -> Tensor:
        """What a removed channel gives behind a batch norm: its input is taken at the running mean, not at zero."""
        gone = removed_indices(self.labels[node.name][0][1], self.removal)
        arguments = bind(node)
        if gone is None or arguments["training"]:
            return result
        shift = self.env[arguments["bias"]] if arguments["bias"] is not None else result.new_zeros(result.shape[1])
        gone = gone.to(result.device)
        constant = shift[gone].reshape(-1, *(1,) * (result.ndim - 2))
        return result.index_copy(1, gone, constant.expand(len(result), -1, *result.shape[2:]))

    def constants(self, layer: Layer) -> Tensor:
        """The constants that a layer reads: [channels], zero where a channel is kept or varies."""
        low, high = self._ranges[layer.node.name]
        gone = self._removed[layer.node.name]
        assert gone is not None
        found = torch.where(is_one(low, high), low, 0.0)
        return low.new_zeros(self._sizes[layer.node.name]).index_copy(0, gone.to(low.device), found)


def is_one(low: Tensor, high: Tensor) -> Tensor:
    """Whether the least and the largest values of channels are one constant each."""
    return (high - low) <= CONSTANT * low.abs().maximum(high.abs())


def _settled(
    coupling: Coupling,
    removal: Removal,
    readers: Sequence[_Reader],
    constants: Mapping[str, Tensor],
    space: Mapping[str, tuple[int, ...]],
    intact: bool,
) -> Folding:
    """The shifts; a tensor is shifted only where all that use it agree on the same shift."""
    tensors = coupling.captured.tensors
    uses: dict[int, set[fx.Node]] = defaultdict(set)
    for node in coupling.captured.module.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            uses[id(tensors[node.target])].update(node.users)
    takers: dict[int, list[tuple[_Reader, Tensor]]] = defaultdict(list)
    for reader in readers:
        shift = _shift(coupling, removal, reader, constants[reader.layer.node.name], space, intact)
        if shift is not None:
            takers[id(tensors[reader.taker.name])].append((reader, shift))
    agreed: dict[int, tuple[Tensor, list[str]]] = {}
    for key, taken in takers.items():
        shift = taken[0][1]
        alike = all(torch.allclose(shift, other, rtol=1e-12, atol=1e-12) for _, other in taken)
        if alike and uses[key] == {reader.taker.at for reader, _ in taken} and shift.any():
            agreed[key] = shift, [reader.layer.node.name for reader, _ in taken]
    surgery = Surgery(kept_indices(coupling, removal))
    shifts = {
        name: surgery.slice(name, agreed[id(tensor)][0]) for name, tensor in tensors.items() if id(tensor) in agreed
    }
    return Folding({name: constants[name] for _, names in agreed.values() for name in names}, shifts, intact)


def _shift(
    coupling: Coupling,
    removal: Removal,
    reader: _Reader,
    constants: Tensor,
    space: Mapping[str, tuple[int, ...]],
    intact: bool,
) -> Tensor | None:
    """What constant channels add to a tensor of the original's shape; None where it is not the same everywhere."""
    layer = reader.layer
    weight = coupling.captured.tensors[str(layer.weight.target)].detach().double()
    if intact and constants.any() and any(layer.padding(weight)):
        return None
    response = layer.response(weight, constants, space[layer.node.name])
    low, high = response.aminmax(dim=1)
    if not is_one(low, high).all():
        return None
    taker = coupling.captured.tensors[reader.taker.name]
    gone = removed_indices(coupling.labelling.labels[layer.node.name][0][layer.axis], removal)
    shift = reader.taker.sign * low
    return (shift if gone is None else shift.index_fill(0, gone.to(shift.device), 0.0)).reshape(taker.shape)
