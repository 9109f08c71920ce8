"""Files that cannot be read say so, with what is wrong and what to do."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import floats, save

from penjing.errors import ArtifactError, CaptureError, WorkloadError
from penjing.onnx_import import import_onnx

RELU = [helper.make_node("Relu", ["x"], ["y"], "relu")]
XY = {"x": floats("n", 3)}, {"y": floats("n", 3)}


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere.onnx is no file; give the path"):
        import_onnx(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x00" * 100])
def test_a_file_that_is_something_else(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"m.onnx is not an ONNX file"):
        import_onnx(tmp_path / "m.onnx")


def test_a_file_that_is_cut_off(tmp_path):
    file = save(tmp_path / "m.onnx", RELU, *XY)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"not an ONNX file|not valid ONNX"):
        import_onnx(file)


@pytest.mark.parametrize(("opset", "remedy"), [(99, "opsets 7 to 28 are known"), (3, "convert_version")])
def test_an_unknown_opset(opset, remedy, tmp_path):
    file = save(tmp_path / "m.onnx", RELU, *XY, opset=opset)
    with pytest.raises(ArtifactError, match=rf"uses opset {opset}.*{remedy}"):
        import_onnx(file)


def test_a_graph_that_contradicts_itself(tmp_path):
    nodes = [helper.make_node("Relu", ["absent"], ["y"], "relu")]
    with pytest.raises(ArtifactError, match=r"not valid ONNX: Nodes in a graph must be topologically sorted"):
        import_onnx(save(tmp_path / "m.onnx", nodes, *XY))


def _external(path, location):
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", *([helper.make_tensor_value_info(n, *k) for n, k in side.items()] for side in XY), [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data(tmp_path):
    file = _external(tmp_path / "m.onnx", "weights.bin")
    with pytest.raises(ArtifactError, match=r"'weights.bin', which holds the data of 'w', is missing"):
        import_onnx(file)
    (tmp_path / "weights.bin").write_bytes(np.full((3, 3), 2, np.float32).tobytes())
    assert import_onnx(file)(torch.ones(1, 3)).tolist() == [[6.0, 6.0, 6.0]]
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"does not fill its shape \[3, 3\]|cannot be read"):
        import_onnx(file)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_outside_the_folder_is_not_read(location, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(36))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ArtifactError, match=r"outside the folder of the file, where nothing is read"):
        import_onnx(_external(folder / "m.onnx", location))


def test_control_flow_is_refused(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", *floats("n", 3))]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch)]
    inputs = {**XY[0], "c": (TensorProto.BOOL, [])}
    with pytest.raises(CaptureError, match=r"the node 'choice' \(If\) chooses or repeats a graph"):
        import_onnx(save(tmp_path / "m.onnx", nodes, inputs, XY[1]))


def test_sequences_and_text_are_refused(tmp_path):
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "x"], ["s"], "pair"),
        helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    with pytest.raises(CaptureError, match=r"'pair' \(SequenceConstruct\) passes on a value that is no tensor"):
        import_onnx(save(tmp_path / "m.onnx", nodes, *XY))
    text = numpy_helper.from_array(np.array(["a"], object), "t")
    graph = helper.make_graph(
        RELU, "g", *([helper.make_tensor_value_info(n, *k) for n, k in s.items()] for s in XY), [text]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "t.onnx")
    with pytest.raises(CaptureError, match=r"constant 't' is of type STRING"):
        import_onnx(tmp_path / "t.onnx")


def test_inputs_that_are_missing_or_unknown(tmp_path):
    model = import_onnx(save(tmp_path / "m.onnx", RELU, *XY))
    with pytest.raises(WorkloadError, match=r"m takes the inputs x: missing a required argument: 'x'"):
        model()
    with pytest.raises(WorkloadError, match=r"unexpected keyword argument 'z'"):
        model(torch.zeros(1, 3), z=1)


def test_functions_of_the_file_are_inlined(tmp_path):
    function = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="acme")]
    model = import_onnx(save(tmp_path / "m.onnx", nodes, *XY, domains=["acme"], functions=[function]))
    assert not model.frozen
    assert model(torch.ones(1, 3)).tolist() == [[2.0, 2.0, 2.0]]


def test_what_the_file_says_of_itself_is_kept(tmp_path):
    file = save(tmp_path / "m.onnx", RELU, *XY, producer_name="someone", doc_string="a model")
    proto = onnx.load(file)
    helper.set_model_props(proto, {"labels": "cat,dog"})
    onnx.save(proto, file)
    model = import_onnx(file)
    found = model.metadata
    assert (found.producer, found.doc_string, found.properties) == ("someone", "a model", {"labels": "cat,dog"})
    assert (found.opsets, found.ir_version) == ({"": 17}, 9)
    assert (model.input_names, model.output_names) == (("x",), ("y",))
    assert list(model.dynamic_shapes["x"]) == [0]


def test_outputs_that_are_no_tensors_are_refused(tmp_path):
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], "zip", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])]
    file = save(tmp_path / "m.onnx", nodes, *XY, domains=["ai.onnx.ml"])
    proto = onnx.load(file)
    pairs = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    proto.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(pairs))
    onnx.save(proto, file)
    with pytest.raises(CaptureError, match=r"'y' is no tensor of numbers; .*zipmap=False"):
        import_onnx(file)
