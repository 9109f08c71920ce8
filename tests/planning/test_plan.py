"""The plan is a pure function of the journal: these tests write journals and read the next action."""

from typing import Any

import pytest

from penjing.planning import (
    Baseline,
    Finish,
    Freeze,
    Judge,
    Lattice,
    Probe,
    Recover,
    candidates,
    finalists,
    plan,
    recovery_epochs,
    shape_of,
    trains,
    worthwhile,
)
from penjing.recipe import DropBlocks, Finetune, PruneChannels, Quantize, Recipe

BASELINE = {"event": "baseline", "latency_ms": 10.0, "seconds": 5.0}
LATTICE = {
    "event": "lattice",
    "trains": [False, True, True, True],
    "max_drop": 0.01,
    "objective": "latency_ms",
    "budget_s": 1000.0,
}


def probe(index: int, ms: float, macs: float, seconds: float = 5.0) -> dict[str, Any]:
    return {"event": "probe", "index": index, "latency_ms": ms, "macs": macs, "seconds": seconds}


def candidate(index: int, drop: float, ms: float, seconds: float = 100.0, limits_hold: bool = True) -> dict[str, Any]:
    return {
        "event": "candidate",
        "index": index,
        "hash": f"h{index}",
        "drop": drop,
        "latency_ms": ms,
        "seconds": seconds,
        "limits_hold": limits_hold,
    }


def test_the_line_in_order() -> None:
    events: list[dict[str, Any]] = []
    assert plan(events) == Baseline()
    events.append(BASELINE)
    assert plan(events) == Lattice()
    events.append(LATTICE)
    for i, row in ((1, probe(1, 6.0, 50)), (2, probe(2, 7.0, 40)), (3, probe(3, 3.0, 20))):
        assert plan(events) == Probe(i)
        events.append(row)
    assert plan(events) == Recover(0), "what needs no training comes first"
    events.append(candidate(0, 0.001, 8.0, seconds=5.0))
    assert plan(events) == Recover(1)
    events.append(candidate(1, 0.002, 6.0))
    assert plan(events) == Recover(3), "probe 2 is slower than the gentler probe 1"
    events.append(candidate(3, 0.008, 3.0))
    assert plan(events) == Freeze(("h0", "h1", "h3"))
    events.append({"event": "freeze", "hashes": ["h0", "h1", "h3"]})
    assert plan(events) == Judge("h0")
    events.append({"event": "verdict", "hash": "h0", "outcome": "pass"})
    assert plan(events) == Judge("h1")
    events.append({"event": "verdict", "hash": "h1", "outcome": "pass"})
    events.append({"event": "verdict", "hash": "h3", "outcome": "undecided"})
    assert plan(events) == Finish("h1")


def test_same_journal_same_plan() -> None:
    events = [BASELINE, LATTICE, probe(1, 6.0, 50), probe(2, 5.0, 40)]
    assert plan(events) == plan(list(events)) == Probe(3)


def test_probes_stop_at_their_share_of_the_budget() -> None:
    events = [BASELINE, LATTICE, probe(1, 6.0, 50, seconds=300.0)]
    assert plan(events) == Recover(0)


def test_a_failed_probe_or_candidate_is_not_tried_again() -> None:
    events = [BASELINE, LATTICE, {"event": "probe-failed", "index": 1, "seconds": 1.0}]
    assert plan(events) == Probe(2)
    events += [probe(2, 6.0, 50), probe(3, 3.0, 20), {"event": "candidate-failed", "index": 0, "seconds": 1.0}]
    assert plan(events) == Recover(2)


def test_recovery_stops_when_the_budget_would_be_passed() -> None:
    events = [BASELINE, {**LATTICE, "budget_s": 150.0}, probe(1, 6.0, 50), probe(2, 5.0, 40), probe(3, 3.0, 20)]
    events += [candidate(0, 0.0, 8.0, seconds=5.0), candidate(1, 0.001, 6.0)]
    assert plan(events) == Freeze(("h0", "h1"))


def test_the_first_recovery_is_made_even_if_it_may_pass_the_budget() -> None:
    events = [BASELINE, {**LATTICE, "budget_s": 60.0}, probe(1, 6.0, 50, 20.0), candidate(0, 0.0, 8.0, seconds=5.0)]
    assert plan(events) == Recover(1)


def test_two_misses_in_a_row_end_the_search() -> None:
    events = [BASELINE, LATTICE, probe(1, 6.0, 50), probe(2, 5.0, 40), probe(3, 3.0, 20)]
    events += [candidate(0, 0.0, 8.0), candidate(1, 0.02, 6.0), candidate(2, 0.03, 5.0)]
    assert plan(events) == Freeze(("h0",))


