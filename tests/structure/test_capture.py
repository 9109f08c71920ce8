"""Capture leaves the model as it was, frees the batch, and explains what it cannot do."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from structure_zoo import ZOO, Vgg
from torch import Tensor, nn

from penjing.errors import CaptureError
from penjing.structure import capture, couple, cut
from penjing.workload import ExampleInputs


def test_modes_and_random_state_are_restored() -> None:
    model = Vgg().train()
    model.features[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    capture(model, torch.zeros(2, 3, 8, 8))
    assert [module.training for module in model.modules()] == modes
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


def test_an_example_of_one_sample_still_gives_a_free_batch() -> None:
    captured = capture(Vgg(), torch.zeros(1, 3, 8, 8))
    assert captured.fixed_batch is None
    assert captured.module(torch.zeros(7, 3, 8, 8))[0].shape == (7, 5)


def test_a_model_that_insists_on_its_batch_is_captured_with_it() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 6).relu() if x.shape[0] == 4 else x.relu()

    captured = capture(Fixed(), torch.zeros(4, 3))
    assert captured.fixed_batch is not None
    assert "Constraints violated" in captured.fixed_batch
    assert captured.shapes["relu"] == (2, 6)


def test_data_dependent_control_flow_is_explained() -> None:
    class Choice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x + 1
            return x - 1

    with pytest.raises(
        CaptureError, match=r"cannot capture Choice at .*test_capture.py:\d+ \(if x.sum\(\) > 0:\).*torch.where"
    ):
        capture(Choice(), torch.ones(2, 3))


def test_an_error_of_the_model_itself_is_named() -> None:
    with pytest.raises(CaptureError, match="cannot capture Vgg"):
        capture(Vgg(), torch.zeros(2, 4, 8, 8))


class Wrapped(nn.Module):
    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.a, self.b, self.autocast = nn.Linear(4, 6), nn.Linear(6, 2), autocast

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            y = self.a(x).relu()
        return self.b(y.float())


def test_contexts_that_change_nothing_are_entered() -> None:
    model, x = Wrapped(autocast=False), torch.randn(2, 4)
    coupling = couple(model, x)
    assert [(group.name, group.size) for group in coupling.groups] == [("a", 6)]
    torch.testing.assert_close(cut(coupling, {}).module(x), model(x))


def test_an_autocast_that_is_on_is_kept_and_reported() -> None:
    model, x = Wrapped(autocast=True), torch.randn(2, 4)
    coupling = couple(model, x)
    assert not coupling.groups
    assert any("wrap_with_autocast" in frozen.reason for frozen in coupling.frozen)
    torch.testing.assert_close(cut(coupling, {}).module(x), model(x))


@pytest.mark.parametrize("name", ["graph", "code", "meta", "_code", "recompile", "to_folder", "_title", "_run"])
def test_a_name_that_fx_reserves_is_refused_at_the_root_alone(name: str) -> None:
    model, x = nn.Sequential(), torch.randn(3, 2)
    model._modules[name] = nn.Linear(2, 2)
    with pytest.raises(CaptureError, match=rf"Sequential\.{name} has a name that torch\.fx reserves"):
        capture(model, x)
    wrapped = nn.Sequential(model)
    done = cut(couple(wrapped, x), {}).module
    assert list(done.state_dict()) == [f"0.{name}.weight", f"0.{name}.bias"]
    torch.testing.assert_close(done(x), wrapped(x))


def test_a_reserved_name_under_which_nothing_is_read_is_free() -> None:
    model, x = nn.Sequential(), torch.randn(3, 2)
    model.add_module("meta", nn.ReLU())
    assert torch.equal(cut(couple(model, x), {}).module(x), x.relu())


def test_a_word_of_python_is_refused_as_a_name() -> None:
    model = nn.Sequential(nn.ModuleDict({"in": nn.Linear(2, 2)}))
    model.forward = lambda x: model[0]["in"](x)  # type: ignore[method-assign]
    with pytest.raises(CaptureError, match="named in, words of Python"):
        capture(model, torch.zeros(2, 2))


def test_shapes_and_modules_are_named() -> None:
    captured = capture(Vgg(), torch.zeros(2, 3, 8, 8))
    assert captured.shapes["conv2d_1"] == (2, 12, 2, 2)
    assert captured.node_module["conv2d_1"] == "features.4"
    assert captured.shapes["features_4_weight"] == (12, 8, 3, 3)
    assert captured.shapes_at(ExampleInputs.of(torch.zeros(5, 3, 8, 8)))["conv2d_1"] == (5, 12, 2, 2)
    assert "features.1.running_mean" in captured.buffers
    assert set(captured.parameters) == set(dict(Vgg().named_parameters()))


def test_a_tied_parameter_is_counted_once() -> None:
    model, example = ZOO["tied language model"]()
    captured = capture(model, example)
    total = sum(torch.Size(captured.shapes[node]).numel() for node in captured.parameter_nodes)
    assert total == sum(parameter.numel() for parameter in model.parameters())


def test_dynamic_shapes_can_free_more_than_the_batch() -> None:
    dim = torch.export.Dim.DYNAMIC
    captured = capture(ZOO["gated mlp"]()[0], torch.zeros(2, 5, 6), dynamic_shapes=({0: dim, 1: dim},))
    assert captured.module(torch.zeros(3, 9, 6))[0].shape == (3, 9, 3)


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, **inputs: Any) -> dict[str, Any]:
        hidden = self.a(inputs["x"]).relu() * inputs["gates"][0]
        return {"y": self.b(hidden), "cache": Cache(hidden), "name": "y"}


class Cache:
    """A container that is no pytree, as the key-value caches of decoders."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def test_any_keyword_is_an_argument_and_the_batch_is_free() -> None:
    model, x = Keywords(), torch.randn(2, 4)
    captured = capture(model, {"x": x, "gates": [torch.ones(2, 1)]})
    assert captured.fixed_batch is None
    assert [node.name for node in captured.module.graph.nodes if node.op == "placeholder"] == ["x", "gates_0"]
    graph_model = cut(couple(captured), {"a": [0]}).module
    found = graph_model(x=torch.randn(5, 4), gates=[torch.ones(5, 1)])
    assert found["y"].shape == (5, 2)


