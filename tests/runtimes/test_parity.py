"""Parity: what a runtime stores beside what the simulation stores, and which kernels it runs."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import penjing as pj
from penjing.errors import RuntimeUnavailable, WorkloadError
from penjing.recipe import Quantize
from penjing.runtimes import RUNTIMES, Parity, Program, parity, register_runtime
from penjing.runtimes.boundaries import Stored
from penjing.runtimes.comparing import _floats
from penjing.runtimes.eager import Eager
from penjing.runtimes.exporting import evaluating, take
from penjing.runtimes.kernels import kernels_of
from penjing.runtimes.rewrite import plain_module, recapture
from penjing.techniques import Outcome, apply
from penjing.types import LogRow
from penjing.workload import ExampleInputs, Workload
from penjing.workload.samples import ResNet


class Spoilt(Eager):
    """A runtime that takes the weights of one convolution for their negatives."""

    name = "spoilt"

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        def change(module: fx.GraphModule) -> fx.GraphModule:
            module = copy.deepcopy(module)
            for name, tensor in module.named_buffers():
                if name.endswith("blocks.0.conv2.weight_quantized"):
                    tensor.neg_()
            return module

        super().export(replace(program, exported=recapture(program, change)), folder, options)


@pytest.fixture
def spoilt() -> Iterator[str]:
    register_runtime(Spoilt())
    yield "spoilt"
    del RUNTIMES["spoilt"]


class Encoder(nn.Module):
    """Linears with a norm and a residual between them, on [batch, tokens, width]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def workload() -> Workload:
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    images = torch.randn(64, 1, 8, 8) + labels[:, None, None, None]
    data = [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 64, 8)]
    network = ResNet((1, 1), (8, 16), classes=4).eval()
    return Workload(
        network, images[:8], calibration=[(x,) for x, _ in data[:2]], evaluation=data[2:5], certificate=data[5:]
    )


@pytest.fixture(scope="module")
def outcome(workload: Workload) -> Outcome:
    return apply(workload, Quantize("int8", method="minmax"))


@pytest.fixture(scope="module")
def found(workload: Workload, outcome: Outcome) -> Parity:
    return parity(outcome, workload)


def test_a_small_network_agrees_at_each_boundary(found: Parity) -> None:
    assert found.passed
    assert found.samples == 24
    assert [boundary.where for boundary in found.boundaries] == [
        "input x",
        "conv",
        "blocks.0.conv1",
        "blocks.0.conv2",
        "add, relu after blocks.0.conv2",
        "blocks.1.conv1",
        "blocks.1.conv2",
        "blocks.1.shortcut.0",
        "add, relu after blocks.1.shortcut.0",
        "global_average_pool after blocks.1.shortcut.0",
        "flatten after blocks.1.shortcut.0",
    ]
    assert all(boundary.alone >= 0.999 and boundary.within >= 0.999 for boundary in found.boundaries)
    assert [boundary.moved for boundary in found.boundaries].index(True) == 10
    assert found.boundaries[1].elements == 24 * 8 * 8 * 8
    assert found.first_difference is None
    assert found.first_drift is None


def test_the_metric_of_both_is_told(found: Parity, workload: Workload, outcome: Outcome) -> None:
    assert found.metric is not None
    assert (found.metric.name, found.metric.split, found.metric.samples) == ("accuracy", "search", 24)
    assert found.metric.simulated == workload.evaluate(outcome.model)[0].value
    assert found.metric.points == pytest.approx(100 * abs(found.metric.simulated - found.metric.deployed))
    assert parity(outcome, workload.example).metric is None


def test_showing_boundaries_leaves_the_kernels_of_onnxruntime_as_they_are(
    found: Parity, workload: Workload, outcome: Outcome, tmp_path: Path
) -> None:
    assert found.changed == ()
    assert {row.runs for row in found.layers} == {"int8"}
    assert Counter(row.kernel for row in found.layers) == {
        "QLinearConv": 6,
        "QLinearAdd": 2,
        "QLinearGlobalAveragePool": 1,
        "QGemm": 1,
    }
    runtime = RUNTIMES["onnxruntime"]
    options = runtime.options({})
    with evaluating(outcome.model), torch.no_grad():
        taken = take(outcome.model, workload.example, None)
        stored = Stored(taken.program, plain_module(taken.program.exported))
        integer = []
        for name, program in (("ships", taken.program), ("shown", stored.shown())):
            folder = tmp_path / name
            folder.mkdir()
            runtime.export(program, folder, options)
            kernels = kernels_of(runtime, folder, options)
            assert kernels is not None
            integer.append(Counter(kernel.kind for kernel in kernels if kernel.integer))
    assert integer[0] == integer[1]
    assert integer[0].total() == 10