def test_no_candidate_ends_with_nothing_chosen() -> None:
    events = [BASELINE, {**LATTICE, "trains": []}]
    assert plan(events) == Freeze(())
    events.append({"event": "freeze", "hashes": []})
    assert plan(events) == Finish(None)


def test_a_contract_that_cannot_be_met_judges_the_best_effort() -> None:
    done = [candidate(0, 0.05, 8.0), candidate(1, 0.02, 6.0)]
    assert finalists(done, BASELINE, LATTICE) == ("h1",)
    events = [
        BASELINE,
        LATTICE,
        {"event": "freeze", "hashes": ["h1"]},
        {"event": "verdict", "hash": "h1", "outcome": "fail"},
    ]
    assert plan(events) == Finish("h1")


def test_finalists_climb_in_speed_and_keep_hard_limits() -> None:
    done = [
        candidate(0, 0.001, 8.0),
        candidate(1, 0.002, 9.0),
        candidate(2, 0.003, 5.0),
        candidate(3, 0.004, 2.0, limits_hold=False),
    ]
    assert finalists(done, BASELINE, LATTICE) == ("h0", "h2")


def test_worthwhile_needs_a_real_gain() -> None:
    assert worthwhile([probe(1, 9.9, 50)], [BASELINE], "latency_ms") == []


@pytest.mark.parametrize(("calibration", "epoch_s", "expected"), [(True, 10.0, {True, False}), (False, 10.0, {True})])
def test_candidates_follow_the_data(calibration: bool, epoch_s: float, expected: set[bool]) -> None:
    recipes = candidates(budget_s=600, epoch_s=epoch_s, calibration=calibration, prunable=True)
    assert {any(isinstance(s, Finetune) for s in recipe) for recipe in recipes} == expected
    assert any(isinstance(s, Quantize) for recipe in recipes for s in recipe) is calibration


def test_blocks_are_left_out_where_there_are_some() -> None:
    def dropped(blocks: int) -> list[int | float]:
        recipes = candidates(budget_s=600, epoch_s=10.0, calibration=True, prunable=True, blocks=blocks)
        assert len(set(map(str, recipes))) == len(recipes)
        return sorted({step.count for recipe in recipes for step in recipe if isinstance(step, DropBlocks)})

    assert (dropped(0), dropped(1), dropped(7)) == ([], [], [2, 4])


def test_without_training_data_nothing_is_pruned() -> None:
    recipes = candidates(budget_s=600, epoch_s=None, calibration=True, prunable=True)
    assert recipes == (Recipe([Quantize()]),)


def test_recovery_epochs_fill_the_budget() -> None:
    assert recovery_epochs(100, 1000) == 0.25
    assert recovery_epochs(1e9, 1) == 40


def test_a_probe_has_the_shapes_of_its_recipe() -> None:
    recipe = Recipe([PruneChannels(0.5), Finetune(), Quantize()])
    assert shape_of(recipe) == Recipe([PruneChannels(0.5, compensate=False), Quantize(method="minmax")])
    assert trains(recipe)
    assert not trains(shape_of(recipe))


def test_what_needs_no_training_is_what_training_must_beat() -> None:
    events = [BASELINE, LATTICE, probe(1, 6.0, 50), probe(2, 5.0, 40), probe(3, 3.0, 20), candidate(0, 0.0, 5.5)]
    assert plan(events) == Recover(2), "probe 1 is slower than the candidate that was never trained"


def test_the_safest_candidate_is_always_judged_first() -> None:
    done = [candidate(i, drop, ms) for i, (drop, ms) in enumerate([(0, 8), (0.009, 6), (0.0095, 5), (0.0099, 4)])]
    assert finalists(done, BASELINE, LATTICE) == ("h0", "h1", "h2", "h3")


def test_what_is_no_better_than_the_original_is_not_judged() -> None:
    assert finalists([candidate(0, 0.0, 9.9)], BASELINE, LATTICE) == ()
    events = [BASELINE, LATTICE, {"event": "freeze", "hashes": []}]
    assert plan(events) == Finish(None), "the original ships"


def test_a_fast_but_failed_candidate_does_not_keep_others_from_training() -> None:
    events = [BASELINE, LATTICE, probe(1, 6.0, 50), probe(2, 5.0, 40), probe(3, 3.0, 20), candidate(0, 0.5, 1.0)]
    assert plan(events) == Recover(1)


def test_among_equal_drops_the_gentler_is_the_safer() -> None:
    assert finalists([candidate(0, 0.001, 5.0), candidate(1, 0.001, 8.0)], BASELINE, LATTICE) == ("h1", "h0")
