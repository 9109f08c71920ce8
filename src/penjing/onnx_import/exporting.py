"""How a frozen node goes back into a file: as it was."""

from collections.abc import Sequence
from typing import Any

from penjing.onnx_import.frozen import model_of


def translate_node(inputs: Sequence[Any], model: str) -> Sequence[Any]:
    """Write the node that a text holds: for torch.onnx.export(..., custom_translation_table=).

    `inputs` are values of the ONNX program that is being written, and so is what is returned.
    """
    import onnx_ir
    from torch.onnx._internal.exporter import _core

    proto = model_of(model)
    (node,) = proto.graph.node
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    given = iter(inputs)
    written = onnx_ir.Node(
        node.domain,
        node.op_type,
        inputs=[next(given) if name else None for name in node.input],
        attributes=[onnx_ir.serde.deserialize_attribute(attribute) for attribute in node.attribute],
        num_outputs=len(node.output),
        version=versions.get(node.domain) if node.domain else None,
        name=node.name or None,
    )
    tracer = _core.current_tracer
    assert tracer is not None  # it is there while torch.onnx.export calls its functions
    tracer.nodes.append(written)
    return [value for value, name in zip(written.outputs, node.output, strict=True) if name]
