r"""Move what is hard to quantise from where it costs much to where it costs little, without a change of the function.

For any s_c > 0, W x = (W diag(s)) (diag(1/s) x): the channels of an input and the columns of the weights that read it
share what is large. Three choices of s:

- smooth: s_c = max|x_c|^a / max_o|W_oc|^(1-a), so that inputs with channels that lie far out fit one scale. Xiao et al.
  2022, SmoothQuant (arXiv:2211.10438).
- awq: s_c = mean|x_c|^a, so that the columns that carry most are rounded finest, for weights of few bits. Lin et al.
  2023, AWQ (arXiv:2306.00978).
- equalize: s_c = sqrt(max|V_c| / max|W_c|), with V_c the row that makes the channel, behind nothing or a rectifier:
  max|V_c| / s_c = max|W_c| s_c. No data are needed. Nagel et al. 2019 (arXiv:1906.04721), section 4.1.

The first two divide the input by s: inside the norm that made it, where only those layers read it, or else in an
operator of its own. They search the exponent a for each input by the error that is left, E |W x - Q(W s) Q(x / s)|^2
on a sample of inputs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from penjing.recipe import Scheme
from penjing.structure.rules import bind
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import (
    CONVOLUTIONS,
    LINEAR,
    aten,
    copied,
    only_user,
    put,
    rewrite,
    tensor_of,
    without_unread,
)
from penjing.techniques.quantize.importance import place_weights
from penjing.techniques.quantize.params import activation_params
from penjing.techniques.quantize.plan import Plan
from penjing.techniques.quantize.quick import there_and_back
from penjing.techniques.quantize.walk import Walk
from penjing.techniques.quantize.weights import dequantize, fit, quantize

EXPONENTS = (0.2, 0.35, 0.5, 0.65, 0.8)
_ROWS = 512
_SMALLEST = 1e-5
_HOMOGENEOUS = frozenset({aten.relu.default, aten.leaky_relu.default, aten.dropout.default, aten.clone.default})
_NORMS = frozenset({aten.layer_norm.default})


@dataclass(frozen=True)
class Readers:
    """Linears that read one tensor, as it is or as rows."""

    source: fx.Node
    linears: tuple[fx.Node, ...]


Balance = Callable[[fx.GraphModule, Plan, Sequence[Inputs]], tuple[fx.GraphModule, int]]


def smooth(module: fx.GraphModule, plan: Plan, batches: Sequence[Inputs]) -> tuple[fx.GraphModule, int]:
    """Divide inputs of linears that float operators make; give the new graph and how many inputs were divided."""
    return _divide(module, plan, batches, lambda largest, mean, columns, a: largest**a / columns ** (1 - a))


def awq(module: fx.GraphModule, plan: Plan, batches: Sequence[Inputs]) -> tuple[fx.GraphModule, int]:
    """Divide inputs of linears by a power of their mean size; give the new graph and how many inputs were divided."""
    return _divide(module, plan, batches, lambda largest, mean, columns, a: mean**a)


Scale = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""From max|x_c|, mean|x_c| and max_o|W_oc| [n] and an exponent: by what each input is divided [n]."""