class Rest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, *xs: Tensor, **named: Tensor) -> Tensor:
        return self.b(self.a(xs[0] + xs[1]).relu()) + named["class"] + named["2.0"]


def test_arguments_without_a_name_of_their_own_get_one() -> None:
    call = (torch.randn(2, 4), torch.randn(2, 4)), {"class": torch.randn(2, 2), "2.0": torch.randn(2, 2)}
    model = Rest()
    captured = capture(model, call)
    names = [node.target for node in captured.module.graph.nodes if node.op == "placeholder"]
    assert names == ["args_0", "args_1", "class_", "_2_0"]
    found = cut(couple(captured), {}).module
    torch.testing.assert_close(found(*call[0], **call[1]), model(*call[0], **call[1]))
    assert list(inspect.signature(found.forward).parameters) == ["args", "kwargs"]


def test_an_output_that_no_graph_can_give_is_named_and_none_takes_its_place() -> None:
    model, call = Keywords(), {"x": torch.randn(2, 4), "gates": [torch.ones(2, 1)]}
    captured = capture(model, call)
    assert captured.dropped == ("Cache",)
    found = cut(couple(captured), {}).module(**call)
    assert (found["cache"], found["name"]) == (None, "y")
    torch.testing.assert_close(found["y"], model(**call)["y"])


def test_dynamic_shapes_of_another_structure_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"not the structure of the call, which has the arguments input: "):
        capture(nn.Linear(3, 2), torch.zeros(2, 3), dynamic_shapes={"x": None})


def test_the_tensors_of_the_call_carry_no_marks_afterwards() -> None:
    x = torch.randn(2, 4)
    before = dict(vars(x))
    capture(nn.Linear(4, 2), x)
    with pytest.raises(CaptureError):
        capture(nn.Linear(3, 2), x)
    assert vars(x) == before


@pytest.mark.parametrize(("wrap", "inner"), [(nn.DataParallel, "module"), (torch.compile, "_orig_mod")])
def test_a_wrapped_model_is_refused_with_the_remedy(wrap: Callable[[nn.Module], nn.Module], inner: str) -> None:
    model = nn.Linear(3, 2)
    wrapped = wrap(model)
    assert getattr(wrapped, inner) is model
    with pytest.raises(CaptureError, match=rf"wrapped in {type(wrapped).__name__}; pass its \.{inner}, and wrap"):
        capture(wrapped, torch.zeros(2, 3))


def test_a_distribution_is_captured_without_its_checks_which_stay_on_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile turns it off

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.mean, self.scale = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return torch.distributions.Normal(self.mean(y), self.scale(y).exp()).rsample()

    captured = capture(Gaussian(), torch.randn(2, 4))
    assert captured.module(torch.randn(3, 4))[0].shape == (3, 2)
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(torch.zeros(1), -torch.ones(1))
