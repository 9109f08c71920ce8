"""The trained form of a quantised model computes what the stored form computes, before, while and after it trains."""

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import penjing as pj
from penjing.errors import RecipeError
from penjing.recipe import Recipe
from penjing.structure import capture
from penjing.techniques import recover
from penjing.techniques.apply import check
from penjing.techniques.cluster import refitted
from penjing.techniques.quantize.fake import RULES
from penjing.techniques.quantize.trainable import Trainable
from penjing.techniques.state import State

SCHEMES = ("int8", "int8-tensor", "w2a8", "w4a4", "int8-dynamic", "w8", "w4-asymmetric", "w3", "w4-g32")
CASES = [(scheme, "lsq") for scheme in SCHEMES] + [(scheme, rule) for scheme in ("w4a8", "w4") for rule in RULES]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body, self.twice, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.body(x))
        x = self.twice(F.relu(self.twice(x)))
        return self.head(F.adaptive_max_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    model = Net().eval()
    x = torch.randn(160, 2, 6, 6)
    labels = (10 * x.mean((1, 2, 3))).round().clamp(-1, 1).long() + 1
    data = [(a, b) for a, b in zip(x.split(16), labels.split(16), strict=True)]
    return pj.Workload(
        model,
        x[:4],
        train=data[:6],
        evaluation=data[6:8],
        certificate=data[8:],
        calibration=[x[:32]],
        loss=F.cross_entropy,
    )


@pytest.fixture(scope="module")
def quantized(workload: pj.Workload) -> Callable[[str], nn.Module]:
    @cache
    def of(scheme: str) -> nn.Module:
        method = "nearest" if scheme.startswith("w") and "a" not in scheme else "minmax"
        return pj.apply(workload, pj.Quantize(scheme, method)).model

    return lambda scheme: copy.deepcopy(of(scheme))


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = model.eval()(x)
    return y


@pytest.mark.parametrize(("scheme", "rule"), CASES)
def test_there_and_back_changes_nothing(
    workload: pj.Workload, quantized: Callable[[str], nn.Module], scheme: str, rule: str
) -> None:
    model = quantized(scheme)
    trainable = Trainable(capture(model, workload.example), RULES[rule])
    x = torch.randn(7, 2, 6, 6)
    assert torch.allclose(outputs(trainable.model, x), outputs(model, x), atol=1e-4)
    buffers = dict(model.named_buffers())
    stored = trainable.stored()
    assert any(name.endswith("scale") for name in stored)
    for name, value in stored.items():
        assert value.dtype == buffers[name].dtype
        assert torch.allclose(value.double(), buffers[name].double(), rtol=1e-6), name


@pytest.mark.parametrize(("scheme", "rule"), CASES)
def test_what_was_trained_is_what_is_stored(
    workload: pj.Workload, quantized: Callable[[str], nn.Module], scheme: str, rule: str
) -> None:
    model = quantized(scheme)
    trainable = Trainable(capture(model, workload.example), RULES[rule])
    optimizer = torch.optim.SGD(trainable.model.parameters(), lr=0.05)
    for batch in workload.train_batches():
        optimizer.zero_grad()
        F.cross_entropy(trainable.model(*batch.args), batch.target).backward()
        optimizer.step()
    x = torch.randn(50, 2, 6, 6)
    before, trained = outputs(model, x), outputs(trainable.model, x)
    model.load_state_dict({**model.state_dict(), **trainable.stored()})
    after = outputs(model, x)
    assert not torch.allclose(before, after, atol=1e-2)
    assert (after - trained).square().mean() < 1e-4 * trained.square().mean()


def test_calls_of_one_module_train_one_weight_and_one_scale(
    workload: pj.Workload, quantized: Callable[[str], nn.Module]
) -> None:
    trainable = Trainable(capture(quantized("int8"), workload.example), RULES["lsq"])
    weights = [name for name, _ in trainable.model.named_parameters() if name.startswith("twice.weight")]
    assert weights == ["twice.weight", "twice.weight_scale_learnt"]
    assert {"twice.weight_scale", "twice.weight_scale_1"} <= set(trainable.stored())


@pytest.mark.parametrize("scheme", ["w2a8", "w2"])
def test_training_brings_back_what_few_bits_have_lost(workload: pj.Workload, scheme: str) -> None:
    steps = [pj.Quantize(scheme, "minmax"), pj.Finetune(epochs=8, lr=0.02, precision="fp32", distill_weight=1.0)]
    x = torch.cat([batch.args[0] for batch in workload.train_batches()])
    y = outputs(workload.model, x)

    def error(model: nn.Module) -> float:
        return float((outputs(model, x) - y).square().mean())

    outcome = pj.apply(workload, steps)
    assert "quantised, rounding by lsq" in outcome.log[-1].what
    assert error(outcome.model) < 0.8 * error(pj.apply(workload, steps[:1]).model)


@pytest.mark.parametrize(("scheme", "name"), [("w4a8", "stem.weight_int4"), ("w4", "stem.folded_weight_packed_int4")])
def test_zeros_stay_zeros(workload: pj.Workload, scheme: str, name: str) -> None:
    steps = [pj.Sparsify(0.7), pj.Quantize(scheme, "minmax"), pj.Finetune(epochs=2, lr=0.05, precision="fp32")]
    outcome = pj.apply(workload, steps)
    mask = outcome.masks["stem.weight"]
    stored = dict(outcome.model.named_buffers())[name]
    assert not stored[~mask].any()
    assert stored[mask].any()


def test_palettes_of_what_stayed_in_float_are_kept(workload: pj.Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[int] = []

    def counted(state: State) -> State:
        values.append(state.model.get_parameter("head.weight").unique().numel())
        return refitted(state)

    monkeypatch.setattr(recover, "refitted", counted)
    steps = [
        pj.Cluster(2, start="linear"),
        pj.Quantize("int8", "minmax", {"head": "float"}),
        pj.Finetune(epochs=2, lr=0.05, precision="fp32"),
    ]
    before, after = pj.apply(workload, steps[:2]), pj.apply(workload, steps)
    assert not torch.equal(before.model.get_parameter("head.weight"), after.model.get_parameter("head.weight"))
    assert len(values) == 1
    assert values[0] <= 4, "as it trained, not only when it was stored"
    assert "head.weight" in after.palettes


@pytest.mark.parametrize("scheme", ["w4a4", "w3", "int8-dynamic"])
def test_the_file_is_what_was_trained(workload: pj.Workload, scheme: str, tmp_path: object) -> None:
    model = pj.apply(workload, [pj.Quantize(scheme, "minmax"), pj.Finetune(epochs=1, precision="fp32")]).model
    session = pj.export(model, workload.example, f"{tmp_path}/a").load()
    x = torch.randn(9, 2, 6, 6)
    expected, found = outputs(model, x), session(x)
    assert float(np.sqrt(np.mean((expected - found).numpy() ** 2))) < 0.02 * float(expected.std())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scheme", ["int8", "w4a4"])
def test_parity_holds_after_training(workload: pj.Workload, scheme: str, runtime: str) -> None:
    outcome = pj.apply(workload, [pj.Quantize(scheme, "minmax"), pj.Finetune(epochs=1, precision="fp32")])
    found = pj.parity(outcome, torch.randn(40, 2, 6, 6), runtime)
    worst = min(boundary.alone if boundary.explained is None else boundary.explained for boundary in found.boundaries)
    assert worst >= 0.999


def test_it_is_resumed(workload: pj.Workload, tmp_path: object) -> None:
    steps = [pj.Quantize("w4a8", "minmax"), pj.Finetune(epochs=1, precision="fp32")]
    first = pj.apply(workload, steps, resume_dir=f"{tmp_path}/run").model.state_dict()
    again = pj.apply(workload, steps, resume_dir=f"{tmp_path}/run").model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_floats_of_few_bits_are_refused(workload: pj.Workload) -> None:
    with pytest.raises(RecipeError, match=r"trains integers, and 'stem.folded_weight_packed' is torch.float8_e4m3fn"):
        pj.apply(workload, [pj.Quantize("fp8"), pj.Finetune()])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_an_lstm_in_integers_is_refused() -> None:
    x = torch.randn(40, 3, 4)
    data = [(x, torch.zeros(40, dtype=torch.long))]
    apart = [(x + 1, torch.zeros(40, dtype=torch.long))]
    w = pj.Workload(Recurrent().eval(), x[:2], train=data, evaluation=apart, loss=F.cross_entropy)
    with pytest.raises(RecipeError, match="trains no LSTM in int8-dynamic; give it 'w8' by overrides"):
        pj.apply(w, [pj.Quantize("int8-dynamic", "nearest"), pj.Finetune()])


@pytest.mark.parametrize("more", [{"regularize": pj.Regularize("l1")}, {"drop_filters": 0.1}])
def test_what_is_for_floats_is_refused(workload: pj.Workload, more: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="are for floats; train so before Quantize"):
        pj.apply(workload, [pj.Quantize("int8", "minmax"), pj.Finetune(**more)])  # type: ignore[arg-type]


def test_only_training_may_follow(workload: pj.Workload) -> None:
    check(Recipe([pj.Quantize(), pj.Finetune()]), workload)
    with pytest.raises(RecipeError, match="step 1 \\(sparsify\\) comes after quantize, which only training may follow"):
        check(Recipe([pj.Quantize(), pj.Sparsify()]), workload)


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(RecipeError, match="rounding='best' is unknown; use one of lsq, lsq\\+, pact"):
        pj.Finetune(rounding="best")
