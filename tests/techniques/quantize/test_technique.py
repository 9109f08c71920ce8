"""The Quantize step: what it keeps, what it says, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Quantize
from penjing.techniques.quantize import int8_layers, run
from penjing.techniques.quantize.data import SAMPLES
from penjing.techniques.state import Context, State
from penjing.workload import ExampleInputs, Workload


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def quantize(model: nn.Module, x: Any, step: Quantize, data: list[Any] | None = None) -> State:
    workload = Workload(model, x, calibration=data if data is not None else [x])
    return run(State(copy.deepcopy(model), ExampleInputs.of(x)), step, Context(workload, model))


X = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_auto_keeps_the_method_with_the_least_output_error() -> None:
    rows = quantize(small(), X, Quantize()).rows
    tried = [row.what for row in rows if row.what.startswith("ranges by")]
    decibel = [float(what.split("outputs ")[1].split(" dB")[0]) for what in tried]
    kept = [" (kept)" in what for what in tried]
    assert len(tried) == 4
    assert kept.count(True) == 1
    assert decibel[kept.index(True)] == max(decibel) > 25
    assert "4 held-out samples" in tried[0]
    assert rows[0].what.startswith("3 layers run in int8")
    assert "12 samples" in rows[0].what


def test_nothing_is_stored_before_a_sum_that_the_runtime_does_not_round_either() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.last(x + self.second(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Residual().eval()
    workload, state = Workload(model, X, calibration=[X]), State(model, ExampleInputs.of(X))
    stored = {}
    for runtime in (None, "onnxruntime", "openvino"):
        found = run(state, Quantize(method="minmax"), Context(workload, model, runtime=runtime)).model
        names = [name for name, _ in found.named_buffers() if name.startswith("activations.")]
        stored[runtime] = {name.rpartition("_")[0] for name in names if name.endswith("_scale")}
    assert stored[None] == stored["onnxruntime"]
    assert stored[None] - stored["openvino"] == {"activations.conv2d_1"}
    assert stored["openvino"] < stored[None]


def test_the_result_is_a_module_like_any_other() -> None:
    model = small()
    before = copy.deepcopy(model.state_dict())
    state = quantize(model, X, Quantize(method="minmax"))
    assert state.graph
    result = state.model.eval()
    assert result(X[:1]).shape == (1, 3)
    assert result(X[:7]).shape == (7, 3)
    assert torch.equal(copy.deepcopy(result)(X), result(X))
    assert result.state_dict()["0.weight_quantized"].dtype == torch.int8
    assert result.state_dict()["0.bias_quantized"].dtype == torch.int32
    assert not [name for name, p in result.named_parameters()]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_overrides_keep_layers_in_float() -> None:
    state = quantize(small(), X, Quantize(method="minmax", overrides={"4": "float"}))
    assert {"4.weight", "4.bias"} <= {name for name, _ in state.model.named_parameters()}
    (row,) = [row for row in state.rows if "the recipe says so" in row.what]
    assert row.what.startswith("4 stays in float")
    assert not row.fell_back
    assert torch.allclose(state.model(X), quantize(small(), X, Quantize(method="minmax")).model(X), atol=0.1)


class Mixed(nn.Module):
    """Keyword inputs, a dictionary of outputs, operators without an int8 kernel, a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear, self.norm = nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, ids: Tensor, x: Tensor) -> dict[str, Tensor]:
        y = self.norm(self.linear(x + self.embed(ids)))
        return {"y": y, "z": nn.functional.linear(y, self.linear.weight.t()), "ids": ids}


def test_what_stays_in_float_is_said_and_structures_survive() -> None:
    model = Mixed()
    inputs = {"ids": torch.randint(5, (6, 4)), "x": torch.randn(6, 4, 8)}
    state = quantize(model, inputs, Quantize(), [(inputs, None)])
    ours, theirs = state.model(**inputs), model(**inputs)
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["ids"], inputs["ids"])
    assert torch.allclose(ours["y"], theirs["y"], atol=0.1)
    said = [row.what for row in state.rows if row.fell_back]
    assert said == [
        "calibration saw 4 samples alone, and ranges may hold for little else; 32 would do",
        "one call of linear stays in float: its weight is computed, not stored",
        "norm stays in float: there is no int8 form of layer_norm",
        "operators without weights that stay in float: add",
    ]
    assert "weights in int8 that are computed with in float: embed" in [row.what for row in state.rows]
    assert int8_layers(state.model) == ("linear",)


def test_a_pad_of_zeros_between_int8_layers_is_no_float_operator() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ZeroPad2d(1), nn.Conv2d(4, 3, 3))
    data = [X, X, X, X[:12]]
    state = quantize(model, X, Quantize(method="minmax"), data)
    assert [row.what for row in state.rows if row.fell_back] == []
    seen = X[:12]  # the samples that gave the ranges
    torch.testing.assert_close(state.model(seen), model(seen), atol=0.05, rtol=0)
    uneven = nn.Sequential(model[0], nn.ZeroPad2d((0, 1, 0, 1)), model[2])
    rows = [row.what for row in quantize(uneven, X, Quantize(method="minmax"), data).rows if row.fell_back]
    assert rows == []


