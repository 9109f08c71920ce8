"""What becomes of a graph: layers, names, sizes, and what stays a number."""

import copy
import warnings

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import floats, save
from torch import nn
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import import import_onnx
from penjing.onnx_import.known import Known

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_names_that_python_does_not_take(tmp_path):
    nodes = [
        helper.make_node("Conv", ["input.1", "class/w:0"], ["c"], "forward/graph"),
        helper.make_node("Add", ["c", "lambda"], ["out:0"]),
        helper.make_node("Identity", ["c"], ["output.other"]),
    ]
    weights = {"class/w:0": normal(4, 3, 1, 1), "lambda": normal(1, 4, 1, 1)}
    outputs = {"out:0": floats("n", 4, "h", "w"), "output.other": floats("n", 4, "h", "w")}
    model = import_onnx(save(tmp_path / "1 model.onnx", nodes, {"input.1": floats("n", 3, "h", "w")}, outputs, weights))
    found = model(input_1=torch.zeros(1, 3, 2, 2))
    assert list(found) == ["out:0", "other"]
    assert all(name.isidentifier() for name, _ in model.named_parameters(recurse=False))
    assert len(list(model.parameters())) == 2
    assert type(model).__name__ == "_1_model"
    exported = torch.export.export(model, (torch.zeros(1, 3, 2, 2),))
    assert len(dict(exported.named_parameters())) == 2


def test_layers_have_the_names_of_their_weights(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "stem.conv.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["a", *(f"stem.bn.{n}" for n in ("weight", "bias", "mean", "var"))], ["b"]
        ),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "kernel"], ["e"]),
        helper.make_node("Add", ["fc.bias", "e"], ["y"]),
    ]
    weights = {f"stem.bn.{name}": np.abs(normal(8)) for name in ("weight", "bias", "mean", "var")}
    weights |= {"stem.conv.weight": normal(8, 3, 3, 3), "kernel": normal(8, 5), "fc.bias": normal(5)}
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": floats("n", 3, 6, 6)}, {"y": floats("n", 5)}, weights))
    kinds = {name: type(module) for name, module in model.named_modules() if name}
    assert kinds == {"stem": nn.Module, "stem.conv": nn.Conv2d, "stem.bn": nn.BatchNorm2d, "fc": nn.Linear}
    x = torch.randn(2, 3, 6, 6)
    before = model.get_buffer("stem.bn.running_mean").clone()
    model.train()(x)
    assert not torch.equal(model.get_buffer("stem.bn.running_mean"), before)
    assert int(model.get_buffer("stem.bn.num_batches_tracked")) == 1


def test_a_matrix_that_is_tied_stays_tied_and_equal_biases_do_not(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Add", ["e", "zeros"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "zeros"], ["b"]),
        helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["b", "t"], ["y"]),
    ]
    weights = {"table": normal(7, 4), "zeros": np.zeros(4, np.float32)}
    inputs = {"ids": (TensorProto.INT64, ["n"])}
    model = import_onnx(save(tmp_path / "m.onnx", nodes, inputs, {"y": floats("n", 7)}, weights))
    assert sorted(tuple(parameter.shape) for parameter in model.parameters()) == [(4,), (4,), (7, 4)]
    assert model(torch.tensor([1, 2])).shape == (2, 7)


