"""Every row of the table against the cases of ONNX's own backend test, opset by opset."""

import functools
import warnings
from collections import defaultdict

import numpy as np
import onnx
import pytest
import torch

from penjing.onnx_import import import_onnx
from penjing.onnx_import.operators import OPERATORS

NEEDED = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Det Div Dropout DynamicQuantizeLinear Einsum Elu
    Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
    NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor
""".split()  # noqa: SIM905
# Cases that ask for what is left out on purpose: random masks in training, the maximum of no booleans.
LEFT_OUT = {
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout",
    "test_training_dropout_mask",
    "test_reduce_max_empty_set_bool",
}
# Numbers that torch, or numpy on the way to it, does not compute with.
FOREIGN = {
    getattr(onnx.TensorProto, name)
    for name in onnx.TensorProto.DataType.keys()  # noqa: SIM118 - an enum of protobuf, not a dict
    if name.startswith(
        ("UINT16", "UINT32", "UINT64", "BFLOAT", "FLOAT8", "FLOAT4", "FLOAT6", "INT4", "UINT4", "STRING")
    )
    or name in ("INT2", "UINT2")
}


@functools.cache
def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    found = defaultdict(list)
    for case in cases:
        (node, *more) = case.model.graph.node
        values = [*case.model.graph.input, *case.model.graph.output]
        tensors = all(value.type.HasField("tensor_type") for value in values)
        foreign = not tensors or any(value.type.tensor_type.elem_type in FOREIGN for value in values)
        if node.op_type == "Not":  # it has not changed since opset 1
            case.model.opset_import[0].version = 7
        old = any(entry.domain == "" and entry.version < 7 for entry in case.model.opset_import)
        if not more and not node.domain and not foreign and not old and case.name not in LEFT_OUT:
            found[node.op_type].append(case)
    return found


def _run(case, path):
    onnx.save(case.model, path)
    model = import_onnx(path)
    for inputs, expected in case.data_sets:
        with torch.no_grad():
            outputs = model(*(torch.from_numpy(np.array(value)) for value in inputs))
        outputs = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
        assert len(outputs) == len(expected)
        for found, value in zip(outputs, expected, strict=True):
            wanted = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
            assert (found.shape, found.numpy().dtype) == (wanted.shape, wanted.dtype), case.name
            np.testing.assert_allclose(found, wanted, rtol=max(case.rtol, 1e-4), atol=1e-5, err_msg=case.name)
    return model


@pytest.mark.parametrize("operator", NEEDED)
def test_a_row_computes_what_onnx_says(operator, tmp_path):
    cases = _cases()[operator]
    assert cases
    frozen = [_run(case, tmp_path / "case.onnx").frozen for case in cases]
    if operator != "Resize":  # those with crops and antialiasing are frozen
        assert not any(frozen)


def test_every_row_is_tested_or_named_here():
    untested = {"Cast", "CastLike", "GlobalLpPool"}  # the first two below; ONNX has no case of the last
    assert set(OPERATORS) - untested == set(NEEDED)


@pytest.mark.parametrize(
    ("source", "target"), [("FLOAT", "INT64"), ("INT32", "FLOAT"), ("FLOAT", "BOOL"), ("BOOL", "FLOAT")]
)
@pytest.mark.parametrize("operator", ["Cast", "CastLike"])
def test_casts(operator, source, target, tmp_path):
    kinds = [getattr(onnx.TensorProto, name) for name in (source, target)]
    info = [onnx.helper.make_tensor_value_info(name, kind, [3]) for name, kind in zip("xy", kinds, strict=True)]
    like = onnx.helper.make_tensor_value_info("like", kinds[1], [3])
    node = (
        onnx.helper.make_node("Cast", ["x"], ["y"], to=kinds[1])
        if operator == "Cast"
        else onnx.helper.make_node("CastLike", ["x", "like"], ["y"])
    )
    graph = onnx.helper.make_graph([node], "g", [info[0], like], [info[1]])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)]), tmp_path / "m.onnx")
    x = np.array([0, 1.5, -2]).astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[0]))
    other = np.zeros(3, onnx.helper.tensor_dtype_to_np_dtype(kinds[1]))
    y = import_onnx(tmp_path / "m.onnx")(torch.from_numpy(x), torch.from_numpy(other)).numpy()
    assert y.dtype == other.dtype
    assert y.tolist() == x.astype(other.dtype).tolist()


def test_global_lp_pool(tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1, 2, "h", "w"]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("GlobalLpPool", ["x"], ["y"], p=3)], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), tmp_path / "m.onnx")
    given = torch.randn(1, 2, 3, 4)
    expected = given.abs().pow(3).sum((2, 3), keepdim=True).pow(1 / 3)
    torch.testing.assert_close(import_onnx(tmp_path / "m.onnx")(given), expected)
