"""Ticks and labels: properties that hold for any numbers."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penjing.reporting.axes import Box, Scale, decimals, nice_ticks, path_boxes, place_labels, text_width

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(numbers, numbers, st.integers(3, 12))
def test_ticks_cover_the_interval_evenly_and_are_few(a: float, b: float, most: int) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, most)
    assert 2 <= len(ticks) <= most
    assert ticks[0] <= low <= high <= ticks[-1]
    steps = [y - x for x, y in itertools.pairwise(ticks)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)


@given(st.integers(-10_000, 10_000), st.integers(1, 10_000), st.integers(-6, 6), st.integers(3, 12))
def test_steps_are_one_two_or_five_times_a_power_of_ten(low: int, length: int, power: int, most: int) -> None:
    ticks = nice_ticks(low * 10.0**power, (low + length) * 10.0**power, most)
    step = ticks[1] - ticks[0]
    leading = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(leading - nice) for nice in (1, 2, 5)) < 1e-3
    assert all(abs(tick / step - round(tick / step)) < 1e-3 for tick in ticks)


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_a_finer_step_would_need_too_many_ticks(low: int, length: int) -> None:
    ticks = nice_ticks(low, low + length, 6)
    step = Fraction(ticks[1] - ticks[0]).limit_denominator(1000)
    finer = step / 2 if str(step).strip("0/.")[-1:] != "5" else step * Fraction(2, 5)
    assert math.ceil((low + length) / finer) - math.floor(low / finer) + 1 > 6


@given(numbers)
def test_one_value_still_gets_an_axis(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] < value < ticks[-1]


@pytest.mark.parametrize(
    ("low", "high", "most"), [(1.0, 0.0, 5), (0.0, math.inf, 5), (math.nan, 1.0, 5), (0.0, 1.0, 2)]
)
def test_bad_ends_are_refused(low: float, high: float, most: int) -> None:
    with pytest.raises(ValueError, match=r"ticks from|needs? at least 3"):
        nice_ticks(low, high, most)


@given(numbers, numbers, st.integers(3, 8))
def test_tick_names_differ(a: float, b: float, most: int) -> None:
    assume(abs(a - b) > 1e-6 * max(abs(a), abs(b), 1e-3))
    ticks = nice_ticks(min(a, b), max(a, b), most)
    assert len({f"{tick:.{decimals(ticks)}f}" for tick in ticks}) == len(ticks)


def test_scale_keeps_strangers_at_the_edge() -> None:
    scale = Scale(0, 10, 200, 100)
    assert [scale(v) for v in (-5, 0, 5, 10, 99)] == [200, 200, 150, 100, 100]


places = st.floats(0, 300, allow_nan=False)


@given(st.lists(st.tuples(places, places, st.text("abcdefg ", min_size=1, max_size=20)), max_size=25))
def test_labels_never_overlap_and_stay_inside(points: list[tuple[float, float, str]]) -> None:
    bounds, taken = Box(0, 0, 300, 300), [Box(x - 5, y - 5, x + 5, y + 5) for x, y, _ in points]
    boxes = [label.box for label in place_labels(points, bounds, taken)]
    assert all(bounds.holds(box) for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.overlaps(other) for box in boxes for other in taken)


def test_a_label_prefers_free_ground_but_crosses_a_line_if_it_must() -> None:
    bounds, right = Box(0, 0, 200, 60), Box(110, 0, 112, 60)
    (label,) = place_labels([(100, 30, "name")], bounds, crossable=[right])
    assert label.box.right < 100
    (label,) = place_labels([(100, 30, "name")], bounds, crossable=[bounds])
    assert label.box.left > 100
    assert place_labels([(100, 30, "name")], bounds, taken=[bounds]) == []


def test_path_boxes_follow_the_line() -> None:
    boxes = path_boxes([(0, 0), (30, 0), (30, 12)], step=6)
    assert all(
        box.holds(Box(x, y, x, y))
        for box, (x, y) in zip(boxes, [(6, 0), (12, 0), (18, 0), (24, 0), (30, 6)], strict=True)
    )


def test_wide_letters_take_more_room() -> None:
    assert text_width("盆景", 10) == 20
    assert text_width("ab", 10) == 12
