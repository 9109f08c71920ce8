"""LSTMs in integers: the same number in torch and in the kernel of ONNX Runtime, near what they were in float."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import Quantize
from penjing.runtimes import export, load, parity
from penjing.techniques import Outcome, apply, restore
from penjing.workload import Workload

X = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    """Layers that give their outputs and their last states."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, calls: int = 1, **settings: Any) -> None:
        super().__init__()
        self.inner, self.calls = kind(12, 12, **settings), calls

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        states: Any = None
        for _ in range(self.calls):
            x, states = self.inner(x, states)
        return (x, *states) if isinstance(states, tuple) else (x, states)


def quantized(**settings: Any) -> tuple[nn.Module, Outcome]:
    torch.manual_seed(0)
    model = Recurrent(**settings).eval()
    return model, apply(model, Quantize("int8-dynamic", method="nearest"), X)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_first": True},
        {"batch_first": True, "bidirectional": True, "num_layers": 2},
        {"num_layers": 3, "bias": False},
        {"bidirectional": True},
    ],
    ids=str,
)
def test_the_runtime_computes_the_simulation(settings: dict[str, Any], tmp_path: Path) -> None:
    model, outcome = quantized(**settings)
    with torch.no_grad():
        ours, real = outcome.model(X), model(X)
    for mine, theirs in zip(ours, real, strict=True):
        assert 0 < float((mine - theirs).norm() / theirs.norm()) < 0.02
    free = None if settings.get("batch_first") else {}
    export(outcome.model, X, tmp_path / "file", dynamic_shapes=free)
    for mine, deployed in zip(ours, load(tmp_path / "file")(X), strict=True):
        torch.testing.assert_close(mine, deployed, rtol=1e-5, atol=1e-6)
    nodes = onnx.load(tmp_path / "file" / "model.onnx").graph.node
    assert [node.op_type for node in nodes].count("DynamicQuantizeLSTM") == settings.get("num_layers", 1)


def test_parity_knows_the_kernel_and_a_saved_model_comes_back(tmp_path: Path) -> None:
    _, outcome = quantized(batch_first=True)
    (row,) = parity(outcome, X).layers
    assert (row.layer, row.wanted, row.runs, row.kernel) == ("inner", "int8", "int8", "DynamicQuantizeLSTM")
    outcome.save(tmp_path / "saved")
    assert torch.equal(restore(None, tmp_path / "saved")(X)[0], outcome.model(X)[0])


def test_an_lstm_gives_to_layers_of_other_schemes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(12, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0])  # type: ignore[no-any-return]

    torch.manual_seed(0)
    data = [torch.randn(16, 5, 12) for _ in range(3)]
    step = Quantize("int8", method="minmax", overrides={"lstm": "int8-dynamic"})
    found = parity(apply(Workload(Mixed().eval(), X, calibration=data), step), X)
    assert found.passed
    assert [(row.layer, row.runs) for row in found.layers] == [("lstm", "int8"), ("head", "int8")]


@pytest.mark.parametrize(
    "settings",
    [{"kind": nn.GRU}, {"kind": nn.RNN}, {"calls": 2, "batch_first": True}, {"proj_size": 4}],
    ids=["gru", "rnn", "called twice", "projected"],
)
def test_what_has_no_kernel_stores_its_weights_alone(settings: dict[str, Any]) -> None:
    model, outcome = quantized(**settings)
    assert any(row.what == "weights in int8 that are computed with in float: inner" for row in outcome.log)
    with torch.no_grad():
        ours, real = outcome.model(X)[0], model(X)[0]
    assert 0 < float((ours - real).norm() / real.norm()) < 0.02
