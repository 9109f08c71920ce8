r"""Learn whether each weight is rounded up or down, so that a part of the network gives what it gave in float.

A weight becomes s (clamp(floor(w / s) + h(v) + z) - z) with h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1), and the v of a
part are learnt by Adam on

    sum_r p_r |y_r - y'_r|^2 / sum_r p_r |y_r|^2 + l sum (1 - |2 h(v) - 1|^b),

y the part's output in the float network, y' that on the inputs that the quantised network gives it, p_r the weight of a
place. The second term, with b falling from 20 to 2, drives each h to 0 or 1. Activations are rounded on the way, with
the gradient of a rounding taken as one.

- adaround: a part is one layer. Nagel, Amjad, van Baalen, Louizos, Blankevoort 2020 (arXiv:2004.10568).
- blocks: a part is what lies between two places where the network is one tensor wide, such as a residual block. Li et
  al. 2021, BRECQ (arXiv:2102.05426).
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import LAYERS, output_channel, tensor_of
from penjing.techniques.quantize.importance import place_weights
from penjing.techniques.quantize.quick import quick, there_and_back
from penjing.techniques.quantize.stored import Stored, stored
from penjing.techniques.quantize.walk import Walk

STEPS = 300
LEARNING_RATE = 0.02
LAMBDA = 0.01
WARM_UP = 0.2
FROM, TO = 20.0, 2.0


@dataclass(frozen=True)
class Part:
    """Nodes in their order, of which `last` gives the output, and the layers among them whose weights are learnt."""

    nodes: tuple[fx.Node, ...]
    last: fx.Node
    layers: tuple[fx.Node, ...]


def adaround(reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with the weights of one layer after the other rounded by what its output loses."""
    return _reconstructed(reference, candidate, batches, by_block=False)


