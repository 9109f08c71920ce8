"""Leave blocks out of a captured graph, and prove it: the sum that ends a branch gives way to its skip."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure.blocks import Block
from penjing.structure.capture import Captured
from penjing.structure.flow import Flow
from penjing.structure.graph_model import GraphModel
from penjing.structure.probes import noise_for
from penjing.structure.proof import Proof, compare
from penjing.structure.reference import Original
from penjing.structure.surgery import copy_graph


@dataclass(frozen=True)
class Bypassed:
    """A model without some blocks: a trainable module, and the smaller graph for another step."""

    module: GraphModel
    captured: Captured


def bypass(captured: Captured, blocks: Sequence[Block]) -> Bypassed:
    """Leave blocks out; weights that nothing else reads go with them, the others are shared with the original.

    >>> import torch
    >>> from penjing.structure import capture
    >>> from penjing.structure.blocks import find_blocks
    >>> from penjing.workload.samples import ResNet
    >>> captured = capture(ResNet((2, 2), (4, 8)), torch.zeros(2, 1, 8, 8))
    >>> smaller = bypass(captured, find_blocks(captured)[1:]).module
    >>> smaller(torch.zeros(5, 1, 8, 8)).shape, sorted({name[:8] for name in smaller.state_dict() if "blocks" in name})
    (torch.Size([5, 10]), ['blocks.0', 'blocks.2'])
    """
    graph = copy_graph(captured.module.graph)
    nodes = {node.name: node for node in graph.nodes}
    shapes = dict(captured.shapes)
    flow = Flow(graph)
    skips = {nodes[residual.skip] for block in blocks for residual in block.residuals}
    gone = flow.gone_with([nodes[name] for block in blocks for name in block.nodes], but=skips)
    gone |= _unread_beside(graph, gone)
    place = {name: i for i, name in enumerate(nodes)}
    for residual in sorted((r for block in blocks for r in block.residuals), key=lambda r: place[r.output]):
        total, skip = nodes[residual.output], nodes[residual.skip]
        if flow.is_written_after(total) and _is_read(skip, total, gone, flow):
            with graph.inserting_after(total):
                skip = graph.call_function(torch.ops.aten.clone.default, (skip,))
            shapes[skip.name] = shapes[total.name]
        total.replace_all_uses_with(skip)
        nodes[residual.output] = skip
        gone.add(total)
    for node in reversed(graph.nodes):
        if node in gone:
            graph.erase_node(node)
    shapes = {node.name: shapes[node.name] for node in graph.nodes}
    smaller = replace(captured, module=fx.GraphModule(captured.module, graph, captured.name), shapes=shapes)
    return Bypassed(GraphModel.of(smaller), smaller)


def _unread_beside(graph: fx.Graph, gone: Collection[fx.Node]) -> set[fx.Node]:
    """The tensors that no node reads, such as the batch counter of a norm, of modules whose other tensors all go."""
    tensors = [node for node in graph.nodes if node.op == "get_attr"]
    leaving = {_home(node) for node in gone if node.op == "get_attr"}
    staying = {_home(node) for node in tensors if node.users and node not in gone}
    return {node for node in tensors if not node.users and _home(node) in leaving - staying}


def _home(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[0]


def _is_read(skip: fx.Node, total: fx.Node, gone: Collection[fx.Node], flow: Flow) -> bool:
    """Whether anything but the sum, and what goes, reads the memory of a skip."""
    family = flow.family(skip)
    readers = {user for node in family for user in node.users} - family - {total}
    return any(node.op != "call_function" for node in family) or not readers <= set(gone)


def prove_bypass(captured: Captured, candidate: nn.Module, blocks: Sequence[Block], *, seed: int = 0) -> Proof:
    """Compare a model without some blocks, by either route, with the original whose branches add zero.

    As `prove`: in float64, with constant weights perturbed alike on both sides, for two inputs and two batch sizes, and
    only where outputs move when the branches add something.
    """
    own = {name for name, _ in (*candidate.named_parameters(), *candidate.named_buffers())}
    noise = {name: value for name, value in noise_for(captured.tensors, seed).items() if name in own}
    ends = {end for block in blocks for residual in block.residuals for end in residual.ends}
    reference = partial(_Severed, captured, noise, ends)
    return compare(captured, candidate, reference, noise, "original whose branches add zero", seed=seed)


class _Severed(Original):
    """The original in which the ends of some branches are zero."""

    def __init__(self, captured: Captured, noise: Mapping[str, Tensor], ends: Collection[str]) -> None:
        super().__init__(captured, noise)
        self._ends = ends
        self.can_fail = bool(ends)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name not in self._ends:
            return result
        # The nudge is a wave, because a norm behind the sum would take a constant away.
        return _wave(result) if self.nudging else torch.zeros_like(result)


def _wave(like: Tensor) -> Tensor:
    return torch.arange(like.numel(), device=like.device, dtype=like.dtype).cos().reshape(like.shape)
