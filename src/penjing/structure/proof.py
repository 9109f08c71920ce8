"""A cut is believed only when the smaller model computes what the masked original computes, in float64.

The reference is the original graph in which every removed slice of every parameter is zero. Parameters that are
constant (fresh biases, norms, zero-initialised heads) are perturbed alike on both sides, so that no mistake hides
behind a zero.
A rolled index in one query weight moved an output by 1.2e-6: single precision would have let it pass.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal, Units
from penjing.structure.graph_model import GraphModel
from penjing.structure.precision import InDouble, in_double
from penjing.structure.rules import Labels, Ruling
from penjing.structure.surgery import Cut, Surgery, kept_indices, rewrite
from penjing.workload.inputs import ExampleInputs
from penjing.workload.modes import preserved_randomness

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Proof:
    """What a comparison found.

    `max_relative_difference` is max |y - y_ref| / max |y_ref| over outputs, inputs and batch sizes. `exact`: the
    reference is the masked original alone; else statistics over a cut dimension were taken over the kept indices, and
    the cut is checked against this restricted norm, not proven. `what` says what was compared, or what went wrong.
    """

    max_relative_difference: float
    exact: bool
    passed: bool
    what: str

    def describe(self) -> str:
        """One line for a log.

        >>> Proof(2e-16, True, True, "2 inputs, batches 2 and 3").describe()
        'proven in float64: maximum relative difference 2.0e-16 (2 inputs, batches 2 and 3)'
        """
        if not self.passed:
            return f"failed: {self.what}"
        how = "proven in float64" if self.exact else "checked against the restricted norm in float64"
        return f"{how}: maximum relative difference {self.max_relative_difference:.1e} ({self.what})"


def prove(
    coupling: Coupling, candidate: nn.Module | Cut, removed: Mapping[str, Sequence[int] | Units], *, seed: int = 0
) -> Proof:
    """Compare a cut model, by either route, with the masked original; neither is changed.

    The candidate must hold the original's values, cut and not yet trained. A candidate that cannot run at its new
    widths fails the proof; that is no error.

    >>> from penjing.structure import couple, cut
    >>> coupling = couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3))
    >>> prove(coupling, cut(coupling, {"0": [1, 3]}), {"0": [1, 3]}).passed
    True
    """
    module = candidate.module if isinstance(candidate, Cut) else candidate
    removal = coupling.removal(removed)
    exact = coupling.is_exact(removed)
    captured = coupling.captured
    own = _tensors(
        module
    )  # a constant that the class makes in its forward is no tensor of it: there is no place for noise
    noise = {name: value for name, value in _noise(captured.tensors, seed).items() if name in own}
    surgery = Surgery(kept_indices(coupling, removal))
    with preserved_randomness(), torch.no_grad():
        reference = _Reference(coupling, removal, noise)
        try:
            smaller = _double(module, {name: surgery.slice(name, value) for name, value in noise.items()})
        except (ValueError, RuntimeError) as problem:
            return Proof(float("inf"), exact, False, _one_line(problem))
        worst, batches = 0.0, _batches(captured)
        for example in _examples(captured, batches, seed):
            with InDouble():  # type: ignore[no-untyped-call]
                expected = reference.run(*captured.flatten(example.args, example.kwargs))
            try:
                with InDouble():  # type: ignore[no-untyped-call]
                    found = _leaves(smaller(*example.args, **example.kwargs))
            except Exception as problem:  # the user's own forward may raise anything at its new widths
                return Proof(float("inf"), exact, False, f"it does not run: {_one_line(problem)}")
            difference = _difference(_leaves(expected), found)
            if not difference <= TOLERANCE:
                what = f"outputs differ by {difference:.1e} from the masked original"
                return Proof(difference, exact, False, what)
            worst = max(worst, difference)
    return Proof(worst, exact, True, f"2 inputs, batches {batches[0]} and {batches[1]}")


class _Reference(fx.Interpreter):
    """The original graph in float64 with removed slices zero; statistics over a cut dimension see only what is kept.

    Parameters are converted one at a time, when the graph reads them.
    """

    def __init__(self, coupling: Coupling, removal: Removal, noise: Mapping[str, Tensor]) -> None:
        captured = coupling.captured
        graph = in_double(captured.module.graph)
        super().__init__(fx.GraphModule({**captured.subgraphs, **captured.tensors}, graph))
        self._labels = coupling.labelling.labels
        self._rulings = coupling.labelling.rulings
        self._removal = removal
        self._noise = noise

    def run_node(self, n: fx.Node) -> Any:
        ruling = self._rulings.get(n.name)
        if ruling is not None and self._removal.touches([statistic.label for statistic in ruling.inexact]):
            return self._restricted(n, ruling)
        result = super().run_node(n)
        if n.op == "get_attr" and isinstance(result, Tensor):
            return self._masked(n, result)
        return result

    def _masked(self, node: fx.Node, tensor: Tensor) -> Tensor:
        name = str(node.target)
        if tensor.is_floating_point():
            tensor = tensor.double() + self._noise[name] if name in self._noise else tensor.double()
        return mask(tensor, self._labels[node.name][0], self._removal)

    def _restricted(self, node: fx.Node, ruling: Ruling) -> Any:
        """Run an operator on the kept indices of its inputs and put zeros around its outputs."""
        scratch = fx.Graph()
        places = {source: scratch.placeholder(source.name) for source in node.all_input_nodes}
        call = scratch.node_copy(node, places.__getitem__)
        rewrite(call, ruling, self._removal)
        values = {places[source]: self._gathered(source) for source in places}
        args, kwargs = fx.node.map_arg((call.args, call.kwargs), values.__getitem__)
        assert callable(call.target)
        result = call.target(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._scattered(node, 0, result)
        return tuple(self._scattered(node, i, each) for i, each in enumerate(result))

    def _kept(self, node: fx.Node, output: int) -> list[Tensor | None]:
        labels = self._labels[node.name]
        masks = [self._removal.kept(label) for label in labels[output]] if labels else []
        return [None if mask is None else torch.from_numpy(mask.nonzero()[0]) for mask in masks]

    def _gathered(self, node: fx.Node) -> Any:
        value = self.env[node]
        if isinstance(value, Tensor):
            for dim, kept in enumerate(self._kept(node, 0)):
                value = value if kept is None else value.index_select(dim, kept.to(value.device))
        return value

    def _scattered(self, node: fx.Node, output: int, value: Tensor) -> Tensor:
        for dim, label in enumerate(self._labels[node.name][output]):
            kept = self._removal.kept(label)
            if kept is not None:
                sizes = [*value.shape[:dim], len(kept), *value.shape[dim + 1 :]]
                index = torch.from_numpy(kept.nonzero()[0]).to(value.device)
                value = value.new_zeros(sizes).index_copy(dim, index, value)
        return value


def mask(tensor: Tensor, labels: Labels, removal: Removal) -> Tensor:
    """A tensor in which every removed slice is zero."""
    for dim, label in enumerate(labels):
        kept = removal.kept(label)
        if kept is not None:
            tensor = tensor.index_fill(dim, torch.from_numpy((~kept).nonzero()[0]).to(tensor.device), 0)
    return tensor


def _double(module: nn.Module, noise: Mapping[str, Tensor]) -> nn.Module:
    """A float64 copy of the candidate in eval mode, with the noise added."""
    # What a parametrised weight left behind at the last forward has a history, and cannot be copied with it.
    left = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    module = copy.deepcopy(module, {id(value): value.detach() for value in left}).double().eval()
    if isinstance(module, GraphModel):
        module = module.with_graph(in_double(module.graph))
    tensors = _tensors(module)
    done: set[int] = set()
    for name, value in noise.items():
        tensor = tensors[name]
        if id(tensor) in done:
            continue
        if tensor.shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; the cut leaves {tuple(value.shape)}")
        tensor.add_(value)
        done.add(id(tensor))
    return module


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def _noise(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What is added to constant tensors, by name; positive, because a running variance must stay so."""
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and id(tensor) not in done
            and (tensor == tensor.flatten()[0]).all()
        ):
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            done[id(tensor)] = (0.1 + 0.4 * noise).to(tensor.device)
    return {name: done[id(tensor)] for name, tensor in tensors.items() if id(tensor) in done}


