"""Make a cut and prove it: in the user's own class where it can be, else as a rewritten graph, else not at all."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from penjing.errors import first_line
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
from penjing.structure.candidate import tensors_of
from penjing.structure.proof import prove_class
from penjing.structure.surgery import cut_when_read
from penjing.techniques.prune.bisect import Attempt, Try, bisect
from penjing.techniques.prune.compensate import install
from penjing.techniques.prune.select import Units
from penjing.techniques.state import State
from penjing.workload import ExampleInputs, preserved
from penjing.workload.modes import preserved_buffers

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
            return bisect(in_place, removed, whole.proof.what)
        refused = whole.proof.what
        other = gentler()
        if other is not None and (second := _in_place(state, other[0], folds)(other[1])).proof.passed:
            return second, {}
    done, failed = _as_much(_as_graph(coupling, folds), removed)
    return (None if done is None else replace(done, refused=refused)), failed


def consuming(
    state: State, coupling: Coupling, removed: Mapping[str, Units], prefer: str
) -> tuple[Attempt | None, dict[str, str]]:
    """The same, and never are the original and its cut held together; the original is of no use afterwards.

    A graph that slices as it reads is proven first, while the original is whole. Then each original tensor gives way to
    its slice, and with prefer="module" the class takes the slices and is compared with the graph that was proven.
    """
    in_class = prefer == "module" and not state.graph
    uses, modes = (_uses(state.model, coupling), _modes(state, coupling)) if in_class else ((), ())
    done, failed = _as_much(_as_graph(coupling, fold, cut_when_read), removed)
    if done is None:
        return None, failed
    attributes = attributes_after(state.model, uses, coupling, done.removed)
    smaller = cut(coupling, done.removed, consume=True)
    done.folding.install(smaller.module, smaller.captured.module)
    done = replace(done, cut=smaller, module=smaller.module)
    if not in_class:
        return done, failed
    own = replace(smaller, surgery=replace(smaller.surgery, attributes=attributes))
    module, problem = _class_of(state.model, own, done.folding, modes)
    if not problem:
        proof = prove_class(own, module)
        problem = "" if proof.passed else proof.what
    return (replace(done, refused=problem) if problem else replace(done, cut=own, module=module, graph=False)), failed


def _as_much(attempt: Try, removed: Mapping[str, Units]) -> tuple[Attempt | None, dict[str, str]]:
    whole = attempt(removed)
    return (whole, {}) if whole.proof.passed else bisect(attempt, removed, whole.proof.what)


def _class_of(model: nn.Module, smaller: Cut, folding: Folding, modes: Sequence[bool]) -> tuple[nn.Module, str]:
    """The model's own class with the tensors of a cut graph; and why it cannot have them, empty where it can."""
    tensors = tensors_of(smaller.module)
    try:
        module = cut_in_place(model, smaller.surgery, tensors)
        install(module, {name: tensors[name] for name in folding.shifts})
    except Exception as error:  # a class may refuse to have its tensors and numbers set
        return model, f"it cannot be cut: {first_line(error)}"
    return module, _problem(module, smaller.captured.example, modes)


def take_over(state: State, done: Attempt) -> State:
    """The state with the cut model: masks lose what it lost, and its surgery follows those before."""
    surgery = done.cut.surgery
    masks = {name: surgery.slice(name, mask) for name, mask in state.masks.items()}
    whole = surgery if state.surgery is None else state.surgery.then(surgery)
    return replace(state, model=done.module, masks=masks, surgery=whole, graph=state.graph or done.graph)


def _in_place(state: State, coupling: Coupling, folds: Folds) -> Try:
    uses, modes = _uses(state.model, coupling), _modes(state, coupling)

    def attempt(removed: Mapping[str, Units]) -> Attempt:
        done = cut(coupling, removed)
        attributes = attributes_after(state.model, uses, coupling, removed)
        done = replace(done, surgery=replace(done.surgery, attributes=attributes))
        try:
            module = cut_in_place(share(state.model), done.surgery)
        except Exception as error:  # a class may refuse to be copied, or to have its tensors and numbers set
            module, problem = done.module, f"it cannot be cut: {first_line(error)}"
        else:
            problem = _problem(module, coupling.captured.example, modes)
        proof, folding = Proof(math.inf, coupling.is_exact(removed), False, problem), Folding()
        if not problem:
            proof, folding = _proven(done, module, removed, folds)
        if not proof.passed:
            proof = replace(proof, what=proof.what + _torn(torn_by(uses, coupling, removed)))
        return Attempt(removed, done, module, proof, graph=False, folding=folding)

    return attempt


def _modes(state: State, coupling: Coupling) -> tuple[bool, ...]:
    """The modes in which the model runs, training or not: after a cut it must do so as well."""
    return (False,) if stumbles(state.model, coupling.captured.example, training=True) else (False, True)


def _problem(module: nn.Module, example: ExampleInputs, modes: Sequence[bool]) -> str:
    return next(filter(None, (stumbles(module, example, training) for training in modes)), "")


def stumbles(module: nn.Module, example: ExampleInputs, training: bool) -> str:
    """Run a module once, for a fraction of what its proof costs; say what it raises, nothing where it runs.

    Heads that only training uses are in no graph: a class that ran in training mode must do so after a cut.
    """
    with preserved(module), preserved_buffers(module), torch.no_grad():
        module.train(training)
        try:
            module(*example.args, **example.kwargs)
        except Exception as problem:  # the user's own forward may raise anything at its new widths
            return f"it does not run{' in training mode' if training else ''}: {first_line(problem)}"
    return ""


def _proven(done: Cut, module: nn.Module, removed: Mapping[str, Units], folds: Folds) -> tuple[Proof, Folding]:
    """Prove a cut with its constants folded, and install them; where that fails, prove it with zeros in their place.

    An intact folding promises the original itself: zeros would break that promise.
    """
    folding = folds(done.coupling, removed)
    candidate = done if module is done.module else module
    proof = prove(done.coupling, candidate, removed, folding=folding)
    if not proof.passed and folding.moved and not folding.intact and math.isfinite(proof.max_relative_difference):
        proof, folding = prove(done.coupling, candidate, removed), Folding()
    if proof.passed and done.sliced:
        folding.install(module, done.captured.module)
    return proof, folding


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


def _as_graph(coupling: Coupling, folds: Folds, make: Callable[[Coupling, Mapping[str, Units]], Cut] = cut) -> Try:
    def attempt(removed: Mapping[str, Units]) -> Attempt:
        done = make(coupling, removed)
        proof, folding = _proven(done, done.module, removed, folds)
        return Attempt(removed, done, done.module, proof, graph=True, folding=folding)

    return attempt
