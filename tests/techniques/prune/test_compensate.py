"""Refitting after a cut: the closed form, and that it really repairs a network."""

from typing import Any

import torch
from torch import nn

from penjing.structure import capture, couple, cut
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.compensate import install, refit, ridge_fit
from penjing.techniques.prune.rows import CONV, draw_places, inputs_at, outputs_at
from penjing.workload import Batch


def test_the_ridge_solution_has_zero_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, initial = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((40, 5), (40, 3), (3, 5)))
    ridge = 0.1
    w = ridge_fit(x, y, initial, ridge).requires_grad_()
    damping = ridge * (x.T @ x).diagonal().mean()
    loss = ((x @ w.T - y) ** 2).sum() + damping * ((w - initial) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert gradient.abs().max() < 1e-10


def test_without_information_the_weights_stay() -> None:
    initial = torch.ones(2, 3, dtype=torch.float64)
    assert torch.allclose(ridge_fit(torch.zeros(4, 3).double(), torch.zeros(4, 2).double(), initial), initial)


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
        weights, refits = refit(coupling.captured.module, done.module, done.surgery, [[x]], ridge=1e-6)
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
        weights, refits = refit(coupling.captured.module, done.module, done.surgery, [[x]])
        install(done.module, weights)
        after = (done.module(new) - wanted).norm()
    assert len(refits) == 2
    assert after < 0.8 * before


def test_patches_at_drawn_places_are_those_of_unfold() -> None:
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)).eval()
    x = torch.randn(5, 3, 9, 8)
    graph = capture(conv, x).module.graph
    node = next(node for node in graph.nodes if node.target is CONV)
    with torch.no_grad():
        y = conv(x)
        arguments = (x, conv.weight, conv.bias, *node.args[3:])
        places = draw_places(node, y, 50, torch.Generator().manual_seed(0))
        rows = inputs_at(node, arguments, places)
        every = nn.functional.unfold(x, (3, 2), dilation=(1, 2), padding=(1, 2), stride=(2, 1))
        n, i, j = places
        assert rows.shape == (50, 18)
        assert torch.equal(rows, every[n, :, i * y.shape[3] + j])
        assert torch.allclose(rows @ conv.weight.flatten(1).T + conv.bias, outputs_at(node, y, places), atol=1e-5)
    assert len({tuple(place) for place in torch.stack(places, 1).tolist()}) == 50, "no place is drawn twice"


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
        _, refits = refit(coupling.captured.module, done.module, done.surgery, [[x]])
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
        weights, refits = refit(coupling.captured.module, done.module, done.surgery, [[x] for x in data])
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
    weights, refits = refit(coupling.captured.module, done.module, done.surgery, [[x]], ridge=1e-9)
    assert not weights
    assert not refits


def test_too_few_samples_to_hold_any_out_change_nothing() -> None:
    coupling = couple(redundant(), torch.randn(4, 3, 8, 8))
    done = cut(coupling, {"0": [4, 5]})
    weights, _ = refit(coupling.captured.module, done.module, done.surgery, [[torch.randn(2, 3, 8, 8)]])
    assert not weights


def test_dead_weights_stay_dead_and_the_others_are_at_their_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, initial = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((40, 5), (40, 3), (3, 5)))
    alive = torch.rand(3, 5, generator=generator) < 0.6
    initial[~alive] = 0
    w = ridge_fit(x, y, initial, 0.1, alive).requires_grad_()
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
    weights, _ = refit(coupling.captured.module, done.module, done.surgery, [[x]])
    assert not weights


def test_calibration_takes_several_batches_but_not_without_end() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    captured = capture(model, torch.zeros(2, 4))
    batches = [Batch((torch.zeros(1000, 4),), {}) for _ in range(10)]
    assert len(list(affordable(batches, captured, torch.device("cpu")))) == 4
    wide = capture(nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU()), torch.zeros(2, 1, 128, 128))
    batches = [Batch((torch.zeros(40, 1, 1, 1),), {}) for _ in range(10)]
    assert len(list(affordable(batches, wide, torch.device("cpu")))) == 1, "64 x 128 x 128 x 64 is the limit"