def test_a_network_of_linears_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Encoder().eval(), torch.randn(4, 5, 16)
    outcome = apply(
        Workload(network, x, calibration=[(torch.randn(4, 5, 16),) for _ in range(4)]), Quantize(method="minmax")
    )
    found = parity(outcome, torch.randn(4, 5, 16))
    assert found.passed
    assert [(row.layer, row.runs, row.kernel) for row in found.layers] == [
        (name, "int8", "QGemm") for name in ("up", "down", "head")
    ]
    floats = {kept.layer: kept for kept in found.floats}
    assert floats["norm"].why == "there is no int8 form of layer_norm"
    assert not floats["norm"].asked
    assert "norm: float; there is no int8 form of layer_norm" in str(found)
    assert "gelu after up" in " ".join(boundary.where for boundary in found.boundaries)


def test_a_layer_that_was_asked_to_stay_float_is_a_row(workload: Workload) -> None:
    asked = apply(workload, Quantize(method="minmax", overrides={"blocks.1.conv1": "float"}))
    found = parity(asked, workload.example)
    (row,) = [row for row in found.layers if row.layer == "blocks.1.conv1"]
    assert (row.wanted, row.runs, row.broken) == ("float", "float", False)
    assert row.why == "the recipe says so"
    assert next(kept for kept in found.floats if kept.layer == "blocks.1.conv1").asked
    assert "blocks.1.conv1 (conv2d): float" in str(found)
    bare = parity(asked.model, workload.example)
    assert next(row.why for row in bare.layers if row.layer == "blocks.1.conv1") == "it is float in the model"


@pytest.mark.parametrize(
    ("scheme", "wanted", "runs"),
    [
        ("w4a8", "int8 int8 int8", "int8 int8 int8"),
        ("w8", "weights weights weights", "float float float"),
        ("w4-asymmetric", "weights weights weights", "float float float"),
        ("int8-dynamic", "weights weights int8", "float float int8"),
    ],
)
def test_layers_of_all_schemes_go_by_their_names(scheme: str, wanted: str, runs: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 16, 3, stride=2), nn.Flatten(), nn.Linear(400, 8)
    ).eval()
    x = torch.randn(8, 3, 12, 12)
    data = [torch.randn(16, 3, 12, 12) for _ in range(3)]
    found = parity(apply(Workload(net, x, calibration=data), Quantize(scheme, method="minmax")), x)
    assert found.passed
    assert [row.layer for row in found.layers] == ["0", "2", "4"]
    assert " ".join(row.wanted for row in found.layers) == wanted
    assert " ".join(row.runs for row in found.layers) == runs
    if scheme == "w4a8":
        assert [boundary.where for boundary in found.boundaries if boundary.moved] == ["pad after 0", "flatten after 2"]


def test_patterns_that_are_not_fused_are_rows(workload: Workload, outcome: Outcome) -> None:
    found = parity(outcome, workload.example, options={"graph_optimization": "basic"})
    assert {row.layer for row in found.broken} >= {"conv", "blocks.0.conv1", "blocks.1.shortcut.0", "fc"}
    assert all(row.runs == "float" for row in found.layers)
    assert found.passed, "the numbers are the same, only slower"
    text = str(found)
    assert "blocks.0.conv1 (conv2d): float (Conv); the runtime broke the pattern up" in text
    assert found.to_data()["broken"] == [row.layer for row in found.broken]


def test_a_runtime_that_computes_something_else_is_told_where(
    spoilt: str, workload: Workload, outcome: Outcome
) -> None:
    found = parity(outcome, workload.example, spoilt)
    assert not found.passed
    assert found.first_difference is not None
    assert (found.first_difference.where, found.first_difference.layer) == ("blocks.0.conv2", "blocks.0.conv2")
    assert [boundary.where for boundary in found.boundaries if not boundary.agrees] == ["blocks.0.conv2"], (
        "where torch goes on from what the runtime stored, nothing behind it differs"
    )
    drifts = [boundary.where for boundary in found.boundaries if boundary.within < 0.999]
    assert drifts[0] == "blocks.0.conv2"
    assert len(drifts) > 3, "end to end, the difference is carried on"
    assert found.first_drift is found.first_difference
    assert all(boundary.floor is not None and boundary.floor > 0.99 for boundary in found.boundaries)
    assert "differ first at blocks.0.conv2: given the same" in found.sentence()
    assert "spoilt does not say which kernels it runs" in str(found)
    assert {row.runs for row in found.layers} == {"unknown"}


