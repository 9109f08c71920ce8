"""Schemes are data; each quantises, exports, and is the same number in torch and in the runtime."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from penjing.errors import RecipeError, RuntimeUnavailable, WorkloadError
from penjing.recipe import SCHEMES, Grid, Quantize, Recipe, Scheme
from penjing.runtimes import export, load
from penjing.techniques import Outcome, apply
from penjing.techniques.quantize import int8_layers
from penjing.techniques.quantize.weights import dequantize, fit, groups_of, quantize
from penjing.workload import Workload


class Net(nn.Module):
    """Embedding, recurrent layers, linear, and convolutions both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(200, 96), nn.LSTM(96, 96, batch_first=True)
        self.gru, self.up = nn.GRU(96, 96, batch_first=True), nn.ConvTranspose1d(96, 96, 2)
        self.linear, self.conv = nn.Linear(96, 128), nn.Conv1d(128, 96, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.lstm(self.embed(ids))[0]
        x = self.gru(x)[0]
        x = self.linear(self.up(x.mT).mT).relu()
        return self.conv(x.mT)  # type: ignore[no-any-return]


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


IDS = torch.randint(200, (4, 7), generator=torch.Generator().manual_seed(0))


def quantized(model: nn.Module, step: Quantize, x: Tensor = IDS) -> Outcome:
    generator = torch.Generator().manual_seed(1)
    data = [torch.randint(200, (16, 7), generator=generator) for _ in range(3)]
    return apply(Workload(model, x, calibration=data), step)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_is_the_same_number_in_the_runtime(scheme: str, tmp_path: Path) -> None:
    model = net()
    outcome = quantized(model, Quantize(scheme, method="minmax"))
    ours = outcome.model(IDS).detach()
    off = float((ours - model(IDS)).norm() / model(IDS).norm())
    assert 0 < off < {4: 0.5, 3: 0.5, 2: 1.0}.get(SCHEMES[scheme].weight.bits, 0.1)
    export(outcome.model, IDS, tmp_path / "file")
    difference = np.abs(np.asarray(load(tmp_path / "file")(IDS)) - ours.numpy()).max()
    assert difference < (2e-6 if SCHEMES[scheme].activation is None else 0.02 * float(ours.abs().max()))
    tensors = onnx.load(tmp_path / "file" / "model.onnx").graph.initializer
    sizes = {t.data_type for t in tensors}
    wanted = {
        "int8": onnx.TensorProto.INT8,
        "uint8": onnx.TensorProto.UINT8,
        **{f"int{bits}": onnx.TensorProto.INT4 for bits in (4, 3, 2)},
        **{f"uint{bits}": onnx.TensorProto.UINT4 for bits in (4, 3, 2)},
        "fp16": onnx.TensorProto.FLOAT16,
        "bf16": onnx.TensorProto.BFLOAT16,
        "fp8": onnx.TensorProto.FLOAT8E4M3FN,
    }
    assert wanted[SCHEMES[scheme].weight.type] in sizes
    large = [t for t in tensors if torch.Size(t.dims).numel() > 9000]  # the exporter folds what is small
    assert len(large) >= 8
    assert not [t.name for t in large if t.data_type == onnx.TensorProto.FLOAT]


def test_overrides_mix_schemes() -> None:
    outcome = quantized(net(), Quantize("int8", "minmax", {"lstm": "w4", "linear": "float", "embed": "fp16"}))
    packed = [row.what for row in outcome.log if "computed with in float" in row.what]
    assert "weights in int4 that are computed with in float: lstm" in packed
    assert "weights in fp16 that are computed with in float: embed" in packed
    assert "linear.weight" in dict(outcome.model.named_parameters())
    assert int8_layers(outcome.model) == ("conv",)


def test_dynamic_layers_find_their_range_at_each_call() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    x = torch.randn(8, 16)
    outcome = apply(model, Quantize("int8-dynamic", method="nearest"), x)
    for size in (1.0, 1e4):
        error = (outcome.model(size * x) - model(size * x)).norm() / model(size * x).norm()
        assert 0 < error < 0.02


def test_a_scheme_that_the_runtime_lacks_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    outcome = apply(nn.Sequential(nn.Linear(16, 8)).eval(), Quantize("int8-dynamic", "nearest"), torch.randn(2, 16))
    with pytest.raises(
        RuntimeUnavailable, match=r"'int8-dynamic' layers; it runs int8, weights of few bits.*onnxruntime"
    ):
        export(outcome.model, torch.randn(2, 16), tmp_path / "file", "openvino")
    assert not (tmp_path / "file").exists()


def test_weights_alone_need_no_data() -> None:
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    assert apply(model, Quantize("w8"), torch.randn(2, 16)).model(torch.zeros(1, 16)).shape == (1, 8)
    with pytest.raises(RecipeError, match="needs calibration data"):
        apply(model, Quantize("w8", method="gptq"), torch.randn(2, 16))


def test_equalisation_needs_no_data_either() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    outcome = apply(model, Quantize("w8", method="equalize"), torch.randn(2, 16))
    assert any("1 pairs of layers equalised" in row.what for row in outcome.log)
    assert torch.allclose(outcome.model(torch.ones(1, 16)), model(torch.ones(1, 16)), atol=0.05)


def test_zeros_stay_zero() -> None:
    """A pruned weight is zero on every symmetric grid, and on those with a zero point."""
    torch.manual_seed(0)
    weight = torch.randn(8, 64)
    weight[torch.rand(8, 64) < 0.7] = 0
    for scheme in SCHEMES.values():
        params = fit(weight, scheme.weight)
        real = dequantize(quantize(weight, params, scheme.weight), params)
        assert bool((real[weight == 0] == 0).all())


def test_groups() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 96) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(32)
    errors = {}
    for name in ("w4", "w4-g32"):
        grid = SCHEMES[name].weight
        params = fit(weight, grid)
        real = dequantize(quantize(weight, params, grid), params)
        errors[name] = float((real - weight)[:, :32].norm())
    assert errors["w4-g32"] < 0.1 * errors["w4"]
    assert groups_of(100, SCHEMES["w4-g32"].weight) == 1, "inputs that do not divide evenly are one group"


