"""A captured program as an .onnx file: what several runtimes read (opset 20, weights inside up to 1.5 GB).

Int8 models are in the QDQ form: QuantizeLinear and DequantizeLinear around float operators, with int8 weights, which
runtimes fuse into integer kernels when they load the file.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from penjing.errors import RuntimeUnavailable, first_line
from penjing.runtimes.base import Program
from penjing.runtimes.capture import uses_quantized_operators
from penjing.runtimes.onnx_operators import translations
from penjing.runtimes.onnx_pads import merge_pads
from penjing.runtimes.quiet import quiet
from penjing.runtimes.where import layer_of

if TYPE_CHECKING:
    import onnx_ir

OPSET = 20
KEPT = range(18, 24)  # opsets of an imported file that the exporter of torch writes by itself
_FOUR_BITS = re.compile(r"_int[234](_\d+)?$")
_LARGEST_SINGLE_FILE = 1_500_000_000  # protobuf ends at 2 GiB


def write_onnx(program: Program, path: Path) -> None:
    """Write the program, the same bytes each time; weights of more than 1.5 GB go beside the file, as <name>.data.

    Raises RuntimeUnavailable that names the operator, and its layer, that ONNX cannot express.
    """
    import onnx_ir

    with quiet():
        model = _convert(program)
    _strip(model)
    merge_pads(model)
    pack_four_bits(model)
    if program.source is not None:
        model.producer_name, model.producer_version = program.source.producer, program.source.producer_version
        model.doc_string, model.graph.name = program.source.doc_string, program.source.graph
        model.metadata_props.update(program.source.properties)
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    too_large = sum(weight.nbytes for weight in weights) > _LARGEST_SINGLE_FILE
    onnx_ir.save(model, path, external_data=f"{path.name}.data" if too_large else None)


def _convert(program: Program) -> "onnx_ir.Model":
    inputs, opset = _inputs_and_opset(program)
    try:
        converted = torch.onnx.export(
            program.exported,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=inputs,
            output_names=list(program.outputs),
            custom_translation_table=_translations(program.exported),
        )
    except Exception as error:  # the exporter raises many kinds, all of which mean the same here
        reason = first_line(error.__cause__ or error)
        raise RuntimeUnavailable(
            f"the model cannot be written as ONNX (opset {opset}): {reason}{layer_of(program.exported, reason)}; "
            "replace the operator, or use another runtime"
        ) from error
    assert converted is not None  # only an export of the old kind returns None
    return converted.model


def _inputs_and_opset(program: Program) -> tuple[list[str], int]:
    """Names of the inputs, and the opset; those of the file that a model was read from, where they can be kept."""
    source = program.source
    if source is None or len(source.inputs) != len(program.inputs):
        return [spec.name for spec in program.inputs], OPSET
    opset = source.opsets.get("", OPSET)
    return [each.name for each in source.inputs], opset if opset in KEPT else OPSET


def _translations(exported: torch.export.ExportedProgram) -> dict[Callable[..., Any], Callable[..., Any]]:
    """How operators are written that the exporter does not know; those of quantisation only where there are some."""
    table = translations(exported)
    if uses_quantized_operators(exported):
        from penjing.techniques.quantize import onnx as quantized

        table |= quantized.translations()
    return table


def pack_four_bits(model: "onnx_ir.Model") -> None:
    """Store the weights that have four bits in four: an initializer "..._int4" becomes INT4 (or UINT4), then a Cast.

    So do those of three and two bits, for which no runtime here has a type.

    Runtimes carry the Cast out once, when they load the file. Needs opset 21, which the model then has.
    """
    import onnx_ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not _FOUR_BITS.search(name) or value.const_value is None:
            continue
        eight = value.const_value.dtype
        four = onnx_ir.DataType.INT4 if eight == onnx_ir.DataType.INT8 else onnx_ir.DataType.UINT4
        tensor = onnx_ir.Tensor(value.const_value.numpy().astype(four.numpy()), dtype=four, name=f"{name}_packed")
        packed = onnx_ir.Value(name=tensor.name, shape=tensor.shape, type=onnx_ir.TensorType(four), const_value=tensor)
        cast = onnx_ir.node("Cast", [packed], {"to": int(eight)})
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = f"{name}_steps", value.shape, value.type
        value.replace_all_uses_with(cast.outputs[0])
        graph.insert_before(graph[0], cast)
        del graph.initializers[name]
        graph.register_initializer(packed)
        graph.opset_imports[""] = max(graph.opset_imports.get("", 0), 21)
        model.ir_version = max(model.ir_version, 10)


def _strip(model: "onnx_ir.Model") -> None:
    """Drop what the exporter notes down for debugging: source lines and paths of the machine that exported."""
    model.metadata_props.clear()
    graphs: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
