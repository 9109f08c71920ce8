"""OpenVINO: the model as model.xml and model.bin, compiled for the processor when it is loaded.

The precision is always set: left alone, OpenVINO runs a float32 model in bfloat16 wherever the processor has it, which
is faster and loses digits without a word.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penjing.errors import RuntimeUnavailable, first_line
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.kernels import Kernel
from penjing.runtimes.onnx_file import write_onnx
from penjing.runtimes.options import PRECISIONS, Option, complete
from penjing.runtimes.quiet import mute
from penjing.runtimes.signature import Array

FILE = "model.xml"
_NO_WORK = ("Const", "Input", "Output", "Reorder")  # tensors, and changes of layout
_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVino:
    """Options: threads, precision (fp32, bf16, fp16: the format of the arithmetic)."""

    name = "openvino"
    summary = "model.xml + model.bin; fp32, bf16, fp16 and int8 on Intel, AMD and Arm processors"
    packages = ("openvino", "onnx", "onnxscript")
    extra = "penjing[openvino]"
    forms = ("int8", "weights of few bits")
    known: ClassVar[Mapping[str, Option]] = {
        "threads": Option(1),
        "precision": Option("fp32", PRECISIONS, worth_trying=("fp32", "bf16", "fp16")),
    }

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return complete(self.name, given, self.known)

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        import openvino

        with tempfile.TemporaryDirectory() as temporary:
            onnx = Path(temporary) / "model.onnx"
            write_onnx(program, onnx)
            try:
                with mute():
                    model = openvino.convert_model(onnx)
            except Exception as error:  # the converter raises many kinds
                raise RuntimeUnavailable(
                    f"openvino {openvino.__version__} cannot convert the model: {first_line(error)}; replace the "
                    "operator, or use another runtime"
                ) from error
            model.set_friendly_name("model")
            for i, operation in enumerate(model.get_ordered_ops()):  # its own names count what the process has made
                if re.fullmatch(r"[A-Za-z]+_\d+", operation.get_friendly_name()):
                    operation.set_friendly_name(f"{operation.get_type_name()}_{i}")
            openvino.save_model(model, folder / FILE, compress_to_fp16=options["precision"] == "fp16")

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        request = self._compiled(folder, options).create_infer_request()

        def run(arrays: Sequence[Array]) -> list[Array]:
            request.infer(arrays, share_inputs=True)
            return [output.data.copy() for output in request.output_tensors]

        return run

    def kernels(self, folder: Path, options: Mapping[str, Any]) -> list[Kernel]:
        """Read them from the graph that is executed, which says what each of its operators took in."""
        operators = self._compiled(folder, options).get_runtime_model().get_ordered_ops()
        return [_kernel(operator) for operator in operators if _said(operator, "layerType") not in _NO_WORK]

    def times(
        self, folder: Path, options: Mapping[str, Any], arrays: Sequence[Array], calls: int
    ) -> Mapping[str, float]:
        """Read them from its counters; the median over calls."""
        request = self._compiled(folder, options, timed=True).create_infer_request()
        found: list[dict[str, float]] = []
        for _ in range(1 + calls):
            request.infer(arrays, share_inputs=True)
            found.append(defaultdict(float))
            for counted in request.profiling_info:
                found[-1][_whole(counted.node_name)] += counted.real_time.total_seconds() * 1e3
        return {name: float(np.median([call[name] for call in found[1:]])) for name in found[0]}

    def _compiled(self, folder: Path, options: Mapping[str, Any], *, timed: bool = False) -> Any:
        import openvino

        complete = self.options(options)
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _TYPES[complete["precision"]],
            "INFERENCE_NUM_THREADS": complete["threads"],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # cores are the caller's to choose; what is measured is pinned around it
            "PERF_COUNT": timed,
        }
        try:
            return core.compile_model(folder / FILE, "CPU", settings)
        except Exception as error:  # RuntimeError with a stack of its own
            raise RuntimeUnavailable(
                f"openvino {openvino.__version__} cannot run {folder / FILE}: {first_line(error)}; export the model "
                "again with the versions installed here"
            ) from error


def _kernel(operator: Any) -> Kernel:
    """One executed operator: its kind, whether it reads integers, and the operators and constants in it."""
    inputs = (value.get_source_output().get_node().get_friendly_name() for value in operator.inputs())
    parts = map(_whole, _said(operator, "originalLayersNames").split(","))
    return Kernel(
        f"{_said(operator, 'layerType')} ({_said(operator, 'primitiveType')})",
        _said(operator, "runtimePrecision") in ("u8", "i8"),
        tuple(dict.fromkeys(parts)),
        tuple(inputs),
        (operator.get_friendly_name(),),
    )


def _whole(name: str) -> str:
    """The name of an operator that a transformation may have split; what follows a stroke is its part."""
    return name.partition("/")[0]


def _said(operator: Any, key: str) -> str:
    """What the executed graph says of an operator under a key; "" where it says nothing."""
    notes = operator.get_rt_info()
    return str(notes[key].astype(str)) if key in notes else ""


register_runtime(OpenVino())
