"""ONNX Runtime: the model as one .onnx file (opset 20, weights inside up to 1.5 GB, beside it above).

Int8 models are in the QDQ form: QuantizeLinear and DequantizeLinear around float operators, with int8 weights, which
ONNX Runtime fuses into integer kernels when it loads the file.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from penjing.errors import RuntimeUnavailable, first_line
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.capture import uses_quantized_operators
from penjing.runtimes.onnx_operators import translations
from penjing.runtimes.quiet import quiet
from penjing.runtimes.signature import Array

if TYPE_CHECKING:
    import onnx_ir

OPSET = 20
FILE = "model.onnx"
_LARGEST_SINGLE_FILE = 1_500_000_000  # protobuf ends at 2 GiB
_OPTIMIZATION = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_DEFAULTS: dict[str, Any] = {
    "threads": 1,
    "inter_op_threads": 1,
    "graph_optimization": "all",
    "providers": ["CPUExecutionProvider"],
}


class OnnxRuntime:
    """Session options: threads (within an operator), inter_op_threads, graph_optimization, providers."""

    name = "onnxruntime"

    def missing(self) -> str | None:
        packages = ("onnx", "onnxscript", "onnxruntime")
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"pip install penjing brings {', '.join(absent)}, which this environment lacks" if absent else None

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        import onnxruntime as ort

        if unknown := sorted(set(given) - set(_DEFAULTS)):
            raise RuntimeUnavailable(f"onnxruntime has no option {unknown[0]!r}; it knows {', '.join(_DEFAULTS)}")
        options = _DEFAULTS | dict(given)
        options["providers"] = list(options["providers"])
        for name in ("threads", "inter_op_threads"):
            if type(options[name]) is not int or options[name] < 1:
                raise RuntimeUnavailable(
                    f"onnxruntime option {name}={options[name]!r} must be a whole number of at least 1"
                )
        if options["graph_optimization"] not in _OPTIMIZATION:
            raise RuntimeUnavailable(
                f"onnxruntime option graph_optimization={options['graph_optimization']!r} is unknown; use one of "
                + ", ".join(_OPTIMIZATION)
            )
        available = ort.get_available_providers()
        if absent := [provider for provider in options["providers"] if provider not in available]:
            raise RuntimeUnavailable(f"onnxruntime here has no provider {absent[0]!r}; it has {', '.join(available)}")
        return options

    def export(self, program: Program, folder: Path) -> None:
        import onnx_ir

        with quiet():
            model = _convert(program)
        _strip(model)
        too_large = sum(
            value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
        ) > (_LARGEST_SINGLE_FILE)
        onnx_ir.save(model, folder / FILE, external_data="model.onnx.data" if too_large else None)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        import onnxruntime as ort

        complete = self.options(options)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = complete["threads"]
        settings.inter_op_num_threads = complete["inter_op_threads"]
        level = _OPTIMIZATION[complete["graph_optimization"]]
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        settings.log_severity_level = 3  # errors only: warnings go to stderr and cannot be caught
        # Idle worker threads would otherwise spin on the cores of whatever is timed next.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = ort.InferenceSession(folder / FILE, settings, providers=complete["providers"])
        except Exception as error:  # its own exception classes have no common public base
            raise RuntimeUnavailable(f"onnxruntime cannot run {folder / FILE}: {first_line(error)}") from error
        names = [node.name for node in session.get_inputs()]

        def run(arrays: Sequence[Array]) -> list[Array]:
            outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
            return outputs

        return run


def _convert(program: Program) -> "onnx_ir.Model":
    try:
        converted = torch.onnx.export(
            program.exported,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in program.inputs],
            output_names=list(program.outputs),
            custom_translation_table=_translations(program.exported),
        )
    except Exception as error:  # the exporter raises many kinds, all of which mean the same here
        raise RuntimeUnavailable(
            f"the model cannot be written as ONNX (opset {OPSET}): {first_line(error.__cause__ or error)}; replace "
            "the operator, or use another runtime"
        ) from error
    assert converted is not None  # only an export of the old kind returns None
    return converted.model


def _translations(exported: torch.export.ExportedProgram) -> dict[Callable[..., Any], Callable[..., Any]]:
    """How operators are written that the exporter does not know; those of quantisation only where there are some."""
    table = translations(exported)
    if uses_quantized_operators(exported):
        from penjing.techniques.quantize import onnx as quantized

        table |= quantized.translations()
    return table


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


register_runtime(OnnxRuntime())
