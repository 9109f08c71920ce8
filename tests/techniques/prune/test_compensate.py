"""Refitting after a cut: the closed form, and that it really repairs a network."""

from typing import Any

import pytest
import torch
from torch import nn

from penjing.structure import capture, couple, cut
from penjing.structure.layers import Layer
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.compensate import RIDGES, Rows, fit, install, normal_equations, refit, ridge_correction
from penjing.techniques.rows import draw_places, inputs_at, outputs_at
from penjing.workload import Batch


def regression() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y, initial = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((40, 5), (40, 3), (3, 5)))
    return x, y, initial


def test_the_ridge_solution_has_zero_gradient() -> None:
    x, y, initial = regression()
    gram, moment = normal_equations(x, y - x @ initial.T)
    w = (initial + ridge_correction(gram, moment, 0.1)).requires_grad_()
    damping = 0.1 * (x.T @ x).diagonal().mean()
    loss = ((x @ w.T - y) ** 2).sum() + damping * ((w - initial) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-10


def test_the_intercept_takes_the_means() -> None:
    """y = 2 x + 3 is found exactly although x has a mean, and 3 is the shift of the bias."""
    x = torch.arange(40.0)[:, None] + 100
    held = torch.arange(40) % 4 == 3
    found = fit(Rows(x, 2 * x + 3, held), torch.zeros(1, 1), intercept=True)
    assert found is not None
    assert float(found.weight) == pytest.approx(2, rel=1e-4)
    assert float(found.shift) == pytest.approx(3, abs=0.02)
    assert found.after < 1e-4 < found.before


def test_the_ridge_is_that_which_is_best_on_what_was_held_out() -> None:
    """Twenty noisy rows, fifteen columns: the best of the ridges is neither none nor the strongest."""
    generator = torch.Generator().manual_seed(3)
    x, truth = torch.randn(20, 15, generator=generator), torch.randn(1, 15, generator=generator)
    y = x @ truth.T + 2 * torch.randn(20, 1, generator=generator)
    held = torch.arange(20) % 4 == 3
    found = fit(Rows(x, y, held), torch.zeros(1, 15), intercept=False)
    assert found is not None
    gram, moment = normal_equations(x[~held], y[~held])
    errors = [
        float((x[held] @ ridge_correction(gram, moment, ridge).T.float() - y[held]).norm() / y[held].norm())
        for ridge in RIDGES
    ]
    assert found.after == pytest.approx(min(errors), rel=1e-4)
    assert max(errors) > 1.05 * min(errors), "the choice matters"


def test_without_information_the_weights_stay() -> None:
    gram, moment = normal_equations(torch.zeros(4, 3), torch.zeros(4, 2))
    assert not ridge_correction(gram, moment, 1e-3).any()


def redundant() -> nn.Sequential:
    """A network in which channels 4 to 7 of the first layer are copies of 0 to 3."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[:4]
        model[0].bias[4:] = model[0].bias[:4]
    return model


def test_cutting_copies_costs_nothing_once_refitted() -> None:
    model, x = redundant(), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    coupling = couple(model, x)
    done = cut(coupling, {"0": [4, 5, 6, 7]})
    with torch.no_grad():
        wanted = model(x)
        plain = (done.module(x) - wanted).norm() / wanted.norm()
        weights, refits = refit(coupling.captured, done.captured, done.surgery, [[x]])
        install(done.module, weights)
        refitted = (done.module(x) - wanted).norm() / wanted.norm()
    assert plain > 0.1
    assert refitted < 1e-3
    assert [r.parameter for r in refits] == ["2.weight"]
    assert refits[0].after < refits[0].before


def test_a_refit_helps_a_random_network_on_new_data() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x, new = torch.randn(512, 10), torch.randn(512, 10)
    coupling = couple(model, x)
    done = cut(coupling, {"0": list(range(8)), "2": list(range(8))})
    with torch.no_grad():
        wanted = model(new)
        before = (done.module(new) - wanted).norm()
        weights, refits = refit(coupling.captured, done.captured, done.surgery, [[x]])
        install(done.module, weights)
        after = (done.module(new) - wanted).norm()
    assert len(refits) == 2
    assert after < 0.8 * before


def layer_of(module: nn.Module, x: torch.Tensor) -> Layer:
    captured = capture(module, x)
    found = [layer for node in captured.module.graph.nodes if (layer := Layer.of(node, captured.tensors)) is not None]
    assert len(found) == 1
    return found[0]


def test_patches_at_drawn_places_are_those_of_unfold() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)).eval()
    x = torch.randn(5, 3, 9, 8)
    layer = layer_of(conv, x)
    with torch.no_grad():
        y = conv(x)
        places = draw_places(layer, y, 50, torch.Generator().manual_seed(0))
        rows = inputs_at(layer, x, conv.weight, places)
        every = nn.functional.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 2), stride=(2, 1))
        n, i, j = places
        assert rows.shape == (50, 18)
        assert torch.equal(rows, every[n, :, i * y.shape[3] + j])
        assert torch.allclose(rows @ conv.weight.flatten(1).T + conv.bias, outputs_at(layer, y, places), atol=1e-5)
    assert len({tuple(place) for place in torch.stack(places, 1).tolist()}) == 50, "no place is drawn twice"


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(6, 4), (2, 5, 6)),
        (nn.Conv1d(6, 4, 3, padding="same", dilation=2), (2, 6, 9)),
        (nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 2, 3, 4, 5)),
    ],
)
def test_a_layer_is_rows_times_a_matrix(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = layer_of(module.eval(), x)
    with torch.no_grad():
        y = module(x)
        places = draw_places(layer, y, 10, torch.Generator().manual_seed(1))
        rows = inputs_at(layer, x, module.weight, places)
        assert torch.allclose(rows @ module.weight.flatten(1).T + module.bias, outputs_at(layer, y, places), atol=1e-5)


def test_the_rows_kept_are_few_however_large_the_batch() -> None:
    """What is allocated at once stays near the activations: no unfolded batch, no second copy of every output."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.untyped_storage().nbytes())
            return result

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)).eval()
    x = torch.randn(16, 3, 64, 64)
    coupling = couple(model, x)
    done = cut(coupling, {"0": [1, 2, 3]})
    with Largest() as largest:
        _, refits = refit(coupling.captured, done.captured, done.surgery, [[x]])
    assert len(refits) == 1
    activation = 16 * 16 * 64 * 64 * 4
    assert largest.elements <= 20_000 * 13 * 9 * 8
    assert largest.elements < 13 * 9 * activation / 16, "the whole batch unfolded"


