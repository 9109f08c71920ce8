"""Let convolutions pad by themselves: a pad of zeros before one needs no operator, and so no float between int8."""

from torch import fx

from penjing.techniques.quantize.graph import aten

PADDABLE = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv3d.default})
"""Of the convolutions, those that state their padding in numbers."""


def merge_pads(module: fx.GraphModule) -> int:
    """Merge each pad that adds the same zeros at both ends into the convolutions that read it; give their number.

    conv(pad(x, p), padding=q) = conv(x, padding=p + q) for zeros. A pad that adds more at one end than at the other, as
    "same" padding does at stride 2, has no such form in torch and stays.
    """
    merged = 0
    for layer in module.graph.nodes:
        pad = layer.args[0] if layer.target in PADDABLE else None
        if not isinstance(pad, fx.Node):
            continue
        spatial = layer.args[1].meta["val"].ndim - 2
        added = _zeros_at_both_ends(pad, spatial)
        if added is None:
            continue
        padding = layer.args[4] if len(layer.args) > 4 else [0]
        own = [int(n) for n in (padding if len(padding) == spatial else list(padding) * spatial)]
        stride = layer.args[3] if len(layer.args) > 3 else [1] * spatial
        bias = layer.args[2] if len(layer.args) > 2 else None
        both = [p + q for p, q in zip(added, own, strict=True)]
        layer.args = (pad.args[0], layer.args[1], bias, stride, both, *layer.args[5:])
        merged += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return merged


def _zeros_at_both_ends(node: fx.Node, spatial: int) -> list[int] | None:
    """How many zeros a pad adds at each end of each spatial dimension, first to last; None if it does anything else."""
    if node.target not in (aten.pad.default, aten.constant_pad_nd.default):
        return None
    mode, value = "constant", None
    if node.target is aten.pad.default:
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")  # type: ignore[assignment]
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
    else:
        value = node.args[2] if len(node.args) > 2 else node.kwargs.get("value")
    amounts: list[object] = list(node.args[1])  # type: ignore[arg-type]
    ends = list(zip(amounts[::2], amounts[1::2], strict=True))
    same = all(isinstance(first, int) and first == last and first >= 0 for first, last in ends)
    if mode != "constant" or value not in (None, 0) or not same or len(ends) > spatial:
        return None
    given = [int(first) for first, _ in reversed(ends)]  # type: ignore[call-overload]  # torch lists the last dimension first
    return [0] * (spatial - len(given)) + given
