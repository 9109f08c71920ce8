"""Units that contribute nothing: what a model gives does not depend on them, or depends on a constant they leave.

A unit is looked at wherever it ends, in the sum of a layer that reads it. There it is dead when its values are zero,
when they are one constant that the layer's bias can take, or when no output of the model depends on them: the gradient
along it is zero, because its columns are, or because all that follows is dead. It goes when it is dead everywhere.

That is read off the zeros among the parameters, not off two inputs: functions that saturate are made to respond
(f(x) + x / 10 instead of f(x), which is zero where f is), so that a unit that merely happens to be inactive lives.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from penjing.structure.atoms import Ids
from penjing.structure.coupling import Coupling, Units
from penjing.structure.folding import fold, is_one
from penjing.structure.layers import Layer
from penjing.structure.precision import InDouble
from penjing.structure.probes import boldest, leaves
from penjing.structure.reference import Original
from penjing.structure.rules import operator_name
from penjing.workload.inputs import ExampleInputs
from penjing.workload.modes import preserved_randomness

_SATURATING = """
    relu relu6 gelu silu mish elu celu selu leaky_relu hardtanh hardswish hardsigmoid hardshrink softshrink softplus
    threshold log_sigmoid sigmoid tanh clamp clamp_min clamp_max erf
"""
_STEPS = "floor ceil round trunc sign sgn"  # their gradient is zero, but they read
_SHAPE_ONLY = "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty"

Mask = NDArray[np.bool_]


def dead_units(coupling: Coupling, *, spare: Collection[str] = (), seed: int = 0) -> dict[str, Units]:
    """The units of exact groups that can go without any change of what the model computes, by group.

    One unit of a group stays, where all are dead. spare: names of tensors that take no constants.

    >>> from penjing.structure import couple
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[1].zero_(), model[2].weight[:, 3].zero_()
    >>> dead_units(couple(model, torch.zeros(2, 3)))
    {'0': array([1, 3])}
    """
    look = _Look(coupling)
    captured = coupling.captured

    def look_at(examples: Iterable[ExampleInputs]) -> None:
        for example in examples:
            inputs = captured.flatten(example.args, example.kwargs)
            look.differentiate(inputs, seed)
            look.listen(inputs)

    with preserved_randomness(), torch.enable_grad():
        boldest(captured, seed, look_at)
    dead = np.setdiff1d(look.candidates, look.live(lambda _, end: end.gone | end.constant))
    while True:
        units = _by_group(coupling, dead)
        moved = fold(coupling, units, intact=True, spare=spare, seed=seed).constants

        def dead_once_folded(node: str, end: _End, moved: Mapping[str, Tensor] = moved) -> Mask:
            folded = moved[node].cpu().numpy() != 0 if node in moved else np.zeros(len(end.label), dtype=np.bool_)
            return end.gone | end.constant & (end.silent | folded)

        going = np.concatenate([coupling[name].ids[each] for name, each in units.items()] or [dead[:0]])
        stuck = np.intersect1d(look.live(dead_once_folded), going)
        if not len(stuck):
            return units
        dead = np.setdiff1d(dead, stuck)


def inactive_units(coupling: Coupling, batches: Iterable[Sequence[Any]]) -> dict[str, Units]:
    """The units of exact groups whose values are zero, wherever they end, on every batch of flat inputs, by group."""
    look = _Look(coupling)
    with preserved_randomness(), torch.no_grad():
        for batch in batches:
            look.run(batch)
    return _by_group(coupling, np.setdiff1d(look.candidates, look.live(lambda _, end: end.silent)))


def _by_group(coupling: Coupling, dead: Ids) -> dict[str, Units]:
    units = {}
    for group in coupling.groups:
        gone = np.flatnonzero(np.isin(group.ids, dead)) if group.prunable and group.exact else np.zeros(0, np.int64)
        if len(gone):
            units[group.name] = gone[1:] if len(gone) == group.size else gone
    return {name: each for name, each in units.items() if len(each)}


class _End:
    """A dimension of an input of a call, in which units end: which of its indices were dead in all runs so far.

    reads: whether a layer reads it as its input, so that its bias can take constants.
    """

    def __init__(self, label: Ids, dim: int, reads: bool) -> None:
        self.label = label
        self._dim = dim
        self._reads = reads
        self.silent = np.ones(len(label), dtype=np.bool_)  # zero
        self._zero = self.silent.copy()  # zero, although every function responds
        self._unread = self.silent.copy()  # nothing depends on it
        self._range: tuple[Tensor, Tensor] | None = None

    def see(self, value: Tensor) -> None:
        """Look at values of the model as it is."""
        self.silent &= self._is_zero(value)

    def respond(self, value: Tensor) -> None:
        """Look at values of the model in which every function responds."""
        self._zero &= self._is_zero(value)
        low, high = value.detach().movedim(self._dim, 0).flatten(1).aminmax(dim=1)
        before = self._range
        self._range = (low, high) if before is None else (low.minimum(before[0]), high.maximum(before[1]))

    def feel(self, gradient: Tensor | None) -> None:
        """Look at a gradient; None where nothing depends on the values."""
        if gradient is not None:
            self._unread &= self._is_zero(gradient)

    def _is_zero(self, value: Tensor) -> Mask:
        zero: Mask = (value.detach().movedim(self._dim, 0).flatten(1) == 0).all(1).cpu().numpy()
        return zero

    @property
    def gone(self) -> Mask:
        """Which indices are zero, or not read."""
        return self._zero | self._unread

    @property
    def constant(self) -> Mask:
        """Which indices are a constant that a layer reads."""
        if self._range is None or not self._reads:
            return np.zeros(len(self.label), dtype=np.bool_)
        return is_one(*self._range).cpu().numpy()


class _Look:
    """Where units end in a graph, and what was seen of them there."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        ids = [group.ids for group in coupling.groups if group.prunable and group.exact]
        self.candidates: Ids = np.unique(np.concatenate(ids)) if ids else np.zeros(0, dtype=np.int64)
        found = {node.name: self._ends(node) for node in coupling.captured.module.graph.nodes}
        self.ends = {name: ends for name, ends in found.items() if ends}

    def _ends(self, node: fx.Node) -> dict[str, list[_End]]:
        """Dimensions of a call's inputs with candidates that are in none of its outputs, by input."""
        labelling = self._coupling.labelling
        ends: dict[str, list[_End]] = defaultdict(list)
        if node.op != "call_function":
            return ends
        labels = [label for each in labelling.labels[node.name] for label in each if label is not None]
        passing = np.concatenate([labelling.expanded(label).ravel() for label in labels] or [self.candidates[:0]])
        ending = np.setdiff1d(self.candidates, passing)
        layer = Layer.of(node, self._coupling.captured.tensors)
        for source in node.all_input_nodes:
            tensors = labelling.labels.get(source.name, ())
            for dim, label in enumerate(tensors[0] if len(tensors) == 1 else ()):
                if label is not None and np.isin(labelling.expanded(label), ending).any():
                    reads = layer is not None and layer.x is source and dim == len(tensors[0]) + layer.axis
                    ends[source.name].append(_End(labelling.expanded(label), dim, reads))
        return ends

    def differentiate(self, inputs: Sequence[Any], seed: int) -> None:
        """Run the original on inputs; look at values, and at the gradients of all outputs at once."""
        run = _Differentiable(self._coupling, self.ends)
        with InDouble():
            outputs = leaves(run.run(*inputs))
        read = [tensor for tensor in (*outputs, *run.read) if tensor.requires_grad]
        generator = torch.Generator().manual_seed(seed)
        weights = [0.5 + torch.rand(each.shape, generator=generator, dtype=each.dtype).to(each.device) for each in read]
        seen = [value for value, _ in run.seen]
        found = torch.autograd.grad(read, seen, weights, allow_unused=True) if read and seen else [None] * len(seen)
        for (_, ends), gradient in zip(run.seen, found, strict=True):
            for end in ends:
                end.feel(gradient)

    def run(self, inputs: Sequence[Any]) -> None:
        """Run the model as it is; look for what is zero."""
        run = _Watched(self._coupling.captured.module)
        run.ends = self.ends
        run.run(*inputs)

    def listen(self, inputs: Sequence[Any]) -> None:
        """Run the original in float64; look for what is zero."""
        run = _WatchedOriginal(self._coupling.captured, {})
        run.ends = self.ends
        with torch.no_grad(), InDouble():
            run.run(*inputs)

    def live(self, dead: Callable[[str, _End], Mask]) -> Ids:
        """The candidates that are not dead in some call, in none of its inputs."""
        alive = [self.candidates[:0]]
        for node, ends in self.ends.items():
            each = [end for several in ends.values() for end in several]
            present = np.unique(np.concatenate([end.label.ravel() for end in each]))
            spared = [np.setdiff1d(end.label, end.label[~dead(node, end)]) for end in each]
            alive.append(np.setdiff1d(present, np.concatenate(spared)))
        return np.unique(np.concatenate(alive))


