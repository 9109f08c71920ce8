"""Scores of coupled groups against sums written out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import RecipeError
from penjing.structure import couple
from penjing.techniques.prune import SCORES, Evidence, Score, find_score, register_score


def setup() -> tuple[nn.Sequential, Evidence]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -3.0, 0.5, 2.0]))
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    return model, Evidence(dict(model.named_parameters()), gradients, seed=3)


def test_norms_sum_over_all_weights_of_a_unit() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    conv, linear = model[0].weight.detach().double(), model[4].weight.detach().double()
    for u in range(4):
        slices = torch.cat([conv[u].flatten(), linear[:, 4 * u : 4 * u + 4].flatten()])
        assert SCORES["l1"](group, evidence)[u] == pytest.approx(float(slices.abs().sum()))
        assert SCORES["l2"](group, evidence)[u] == pytest.approx(float(slices.norm()))


def test_batch_norm_scale_reads_gamma() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    assert SCORES["batch_norm"](group, evidence).tolist() == [1.0, 3.0, 0.5, 2.0]


def test_batch_norm_scale_falls_back_to_the_norm_where_there_is_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    evidence = Evidence(dict(model.named_parameters()), {})
    (group,) = couple(model, torch.zeros(2, 3)).groups
    assert torch.equal(SCORES["batch_norm"](group, evidence), SCORES["l2"](group, evidence))


def test_taylor_sums_weight_times_gradient_over_the_producers() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    products = {n: (p.detach() * evidence.gradients[n]).double() for n, p in model.named_parameters()}
    for u in range(4):
        expected = (
            products["0.weight"][u].sum() + products["0.bias"][u] + products["1.weight"][u] + products["1.bias"][u]
        )
        assert SCORES["taylor"](group, evidence)[u] == pytest.approx(abs(float(expected)))


def test_random_is_seeded_and_differs_between_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    first, second = couple(model, torch.zeros(2, 3)).groups
    score = SCORES["random"]
    assert torch.equal(score(first, Evidence({}, {}, 1)), score(first, Evidence({}, {}, 1)))
    assert not torch.equal(score(first, Evidence({}, {}, 1)), score(first, Evidence({}, {}, 2)))
    assert not torch.equal(score(first, Evidence({}, {}, 1)), score(second, Evidence({}, {}, 1)))


def test_an_unknown_score_lists_the_known() -> None:
    with pytest.raises(RecipeError, match="score='l3' is unknown; use one of l1, l2"):
        find_score("l3")


def test_a_registered_score_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.techniques.prune.scores.SCORES", dict(SCORES))
    made = Score(lambda group, evidence: torch.from_numpy(np.arange(group.size, dtype=float)))
    register_score("rank", made)
    assert find_score("rank") is made
    with pytest.raises(ValueError, match="'rank' is registered already"):
        register_score("rank", made)
