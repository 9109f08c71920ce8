"""The share certified when the true drop lies exactly at the margin is at most alpha, within Monte Carlo error."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import penjing
from penjing.verdict import drop_limits
from penjing.verdict.power import pass_probability

SOURCE = Path(penjing.__file__).parents[2] / "benchmarks" / "verdict_size.py"
ALPHA = 0.05
# What the score interval exceeds alpha by in the worst case of the grid (5.12 %), and the bootstrap at thirty pairs.
SCORE_SLACK, BOOTSTRAP_SLACK = 0.0015, 0.01


@pytest.fixture(scope="module")
def study() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("verdict_size", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(rows: Iterable[Any], slack: float) -> None:
    for row in rows:
        error = np.sqrt(ALPHA * (1 - ALPHA) / row.trials)
        assert row.certified <= ALPHA + slack + 3.5 * error, row


def test_score_limits(study: ModuleType) -> None:
    rows = list(study.score_rows(trials=2000))
    assert len(rows) == 36
    check(rows, SCORE_SLACK)
    for row in rows:
        assert row.exact <= ALPHA + SCORE_SLACK, row
        assert row.certified == pytest.approx(row.exact, abs=4 * np.sqrt(ALPHA / row.trials)), row
    # Not idle either: where enough pairs differ the level is used up.
    assert min(row.exact for row in rows if row.n * row.discordance >= 100) > 0.04


def test_a_larger_drop_passes_less_often() -> None:
    assert pass_probability(1000, 0.1, 0.02, 0.01, ALPHA) < 0.01 < pass_probability(1000, 0.1, 0.0, 0.01, ALPHA)


@pytest.mark.parametrize(("n", "discordance"), [(200, 0.02), (200, 0.2), (1000, 0.02), (1000, 0.1)])
@pytest.mark.parametrize(("loss", "gain"), [(0.5, 0.5), (1.0, 0.1)])
def test_bounded_scores(study: ModuleType, n: int, discordance: float, loss: float, gain: float) -> None:
    draw = study.graded(n, discordance, 0.005, loss, gain)
    check([study.simulate("graded", n, discordance, 0.005, 100, draw)], BOOTSTRAP_SLACK)


def test_a_bootstrap_without_the_guard_would_fail(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import penjing.verdict.noninferiority as room

    monkeypatch.setattr(room, "ENOUGH_PAIRS", 1)
    row = study.simulate("graded", 200, 0.02, 0.01, 200, study.graded(200, 0.02, 0.005, 1.0, 0.1))
    assert row.certified > 0.15


@pytest.mark.slow
def test_bounded_scores_with_many_samples(study: ModuleType) -> None:
    for discordance in (0.02, 0.1):
        draw = study.graded(10_000, discordance, 0.005, 1.0, 0.1)
        check([study.simulate("graded", 10_000, discordance, 0.005, 100, draw)], BOOTSTRAP_SLACK)


@pytest.mark.slow
def test_clusters(study: ModuleType) -> None:
    check([study.simulate("clusters", 2000, 0.2, 0.02, 100, study.clustered(200, 0.2, 0.02))], BOOTSTRAP_SLACK)


@pytest.mark.slow
def test_ratios_and_whole_metrics(study: ModuleType) -> None:
    ratio = study.simulate("ratio", 300, 1.0, 0.05, 60, study.errors(300, 0.05), relative=True)
    draw, drop = study.f1(200, 0.2)
    check([ratio, study.simulate("F1", 200, 0.2, drop, 30, draw)], BOOTSTRAP_SLACK)


def test_identical_pairs_are_certified_only_where_n_allows(study: ModuleType) -> None:
    pair = study.Samples(study.mean_metric(), np.full(400, 0.7))
    found = drop_limits(pair, pair, ALPHA)
    assert 0.005 < found.upper < 0.02