def test_steps_are_counted_as_they_are(workload: Workload, outcome: Outcome) -> None:
    with evaluating(outcome.model), torch.no_grad():
        taken = take(outcome.model, workload.example, None)
        stored = Stored(taken.program, plain_module(taken.program.exported))
        theirs = dict(_stored(stored, taken.leaves))
        conv = stored.nodes[1].name
        steps = torch.zeros(4096, dtype=torch.int32)
        steps[:1000], steps[:10] = 1, 7
        steps = steps.reshape(theirs[conv].shape)
        ours = theirs[conv].int()
        theirs[conv] = torch.where(ours > 100, ours - steps, ours + steps).to(torch.uint8)
        stored.compare(taken.leaves, [theirs[node.name].numpy() for node in stored.nodes])
    before, row, after = stored.boundaries()[:3]
    assert (row.elements, row.equal, row.largest, row.largest_alone) == (4096, 1 - 1000 / 4096, 7, 7)
    assert row.within == row.alone == 1 - 10 / 4096
    assert (before.equal, before.largest) == (1.0, 0)
    assert (after.equal, after.within) == (1.0, 1.0)
    assert after.alone < 1.0, "given what was stored before, torch gets something else than was stored here"


def _stored(stored: Stored, leaves: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    shown = stored.shown().exported.module()(*leaves)
    yield from zip((node.name for node in stored.nodes), shown[len(stored.program.outputs) :], strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "executorch", "torch"])
def test_other_runtimes(runtime: str, workload: Workload, outcome: Outcome) -> None:
    found = parity(outcome, workload, runtime)
    assert found.hidden == ""
    assert found.passed or (found.fused and found.explained), str(found)
    assert found.metric is not None
    assert found.metric.points <= 0.1
    if runtime == "openvino":
        assert {row.runs for row in found.layers} == {"int8"}
        assert found.changed == ()
        assert len(found.boundaries) + len(found.fused) + len(found.unshown) == 11
    else:
        assert len(found.boundaries) == 11


@pytest.mark.slow
def test_a_network_that_is_quantised_for_openvino_agrees_at_its_sums(workload: Workload) -> None:
    pytest.importorskip("openvino")
    found = parity(pj.apply(workload, Quantize("int8", method="minmax"), runtime="openvino"), workload, "openvino")
    assert found.passed, str(found)
    assert (found.fused, found.unshown, found.changed) == ((), (), ())
    assert {row.runs for row in found.layers if row.operator == "conv2d"} == {"int8"}


def test_a_float_model_is_refused_with_the_remedy(workload: Workload) -> None:
    with pytest.raises(WorkloadError, match=r"ResNet has no quantised operator.*penjing\.apply\(workload, penjing\.Q"):
        parity(workload.model, workload)


def test_an_unknown_runtime_or_option_and_a_look_at_the_certificate_are_refused(
    workload: Workload, outcome: Outcome
) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"'nowhere' is unknown; use one of"):
        parity(outcome, workload, "nowhere")
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime has no option 'speed'"):
        parity(outcome, workload, options={"speed": 2})
    with pytest.raises(TypeError, match="split"):
        parity(outcome, workload, split="certificate")  # type: ignore[call-arg]


def test_fixed_sizes_take_batches_of_the_example(workload: Workload, outcome: Outcome) -> None:
    example = ExampleInputs.of(torch.zeros(8, 1, 8, 8))
    found = parity(outcome.model, example, dynamic_shapes={})
    assert found.samples == 8
    assert found.passed


def test_the_log_says_what_stayed_float() -> None:
    rows = [
        LogRow("quantize", "norm stays in float: there is no int8 form of layer_norm", fell_back=True),
        LogRow("quantize", "head stays in float: the recipe says so"),
        LogRow("quantize", "operators without weights that stay in float: gelu, tanh", fell_back=True),
        LogRow("quantize", "3 layers run in int8"),
    ]
    assert [(kept.layer, kept.why, kept.asked) for kept in _floats(rows)] == [
        ("norm", "there is no int8 form of layer_norm", False),
        ("head", "the recipe says so", True),
        ("operators without weights", "gelu, tanh", False),
    ]