def _batches(captured: Captured) -> tuple[int, int]:
    size = captured.example.batch_size
    return (size, size) if captured.fixed_batch else (min(size, 2), min(size, 2) + 1)


def _examples(captured: Captured, batches: Sequence[int], seed: int) -> list[ExampleInputs]:
    """The example at one batch size and a random input like it at another, in float64."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for random, size in zip((False, True), batches, strict=True):
        example = captured.example.with_batch(size)
        converted = {id(tensor): _like(tensor, generator, random) for tensor in example.tensors}
        args, kwargs = pytree.tree_map(lambda leaf: converted.get(id(leaf), leaf), (example.args, dict(example.kwargs)))  # noqa: B023
        examples.append(ExampleInputs(args, kwargs))
    return examples


def _like(tensor: Tensor, generator: torch.Generator, random: bool) -> Tensor:
    """A tensor of the same shape, device and range of values; floats become float64."""
    if not random:
        return tensor.double() if tensor.is_floating_point() else tensor
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def _leaves(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest relative difference; infinite where shapes or the places of non-finite values differ."""
    if len(expected) != len(found):
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            continue
        a, b = a.double(), b.double()
        finite = a.isfinite()
        if not torch.equal(finite, b.isfinite()) or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
            return float("inf")
        if finite.any():
            a, b = a[finite], b[finite]
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(torch.float64).tiny)))
    return worst


def _one_line(problem: Exception) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
