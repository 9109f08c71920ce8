"""Layers are mended one by one: means come back, and weights are rounded so that outputs stay."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from penjing.recipe import Quantize
from penjing.structure import capture
from penjing.techniques import apply
from penjing.techniques.quantize.calibrate import Reference, observe
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.observers import min_max
from penjing.techniques.quantize.quick import quick
from penjing.techniques.quantize.reconstruct import adaround, blocks, parts
from penjing.techniques.quantize.refine import Rounding, correct_biases, round_by_gptq
from penjing.techniques.quantize.technique import prepare
from penjing.techniques.quantize.walk import Walk
from penjing.workload import Workload

Batches = list[tuple[Tensor, ...]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding="same", groups=8, dilation=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(64, 4),
    ).eval()


def batches(count: int = 3, seed: int = 1) -> Batches:
    """Pictures with structure: neighbours are alike, and so are the channels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = [torch.randn(8, 1, 3, 3, generator=generator) for _ in range(count)]
    wide = [nn.functional.interpolate(x, size=(6, 6), mode="bilinear") for x in coarse]
    return [(x + 0.2 * torch.randn(8, 3, 6, 6, generator=generator),) for x in wide]


def quantized(model: nn.Module, seen: Batches, scheme: str = "int8") -> tuple[fx.GraphModule, fx.GraphModule, set[str]]:
    captured = capture(model, seen[0])
    plan, _ = prepare(captured.module, scheme)
    histograms = observe(captured.module, set(plan.stored.values()), seen)
    ranges = {name: min_max(histogram) for name, histogram in histograms.items()}
    layers = {node.name for node in captured.module.graph.nodes if node.name.startswith(("conv", "linear"))}
    return captured.module, insert(captured.module, plan, ranges), layers


def outputs(module: fx.GraphModule, name: str, seen: Batches) -> Tensor:
    (found,) = (node for node in module.graph.nodes if node.name == name)
    walk = Walk(module, seen)
    return torch.cat([walk.before(found.next, i)[found] for i in range(len(seen))]).double()


@pytest.fixture
def flat_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places count alike."""
    from penjing.techniques.quantize import refine

    drawn = refine.draw_places
    monkeypatch.setattr(
        refine,
        "draw_places",
        lambda *args: {
            name: [replace(each, weights=torch.ones_like(each.weights)) for each in places]
            for name, places in drawn(*args).items()
        },
    )


def test_every_layer_has_the_mean_that_it_had_in_float(flat_weights: None) -> None:
    seen = batches()
    reference, candidate, layers = quantized(network(), seen)
    corrected = correct_biases(reference, candidate, seen)
    assert len(layers) == 4
    for name in layers:
        dims = (0,) if name == "linear" else (0, 2, 3)
        wanted, before, after = (outputs(each, name, seen).mean(dims) for each in (reference, candidate, corrected))
        left = (after - wanted).abs().max()
        assert left < 5e-5, "half a step of a bias"
        assert left < 0.3 * (before - wanted).abs().max()


def test_the_given_graph_stays_as_it_is() -> None:
    seen = batches()
    reference, candidate, _ = quantized(network(), seen)
    before = candidate(*seen[0])
    round_by_gptq(reference, candidate, seen)
    torch.testing.assert_close(candidate(*seen[0]), before, rtol=0, atol=0)


@pytest.mark.parametrize("scheme", ["w4a8", "w4", "w4-asymmetric", "w4-g32"])
def test_gptq_brings_outputs_of_other_inputs_nearer(scheme: str) -> None:
    seen, others = batches(12), batches(4, seed=2)
    reference, candidate, _ = quantized(network(), seen, scheme)
    judge = Reference(reference, others)
    plain, corrected, rounded = (
        judge.decibel(each)
        for each in (candidate, correct_biases(reference, candidate, seen), round_by_gptq(reference, candidate, seen))
    )
    assert rounded > corrected + 1 > plain


@pytest.mark.parametrize("rounding", [adaround, blocks])
def test_learnt_roundings_bring_outputs_of_other_inputs_nearer(rounding: Rounding) -> None:
    seen, others = batches(12), batches(4, seed=2)
    reference, candidate, _ = quantized(network(), seen, "w4")
    judge = Reference(reference, others)
    assert judge.decibel(rounding(reference, candidate, seen)) > judge.decibel(candidate) + 2


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.c((y + self.b(y)).relu().flatten(1))  # type: ignore[no-any-return]


def test_blocks_end_where_the_network_is_one_tensor_wide() -> None:
    torch.manual_seed(0)
    _, candidate, layers = quantized(Residual().eval(), batches())
    found = [(part.layers[0].name, part.last.name) for part in parts(quick(candidate), sorted(layers), by_block=True)]
    assert found == [("conv2d", "conv2d"), ("conv2d_1", "add"), ("linear", "linear")], "a block ends with its sum"
    single = [part.last.name for part in parts(quick(candidate), sorted(layers), by_block=False)]
    assert single == ["conv2d", "conv2d_1", "linear"]


def test_a_shift_that_all_samples_share_is_taken_back() -> None:
    """Weights that all round down, on inputs that are nearly constant: the error is a mean and nothing else."""
    model = nn.Sequential(nn.Linear(32, 4)).eval()
    with torch.no_grad():
        model[0].weight.fill_(0.5 + 0.3 / 127)  # 63.8 steps of 1 / 127, beside a single 1 that sets the step
        model[0].weight[:, 0] = 1.0
    seen = [(1 + 0.01 * torch.randn(64, 32),)]
    reference, candidate, _ = quantized(model, seen)
    judge = Reference(reference, seen)
    assert judge.decibel(correct_biases(reference, candidate, seen)) > judge.decibel(candidate) + 6


@pytest.mark.parametrize("seed", [0, 1])
def test_auto_keeps_what_is_nearer_and_says_by_how_much(seed: int) -> None:
    torch.manual_seed(seed)
    data = [(x,) for (x,) in batches(4)]
    outcome = apply(Workload(network(), data[0], calibration=data), Quantize())
    rows = [row.what for row in outcome.log if row.what.endswith(" dB")]
    assert rows[0].startswith("weights rounded by gptq")
    for row in rows:
        assert ("(kept)" in row) == (float(row.rsplit(", ", 1)[1].removesuffix(" dB")) > 0) or "+0.0" in row
    assert any(row.startswith("bias correction") for row in rows) == ("left out" in rows[0])
