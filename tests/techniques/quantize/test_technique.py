"""The Quantize step: what it keeps, what it says, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Quantize
from penjing.techniques.quantize import run
from penjing.techniques.quantize.technique import CALIBRATION_SAMPLES
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
    assert len(tried) == 3
    assert kept.count(True) == 1
    assert decibel[kept.index(True)] == max(decibel) > 25
    assert "4 held-out samples" in tried[0]
    assert rows[0].what.startswith("3 layers run in int8")
    assert "12 samples" in rows[0].what


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
    (row,) = [row for row in state.rows if "as the recipe says" in row.what]
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
    assert any("its weight is computed" in what for what in said)
    assert {what.split(" stays")[0] for what in said} >= {"layer_norm", "embedding", "add"}


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
    assert read <= CALIBRATION_SAMPLES // 100 + 2
    assert "412 samples" in state.rows[0].what or "400 samples" in state.rows[0].what


def test_no_calibration_data() -> None:
    model = small()
    with pytest.raises(RecipeError, match="pass a Workload with calibration="):
        run(State(model, ExampleInputs.of(X)), Quantize(), Context(None, model))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Quantize(method="best"), "method='best' is unknown; use 'auto' or one of minmax, percentile, mse"),
        (Quantize(overrides={"0": "int4"}), r"overrides\['0'\]='int4' is unknown; use 'float'"),
        (Quantize(overrides={"head*": "float"}), r"overrides\['head\*'\] names no layer; the layers are 0, 4, 6"),
        (
            Quantize(overrides={"*": "float"}),
            "can run in int8: 0 stays in float as the recipe says",
        ),
    ],
)
def test_bad_steps(step: Quantize, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        quantize(small(), X, step)


def test_a_model_without_layers() -> None:
    with pytest.raises(RecipeError, match="it has no convolution and no linear"):
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