class Recurrent(nn.Module):
    """Layers of many kinds, one with a weight that is computed, and two that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(7, 4), nn.LSTM(4, 4, batch_first=True, bidirectional=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.up = nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 4, 1)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.position = nn.Parameter(torch.randn(5, 4))

    def forward(self, ids: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(ids) + self.position)
        x = self.normed(x).softmax(-1)
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.up(self.norm(x.mT)).mT)  # type: ignore[no-any-return]


def test_every_module_with_weights_is_told_to_be_int8_or_float() -> None:
    torch.manual_seed(0)
    ids = torch.randint(7, (8, 5))
    model = Recurrent().eval()
    state = quantize(model, ids, Quantize(method="minmax"))
    assert set(int8_layers(state.model)) == {"attention", "attention.out_proj", "head"}
    assert "what runs in int8: " + ", ".join(int8_layers(state.model)) in [row.what for row in state.rows]
    floats = [row.what for row in state.rows if row.fell_back and " stay" in row.what]
    said = {what.partition(" stays in float: ")[0]: what for what in floats}
    (packed,) = (row.what for row in state.rows if "computed with in float" in row.what)
    assert packed == "weights in int8 that are computed with in float: embed, lstm, up"
    assert said["position"].endswith("add joins in only between int8 operators")
    assert said["normed"].endswith("its weight is computed, not stored")
    assert said["norm"].endswith("it is a batch norm that no convolution or linear right before it takes in")
    (rest,) = (what for what in said if what.startswith("operators without weights"))
    assert "softmax" in said[rest]
    assert "_weight_norm" not in said[rest]
    owners = {
        name.rpartition(".")[0].partition(".param")[0] or name
        for name, _ in model.named_parameters(remove_duplicate=False)
    }
    assert owners == {*int8_layers(state.model), *said, "embed", "lstm", "up"} - {rest}


def test_int8_layers_of_other_models() -> None:
    assert int8_layers(small()) == ()
    assert int8_layers(quantize(nn.Linear(3, 2), X[:, 0, :1, :3].flatten(1), Quantize()).model) == ("",)
    twice = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    model = nn.Sequential(twice, twice)
    assert int8_layers(quantize(model, X[:, 0, 0, :3], Quantize()).model) == ("0.0", "1.0")
    assert int8_layers(quantize(small(), X, Quantize(overrides={"4": "float"})).model) == ("0", "6")


def test_calibration_reads_no_more_than_it_needs() -> None:
    read = 0

    class Counted(list[Tensor]):
        def __iter__(self) -> Any:
            nonlocal read
            for batch in super().__iter__():
                read += 1
                yield batch

    model = nn.Linear(4, 2)
    workload = Workload(model, torch.zeros(2, 4), calibration=Counted([torch.randn(100, 4) for _ in range(20)]))
    read = 0
    state = run(State(copy.deepcopy(model), ExampleInputs.of(torch.zeros(2, 4))), Quantize(), Context(workload, model))
    assert read <= SAMPLES // 100 + 2
    assert "384 samples" in state.rows[0].what


def test_no_calibration_data() -> None:
    model = small()
    with pytest.raises(RecipeError, match="pass a Workload with calibration="):
        run(State(model, ExampleInputs.of(X)), Quantize(), Context(None, model))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Quantize(method="best"), "method='best' is unknown; use 'auto', or of equalize, smooth, awq, minmax, average"),
        (Quantize(method=("gptq", "auto")), "'auto' chooses by itself; give it alone"),
        (Quantize(overrides={"head*": "float"}), r"overrides\['head\*'\] names no layer; the layers are 0, 4, 6"),
        (
            Quantize(overrides={"*": "float"}),
            "can be quantised: 0 stays in float: the recipe says so",
        ),
    ],
)
def test_bad_steps(step: Quantize, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        quantize(small(), X, step)


def test_a_model_without_layers() -> None:
    with pytest.raises(RecipeError, match="no operator of it has weights of two or more dimensions"):
        quantize(nn.ReLU(), X, Quantize())


def test_calibration_data_that_break_the_model() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(torch.log(x))  # type: ignore[no-any-return]

    x = torch.rand(4, 3) + 0.1
    with pytest.raises(WorkloadError, match="NaN or infinity at 'log'"):
        quantize(Logarithm(), x, Quantize(), [x - 1, x])
    with pytest.raises(WorkloadError, match="a held-out calibration batch gives NaN or infinity"):
        quantize(Logarithm(), x, Quantize(), [x, x - 1])
