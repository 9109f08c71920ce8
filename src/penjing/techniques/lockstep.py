"""Run a model beside another with the same graph, operator by operator, and see what a layer reads and should give.

The second model's tensors may change on the way, so that each layer is fitted to what the fitted layers before it give.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure import Captured
from penjing.structure.layers import Layer, Taker, taker_of
from penjing.techniques.rows import draw_places, inputs_at, outputs_at

_ROWS = 20_000  # of one layer's regression, held-out ones included
_HELD_OUT = 4  # one sample in four


@dataclass(frozen=True)
class Rows:
    """A regression: inputs x [n, k], wanted outputs y [n, m], both without the bias, and which rows are held out."""

    x: Tensor
    y: Tensor
    held: Tensor


@dataclass(frozen=True)
class Pair:
    """The two graphs at work on one batch."""

    original: fx.Interpreter
    cut: fx.Interpreter


@dataclass(frozen=True)
class Step:
    """A node of the cut graph that is about to run on every batch, and what the original gave there."""

    node: fx.Node
    pairs: tuple[Pair, ...]
    outputs: tuple[Tensor, ...]
    tensors: Mapping[str, Tensor]

    def value(self, node: fx.Node) -> Tensor:
        """A tensor of the cut model."""
        value: Tensor = self.tensors[str(node.target)]
        return value

    def reread(self) -> None:
        """Let the runs see new tensors."""
        for pair in self.pairs:
            for node in pair.cut.env:
                if node.op == "get_attr" and node.target in self.tensors:
                    pair.cut.env[node] = self.tensors[str(node.target)]


def in_step(
    original: Captured, cut: Captured, batches: Sequence[Sequence[Any]], tensors: Mapping[str, Tensor]
) -> Iterator[Step]:
    """Run two graphs with the same nodes on all batches, node by node; the cut one reads `tensors` before its own.

    Each operator is given out when the original has run it and the cut has not.
    """
    pairs = tuple(Pair(fx.Interpreter(original.module), fx.Interpreter(cut.module)) for _ in batches)
    for pair, inputs in zip(pairs, batches, strict=True):
        for runner in (pair.original, pair.cut):
            runner.env, runner.args_iter = {}, iter(inputs)
    for before, after in zip(original.module.graph.nodes, cut.module.graph.nodes, strict=True):
        if after.op == "output":
            return
        outputs = tuple(_advance(pair.original, before) for pair in pairs)
        if after.op == "call_function":
            yield Step(after, pairs, outputs, tensors)
        for pair in pairs:
            _advance(pair.cut, after, tensors)


def _advance(runner: fx.Interpreter, node: fx.Node, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """Run one node, and let go of what nothing reads any more."""
    value = runner.run_node(node)
    if node.op == "get_attr" and tensors is not None:
        value = tensors.get(str(node.target), value)
    runner.env[node] = value
    for last in runner.user_to_last_uses.get(node, ()):
        del runner.env[last]
    return value


def draw_rows(layer: Layer, step: Step, seed: int, kept: Tensor | None = None) -> Rows:
    """Draw positions of every batch; read the layer's inputs there, and what it should give (its `kept` outputs)."""
    weight, bias = step.value(layer.weight), None if layer.bias is None else step.value(layer.bias)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for i, (pair, output) in enumerate(zip(step.pairs, step.outputs, strict=True)):
        places = draw_places(layer, output, -(-_ROWS // len(step.pairs)), generator)
        wanted = outputs_at(layer, output, places)
        if kept is not None:
            wanted = wanted[:, kept.to(wanted.device)]
        wanted = wanted if bias is None else wanted - bias
        x = inputs_at(layer, pair.cut.env[layer.x], weight, places)
        parts.append((x, wanted, (places[0] + i) % _HELD_OUT == _HELD_OUT - 1))
    x, y, held = (torch.cat(part) for part in zip(*parts, strict=True))
    dtype = torch.promote_types(x.dtype, torch.float32)
    return Rows(x.to(dtype), y.to(dtype), held)


def takers_of(cut: Captured, layers: Mapping[str, Layer]) -> dict[str, Taker]:
    """What can take an intercept, by layer: its bias, or the running mean behind it, where nothing else reads that."""
    tensors, uses = cut.tensors, uses_of(cut)
    found = {name: taker_of(layer, tensors) for name, layer in layers.items()}
    return {name: taker for name, taker in found.items() if taker is not None and uses[id(tensors[taker.name])] == 1}


def uses_of(captured: Captured) -> Counter[int]:
    """How many operators read each tensor, under any of its names."""
    tensors = captured.tensors
    uses: Counter[int] = Counter()
    for node in captured.module.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            uses[id(tensors[node.target])] += len(node.users)
    return uses
