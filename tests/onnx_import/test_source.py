"""What a file says about itself is said by the file that is made of it: names, opset, producer, properties."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import penjing as pj

torch.manual_seed(0)
X = torch.randn(4, 6)


def written(folder: Path, opset: int) -> Path:
    """Two linear layers between an input and an output whose names are no names of Python."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["in.1", "w", "b"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "v"], ["out:0"], transB=1),
        ],
        "ours",
        [helper.make_tensor_value_info("in.1", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(torch.randn(*shape).numpy(), name)
            for name, shape in (("w", (16, 6)), ("b", (16,)), ("v", (3, 16)))
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="a trainer", doc_string="why")
    helper.set_model_props(proto, {"licence": "none"})
    onnx.save(proto, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("way", ["as it is", "cut in its class", "as a graph", "in int8"])
def test_a_new_file_says_what_the_old_one_said(way: str, tmp_path: Path) -> None:
    path = written(tmp_path, opset=19)
    workload = pj.Workload(path, X, calibration=[(X,)])
    model = {
        "as it is": lambda: workload.model,
        "cut in its class": lambda: pj.apply(workload, pj.PruneChannels(0.5)).model,
        "as a graph": lambda: pj.apply(workload, pj.PruneChannels(0.5), prefer="graph").model,
        "in int8": lambda: pj.apply(workload, pj.Quantize("int8")).model,
    }[way]()
    artifact = pj.export(model, X, tmp_path / "again")
    again = onnx.load(artifact.path / "model.onnx")
    assert [each.name for each in again.graph.input] == ["in.1"]
    assert [each.name for each in again.graph.output] == ["out:0"]
    assert (again.producer_name, again.doc_string, again.graph.name) == ("a trainer", "why", "ours")
    assert {each.key: each.value for each in again.metadata_props} == {"licence": "none"}
    assert again.opset_import[0].version == 19
    torch.testing.assert_close(artifact.load()(X), model(X), rtol=0.05, atol=0.05)


def test_an_opset_that_the_exporter_does_not_write_is_raised(tmp_path: Path) -> None:
    artifact = pj.export(written(tmp_path, opset=13), X, tmp_path / "again")
    assert onnx.load(artifact.path / "model.onnx").opset_import[0].version == 20


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_other_runtimes_run_it_too(runtime: str, tmp_path: Path) -> None:
    path = written(tmp_path, opset=19)
    model = pj.import_onnx(path)
    torch.testing.assert_close(pj.export(path, X, tmp_path / "a", runtime).load()(X), model(X), rtol=1e-4, atol=1e-5)
