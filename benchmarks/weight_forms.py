"""What each form of a quantised linear is worth in ONNX Runtime: how many times faster than float32.

    python -m benchmarks.weight_forms [--seconds 2]

One linear of 384 to 1536, written as ONNX by hand: the weight as a product of constants, behind DequantizeLinear along
its outputs or in blocks of 32 inputs, and with inputs that are quantised as they come. Timed in turns, each form with
the float linear, on one pinned thread.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from benchmarks.common import record
from penjing.measuring.paired import ratio_of
from penjing.measuring.timing import time_blocks, undisturbed

INPUTS, OUTPUTS, BLOCK = 384, 1536, 32
ROWS = (1, 32, 128)
TYPES = {4: TensorProto.INT4, 8: TensorProto.INT8}


@dataclass(frozen=True)
class Form:
    """How a linear is written, from "x" to "y"; accuracy_level: that of blockwise kernels, 4 for integer arithmetic."""

    nodes: list[NodeProto]
    constants: list[TensorProto]
    accuracy_level: int = 0


def constant(name: str, values: NDArray[Any], kind: int = TensorProto.FLOAT) -> TensorProto:
    return helper.make_tensor(name, kind, values.shape, values.flatten())


def steps(bits: int) -> NDArray[np.int8]:
    """Random weights [inputs, outputs] in steps of so many bits."""
    most = 2 ** (bits - 1) - 1
    return np.random.default_rng(0).integers(-most, most + 1, (INPUTS, OUTPUTS)).astype(np.int8)


def scales(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(1e-3, 2e-3, (rows, OUTPUTS)).astype(np.float32)


def floating() -> Form:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    return Form([product], [constant("w", (steps(8) * scales(1)).astype(np.float32))])


def unpacked(bits: int) -> Form:
    """Cast and Mul of constants."""
    nodes = [
        helper.make_node("Cast", ["q"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return Form(nodes, [constant("q", steps(bits), TYPES[bits]), constant("scale", scales(1))])


def along_outputs(bits: int) -> Form:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return Form(nodes, [constant("q", steps(bits), TYPES[bits]), constant("scale", scales(1)[0])])


def in_blocks(bits: int, accuracy_level: int) -> Form:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"], axis=0, block_size=BLOCK),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = [constant("q", steps(bits), TYPES[bits]), constant("scale", scales(INPUTS // BLOCK))]
    return Form(nodes, constants, accuracy_level)


def dynamic() -> Form:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "step", "zero"]),
        helper.make_node("MatMulInteger", ["xq", "q", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["step", "scale"], ["both"]),
        helper.make_node("Mul", ["real", "both"], ["y"]),
    ]
    return Form(nodes, [constant("q", steps(8), TensorProto.INT8), constant("scale", scales(1)[0])])


FLOAT = "float32"
FORMS: dict[str, Callable[[], Form]] = {
    FLOAT: floating,
    "product of constants, int8": lambda: unpacked(8),
    "product of constants, int4": lambda: unpacked(4),
    "DequantizeLinear along outputs, int8": lambda: along_outputs(8),
    "DequantizeLinear along outputs, int4": lambda: along_outputs(4),
    "DequantizeLinear in blocks, int8, accuracy level 0": lambda: in_blocks(8, 0),
    "DequantizeLinear in blocks, int8, accuracy level 4": lambda: in_blocks(8, 4),
    "DequantizeLinear in blocks, int4, accuracy level 0": lambda: in_blocks(4, 0),
    "DequantizeLinear in blocks, int4, accuracy level 4": lambda: in_blocks(4, 4),
    "DynamicQuantizeLinear, MatMulInteger": dynamic,
}


def session(form: Form) -> ort.InferenceSession:
    """Load a form for one thread."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INPUTS])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])
    graph = helper.make_graph(form.nodes, "linear", [x], [y], form.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", str(form.accuracy_level))
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each of a pair")
    args = parser.parse_args()
    sessions = {name: session(make()) for name, make in FORMS.items()}
    found: dict[str, dict[str, Any]] = {}
    for name in FORMS:
        found[name] = {str(rows): faster(sessions[name], sessions[FLOAT], rows, args.seconds) for rows in ROWS}
        print(name, found[name], flush=True)
    record("weight_forms", {"inputs": INPUTS, "outputs": OUTPUTS, "onnxruntime": ort.__version__, "forms": found})


def faster(form: ort.InferenceSession, floating: ort.InferenceSession, rows: int, seconds: float) -> dict[str, float]:
    """How many times faster than float32 a form is for so many rows, with its 95 % interval."""
    feeds = {"x": np.random.default_rng(2).standard_normal((rows, INPUTS)).astype(np.float32)}
    with undisturbed(1):
        ours, theirs = time_blocks([lambda: form.run(None, feeds), lambda: floating.run(None, feeds)], seconds)
    found = ratio_of(ours, theirs, single_threaded=True)
    return {"value": found.value, "low": found.low, "high": found.high}


if __name__ == "__main__":
    main()
