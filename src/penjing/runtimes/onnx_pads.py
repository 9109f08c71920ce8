"""Let the convolutions of an ONNX model pad by themselves: theirs may add more zeros at one end than at the other.

conv(pad(x, p), pads=q) = conv(x, pads=p + q) for zeros, also where x is dequantised and the padded tensor quantised
once more with the same scale and zero point: zero is a step of every range. Then nothing is left between two integer
kernels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir


def merge_pads(model: "onnx_ir.Model") -> int:
    """Merge, in place, each Pad of zeros that a Conv reads into the Conv; give how many Convs changed."""
    import onnx_ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    merged = 0
    for conv in list(model.graph):
        if conv.op_type != "Conv" or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            continue
        pad = _pad_before(conv.inputs[0])
        weight = conv.inputs[1]
        if pad is None or weight is None or weight.shape is None:
            continue
        spatial = len(weight.shape) - 2
        added = _zeros(pad, spatial)
        if added is None:
            continue
        own = list(conv.attributes.get_ints("pads", [0] * (2 * spatial)))
        conv.attributes["pads"] = onnx_ir.AttrInt64s("pads", [p + q for p, q in zip(added, own, strict=True)])
        conv.replace_input_with(0, pad.inputs[0])
        merged += 1
    if merged:
        RemoveUnusedNodesPass()(model)
    return merged


def _pad_before(value: "onnx_ir.Value | None") -> "onnx_ir.Node | None":
    """The Pad that makes a value, or that makes it before it is quantised and dequantised as its input was."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type == "Pad":
        return node
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return None
    quantize = node.inputs[0].producer()
    if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.inputs[1:] != node.inputs[1:]:
        return None
    pad = quantize.inputs[0].producer() if quantize.inputs[0] is not None else None
    before = pad.inputs[0].producer() if pad is not None and pad.op_type == "Pad" and pad.inputs[0] else None
    same = before is not None and before.op_type == "DequantizeLinear" and before.inputs[1:] == node.inputs[1:]
    return pad if same else None


def _zeros(pad: "onnx_ir.Node", spatial: int) -> Sequence[int] | None:
    """How many zeros a Pad adds, first all beginnings and then all ends; None if it does anything else."""
    if pad.attributes.get_string("mode", "constant") != "constant" or len(pad.inputs) > 3:
        return None
    amounts = pad.inputs[1].const_value if pad.inputs[1] is not None else None
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if amounts is None or (value is not None and (value.const_value is None or value.const_value.numpy().any())):
        return None
    counts = [int(n) for n in amounts.numpy()]
    rank = spatial + 2
    if len(counts) != 2 * rank or min(counts) < 0 or any(counts[i] or counts[rank + i] for i in (0, 1)):
        return None
    return counts[2:rank] + counts[rank + 2 :]
