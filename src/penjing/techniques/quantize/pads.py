"""Let convolutions pad by themselves: a pad of zeros before one needs no operator, and so no float between int8."""

from torch import fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import aten

PADDABLE = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
"""Of the convolutions, those that state their padding in numbers."""


def merge_pads(module: fx.GraphModule) -> int:
    """Merge each pad that adds the same zeros at both ends into the convolutions that read it; give their number.

    conv(pad(x, p), padding=q) = conv(x, padding=p + q) for zeros. A pad that adds more at one end than at the other, as
    "same" padding does at stride 2, has no such form in torch; it stays, and becomes one when ONNX is written.
    """
    merged = 0
    for layer in module.graph.nodes:
        if layer.target not in PADDABLE:
            continue
        call = bind(layer)
        pad, spatial = call["input"], call["weight"].meta["val"].ndim - 2
        added = _zeros_at_both_ends(pad, spatial)
        if added is None:
            continue
        own = call["padding"] if len(call["padding"]) == spatial else [*call["padding"]] * spatial
        padding = [p + q for p, q in zip(added, own, strict=True)]
        layer.args = tuple((call | {"input": pad.args[0], "padding": padding}).values())
        layer.kwargs = {}
        merged += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return merged


def adds_zeros(node: fx.Node) -> bool:
    """Whether a node is a pad that adds nothing but zeros, and takes nothing away."""
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return False
    call = bind(node)
    zeros = call.get("mode", "constant") == "constant" and call["value"] in (None, 0)
    return zeros and all(isinstance(n, int) and n >= 0 for n in call["pad"])


def _zeros_at_both_ends(node: fx.Node, spatial: int) -> list[int] | None:
    """How many zeros a pad adds at each end of each spatial dimension, first to last; None if it does anything else."""
    if not adds_zeros(node):
        return None
    amounts = bind(node)["pad"]
    if amounts[::2] != amounts[1::2] or len(amounts) > 2 * spatial:
        return None
    ends: list[int] = amounts[::2][::-1]  # torch lists the last dimension first
    return [0] * (spatial - len(ends)) + ends
