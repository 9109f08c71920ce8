"""A cut is believed only when the smaller model computes what the masked original computes, in float64.

The reference is the original graph in which every removed slice of every parameter is zero. Parameters that are
constant (fresh biases, norms, zero-initialised heads) are perturbed alike on both sides, so that no mistake hides
behind a zero.
A rolled index in one query weight moved an output by 1.2e-6: single precision would have let it pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.errors import first_line
from penjing.structure.candidate import run_in_float64, tensors_of
from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal, Units, is_number
from penjing.structure.folding import Folding
from penjing.structure.graph_model import GraphModel
from penjing.structure.layers import Layer
from penjing.structure.probes import batches_of, noise_for, probes
from penjing.structure.reference import InFloat64, Masked, Original, mask, removed_indices, run_on, run_on_probes
from penjing.structure.surgery import Cut, Surgery, kept_indices
from penjing.workload.modes import preserved_randomness

TOLERANCE = 1e-9
NUDGE = 1e-3
_MASKED = 1e30  # values at least as large are no results: infinite, or the least number of a type


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
    coupling: Coupling,
    candidate: nn.Module | Cut,
    removed: Mapping[str, Sequence[int] | Units],
    *,
    folding: Folding | None = None,
    seed: int = 0,
) -> Proof:
    """Compare a cut model, by either route, with the masked original; neither is changed.

    The candidate must hold the original's values, cut and not yet trained. With a folding, the original is one whose
    removed channels are their constants, or untouched where the folding is intact; the shifts are added to a float64
    copy of the candidate, which must not hold them yet. A candidate that cannot run at its new widths fails the proof;
    that is no error.

    >>> from penjing.structure import couple, cut
    >>> coupling = couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3))
    >>> prove(coupling, cut(coupling, {"0": [1, 3]}), {"0": [1, 3]}).passed
    True
    """
    module = candidate.module if isinstance(candidate, Cut) else candidate
    folding = Folding() if folding is None else folding
    removal = coupling.removal(removed)
    exact = coupling.is_exact(removed)
    captured = coupling.captured
    own = tensors_of(module)
    noise = {name: value for name, value in _noise(coupling, removal, folding, seed).items() if name in own}
    surgery = Surgery(kept_indices(coupling, removal))
    sliced = not isinstance(candidate, Cut) or candidate.sliced
    added = {name: surgery.slice(name, value) if sliced else value for name, value in noise.items()}
    for name, shift in folding.shifts.items():
        shift = shift if sliced else surgery.spread(name, shift, own[name].shape)
        added[name] = added[name] + shift if name in added else shift
    reference = partial(_Reference, coupling, removal, noise, folding)
    proof = compare(captured, module, reference, added, _original(folding), exact=exact, seed=seed)
    if proof.passed and (folding.intact or folding.moved):
        return replace(proof, what=f"{proof.what}, against the {_original(folding)}")
    return proof


def prove_class(done: Cut, module: nn.Module, *, seed: int = 0) -> Proof:
    """Compare a class with the graph of a proven cut that holds the same tensors; neither is changed.

    >>> from penjing.structure import couple, cut, cut_in_place
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> done = cut(couple(model, torch.zeros(2, 3)), {"0": [1, 3]})
    >>> prove_class(done, cut_in_place(model, done.surgery)).passed
    True
    """
    own = tensors_of(module)
    noise = {name: value for name, value in noise_for(done.captured.tensors, seed).items() if name in own}
    return compare(done.captured, module, partial(Original, done.captured, noise), noise, "cut graph", seed=seed)


def compare(
    captured: Captured,
    candidate: nn.Module,
    reference: Callable[[], InFloat64],
    added: Mapping[str, Tensor],
    original: str,
    *,
    exact: bool = True,
    seed: int = 0,
    tries: int = 4,
) -> Proof:
    """Run a candidate and a reference of the captured model on two inputs and two batch sizes, in float64.

    added: what is added to tensors of the candidate first, such as the noise that the reference has. original: what the
    reference is, in words. A third run of the reference is nudged where the cut is: if that moves no output, then a
    wrong cut would not either, and nothing is proven, unless another of `tries` random inputs moves one.
    """
    with preserved_randomness(), torch.no_grad():
        try:
            early = _early(captured, candidate, added, seed)
            run, examples, expected = run_on_probes(reference, captured, seed)
            found = early if examples[0].batch_size == batches_of(captured)[0] else []
            found = [*found, *run_in_float64(candidate, added, examples[len(found) :])]
        except Exception as problem:  # the user's own forward may raise anything at its new widths
            return Proof(float("inf"), exact, False, f"it does not run: {first_line(problem)}")
    worst = max(map(_difference, expected, found))
    if not worst <= TOLERANCE:
        return Proof(worst, exact, False, f"outputs differ by {worst:.1e} from the {original}")
    if run.can_fail and not _difference(expected[1], expected[2]) > TOLERANCE:
        if tries > 1:  # a few units of a small model can all be inactive by chance
            return compare(captured, candidate, reference, added, original, exact=exact, seed=seed + 1, tries=tries - 1)
        return Proof(worst, exact, False, f"nothing is proven: {_blind(expected[1])}")
    first, second = (example.batch_size for example in examples)
    return Proof(worst, exact, True, f"2 inputs, batches {first} and {second}")


def _early(captured: Captured, candidate: nn.Module, added: Mapping[str, Tensor], seed: int) -> list[Sequence[Tensor]]:
    """What a class gives on the first probe: one that does not survive its cut says so before anything else is run.

    Nothing, where the original does not run at that batch size either.
    """
    if isinstance(candidate, GraphModel):
        return []
    first = probes(captured, seed)[:1]
    try:
        return run_in_float64(candidate, added, first)
    except Exception:
        try:
            run_on(Original(captured, {}), captured, first)
        except (RuntimeError, IndexError, ValueError):
            return []
        raise


def _blind(outputs: Sequence[Tensor]) -> str:
    """Why no output moves."""
    if not any(map(is_number, outputs)):
        return "the outputs are whole numbers; capture the model up to the values that they are chosen by"
    if not any(bool(output.isfinite().any()) for output in outputs):
        return "no output is finite"
    return "no output depends on what is cut, or they saturate"


def _original(folding: Folding) -> str:
    if folding.intact:
        return "original as it is"
    return (
        f"original in which {folding.moved} removed inputs of layers are constants"
        if folding.moved
        else "masked original"
    )


def _noise(coupling: Coupling, removal: Removal, folding: Folding, seed: int) -> dict[str, Tensor]:
    """Noise for constant tensors.

    What is removed has none, for it gave the constants that are folded; nor has a zero of an intact original, for units
    can be dead because of it.
    """
    tensors = coupling.captured.tensors
    noise = noise_for(tensors, seed)
    for node in coupling.captured.module.graph.nodes:
        if node.op == "get_attr" and node.target in noise:
            noise[node.target] = mask(noise[node.target], coupling.labelling.labels[node.name][0], removal)
    return {name: value for name, value in noise.items() if not folding.intact or tensors[name].any()}


class _Reference(Masked):
    """The original whose removed channels are zero, or their constants where a layer reads them."""

    def __init__(self, coupling: Coupling, removal: Removal, noise: Mapping[str, Tensor], folding: Folding) -> None:
        super().__init__(coupling, coupling.removal({}) if folding.intact else removal, noise)
        self._tensors = coupling.captured.tensors
        self._constants = {} if folding.intact else folding.constants
        self._layers = {
            node.name: Layer.of(node, self._tensors) for node in self.graph.nodes if node.name in self._constants
        }
        self.can_fail = not folding.intact  # what is dead already moves nothing

    def run_node(self, n: fx.Node) -> Any:
        layer = self._layers.get(n.name)
        result = super().run_node(n) if layer is None else self._folded(n, layer)
        return self._nudged(n, result) if self.nudging and n.op == "call_function" else result

    def _nudged(self, node: fx.Node, result: Any) -> Any:
        """Disturb what a call gives along the dimensions that lose indices, each index by another thousandth."""
        if isinstance(result, Tensor) and is_number(result):
            for dim, label in enumerate(self.labels[node.name][0]):
                if self.removal.kept(label) is not None:
                    steps = torch.linspace(1.0, 2.0, result.shape[dim], dtype=torch.float64, device=result.device)
                    result = result * (1 + NUDGE * steps).reshape(-1, *(1,) * (result.ndim - dim - 1))
        return result

    def _folded(self, node: fx.Node, layer: Layer) -> Tensor:
        """Run a layer whose removed inputs are constants, beyond the border too; its weights keep their columns."""
        gone = removed_indices(self.labels[layer.x.name][0][layer.axis], self.removal)
        assert gone is not None
        x: Tensor = self.env[layer.x]
        constants, gone = self._constants[node.name].to(x.device), gone.to(x.device)
        shape = [*x.shape[: x.ndim + layer.axis], len(gone), *x.shape[x.ndim + layer.axis + 1 :]]
        filling = constants[gone].reshape(-1, *(1,) * (-layer.axis - 1)).expand(shape)
        weight = Original.parameter(self, layer.weight, self._tensors[str(layer.weight.target)])
        weight = mask(weight, self.labels[layer.weight.name][0], self.removal, but=layer.contracted)
        bias = None if layer.bias is None else self.env[layer.bias]
        result = layer.beyond(x.index_copy(layer.axis, gone, filling), weight, bias, constants)
        return mask(result, self.labels[node.name][0], self.removal)


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest relative difference; infinite where shapes differ, or what is not finite or stands for a mask.

    A score of -3e38 says that its place is masked: as the largest value it would make every difference look small.
    """
    if len(expected) != len(found):
        return float("inf")
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            continue
        a, b = (torch.view_as_real(x) if x.is_complex() else x.double() for x in (a, b))
        plain = a.abs() < _MASKED
        if not torch.equal(plain, b.abs() < _MASKED) or not torch.equal(_kinds(a[~plain]), _kinds(b[~plain])):
            return float("inf")
        if plain.any():
            a, b = a[plain], b[plain]
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(torch.float64).tiny)))
    return worst


def _kinds(values: Tensor) -> Tensor:
    """Large and infinite values by their sign, 2 for nan."""
    return values.clamp(-1, 1).nan_to_num(2)
