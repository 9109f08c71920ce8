"""Operators that torch has no row for: computed all the same, outside, and left whole."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from onnx_files import floats, save

import penjing as pj
from penjing.errors import CaptureError, RuntimeUnavailable
from penjing.onnx_import import import_onnx


@pytest.fixture
def mixed(tmp_path):
    """A linear layer, an operator of ONNX Runtime's own domain, and two linear layers."""
    generator = np.random.default_rng(0)
    weights = {
        "a": generator.normal(size=(4, 8)),
        "b": generator.normal(size=(8, 16)),
        "c": generator.normal(size=(16, 3)),
        "bias": generator.normal(size=8),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("BiasGelu", ["h", "bias"], ["g"], "odd", domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "b"], ["k"], "second"),
        helper.make_node("Relu", ["k"], ["r"], "act"),
        helper.make_node("MatMul", ["r", "c"], ["y"], "third"),
    ]
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    inputs, outputs = {"x": floats("n", 4)}, {"y": floats("n", 3)}
    return save(tmp_path / "mixed.onnx", nodes, inputs, outputs, weights, domains=["com.microsoft"])


def test_it_is_listed_and_computed(mixed):
    model = import_onnx(mixed)
    assert [str(frozen) for frozen in model.frozen] == [
        "com.microsoft.BiasGelu 'odd': no counterpart in torch is known"
    ]
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    (expected,) = ort.InferenceSession(mixed, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), expected, rtol=1e-5, atol=1e-5)
    copy = model.double()(torch.from_numpy(x).double())
    assert copy.dtype is torch.float64


def test_what_it_touches_is_kept_and_the_rest_is_cut(mixed):
    model, example = import_onnx(mixed), torch.randn(2, 4)
    coupling = pj.couple(model, example)
    assert coupling.captured.fixed_batch is None  # the free size passes through the opaque call
    assert [group.size for group in coupling.groups if group.prunable] == [16]
    assert any("computed outside torch" in frozen.reason for frozen in coupling.frozen)
    outcome = pj.apply(model, pj.PruneChannels(0.5), example)
    assert outcome.model.get_parameter("third.weight").shape == (3, 8)


def test_training_through_it_is_refused_and_behind_it_works(mixed):
    model = import_onnx(mixed)
    with pytest.raises(CaptureError, match=r"'odd' \(BiasGelu\) is computed outside torch, and no gradient passes it"):
        model(torch.randn(2, 4)).sum().backward()
    model.get_parameter("first.weight").requires_grad_(False)
    model(torch.randn(2, 4)).sum().backward()
    assert model.get_parameter("third.weight").grad is not None


def test_it_goes_out_again(mixed, tmp_path):
    model, example = import_onnx(mixed), torch.randn(2, 4)
    artifact = pj.export(model, example, tmp_path / "out")
    x = torch.randn(3, 4)
    torch.testing.assert_close(artifact.load()(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_an_operator_that_nothing_computes_is_named_when_it_runs(tmp_path):
    nodes = [helper.make_node("Magic", ["x"], ["y"], "trick", domain="acme")]
    file = save(tmp_path / "m.onnx", nodes, {"x": floats(2)}, {"y": floats(2)}, domains=["acme"])
    model = import_onnx(file)
    assert [frozen.op for frozen in model.frozen] == ["acme.Magic"]
    with pytest.raises(RuntimeUnavailable, match=r"node 'trick': nothing here computes the operator acme.Magic"):
        model(torch.zeros(2))


def test_values_decide_the_size(tmp_path):
    nodes = [helper.make_node("Unique", ["x"], ["y"], "unique", sorted=1)]
    file = save(tmp_path / "m.onnx", nodes, {"x": floats("n")}, {"y": floats("k")})
    model = import_onnx(file)
    assert model(torch.tensor([2.0, 1.0, 2.0])).tolist() == [1.0, 2.0]
    program = torch.export.export(model, (torch.tensor([2.0, 1.0, 2.0]),), strict=False)
    assert program.module()(torch.tensor([3.0, 3.0, 3.0])).tolist() == [3.0]