def test_schemes_of_ones_own_survive_yaml() -> None:
    own = Scheme(Grid("uint4", symmetric=False, granularity="group", group=16))
    recipe = Recipe([Quantize(own, method=("awq", "gptq"), overrides={"head": own, "stem": "w8"})])
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid("int5"), "type='int5' is unknown; use one of int8"),
        (lambda: Grid("int8", symmetric=False), "use 'uint8'"),
        (lambda: Grid("fp16", symmetric=False), "no zero point"),
        (lambda: Grid("int4", group=32), "a group size goes with 'group' alone"),
        (lambda: Grid("int4", granularity="group", group=1), "must be at least 2"),
        (lambda: Scheme(Grid("int8"), dynamic=True), "needs activation="),
        (lambda: Scheme(Grid("int8"), Grid("int8")), "no integer kernel takes it"),
        (lambda: Scheme(Grid("int8"), SCHEMES["w4a4"].activation, dynamic=True), "no integer kernel takes it"),
        (
            lambda: Scheme(Grid("fp16"), SCHEMES["int8"].activation),
            "integer kernels take 'int8', 'int4', 'int3' or 'int2'",
        ),
        (lambda: Quantize(overrides={"a": "int3"}), r"overrides\['a'\]='int3' is unknown"),
        (lambda: Quantize(method=()), "names nothing"),
    ],
)
def test_impossible_schemes(make: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make()  # type: ignore[operator]


def test_calibration_data_that_never_change_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WorkloadError, match="every value of every calibration batch is 1"):
        apply(Workload(model, torch.ones(2, 4), calibration=[torch.ones(8, 4)] * 5), Quantize())
    with pytest.raises(WorkloadError, match="empty"):
        apply(Workload(model, torch.ones(2, 4), calibration=[torch.ones(0, 4)]), Quantize())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_few_samples_are_warned_of() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    outcome = apply(Workload(model, torch.ones(2, 4), calibration=[torch.randn(8, 4)]), Quantize(method="minmax"))
    (row,) = (row for row in outcome.log if "samples alone" in row.what)
    assert row.fell_back
    assert "32 would do" in row.what