def _heads(tmp_path):
    """x -> reshape to [n, -1, 2, 3] by sizes that the graph computes -> transpose."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1, 3]),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1, 2, 3])}
    return save(tmp_path / "m.onnx", nodes, {"x": floats("n", "t", 6)}, {"y": floats("n", 2, "t", 3)}, weights)


def test_sizes_stay_numbers_and_the_batch_free(tmp_path):
    model = import_onnx(_heads(tmp_path))
    assert list(model.buffers()) == []
    program = torch.export.export(model, (torch.zeros(2, 5, 6),), dynamic_shapes=({0: torch.export.Dim("n")},))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    (view,) = [node for node in calls if "view" in str(node.target) or "reshape" in str(node.target)]
    assert view.args[1][1:] == [-1, 2, 3]
    assert not any("tensor" in node.target.__name__ or "stack" in node.target.__name__ for node in calls)
    assert program.module()(torch.zeros(7, 5, 6)).shape == (7, 2, 5, 3)


def test_a_copy_is_a_model_of_its_own(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "fc")]
    model = import_onnx(
        save(tmp_path / "m.onnx", nodes, {"x": floats("n", 2)}, {"y": floats("n", 3)}, {"w": normal(2, 3)})
    )
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("fc.weight").zero_()
    assert bool(model(torch.ones(1, 2)).any())
    assert not bool(other(torch.ones(1, 2)).any())
    fresh = import_onnx(tmp_path / "m.onnx")
    fresh.load_state_dict(other.state_dict())
    assert not bool(fresh(torch.ones(1, 2)).any())


@pytest.mark.parametrize(("opset", "expected"), [(11, [[0.25] * 4]), (13, [[0.5] * 4])])
def test_softmax_before_and_since_opset_13(opset, expected, tmp_path):
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    file = save(tmp_path / "m.onnx", nodes, {"x": floats(1, 2, 2)}, {"y": floats(1, 2, 2)}, opset=opset)
    assert import_onnx(file)(torch.zeros(1, 2, 2)).reshape(1, 4).tolist() == expected


def test_old_ways_of_writing(tmp_path):
    """Axes, splits, bounds and pads as attributes: opset 9."""
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["a"], axes=[0]),
        helper.make_node("Pad", ["a"], ["b"], pads=[0, 0, 1, 0, 0, 1], value=2.0),
        helper.make_node("Slice", ["b"], ["c"], starts=[1], ends=[5], axes=[2]),
        helper.make_node("Clip", ["c"], ["d"], min=0.0, max=1.5),
        helper.make_node("Split", ["d"], ["e", "f"], axis=2, split=[1, 3]),
        helper.make_node("Squeeze", ["f"], ["g"], axes=[0]),
        helper.make_node("ReduceSum", ["g"], ["y"], axes=[1], keepdims=0),
    ]
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": floats("n", 3)}, {"y": floats("n")}, opset=9))
    assert model(torch.tensor([[1.0, -1.0, 3.0]])).tolist() == [3.0]


def test_a_quantised_weight_is_a_float_parameter(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["y"], "fc"),
    ]
    weights = {"q": np.array([[1, 2], [3, 4]], np.int8), "zero": np.array([1, 0], np.int8)}
    weights["scale"] = np.array([0.5, 2.0], np.float32)
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": floats("n", 2)}, {"y": floats("n", 2)}, weights))
    assert model.get_parameter("fc.weight").tolist() == [[0.0, 1.0], [4.0, 8.0]]


def test_single_numbers_are_numbers_and_masks_are_buffers(tmp_path):
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Pow", ["b", "two"], ["y"]),
    ]
    weights = {"half": np.float32(0.5), "mask": np.array([0, -np.inf], np.float32)}
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": floats(2)}, {"y": floats(2)}, weights))
    assert [name for name, _ in model.named_buffers()] == ["mask"]
    assert list(model.parameters()) == []
    assert model(torch.ones(2)).tolist() == [0.25, np.inf]


def test_known_numbers_as_tensors():
    assert Known.of([True, False], torch.bool).tensor().tolist() == [True, False]
    assert Known.of(np.array([[1, 2]])).tensor().shape == (1, 2)
    with pytest.raises(ValueError, match="not enough values"):
        _ = Known.of([]).number


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind, bidirectional, bias, tmp_path):
    torch.manual_seed(0)
    layer = kind(4, 6, bidirectional=bidirectional, bias=bias).eval()
    x = torch.randn(5, 2, 4)
    file = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that still writes one node for a recurrent layer
        torch.onnx.export(layer, (x,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "t", 1: "n"}})
    model = import_onnx(file)
    assert not model.frozen
    assert any(isinstance(module, kind) for module in model.modules())
    for given in (x, torch.randn(3, 7, 4)):
        expected, last = layer(given)
        y, *rest = model(given).values()
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(rest, list(last) if isinstance(last, tuple) else [last])


def test_a_size_that_the_graph_computes_leaves_the_batch_free(tmp_path):
    """As exporters write F.interpolate(y, x.shape[-2:])."""
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["s"], start=2),
        helper.make_node("Shape", ["p"], ["t"], end=2),
        helper.make_node("Concat", ["t", "s"], ["sizes"], axis=0),
        helper.make_node("Resize", ["p", "", "", "sizes"], ["y"], mode="linear"),
    ]
    image = floats("n", 3, "h", "w")
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": image}, {"y": image}))
    x = torch.randn(2, 3, 6, 4)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    x = torch.randn(5, 3, 6, 4)
    expected = F.interpolate(F.max_pool2d(x, 2), (6, 4), mode="bilinear")
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(model(x), expected)
