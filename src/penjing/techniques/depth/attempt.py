"""Leave blocks out and prove it: in the user's own class where it can be, else as a rewritten graph."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from penjing.structure import Captured, Proof, Surgery
from penjing.structure.blocks import Block
from penjing.structure.bypass import bypass, prove_bypass
from penjing.structure.stand_in import put_bypasses, put_modules, stand_ins
from penjing.techniques.state import State


@dataclass(frozen=True)
class Attempt:
    """A model without some blocks, and what its proof said.

    surgery: the modules that are bypassed, None where the module is a rewritten graph. refused: why the user's own
    class could not be kept; empty where it is, or was not tried.
    """

    blocks: tuple[Block, ...]
    module: nn.Module
    proof: Proof
    surgery: Surgery | None
    refused: str = ""


def largest_proven(
    state: State, captured: Captured, blocks: Sequence[Block], prefer: str
) -> tuple[Attempt | None, dict[str, str]]:
    """Leave blocks out and prove it; where that fails, keep to the blocks that can go one by one.

    Give what passed, None where nothing did, and why each of the other blocks failed.
    """
    whole = attempt(state, captured, blocks, prefer)
    if whole.proof.passed:
        return whole, {}
    alone = {block.name: prove_bypass(captured, bypass(captured, [block]).module, [block]) for block in blocks}
    failed = {name: proof.what for name, proof in alone.items() if not proof.passed}
    passed = [block for block in blocks if block.name not in failed]
    if not passed or not failed:
        return None, failed or {block.name: whole.proof.what for block in blocks}
    together = attempt(state, captured, passed, prefer)
    if together.proof.passed:
        return together, failed
    return None, failed | {block.name: together.proof.what for block in passed}


def attempt(state: State, captured: Captured, blocks: Sequence[Block], prefer: str) -> Attempt:
    """Leave blocks out, in place where preferred and proven, else in the graph."""
    refused = ""
    if prefer == "module" and not state.graph:
        forms = stand_ins(state.model, captured, blocks)
        if forms is None:
            refused = "its class has no module that computes one of these blocks and nothing else"
        else:
            before = put_bypasses(state.model, forms)
            proof = prove_bypass(captured, state.model, blocks)
            if proof.passed:
                return Attempt(tuple(blocks), state.model, proof, Surgery({}, bypassed=forms))
            put_modules(state.model, before)
            refused = proof.what
    module = bypass(captured, blocks).module
    return Attempt(tuple(blocks), module, prove_bypass(captured, module, blocks), None, refused)
