"""Out and in again: what a model computes, what can be cut, and what its tensors are called."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from onnx_files import floats, save
from torch import nn

import penjing as pj
from penjing.onnx_import import OnnxModule, import_onnx
from penjing.types import Decision
from penjing.workload import ResNet


class Encoder(nn.Module):
    def __init__(self, layers=1):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.position = nn.Parameter(torch.randn(1, 10, 32))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(layers))
        self.head = nn.Linear(32, 5)

    def forward(self, ids):
        x = self.embedding(ids) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


CASES = {
    "resnet": (lambda: ResNet((1, 1), (8, 16)), lambda n: torch.randn(n, 1, 16, 16)),
    "encoder": (Encoder, lambda n: torch.randint(0, 50, (n, 10))),
}


@pytest.fixture(scope="module", params=CASES)
def trip(request, tmp_path_factory):
    """A model, its example, and what came back from its file."""
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    model = make().eval()
    with torch.no_grad():  # exporters store equal tensors once: none are, as in a trained model
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    artifact = pj.export(model, inputs(2), folder / "artifact")
    return model, inputs, import_onnx(folder / "artifact" / "model.onnx"), artifact


def test_it_computes_the_same(trip):
    model, inputs, back, _ = trip
    assert not back.frozen
    for batch in (1, 2, 5):
        x = inputs(batch)
        with torch.no_grad():
            torch.testing.assert_close(back(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_same_groups_can_be_cut(trip):
    model, inputs, back, _ = trip
    first, second = pj.couple(model, inputs(2)), pj.couple(back, inputs(2))

    def prunable(coupling):
        return sorted((group.size, group.exact) for group in coupling.groups if group.prunable)

    assert second.captured.fixed_batch is None
    assert prunable(second) == prunable(first)


def test_half_of_the_channels_go_and_the_proof_holds(trip, tmp_path):
    _, inputs, back, artifact = trip
    outcome = pj.apply(back, pj.PruneChannels(0.5), inputs(2))
    assert isinstance(outcome.model, OnnxModule)  # cut in its own class, with the sizes that it holds
    before, after = (sum(p.numel() for p in model.parameters()) for model in (back, outcome.model))
    assert after < 0.8 * before
    x = inputs(3)
    assert outcome.model(x).shape == back(x).shape
    outcome.save(tmp_path / "cut")
    restored = pj.restore(import_onnx(artifact.path / "model.onnx"), tmp_path / "cut")
    torch.testing.assert_close(restored(x), outcome.model(x))


def test_gradients_reach_every_parameter(trip):
    _, inputs, back, _ = trip
    back.zero_grad()
    back(inputs(2)).square().sum().backward()
    idle = [name for name, parameter in back.named_parameters() if parameter.grad is None]
    assert idle == []


def test_names_of_inputs_and_outputs_stay(trip, tmp_path):
    _, inputs, back, artifact = trip
    again = pj.export(back, inputs(2), tmp_path / "again")
    graphs = [onnx.load(found.path / "model.onnx").graph for found in (artifact, again)]
    names = [([i.name for i in graph.input], [o.name for o in graph.output]) for graph in graphs]
    assert names[0] == names[1]


def test_names_that_are_no_identifiers_stay_in_the_file(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["relu:0"]), helper.make_node("Exp", ["x"], ["output.exp"])]
    outputs = {"relu:0": floats("n", 3), "output.exp": floats("n", 3)}
    model = import_onnx(save(tmp_path / "m.onnx", nodes, {"x": floats("n", 3)}, outputs))
    artifact = pj.export(model, torch.randn(2, 3), tmp_path / "out")
    assert [output.name for output in onnx.load(artifact.path / "model.onnx").graph.output] == ["relu:0", "output.exp"]
    found = artifact.load()(torch.zeros(4, 3))
    assert list(found) == ["relu:0", "exp"]
    assert found["exp"].tolist() == [[1.0] * 3] * 4


def test_quantised_it_still_answers(trip, tmp_path):
    _, inputs, back, _ = trip
    batches = [(inputs(8), torch.arange(8) % 5) for _ in range(2)]
    workload = pj.Workload(back, inputs(2), calibration=batches)
    outcome = pj.apply(workload, pj.Quantize())
    artifact = pj.export(outcome.model, inputs(2), tmp_path / "int8")
    operators = {node.op_type for node in onnx.load(artifact.path / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_an_int8_file_comes_back_in_floats(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    data = [(torch.randn(16, 3, 4, 4), torch.arange(16) % 4) for _ in range(2)]
    example = torch.randn(2, 3, 4, 4)
    outcome = pj.apply(pj.Workload(model, example, calibration=data), pj.Quantize())
    pj.export(outcome.model, example, tmp_path / "int8")
    file = tmp_path / "int8" / "model.onnx"
    back = import_onnx(file)
    assert sum(parameter.numel() for parameter in back.parameters()) == sum(p.numel() for p in model.parameters())
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 4, 4)
    (expected,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert [group.size for group in pj.couple(back, example).groups if group.prunable] == [8]
    step = np.abs(expected).max() / 127
    assert np.abs(back(x).detach().numpy() - expected).max() <= 2 * step
    back(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in back.parameters())


def test_a_file_is_a_model_at_every_door(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    example = torch.randn(2, 4)
    pj.export(model, example, tmp_path / "a")
    file = tmp_path / "a" / "model.onnx"
    assert pj.profile(file, example).macs == pj.profile(model, example).macs
    assert [group.size for group in pj.couple(str(file), example).groups if group.prunable] == [16]
    assert pj.apply(file, pj.PruneChannels(0.5), example).model(example).shape == (2, 3)
    torch.testing.assert_close(pj.export(file, example, tmp_path / "b").load()(example), model(example))


def test_the_judge_works_on_a_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    example = torch.randn(2, 4)
    pj.export(model, example, tmp_path / "a")
    x = torch.randn(400, 4)
    data = [(x, model(x).argmax(1))]
    workload = pj.Workload(tmp_path / "a" / "model.onnx", example, evaluation=data)
    assert workload.name == "model"
    first, second = (pj.export(each, example, tmp_path / name) for each, name in ((model, "1"), (workload.model, "2")))
    verdict = pj.judge(first, second, workload, pj.Contract(max_drop=0.05))
    assert verdict.outcome is Decision.PASS
