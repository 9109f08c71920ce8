"""The operators give the bits of ONNX: against its reference implementation and against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from penjing.techniques.quantize import ops

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.uint8: TensorProto.UINT8,
    torch.int8: TensorProto.INT8,
    torch.int32: TensorProto.INT32,
}


def both(operator: str, inputs: list[Tensor], output: torch.dtype, axis: int) -> list[Any]:
    """Run one operator in the reference and in ONNX Runtime."""
    names = ["x", "scale", "zero_point"]
    values = [
        helper.make_tensor_value_info(n, TYPES[t.dtype], list(t.shape)) for n, t in zip(names, inputs, strict=True)
    ]
    result = helper.make_tensor_value_info("y", TYPES[output], list(inputs[0].shape))
    graph = helper.make_graph([helper.make_node(operator, names, ["y"], axis=axis)], "g", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    feeds = {name: t.numpy() for name, t in zip(names, inputs, strict=True)}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [ReferenceEvaluator(model).run(None, feeds)[0], session.run(None, feeds)[0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantize_linear(dtype: torch.dtype, axis: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 5) * 30
    x[0, 0] = torch.tensor([0.5, 1.5, 2.5, -0.5, 1e6])  # ties, and far outside
    n = () if axis is None else (x.shape[axis],)
    scale = torch.rand(n) + 0.05
    scale.view(-1)[0] = 1.0
    limits = torch.iinfo(dtype)
    zero_point = torch.randint(limits.min, limits.max + 1, n, dtype=dtype)
    ours = ops.quantize_linear(x, scale, zero_point, axis or 0)
    for theirs in both("QuantizeLinear", [x, scale, zero_point], dtype, axis or 0):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_dequantize_linear(dtype: torch.dtype, axis: int | None) -> None:
    torch.manual_seed(1)
    limits = torch.iinfo(dtype)
    x = torch.randint(limits.min, limits.max, (4, 6, 5), dtype=dtype)
    n = () if axis is None else (x.shape[axis],)
    scale = torch.rand(n) + 0.05
    zero_point = (
        torch.zeros(n, dtype=dtype) if dtype is torch.int32 else torch.randint(limits.min, limits.max, n, dtype=dtype)
    )
    ours = ops.dequantize_linear(x, scale, zero_point, axis or 0)
    for theirs in both("DequantizeLinear", [x, scale, zero_point], torch.float32, axis or 0):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_global_average_pool(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = ops.global_average_pool(x)
    assert torch.allclose(y.flatten(1), x.flatten(2).mean(2).flatten(1))


def test_operators_can_be_traced() -> None:
    scale, zero_point = torch.tensor(0.1), torch.tensor(3, dtype=torch.uint8)
    for operator, inputs in (
        (ops.quantize_linear, (torch.randn(2, 3), scale, zero_point, 0)),
        (ops.dequantize_linear, (torch.zeros(2, 3, dtype=torch.uint8), scale, zero_point, 0)),
        (ops.global_average_pool, (torch.randn(2, 3, 4, 4),)),
    ):
        verdicts = torch.library.opcheck(operator, inputs, test_utils=("test_schema", "test_faketensor"))
        assert set(verdicts.values()) == {"SUCCESS"}