def _divide(
    module: fx.GraphModule, plan: Plan, batches: Sequence[Inputs], scale_of: Scale
) -> tuple[fx.GraphModule, int]:
    balanced = copied(module)
    walk = Walk(module, batches)
    there = {node.name: node for node in module.graph.nodes}
    found = list(_readers(balanced, plan))
    places = place_weights(module, {linear.name for readers in found for linear in readers.linears}, batches)
    count = 0
    for readers in found:
        first = there[readers.linears[0].name]
        source = bind(first)["input"]
        rows = [places[linear.name] for linear in readers.linears]
        step = max(1, sum(map(len, rows[0])) // _ROWS)
        seen = _seen((walk.before(first, i)[source] for i in range(len(batches))), step)
        largest, mean = torch.maximum(seen.low.abs(), seen.high.abs()), seen.mean
        weights = [tensor_of(balanced, linear.args[1]).detach() for linear in readers.linears]  # type: ignore[arg-type]
        heaviest = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
        trial = _Trial(seen, weights, [torch.cat(each)[::step] for each in rows], _scheme(plan, readers.linears[0]))
        bounded = (largest.clamp_min(_SMALLEST), mean.clamp_min(_SMALLEST), heaviest.clamp_min(_SMALLEST))
        even = torch.ones_like(heaviest)
        scales = [even]
        for exponent in EXPONENTS:
            scale = scale_of(*bounded, exponent)
            scale = torch.where(largest > 0, scale, even)
            scales.append(scale / scale.log().mean().exp())
        best = min(scales, key=trial.error)
        if best is not even:
            _apply(balanced, readers, best)
            count += 1
    return without_unread(balanced), count


@dataclass(frozen=True)
class _Seen:
    """Rows [m, n] of an input: a few, and of all the smallest, the largest and the mean size of each value [n]."""

    few: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor


def _seen(inputs: Iterable[Tensor], step: int) -> _Seen:
    """Look at the rows of several inputs, and keep each `step`-th."""
    few, ends, sizes, before = [], [], [], 0
    for x in inputs:
        rows = x.reshape(-1, x.shape[-1]).float()
        few.append(rows[-before % step :: step])
        ends.append(rows.aminmax(dim=0))
        sizes.append(rows.abs().sum(0))
        before += len(rows)
    lows, highs = zip(*ends, strict=True)
    return _Seen(
        torch.cat(few), torch.stack(lows).amin(0), torch.stack(highs).amax(0), torch.stack(sizes).sum(0) / before
    )


@dataclass(frozen=True)
class _Trial:
    """Linears [outputs, n] on a few rows of an input, each of which counts so much [m]; the range is that of all."""

    seen: _Seen
    weights: Sequence[Tensor]
    places: Sequence[Tensor]
    scheme: Scheme

    def error(self, scale: Tensor) -> float:
        """Squared error of the outputs, with input and weights as they would be stored."""
        few = self.seen.few
        divided = few / scale
        if self.scheme.activation is not None:
            low, high = (self.seen.low / scale).min(), (self.seen.high / scale).max()
            params = activation_params(float(low), float(high))
            divided = there_and_back(divided, params.scale, params.zero_point)
        total = 0.0
        for weight, places in zip(self.weights, self.places, strict=True):
            wide = weight * scale
            fitted = fit(wide, self.scheme.weight)
            real = dequantize(quantize(wide, fitted, self.scheme.weight), fitted)
            total += float(((few @ weight.T - divided @ real.T).square().sum(1) * places).sum())
        return total


def _scheme(plan: Plan, linear: fx.Node) -> Scheme:
    formats = plan.formats
    weight = bind(linear)["weight"]
    return formats.static[linear.name] if linear.name in formats.static else formats.packed[weight.name]


def _readers(module: fx.GraphModule, plan: Plan) -> Iterator[Readers]:
    """Inputs that float operators make, with the quantised linears that read them, in the order of the graph."""
    integer = plan.layers | plan.operators
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in module.graph.nodes:
        if node.target is not LINEAR or not isinstance(node.args[1], fx.Node):
            continue
        if node.name not in plan.formats.static and node.args[1].name not in plan.formats.packed:
            continue
        source = node.args[0]
        while _makes_rows(source):
            source = source.args[0]
        if source.op == "call_function" and source.name not in integer and len(node.args[1].users) == 1:
            found.setdefault(source, []).append(node)
    for source, linears in found.items():
        yield Readers(source, tuple(linears))


def _makes_rows(node: fx.Node) -> bool:
    """Whether a node brings [..., n] into rows of n for one reader alone."""
    if node.target is not aten.reshape.default or len(node.users) > 1:
        return False
    before = node.all_input_nodes[0].meta["val"].shape
    return len(before) > 0 and before[-1] == node.meta["val"].shape[-1]


@torch.no_grad()
def _apply(module: fx.GraphModule, readers: Readers, scale: Tensor) -> None:
    """Divide the source and multiply the weights."""
    for linear in readers.linears:
        weight = bind(linear)["weight"]
        rewrite(module, weight, tensor_of(module, weight) * scale)
    source = readers.source
    entries = {linear: _entry(linear, source) for linear in readers.linears}
    if source.target in _NORMS and set(source.users) <= set(entries.values()) and bind(source)["weight"] is not None:
        _fold(module, source, scale)
        return
    with module.graph.inserting_after(source):
        factor = put(module, f"balance.{source.name}", 1 / scale)
    with module.graph.inserting_after(factor):
        divided = module.graph.call_function(aten.mul.Tensor, (source, factor))
    divided.meta = dict(source.meta)
    for entry in dict.fromkeys(entries.values()):
        entry.replace_input_with(source, divided)


def _entry(linear: fx.Node, source: fx.Node) -> fx.Node:
    """The node by which a linear reads the source: itself, or the reshape before it."""
    node = linear
    while node.args[0] is not source:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _fold(module: fx.GraphModule, norm: fx.Node, scale: Tensor) -> None:
    call = bind(norm)
    for name in ("weight", "bias"):
        if call[name] is not None:
            with module.graph.inserting_before(norm):
                value = nn.Parameter(tensor_of(module, call[name]) / scale, requires_grad=False)
                call[name] = put(module, str(call[name].target), value)
    norm.args, norm.kwargs = tuple(call.values()), {}


@torch.no_grad()
def equalize(module: fx.GraphModule, plan: Plan, batches: Sequence[Inputs]) -> tuple[fx.GraphModule, int]:
    """Equalise the ranges of pairs of layers until they move no more; give the new graph and the number of pairs."""
    balanced = copied(module)
    pairs = list(_pairs(balanced))
    values: dict[fx.Node, Tensor] = {}

    def read(node: fx.Node) -> Tensor:
        return values.setdefault(node, tensor_of(balanced, node).detach().clone())

    for _ in range(20):
        moved = 0.0
        for maker, reader in pairs:
            first, second = bind(maker), bind(reader)
            rows, columns = read(first["weight"]), read(second["weight"])
            groups = int(second.get("groups", 1))
            made = rows.abs().flatten(1).amax(1)
            used = columns.reshape(groups, -1, columns.shape[1], columns[0, 0].numel()).abs().amax((1, 3)).flatten()
            scale = torch.where((made > 0) & (used > 0), (made / used).sqrt(), torch.ones_like(made))
            moved = max(moved, float((scale.log()).abs().max()))
            rows.div_(scale.reshape(-1, *[1] * (rows.ndim - 1)))
            if first["bias"] is not None:
                read(first["bias"]).div_(scale)
            by_group = scale.reshape(groups, 1, -1).expand(groups, len(columns) // groups, -1)
            columns.mul_(by_group.reshape(len(columns), -1, *[1] * (columns.ndim - 2)))
        if moved < 1e-3:
            break
    for node, value in values.items():
        rewrite(balanced, node, value)
    return without_unread(balanced), len(pairs)


def _pairs(module: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Layers of which the second alone reads the first, with at most what is homogeneous between."""
    for maker in module.graph.nodes:
        if not _plain_layer(maker):
            continue
        reader = only_user(maker)
        while reader is not None and reader.target in _HOMOGENEOUS:
            reader = only_user(reader)
        if reader is not None and _plain_layer(reader) and (reader.target is LINEAR) == (maker.target is LINEAR):
            yield maker, reader


def _plain_layer(node: fx.Node) -> bool:
    """Whether a node is a layer whose weight and bias are constants of its own."""
    if node.target is not LINEAR and node.target not in CONVOLUTIONS:
        return False
    call = bind(node)
    constants = [call["weight"], *([call["bias"]] if call["bias"] is not None else [])]
    return all(isinstance(x, fx.Node) and x.op == "get_attr" and len(x.users) == 1 for x in constants)


BALANCES: Mapping[str, Balance] = {"equalize": equalize, "smooth": smooth, "awq": awq}
