"""Refitting after a cut: the closed form, and that it really repairs a network."""

import torch
from torch import nn

from penjing.structure import couple, cut
from penjing.techniques.prune.compensate import install, refit, ridge_fit


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
        weights, refits = refit(coupling.captured.module, done.module, done.surgery, [x], ridge=1e-6)
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
        weights, refits = refit(coupling.captured.module, done.module, done.surgery, [x])
        install(done.module, weights)
        after = (done.module(new) - wanted).norm()
    assert len(refits) == 2
    assert after < 0.8 * before
