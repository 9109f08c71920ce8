"""The graph module behaves as the model that it came from: modes, counters, copies, calls, training, export."""

import copy
import inspect
import io
from pathlib import Path

import pytest
import torch
from structure_zoo import ZOO, MobileNet, Recurrent, Vgg
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.runtimes import export
from penjing.structure import GraphModel, capture, couple, cut


def graph_of(model: nn.Module, example: object) -> GraphModel:
    return GraphModel.of(capture(model, example), modes=model)


class Signatures(nn.Module):
    """Keywords, defaults, nested inputs and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("offset", torch.ones(3), persistent=False)

    def forward(
        self, x: Tensor, more: dict[str, Tensor], mask: Tensor | None = None, scale: float = 1.0
    ) -> dict[str, object]:
        y = self.linear(x) * scale + more["bias"] + self.offset
        if mask is not None:
            y = y * mask
        return {"y": y, "parts": (y[:, :1], [y[:, 1:]])}


@pytest.mark.parametrize("name", ZOO)
def test_state_dict_outputs_and_dtypes_agree_with_the_original(name: str) -> None:
    torch.manual_seed(0)
    model, example = ZOO[name]()
    graph = graph_of(model.eval(), example)
    assert graph.state_dict().keys() == model.state_dict().keys()
    assert dict(graph.named_parameters()).keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(graph(example), model(example))
    three = torch.cat([example, example])[:3]
    torch.testing.assert_close(graph(three), model(three), rtol=1e-4, atol=1e-5)
    if example.is_floating_point() and not isinstance(model, Recurrent):
        torch.testing.assert_close(copy.deepcopy(graph).double()(example.double()), model.double()(example.double()))


def test_parameters_are_shared_with_the_original_not_copied() -> None:
    model, example = ZOO["vgg"]()
    graph = graph_of(model, example)
    assert all(a is b for a, b in zip(graph.parameters(), model.parameters(), strict=True))


def test_training_gives_the_same_outputs_statistics_and_gradients() -> None:
    torch.manual_seed(0)
    model = MobileNet().train()
    graph = copy.deepcopy(graph_of(model, torch.randn(2, 3, 8, 8)))
    assert graph.training
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        a, b = model(x), graph(x)
        torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(graph.get_parameter(name).grad, parameter.grad)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(graph.get_buffer(name), buffer)
    assert int(graph.get_buffer("stem.1.num_batches_tracked")) == 2


def test_a_cumulative_batch_norm_averages_over_all_batches() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None)).train()
    graph = copy.deepcopy(graph_of(model, torch.randn(4, 3)))
    for _ in range(3):
        x = torch.randn(4, 3)
        model(x)
        graph(x)
    torch.testing.assert_close(graph.get_buffer("0.running_mean"), model[0].running_mean)
    assert int(graph.get_buffer("0.num_batches_tracked")) == 3


def test_one_submodule_alone_can_be_put_into_eval_mode() -> None:
    model = Vgg().train()
    model.features[1].eval()
    graph = copy.deepcopy(graph_of(model, torch.randn(2, 3, 8, 8)))
    before = graph.get_buffer("features.1.running_mean").clone()
    graph(torch.randn(2, 3, 8, 8))
    assert torch.equal(graph.get_buffer("features.1.running_mean"), before)
    graph.get_submodule("features.1").train()
    graph(torch.randn(2, 3, 8, 8))
    assert not torch.equal(graph.get_buffer("features.1.running_mean"), before)


def test_dropout_follows_the_mode() -> None:
    graph = graph_of(nn.Sequential(nn.Dropout(0.5)), torch.ones(2, 100))
    x = torch.ones(2, 100)
    assert torch.equal(graph.eval()(x), x)
    assert set(graph.train()(x).unique().tolist()) == {0.0, 2.0}


def test_dropout_that_is_always_on_stays_on() -> None:
    class MonteCarlo(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=True)

    assert 0.0 in graph_of(MonteCarlo(), torch.ones(2, 100)).eval()(torch.ones(2, 100))


def test_calls_by_place_and_by_keyword() -> None:
    model = Signatures()
    x, bias, mask = torch.randn(2, 3), torch.randn(2, 3), torch.ones(2, 3)
    graph = graph_of(model, ((x, {"bias": bias}), {"mask": mask}))
    expected = model(x, {"bias": bias}, mask)
    for args, kwargs in (((x, {"bias": bias}, mask), {}), ((x,), {"mask": mask, "more": {"bias": bias}})):
        found = graph(*args, **kwargs)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["y"], expected["y"])
        torch.testing.assert_close(found["parts"][1][0], expected["parts"][1][0])
    assert "offset" in graph.state_dict()


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((torch.ones(2, 3),), {}, "missing more"),
        ((torch.ones(2, 3), {"bias": torch.ones(2, 3)}), {"other": 1}, "unexpected other"),
        ((torch.ones(2, 3), {"shift": torch.ones(2, 3)}), {}, "structure"),
    ],
)
def test_a_call_of_another_form_is_refused(args: tuple[object, ...], kwargs: dict[str, object], message: str) -> None:
    graph = graph_of(Signatures(), (torch.ones(2, 3), {"bias": torch.ones(2, 3)}))
    with pytest.raises(TypeError, match=message):
        graph(*args, **kwargs)


def test_a_constant_of_the_call_cannot_change() -> None:
    x, bias = torch.ones(2, 3), {"bias": torch.ones(2, 3)}
    graph = graph_of(Signatures(), ((x, bias), {"scale": 2.0}))
    torch.testing.assert_close(graph(x, bias, scale=2.0)["y"], graph(x, bias, None, 2.0)["y"])
    with pytest.raises(TypeError, match=r"2\.0, which is part of it, not 3\.0"):
        graph(x, bias, scale=3.0)


def test_deepcopy_is_independent() -> None:
    model, example = ZOO["mobilenet"]()
    graph = graph_of(model, example)
    other = copy.deepcopy(graph)
    with torch.no_grad():
        other.get_parameter("fc.bias").add_(1.0)
    torch.testing.assert_close(other(example), graph(example) + 1.0)


def test_tied_parameters_stay_tied() -> None:
    model, example = ZOO["tied language model"]()
    done = cut(couple(model, example), {"hidden": [0], "embed": [1, 2]})
    assert done.module.get_parameter("embed.weight") is done.module.get_parameter("head.weight")
    assert done.module.get_parameter("embed.weight").shape == (20, 6)


def test_a_cut_graph_trains() -> None:
    torch.manual_seed(0)
    model, example = ZOO["vgg"]()
    graph = cut(couple(model, example), {"features.0": [0, 3], "features.4": [1]}).module.train()
    x, target = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    optimizer = torch.optim.Adam(graph.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(graph(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_requires_grad_is_kept() -> None:
    model, example = ZOO["vgg"]()
    model.features[0].weight.requires_grad_(False)
    graph = cut(couple(model, example), {"features.0": [0]}).module
    assert not graph.get_parameter("features.0.weight").requires_grad
    assert graph.get_parameter("features.0.bias").requires_grad


def test_the_graph_is_exported_again_with_a_free_batch() -> None:
    model, example = ZOO["mobilenet"]()
    graph = cut(couple(model, example), {"expand.0": [0, 1]}).module.eval()
    program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    five = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(program.module()(five), graph(five))


def test_the_graph_is_exported_to_onnx() -> None:
    ort = pytest.importorskip("onnxruntime")
    model, example = ZOO["mobilenet"]()
    graph = cut(couple(model, example), {"expand.0": [0, 1]}).module.eval()
    program = torch.onnx.export(
        graph, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False
    )
    stream = io.BytesIO(program.model_proto.SerializeToString())
    session = ort.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    five = torch.randn(5, 3, 8, 8)
    (found,) = session.run(None, {session.get_inputs()[0].name: five.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), graph(five), rtol=1e-4, atol=1e-5)


def test_a_replica_of_data_parallel_training_runs_its_own_tensors() -> None:
    """As torch.nn.parallel.replicate makes one for each device."""
    graph = graph_of(nn.Sequential(nn.Linear(3, 2)), torch.ones(2, 3))
    replica = graph._replicate_for_data_parallel()
    part = graph.get_submodule("0")._replicate_for_data_parallel()
    part._parameters = {name: value.detach() + 1 for name, value in graph.get_submodule("0")._parameters.items()}
    replica._modules["0"] = part
    x = torch.ones(2, 3)
    torch.testing.assert_close(replica(x), graph(x) + 4)
    torch.testing.assert_close(nn.DataParallel(graph)(x), graph(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_moves_to_another_dtype(dtype: torch.dtype) -> None:
    model, example = ZOO["vgg"]()
    graph = copy.deepcopy(graph_of(model.eval(), example)).to(dtype)
    assert graph(example.to(dtype)).dtype == dtype
    torch.testing.assert_close(graph(example.to(dtype)), model.to(dtype)(example.to(dtype)))


def test_stochastic_depth_is_off_in_every_mode_of_a_graph() -> None:
    """A branch that chance drops in training is whole in the graph in every mode, for that is what was traced."""

    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if self.training:
                y = y * (torch.rand(len(x), 1) < 0.5) * 2
            return x + y

    model = Depth()
    graph = graph_of(model, torch.ones(2, 3))
    x = torch.randn(5, 3)
    torch.testing.assert_close(graph.eval()(x), model.eval()(x))
    torch.testing.assert_close(graph.train()(x), model.eval()(x))


def test_arguments_behind_one_that_was_left_out_go_by_keyword_also_in_a_file(tmp_path: Path) -> None:
    class Gap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, x: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Tensor:
            out = self.a(x) if y is None else self.a(x) + self.b(y)
            return out if mask is None else out * mask

    call = {"x": torch.randn(2, 3), "y": torch.randn(2, 5)}
    smaller = cut(couple(Gap(), call), {}).module
    kinds = {name: parameter.kind.name for name, parameter in inspect.signature(smaller.forward).parameters.items()}
    assert kinds == {"x": "POSITIONAL_OR_KEYWORD", "y": "KEYWORD_ONLY"}
    artifact = export(smaller, call, tmp_path / "gap")
    found = artifact.load()(**call)
    assert torch.allclose(found, smaller(**call), atol=1e-6)