def blocks(reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with the weights of one block after the other rounded by what its output loses."""
    return _reconstructed(reference, candidate, batches, by_block=True)


def _reconstructed(
    reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs], *, by_block: bool
) -> fx.GraphModule:
    mended = copy.deepcopy(candidate)
    fast = quick(mended)
    there, here = Walk(reference, batches), Walk(fast, batches)
    float_nodes = {node.name: node for node in reference.graph.nodes}
    learnt = {
        node.name: found
        for node in mended.graph.nodes
        if node.target in LAYERS and (found := stored(mended, node)) is not None
    }
    weights = place_weights(reference, learnt, batches)
    for part in parts(fast, learnt, by_block=by_block):
        source = float_nodes[part.last.name]
        places = weights.get(part.last.name)
        soft = {
            layer.name: _Soft(tensor_of(reference, bind(float_nodes[layer.name])["weight"]), learnt[layer.name])
            for layer in part.layers
        }

        def wanted(piece: int, source: fx.Node = source) -> Tensor:
            value: Tensor = there.before(source.next, piece)[source]
            return value

        _learn(fast, part, here, wanted, places, soft, len(batches))
    return mended


def parts(module: fx.GraphModule, layers: Collection[str], *, by_block: bool) -> Iterator[Part]:
    """Parts of a graph that hold layers: single ones, or all that lies between two places of one tensor."""
    if not by_block:
        for node in module.graph.nodes:
            if node.name in layers:
                yield Part((node,), node, (node,))
        return
    inside: list[fx.Node] = []
    live: dict[fx.Node, int] = {}
    deep: set[fx.Node] = set()  # what depends on a layer
    for node in module.graph.nodes:
        if node.op == "output":
            break
        inside.append(node)
        if node.name in layers or any(x in deep for x in node.all_input_nodes):
            deep.add(node)
            live[node] = len(node.users)
        for x in node.all_input_nodes:
            if x in live:
                live[x] -= 1
                if not live[x]:
                    del live[x]
        found = tuple(each for each in inside if each.name in layers)
        # a place of one tensor, whose value the float network has too
        if found and list(live) == [node] and node.op == "call_function" and node.target is not there_and_back:
            first = inside.index(found[0])
            yield Part(tuple(inside[first:]), node, found)
            inside = []
    found = tuple(each for each in inside if each.name in layers)
    if found:
        last = found[-1]
        yield Part(tuple(inside[inside.index(found[0]) : inside.index(last) + 1]), last, found)


def _learn(
    module: fx.GraphModule,
    part: Part,
    walk: Walk,
    wanted: Callable[[int], Tensor],
    places: Sequence[Tensor] | None,
    soft: "Mapping[str, _Soft]",
    pieces: int,
) -> None:
    """Learn the roundings of a part, and store them.

    wanted: its output in the float network, of each piece. soft: name of a layer -> its weight.
    """
    inside = set(part.nodes)
    outside = {x for node in part.nodes for x in node.all_input_nodes} - inside
    optimizer = torch.optim.Adam([each.v for each in soft.values()], lr=LEARNING_RATE)
    energy = sum(float(wanted(i).double().square().mean()) for i in range(pieces)) / pieces
    generator = torch.Generator().manual_seed(0)
    machine = fx.Interpreter(module)
    for step in range(STEPS):
        i = int(torch.randint(pieces, (1,), generator=generator))
        values = walk.before(part.nodes[0], i)
        with torch.enable_grad():
            got = _run(machine, part, {x: values[x] for x in outside if x in values}, soft)
            error = (got - wanted(i)).square()
            if places is not None and len(part.nodes) == 1:
                error = error.mean(output_channel(part.last, error.ndim)).flatten() * places[i]
            loss = error.mean() / max(energy, 1e-30)
            progress = step / STEPS
            if progress > WARM_UP:
                sharp = TO + (FROM - TO) * (1 - (progress - WARM_UP) / (1 - WARM_UP))
                loss = loss + LAMBDA * sum(each.undecided(sharp) for each in soft.values())
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    for each in soft.values():
        each.store()


def _run(machine: fx.Interpreter, part: Part, values: dict[fx.Node, Any], soft: "Mapping[str, _Soft]") -> Tensor:
    known = dict(values)
    weights = {bind(layer)["weight"]: soft[layer.name].weight() for layer in part.layers}

    def read(node: fx.Node) -> Any:
        if node in weights:
            return weights[node]
        if node not in known:  # a constant
            known[node] = _call(machine, node, read)
        return known[node]

    for node in part.nodes:
        if node not in weights:
            known[node] = _call(machine, node, read)
    result: Tensor = known[part.last]
    return result


def _call(machine: fx.Interpreter, node: fx.Node, read: Any) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), read)
    if node.target is there_and_back:
        x: Any = args[0]
        return x + (there_and_back(x.detach(), *args[1:]) - x).detach()
    return getattr(machine, node.op)(node.target, args, kwargs)


class _Soft:
    """A weight between two steps of its grid, which of the two is learnt; zeros stay zero."""

    def __init__(self, weight: Tensor, found: Stored) -> None:
        self._shape, self._found = weight.shape, found
        self._scale, self._zero = found.scale.float(), found.zero.float()
        real = weight.detach().float().flatten(1) / self._scale
        self._floor, self._open = real.floor(), real != 0
        rest = (real - self._floor).clamp(0.01, 0.99)
        self.v = (-torch.log(1.2 / (rest + 0.1) - 1)).requires_grad_()

    def _up(self) -> Tensor:
        return (1.2 * torch.sigmoid(self.v) - 0.1).clamp(0, 1) * self._open

    def weight(self) -> Tensor:
        steps = (self._floor + self._up() + self._zero).clamp(*self._found.limits)
        return ((steps - self._zero) * self._scale).reshape(self._shape)

    def undecided(self, sharp: float) -> Tensor:
        return (1 - (2 * self._up() - 1).abs().pow(sharp)).mean()

    @torch.no_grad()
    def store(self) -> None:
        """Store what is decided."""
        self._found.write((self._floor + (self._up() >= 0.5) + self._zero).clamp_(*self._found.limits))
