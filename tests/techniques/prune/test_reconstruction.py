"""Backward elimination with refits, against least squares on the data themselves."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import PruneChannels
from penjing.structure import couple
from penjing.techniques import apply
from penjing.techniques.prune import activity, reconstruction
from penjing.techniques.prune.activity import Reading, readings
from penjing.techniques.prune.ends import ends_of
from penjing.techniques.prune.reconstruction import RIDGE, backward
from penjing.workload import Workload


def lost(x: Tensor, weight: Tensor, gone: list[int]) -> float:
    """What is lost of y = x W when inputs go and the weights of the others are chosen anew, by lstsq: x [n, k]."""
    damping = RIDGE * float((x.T @ x / len(x)).diagonal().mean())
    rows = torch.cat([x / len(x) ** 0.5, damping**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
    stay = [i for i in range(x.shape[1]) if i not in gone]
    wanted = rows @ weight
    if not stay:
        return float(wanted.square().sum())
    best = torch.linalg.lstsq(rows[:, stay], wanted).solution
    return float((rows[:, stay] @ best - wanted).square().sum())


def test_scores_are_what_least_squares_loses_unit_by_unit() -> None:
    """Three units: two indices each for one reader, laid out of order, and one each for another reader."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator).double()
    xs = [torch.randn(50, 6, generator=generator).double() @ mixing, torch.randn(50, 3, generator=generator).double()]
    xs = [x - x.mean(0) for x in xs]
    weights = [torch.randn(k, 4, generator=generator).double() for k in (6, 3)]
    units = [torch.tensor([2, 0, 0, 1, 2, 1]), torch.tensor([0, 1, 2])]
    parts = [
        reconstruction._part(Reading(u, x.T @ x / len(x), w @ w.T), 3)
        for u, x, w in zip(units, xs, weights, strict=True)
    ]
    found = backward(parts, torch.zeros(3).double())

    def relative(gone: list[int]) -> float:
        each = [[i for i, unit in enumerate(u.tolist()) if unit in gone] for u in units]
        whole = [float((x @ w).square().sum()) / len(x) for x, w in zip(xs, weights, strict=True)]
        return sum(lost(x, w, i) / y for x, w, i, y in zip(xs, weights, each, whole, strict=True))

    order: list[int] = []
    for _ in range(3):
        order.append(min((u for u in range(3) if u not in order), key=lambda u: relative([*order, u])))
        assert float(found[order[-1]]) == pytest.approx(relative(order), rel=1e-6)
    assert found.argsort().tolist() == order


def test_looking_at_few_candidates_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every unit a candidate the order is exact; with a few, what is lost at half the width is the same."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 60, generator=generator).double() @ torch.randn(60, 120, generator=generator).double()
    x = x + 0.3 * torch.randn(500, 120, generator=generator)
    weight = torch.randn(120, 20, generator=generator).double()
    reading = Reading(torch.arange(120), x.T @ x / 500, weight @ weight.T)
    some = backward([reconstruction._part(reading, 120)], torch.zeros(120).double()).sort().values
    monkeypatch.setattr(reconstruction, "_AT_ONCE", 120)
    monkeypatch.setattr(reconstruction, "_FEW", 120)
    exact = backward([reconstruction._part(reading, 120)], torch.zeros(120).double()).sort().values
    assert float(some[60]) == pytest.approx(float(exact[60]), rel=0.1)


def test_copies_go_first_and_only_one_of_each() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[:4]
        model[0].bias[4:] = model[0].bias[:4]
    calibration = [(torch.randn(64, 6),) for _ in range(4)]
    w = Workload(model, torch.zeros(2, 6), calibration=calibration)
    outcome = apply(w, PruneChannels(0.5, score="reconstruction", round_to=None))
    kept = outcome.surgery.kept["0.weight"][0]
    assert sorted(kept % 4) == [0, 1, 2, 3]
    x = torch.randn(100, 6)
    with torch.no_grad():
        assert float((outcome.model(x) - model(x)).norm() / model(x).norm()) < 0.02


def test_readings_are_covariances_and_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 2)).eval()
    coupling = couple(model, torch.zeros(2, 1, 5, 5))
    w = Workload(model, torch.zeros(2, 1, 5, 5), calibration=[(torch.randn(16, 1, 5, 5),) for _ in range(2)])
    batches = list(w.calibration_batches())
    (reading,) = readings(coupling.captured, coupling.groups, ends_of(coupling, coupling.groups), batches)["0"]
    with torch.no_grad():
        values = torch.cat([model[1](model[0](*batch.args)) for batch in batches]).movedim(1, 0).flatten(1)
        weight = model[2].weight.movedim(1, 0).flatten(1)
    assert torch.allclose(reading.covariance, torch.from_numpy(np.cov(values.numpy(), bias=True)).float(), atol=1e-5)
    assert torch.allclose(reading.response, weight @ weight.T, atol=1e-6)


def test_a_dimension_too_wide_for_a_covariance_counts_variances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "WIDEST", 4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)).eval()
    coupling = couple(model, torch.zeros(2, 6))
    w = Workload(model, torch.zeros(2, 6), calibration=[(torch.randn(64, 6),)])
    (batch,) = w.calibration_batches()
    found = readings(coupling.captured, coupling.groups, ends_of(coupling, coupling.groups), [batch])
    assert found["0"][0].covariance.shape == (8,)
    with torch.no_grad():
        parts = model[0](*batch.args).var(0, correction=0) * model[1].weight.square().sum(0)
    evidence = reconstruction.Evidence({}, readings=found)
    scores = reconstruction.reconstruction(coupling.groups[0], evidence)
    assert scores.sort().values.tolist() == pytest.approx(
        (parts.sort().values.cumsum(0) / parts.sum()).tolist(), rel=1e-4
    )