class _Watched(fx.Interpreter):
    """A graph whose inputs in which units end are looked at."""

    ends: Mapping[str, Mapping[str, list[_End]]]

    def run_node(self, n: fx.Node) -> Any:
        for source in n.all_input_nodes if n.name in self.ends else ():
            for end in self.ends[n.name].get(source.name, ()):
                end.see(self.env[source])
        return super().run_node(n)


class _WatchedOriginal(_Watched, Original):
    """The original in float64, looked at."""


class _Differentiable(Original):
    """The original in float64, which responds to every input that it reads; inputs in which units end are looked at."""

    def __init__(self, coupling: Coupling, ends: Mapping[str, Mapping[str, list[_End]]]) -> None:
        super().__init__(coupling.captured, {})
        self._ends = ends
        self.seen: list[tuple[Tensor, list[_End]]] = []
        self.read: list[Tensor] = []  # by comparisons and roundings, which have no gradient

    def run_node(self, n: fx.Node) -> Any:
        shared = {}
        for source in n.all_input_nodes if n.name in self._ends else ():
            ends = self._ends[n.name].get(source.name, [])
            value = self.env[source]
            if ends and value.is_floating_point():
                for end in ends:
                    end.respond(value)
                shared[source] = value
                self.env[source] = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
                self.seen.append((self.env[source], ends))
        result = super().run_node(n)
        self.env.update(shared)
        if n.op == "call_function":
            self._note_what_is_read(n, result)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; one that saturates gives f(x) + x / 10."""
        name = _plain_name(target)
        if name not in _SATURATING.split():
            return super().call_function(target, args, kwargs)
        x = args[0]
        before = x.clone()
        result = super().call_function(target, args, kwargs)
        return result.add_(before, alpha=0.1) if result is x else result + 0.1 * before

    def _note_what_is_read(self, node: fx.Node, result: Any) -> None:
        name = _plain_name(node.target)
        if name in _SHAPE_ONLY.split():
            return
        if name in _STEPS.split() or not all(leaf.requires_grad for leaf in leaves(result)):
            values = [self.env[source] for source in node.all_input_nodes]
            self.read += [value for value in values if isinstance(value, Tensor) and value.requires_grad]


def _plain_name(target: Any) -> str:
    return operator_name(target).removeprefix("aten::").removesuffix("_")
