"""Scores of coupled groups against sums written out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import RecipeError
from penjing.structure import couple
from penjing.techniques.prune import SCORES, Evidence, Score, find_score, register_score
from penjing.techniques.prune.evidence import Activity, Sensitivity
from penjing.techniques.prune.scores import NORMALIZATIONS, score_groups
from penjing.types import Normalize, Reduce


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


def test_any_order_of_norm() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    slices = torch.cat([model[0].weight[1].flatten(), model[4].weight[:, 4:8].flatten()]).detach().double()
    assert find_score("lp", 0.5)(group, evidence)[1] == pytest.approx(float(slices.abs().sqrt().sum() ** 2))
    assert torch.equal(find_score("lp", 2.0)(group, evidence), SCORES["l2"](group, evidence))


def test_parts_are_reduced_as_asked() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    first = model[0].weight.detach().double().flatten(1).abs().sum(1)
    last = model[4].weight.detach().double().reshape(2, 4, 4).abs().sum((0, 2))
    found = {reduce: SCORES["l1"](group, evidence, reduce) for reduce in Reduce}
    assert torch.allclose(found[Reduce.FIRST], first)
    assert torch.allclose(found[Reduce.SUM], first + last)
    assert torch.allclose(found[Reduce.MEAN], (first + last) / 2)
    assert torch.allclose(found[Reduce.MAX], first.maximum(last))


def test_the_geometric_median_sums_distances() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    filters = model[0].weight.detach().double().flatten(1)
    found = SCORES["geometric_median"](group, evidence, Reduce.FIRST)
    for u in range(4):
        assert found[u] == pytest.approx(sum(float((filters[u] - other).norm()) for other in filters), rel=1e-6)


def test_lamp_divides_by_what_is_no_smaller_and_is_one_for_the_largest() -> None:
    model, evidence = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    squares = SCORES["l2"](group, evidence).square()
    for u, found in enumerate(SCORES["lamp"](group, evidence).tolist()):
        assert found == pytest.approx(float(squares[u] / squares[squares >= squares[u]].sum()))


def test_data_driven_scores_read_what_was_gathered() -> None:
    model, _ = setup()
    (group,) = couple(model, torch.zeros(2, 1, 4, 4)).groups
    evidence = Evidence(
        {},
        activities={group.name: Activity(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.5, 0.0]]))},
        sensitivities={group.name: Sensitivity(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))},
    )
    found = {name: SCORES[name](group, evidence).tolist() for name in ("activation", "apoz", "taylor_activation")}
    assert found == {"activation": [4.0, 6.0], "apoz": [0.5, 0.0], "taylor_activation": [1.0, 2.0]}
    assert SCORES["fisher"](group, evidence).tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        (Normalize.MEAN, [0.5, 1.5]),
        (Normalize.MAX, [1 / 3, 1.0]),
        (Normalize.SUM, [0.25, 0.75]),
        (Normalize.GAUSSIAN, [-1.0, 1.0]),
        (Normalize.NONE, [2.0, 6.0]),
        (Normalize.COST, [4.0, 12.0]),
    ],
)
def test_normalisation(normalize: Normalize, expected: list[float]) -> None:
    score = Score(lambda group, evidence: torch.tensor([2.0, 6.0]))
    (group,) = couple(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), torch.zeros(2, 3)).groups
    found = score_groups([group], score, Evidence({}), Reduce.SUM, normalize, {group.name: 0.5})[group.name]
    assert found.tolist() == pytest.approx(expected)


def test_equal_scores_normalise_to_finite_numbers() -> None:
    for function in NORMALIZATIONS.values():
        assert function(torch.zeros(3).double()).isfinite().all()


def test_an_unknown_score_lists_the_known() -> None:
    with pytest.raises(RecipeError, match=r"score='l3' is unknown; use one of l1, l2.*random, lp, auto"):
        find_score("l3")


def test_a_registered_score_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.techniques.prune.scores.SCORES", dict(SCORES))
    made = Score(lambda group, evidence: torch.from_numpy(np.arange(group.size, dtype=float)))
    register_score("rank", made)
    assert find_score("rank") is made
    for name in ("rank", "lp", "auto"):
        with pytest.raises(ValueError, match=f"'{name}' is registered already"):
            register_score(name, made)
