"""ONNX Runtime: the model as one .onnx file, for any processor and, by its providers, for much else."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penjing.errors import RuntimeUnavailable, first_line
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.capture import FORMS
from penjing.runtimes.kernels import Kernel
from penjing.runtimes.onnx_file import write_onnx
from penjing.runtimes.options import Option, complete
from penjing.runtimes.signature import Array

FILE = "model.onnx"
_OPTIMIZATION = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_INTEGER = re.compile(r"QLinear|QGemm|QAttention|ConvInteger|MatMulInteger|DynamicQuantize(?!Linear)|MatMulNBits")
_ADDED = re.compile(r"^fused |(_nchwc|_token_\d+)$")  # to the name of a node that its optimiser replaces
_TIMED = "_kernel_time"


class OnnxRuntime:
    """Options: threads (within an operator), inter_op_threads, graph_optimization, precision, providers.

    providers: in order of preference, such as ["TensorrtExecutionProvider", "CPUExecutionProvider"], where installed.
    """

    name = "onnxruntime"
    summary = "model.onnx; fp32 and int8 on any processor, and what the installed providers bring"
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = "penjing"
    forms = tuple(FORMS.values())
    known: ClassVar[Mapping[str, Option]] = {
        "threads": Option(1),
        "inter_op_threads": Option(1),
        "graph_optimization": Option("all", tuple(_OPTIMIZATION), worth_trying=("extended", "all")),
        "precision": Option("fp32", ("fp32",)),
        "providers": Option(("CPUExecutionProvider",), values=None),
    }

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        import onnxruntime as ort

        options = complete(self.name, given, self.known)
        options["providers"] = list(options["providers"])
        available = ort.get_available_providers()
        if absent := [provider for provider in options["providers"] if provider not in available]:
            raise RuntimeUnavailable(f"onnxruntime here has no provider {absent[0]!r}; it has {', '.join(available)}")
        return options

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        write_onnx(program, folder / FILE)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        session = self._session(folder, options)
        names = [node.name for node in session.get_inputs()]

        def run(arrays: Sequence[Array]) -> list[Array]:
            outputs: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
            return outputs

        return run

    def kernels(self, folder: Path, options: Mapping[str, Any]) -> list[Kernel]:
        """Read them from the graph as its optimiser leaves it."""
        import onnx

        with tempfile.TemporaryDirectory() as temporary:
            optimized = Path(temporary) / FILE
            self._session(folder, options, optimized)
            nodes = onnx.load(optimized, load_external_data=False).graph.node
        return [
            Kernel(
                node.op_type,
                _INTEGER.match(node.op_type) is not None,
                (_ADDED.sub("", node.name),),
                tuple(node.input),
                tuple(node.output),
            )
            for node in nodes
        ]

    def times(
        self, folder: Path, options: Mapping[str, Any], arrays: Sequence[Array], calls: int
    ) -> Mapping[str, float]:
        """Read them from its profile; the median over calls."""
        with tempfile.TemporaryDirectory() as temporary:
            session = self._session(folder, options, profile=Path(temporary) / "profile")
            feeds = dict(zip((node.name for node in session.get_inputs()), arrays, strict=True))
            for _ in range(1 + calls):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        found: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if event["name"].endswith(_TIMED):
                found[_ADDED.sub("", event["name"].removesuffix(_TIMED))].append(event["dur"] / 1e3)
        # A name may stand for several operators, which come in turn in each call; the first call is the slowest.
        return {name: float(np.median(np.reshape(each, (1 + calls, -1))[1:].sum(1))) for name, each in found.items()}

    def _session(
        self,
        folder: Path,
        options: Mapping[str, Any],
        optimized: Path | None = None,
        profile: Path | None = None,
    ) -> Any:
        """Open a session; `optimized` is where it writes the graph that it runs, `profile` where it writes times."""
        import onnxruntime as ort

        complete = self.options(options)
        settings = ort.SessionOptions()
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile)
        settings.intra_op_num_threads = complete["threads"]
        settings.inter_op_num_threads = complete["inter_op_threads"]
        level = _OPTIMIZATION[complete["graph_optimization"]]
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        settings.log_severity_level = 3  # errors only: warnings go to stderr and cannot be caught
        if optimized is not None:
            settings.optimized_model_filepath = str(optimized)
        # Idle worker threads would otherwise spin on the cores of whatever is timed next.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            return ort.InferenceSession(folder / FILE, settings, providers=complete["providers"])
        except Exception as error:  # its own exception classes have no common public base
            raise RuntimeUnavailable(
                f"onnxruntime {ort.__version__} cannot run {folder / FILE}: {first_line(error)}; export the model "
                "again with the versions installed here, or install a newer onnxruntime"
            ) from error


register_runtime(OnnxRuntime())
