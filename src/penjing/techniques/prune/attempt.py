"""Make a cut and prove it: in the user's own class where it can be, else as a rewritten graph, else not at all."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from penjing.structure import Coupling, Cut, Proof, cut, cut_in_place, prove
from penjing.techniques.prune.select import Units
from penjing.techniques.state import State


@dataclass(frozen=True)
class Attempt:
    """A cut and what its proof said.

    removed: the units that went. module: the smaller model, a rewritten graph where `graph` says so. refused: why the
    user's own class, cut in place, did not pass; empty where it did or was not tried.
    """

    removed: Mapping[str, Units]
    cut: Cut
    module: nn.Module
    proof: Proof
    graph: bool
    refused: str = ""


def attempt(state: State, coupling: Coupling, removed: Mapping[str, Units], prefer: str) -> Attempt:
    """Make one cut, in place where preferred and proven, else in the graph."""
    done = cut(coupling, removed)
    refused = ""
    if prefer == "module" and not state.graph:
        module = cut_in_place(copy.deepcopy(state.model), done.surgery)
        proof = prove(coupling, module, removed)
        if proof.passed:
            return Attempt(removed, done, module, proof, graph=False)
        refused = proof.what
    return Attempt(removed, done, done.module, prove(coupling, done.module, removed), graph=True, refused=refused)


def largest_proven(
    state: State, coupling: Coupling, removed: Mapping[str, Units], prefer: str
) -> tuple[Attempt | None, dict[str, str]]:
    """Cut and prove; where the whole cut fails, keep the groups whose cuts pass one by one.

    Give what passed, None where nothing did, and why each of the other groups failed.
    """
    whole = attempt(state, coupling, removed, prefer)
    if whole.proof.passed:
        return whole, {}
    alone = {name: attempt(state, coupling, {name: units}, prefer).proof for name, units in removed.items()}
    failed = {name: proof.what for name, proof in alone.items() if not proof.passed}
    passed = {name: units for name, units in removed.items() if name not in failed}
    if not passed:
        return None, failed
    together = attempt(state, coupling, passed, prefer)
    return (together, failed) if together.proof.passed else (None, failed | dict.fromkeys(passed, together.proof.what))
