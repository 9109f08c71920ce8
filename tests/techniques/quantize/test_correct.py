"""Bias correction: means come back, layer by layer, and what does not help is left out."""

import pytest
import torch
from torch import Tensor, fx, nn

from penjing.recipe import Quantize
from penjing.structure import capture
from penjing.techniques import apply
from penjing.techniques.quantize.calibrate import observe, signal_to_noise_db
from penjing.techniques.quantize.correct import _means, correct_biases
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.observers import min_max
from penjing.techniques.quantize.technique import prepare
from penjing.workload import Workload

Batches = list[tuple[Tensor, ...]]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 4),
    ).eval()


def batches(count: int = 3) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=generator),) for _ in range(count)]


def quantized(model: nn.Module, seen: Batches) -> tuple[fx.GraphModule, fx.GraphModule, frozenset[str]]:
    captured = capture(model, seen[0])
    plan, _ = prepare(captured.module, {})
    histograms = observe(captured.module, set(plan.stored.values()), seen)
    ranges = {name: min_max(histogram) for name, histogram in histograms.items()}
    return captured.module, insert(captured.module, plan, ranges), plan.layers


def test_every_layer_has_the_mean_that_it_had_in_float() -> None:
    seen = batches()
    reference, candidate, layers = quantized(network(), seen)
    corrected = correct_biases(reference, candidate, layers, seen)
    wanted, before, after = (_means(each, layers, seen) for each in (reference, candidate, corrected))
    assert len(wanted) == 3
    off = {name: float((before[name] - mean).detach().abs().max()) for name, mean in wanted.items()}
    left = {name: float((after[name] - mean).detach().abs().max()) for name, mean in wanted.items()}
    assert max(left.values()) < 5e-5, "half a step of a bias"
    assert all(left[name] < 0.3 * off[name] for name in off)


def test_the_given_graph_stays_as_it_is() -> None:
    seen = batches()
    reference, candidate, layers = quantized(network(), seen)
    before = candidate(*seen[0])
    correct_biases(reference, candidate, layers, seen)
    torch.testing.assert_close(candidate(*seen[0]), before, rtol=0, atol=0)


def test_a_shift_that_all_samples_share_is_taken_back() -> None:
    """Weights that all round down, on inputs that are nearly constant: the error is a mean and nothing else."""
    model = nn.Sequential(nn.Linear(32, 4)).eval()
    with torch.no_grad():
        model[0].weight.fill_(0.5 + 0.3 / 127)  # 63.8 steps of 1 / 127, beside a single 1 that sets the step
        model[0].weight[:, 0] = 1.0
    seen = [(1 + 0.01 * torch.randn(64, 32),)]
    reference, candidate, layers = quantized(model, seen)
    corrected = correct_biases(reference, candidate, layers, seen)
    gains = [signal_to_noise_db(reference, each, seen) for each in (candidate, corrected)]
    assert gains[1] > gains[0] + 6


@pytest.mark.parametrize("seed", [0, 1])
def test_auto_says_whether_it_is_kept_and_keeps_what_is_nearer(seed: int) -> None:
    torch.manual_seed(seed)
    data = [(x,) for (x,) in batches(4)]
    outcome = apply(Workload(network(), data[0], calibration=data), Quantize())
    (row,) = [row.what for row in outcome.log if row.what.startswith("bias correction")]
    (best,) = [row.what for row in outcome.log if "(kept)" in row.what and row.what.startswith("ranges")]
    corrected, plain = (float(text.split("outputs ")[1].split(" dB")[0]) for text in (row, best))
    assert ("kept" in row.split(":")[0]) == (corrected > plain) or corrected == pytest.approx(plain, abs=0.1)
