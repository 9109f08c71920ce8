"""Make a cut and prove it: in the user's own class where it can be, else as a rewritten graph, else not at all."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from penjing.structure import (
    Coupling,
    Cut,
    Folding,
    Proof,
    Use,
    attribute_uses,
    attributes_after,
    cut,
    cut_in_place,
    fold,
    prove,
    share,
    torn_by,
)
from penjing.techniques.prune.select import Units
from penjing.techniques.state import State
from penjing.workload import ExampleInputs, preserved
from penjing.workload.modes import preserved_buffers

PROOFS = 24  # spent, at most, on finding what the user's own class lets go


@dataclass(frozen=True)
class Attempt:
    """A cut and what its proof said.

    removed: the units that went. module: the smaller model, a rewritten graph where `graph` says so; the constants that
    removed channels leave are in the layers behind them. refused: why the user's own class, cut in place, did not pass;
    empty where it did or was not tried.
    """

    removed: Mapping[str, Units]
    cut: Cut
    module: nn.Module
    proof: Proof
    graph: bool
    refused: str = ""


Try = Callable[[Mapping[str, Units]], Attempt]
Choice = tuple[Coupling, Mapping[str, Units]]
Folds = Callable[[Coupling, Mapping[str, Units]], Folding]


def largest_proven(
    state: State,
    coupling: Coupling,
    removed: Mapping[str, Units],
    prefer: str,
    *,
    eager_safe: bool = False,
    gentler: Callable[[], Choice | None] = lambda: None,
    folds: Folds = fold,
) -> tuple[Attempt | None, dict[str, str]]:
    """Make the whole cut where it can be proven, else as much of it as can.

    With prefer="module" the user's own class is cut where that passes. Where it does not, another choice of units, as
    small and `gentler` to the class, is tried; then the graph is cut. With eager_safe the class stays the user's
    whatever it costs: groups that it cannot lose are left whole. folds: how constants of removed channels are found.
    Give what passed (its coupling is `cut.coupling`), None where nothing did, and why each of the other groups failed.
    """
    refused = ""
    if prefer == "module" and not state.graph:
        in_place = _in_place(state, coupling, folds)
        whole = in_place(removed)
        if whole.proof.passed:
            return whole, {}
        if eager_safe:
            return bisect(in_place, removed)
        refused = whole.proof.what
        other = gentler()
        if other is not None and (second := _in_place(state, other[0], folds)(other[1])).proof.passed:
            return second, {}
    done, failed = _as_graph(coupling, removed, folds)
    return (None if done is None else replace(done, refused=refused)), failed


def _in_place(state: State, coupling: Coupling, folds: Folds) -> Try:
    uses = _uses(state.model, coupling)
    example = coupling.captured.example
    modes = [training for training in (False, True) if not stumbles(state.model, example, training)]

    def attempt(removed: Mapping[str, Units]) -> Attempt:
        done = cut(coupling, removed)
        attributes = attributes_after(state.model, uses, coupling, removed)
        done = replace(done, surgery=replace(done.surgery, attributes=attributes))
        module = cut_in_place(share(state.model), done.surgery)
        problem = next(filter(None, (stumbles(module, example, training) for training in modes)), "")
        if problem:
            proof = Proof(math.inf, coupling.is_exact(removed), False, problem)
        else:
            proof = _proven(done, module, removed, folds)
        if not proof.passed:
            proof = replace(proof, what=proof.what + _torn(torn_by(uses, coupling, removed)))
        return Attempt(removed, done, module, proof, graph=False)

    return attempt


def stumbles(module: nn.Module, example: ExampleInputs, training: bool) -> str:
    """Run a module once, for a fraction of what its proof costs; say what it raises, nothing where it runs.

    Heads that only training uses are in no graph: a class that ran in training mode must do so after a cut.
    """
    with preserved(module), preserved_buffers(module), torch.no_grad():
        module.train(training)
        try:
            module(*example.args, **example.kwargs)
        except Exception as problem:  # the user's own forward may raise anything at its new widths
            what = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            return f"it does not run{' in training mode' if training else ''}: {what}"
    return ""


def _proven(done: Cut, module: nn.Module, removed: Mapping[str, Units], folds: Folds) -> Proof:
    """Prove a cut with its constants folded, and install them; where that fails, prove it with zeros in their place.

    An intact folding promises the original itself: zeros would break that promise.
    """
    folding = folds(done.coupling, removed)
    proof = prove(done.coupling, module, removed, folding=folding)
    if not proof.passed and folding.moved and not folding.intact and math.isfinite(proof.max_relative_difference):
        proof, folding = prove(done.coupling, module, removed), Folding()
    if proof.passed:
        folding.install(module, done.captured.module)
    return proof


def _torn(attributes: Mapping[str, tuple[int, ...]]) -> str:
    """Say which number of a class the cut would need to be several.

    >>> _torn({"attention.head_dim": (12, 16)})
    '; attention.head_dim would have to be 12 and 16 at once'
    """
    for name, sizes in attributes.items():
        return f"; {name} would have to be {' and '.join(map(str, sizes))} at once"
    return ""


def _uses(model: nn.Module, coupling: Coupling) -> tuple[Use, ...]:
    try:
        return attribute_uses(model, coupling.captured)
    except Exception:  # a forward may insist on the type of its numbers; its class is then tried as it is
        return ()


def _as_graph(coupling: Coupling, removed: Mapping[str, Units], folds: Folds) -> tuple[Attempt | None, dict[str, str]]:
    """Cut the graph; where the whole cut fails, keep the groups whose cuts pass one by one."""

    def attempt(removed: Mapping[str, Units]) -> Attempt:
        done = cut(coupling, removed)
        return Attempt(removed, done, done.module, _proven(done, done.module, removed, folds), graph=True)

    whole = attempt(removed)
    if whole.proof.passed:
        return whole, {}
    alone = {name: attempt({name: units}).proof for name, units in removed.items()}
    failed = {name: proof.what for name, proof in alone.items() if not proof.passed}
    passed = {name: units for name, units in removed.items() if name not in failed}
    if not passed:
        return None, failed
    together = attempt(passed)
    return (together, failed) if together.proof.passed else (None, failed | dict.fromkeys(passed, together.proof.what))


def bisect(attempt: Try, removed: Mapping[str, Units], proofs: int = PROOFS) -> tuple[Attempt | None, dict[str, str]]:
    """Find a large part of a cut that passes where the whole does not, by halves, in a bounded number of proofs.

    Groups at the same place of repeated layers (`layers.0.mlp`, `layers.1.mlp`) nearly always share their fate: they
    are tried together, and one by one only where the first of them passes alone. What was not tried when the proofs are
    spent is left whole. Give the largest part that passed, and why each of the other groups did not.
    """
    best: Attempt | None = None
    refused: dict[str, str] = {}
    left, why = proofs, ""

    def passes(names: Sequence[str]) -> bool:
        nonlocal best, left, why
        if not left:
            why = f"not tried: {proofs} proofs were spent on other groups"
            return False
        left -= 1
        kept = best.removed if best is not None else {}
        tried = attempt({name: units for name, units in removed.items() if name in kept or name in names})
        best, why = (tried, why) if tried.proof.passed else (best, tried.proof.what)
        return tried.proof.passed

    def search(kinds: Sequence[Sequence[str]], failed: bool) -> bool:
        """Add what passes of some kinds, all of which are known to fail together where `failed`."""
        names = [name for kind in kinds for name in kind]
        if not failed and passes(names):
            return True
        if len(kinds) > 1:
            half = len(kinds) // 2
            search(kinds[half:], failed=search(kinds[:half], failed=False))
        elif len(names) > 1 and passes(names[:1]):
            search([[name] for name in names[1:]], failed=True)
        else:
            refused.update(dict.fromkeys(names, why))
        return False

    search(_alike(removed), failed=True)
    return best, refused


def _alike(names: Mapping[str, Units]) -> list[list[str]]:
    """Group names that differ in numbers only, as the same places in repeated layers do.

    >>> _alike({"layers.0.mlp": None, "head": None, "layers.1.mlp": None})
    [['layers.0.mlp', 'layers.1.mlp'], ['head']]
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    return list(kinds.values())