def test_errors_are_those_of_samples_that_were_not_fitted() -> None:
    """192 samples fit 128 columns nearly by heart: what is told must be what new data shows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8)).eval()
    data, new = torch.randn(16, 16, 64).unbind(), torch.randn(2048, 64)
    coupling = couple(model, data[0])
    removed = {"0": list(range(0, 256, 2))}
    done = cut(coupling, removed)
    with torch.no_grad():
        hidden = model[:3](new)
        weights, refits = refit(coupling.captured, done.captured, done.surgery, [[x] for x in data])
        install(done.module, weights)
        smaller = dict(done.module.named_parameters())
        first = nn.functional.relu(nn.functional.linear(new, smaller["0.weight"], smaller["0.bias"]))
        found = nn.functional.linear(first, smaller["2.weight"], smaller["2.bias"])
        truth = float((found - hidden).norm() / (hidden - model[2].bias).norm())
    (told,) = refits
    assert told.after < told.before
    assert abs(told.after - truth) < 0.15 * truth


def test_a_refit_that_is_worse_on_held_out_samples_is_not_taken() -> None:
    """Twelve samples fit noise: the cut channels are independent of those that stay."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(8))
        model[0].bias.zero_()
    x = torch.randn(12, 8)
    coupling = couple(model, x)
    done = cut(coupling, {"0": [0, 1]})
    weights, refits = refit(coupling.captured, done.captured, done.surgery, [[x]])
    assert not weights
    assert not refits


def test_too_few_samples_to_hold_any_out_change_nothing() -> None:
    coupling = couple(redundant(), torch.randn(4, 3, 8, 8))
    done = cut(coupling, {"0": [4, 5]})
    weights, _ = refit(coupling.captured, done.captured, done.surgery, [[torch.randn(2, 3, 8, 8)]])
    assert not weights


def test_dead_weights_stay_dead_and_the_others_are_at_their_optimum() -> None:
    x, y, initial = regression()
    alive = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    initial[~alive] = 0
    gram, moment = normal_equations(x, y - x @ initial.T)
    w = (initial + ridge_correction(gram, moment, 0.1, alive)).requires_grad_()
    assert not w[~alive].any()
    damping = 0.1 * (x.T @ x).diagonal().mean()
    (gradient,) = torch.autograd.grad(((x @ w.T - y) ** 2).sum() + damping * ((w - initial) ** 2).sum(), w)
    assert gradient[alive].abs().max() < 1e-10
    assert gradient[~alive].abs().max() > 1


def test_a_weight_with_two_readers_is_left_alone_under_either_name() -> None:
    torch.manual_seed(0)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x).relu()
            return self.a(h) + self.b(h).tanh()

    x = torch.randn(64, 4)
    coupling = couple(Tied(), x)
    done = cut(coupling, {"first": [0, 1, 2]})
    weights, _ = refit(coupling.captured, done.captured, done.surgery, [[x]])
    assert not weights


def test_calibration_takes_several_batches_but_not_without_end() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    captured = capture(model, torch.zeros(2, 4))
    batches = [Batch((torch.zeros(1000, 4),), {}) for _ in range(10)]
    assert len(list(affordable(batches, captured, torch.device("cpu")))) == 4
    wide = capture(nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU()), torch.zeros(2, 1, 128, 128))
    batches = [Batch((torch.zeros(40, 1, 1, 1),), {}) for _ in range(10)]
    assert len(list(affordable(batches, wide, torch.device("cpu")))) == 1, "64 x 128 x 128 x 64 is the limit"
