"""How figures read: units, digits, changes, the headline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.reporting import Figure, ReportData, Row, Unit
from penjing.reporting import words as w


def plain(text: str) -> str:
    return text.replace(w.NBSP, " ").replace(w.MINUS, "-")


def row(unit: Unit, before: float, after: float, factor: Figure | None = None) -> Row:
    return Row(name="x", unit=unit, before=Figure.of(before), after=Figure.of(after), factor=factor, method="m")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.91425, Unit.SHARE, "91.42 %"),
        (1.0, Unit.SHARE, "100.00 %"),
        (-0.00001, Unit.SHARE, "0.00 %"),
        (11.7, Unit.MILLISECONDS, "11.7 ms"),
        (0.0421, Unit.MILLISECONDS, "0.0421 ms"),
        (1234.5, Unit.MILLISECONDS, "1,234 ms"),
        (0.0, Unit.MILLISECONDS, "0 ms"),
        (999, Unit.BYTES, "999 B"),
        (999_999, Unit.BYTES, "1.00 MB"),
        (1_102_334, Unit.BYTES, "1.10 MB"),
        (31_231_632, Unit.COUNT, "31.23 M"),
        (12, Unit.COUNT, "12"),
        (23.456, Unit.PLAIN, "23.46"),
        (-2.5e-9, Unit.PLAIN, "-2.500e-09"),
    ],
)
def test_amounts(value: float, unit: Unit, text: str) -> None:
    assert plain(w.amount(value, unit)) == text


@given(st.floats(-1e14, 1e14, allow_nan=False), st.integers(1, 6))
def test_a_number_reads_back_to_its_digits(value: float, digits: int) -> None:
    read = float(plain(w.number(value, digits)).replace(",", ""))
    assert abs(read - value) <= 0.51 * 10 ** (1 - digits) * max(abs(value), 1e-300)


def test_changes_tell_the_direction() -> None:
    assert w.change(row(Unit.MILLISECONDS, 12, 4)) == "3.00× faster"
    assert w.change(row(Unit.MILLISECONDS, 4, 12)) == "3.00× slower"
    assert w.change(row(Unit.BYTES, 100, 25)) == "4.00× smaller"
    assert w.change(row(Unit.COUNT, 100, 100)) == "unchanged"
    assert plain(w.change(row(Unit.SHARE, 0.9218, 0.9187))) == "-0.31 points"
    assert plain(w.change(row(Unit.SHARE, 0.9, 0.91))) == "+1.00 points"
    assert plain(w.change(row(Unit.PLAIN, 20.0, 21.5))) == "+1.500"


def test_an_interval_around_one_is_no_change() -> None:
    noisy = row(Unit.MILLISECONDS, 4.1, 4.0, Figure.of(1.02, 0.97, 1.07))
    assert w.change(noisy) == "no clear change"
    assert w.change_details(noisy) == ["0.970 to 1.07×"]


def test_the_interval_of_a_slowdown_is_turned_over() -> None:
    slower = row(Unit.MILLISECONDS, 4, 8, Figure.of(0.5, 0.4, 0.8))
    assert w.change(slower) == "2.00× slower"
    assert w.change_details(slower) == ["1.25 to 2.50×"]


def test_a_measured_factor_beats_the_quotient() -> None:
    assert w.change(row(Unit.MILLISECONDS, 12, 4, Figure.of(2.9, 2.8, 3.0))) == "2.90× faster"


def test_a_missing_figure_is_a_dash_with_its_reason_never_zero() -> None:
    gone = Row(name="x", unit=Unit.BYTES, before=Figure.of(10), after=Figure.missing("disk full"), method="m")
    assert (w.shown(gone.after, Unit.BYTES), w.details(gone.after, Unit.BYTES)) == ("-", ["disk full"])
    assert (w.change(gone), w.change_details(gone)) == ("-", ["needs both figures"])
    assert w.counted(Figure.missing("nothing was judged")) == "- (nothing was judged)"
    assert w.change_details(row(Unit.BYTES, 0, 4)) == ["needs figures above zero"]


def test_headline_leads_with_speed_size_and_metric(report: ReportData) -> None:
    line = plain(w.headline(report))
    assert line == ("3.00× faster (Latency, batch 32), 8.40× smaller (Size on disk), Accuracy 92.18 % → 91.87 %")


def test_headline_of_nothing(reports: dict[str, ReportData]) -> None:
    for name in ("empty", "bare"):
        assert w.headline(reports[name]) == "There is no candidate to compare with the original."


def test_drop_and_power(report: ReportData, reports: dict[str, ReportData]) -> None:
    assert plain(w.drop_words(report.verdict)) == (
        "0.31 points, one-sided limits 0.04 points and 0.58 points; allowed: 1.00 points"
    )
    assert "of which 5.00 % change their prediction, no limit below 0.37 points" in plain(w.power_words(report.power))
    assert "(two samples are too few)" in w.power_words(reports["empty"].power)
    relative = report.verdict.model_copy(update={"relative": True})
    assert "0.31 % of the reference" in plain(w.drop_words(relative))


def test_unsafe_characters_are_shown_as_a_mark() -> None:
    assert w.one_line("a\x00b\x1b[0m\u202ec\r\nd\x85") == "a\ufffdb\ufffd[0m\ufffdc d\ufffd"
    assert w.safe("two\r\nlines") == "two\nlines"


def test_the_outcome_is_taken_off_the_sentence_and_nothing_else(reports: dict[str, ReportData]) -> None:
    verdict = reports["pass"].verdict
    said = verdict.model_copy(update={"sentence": "Pass: accuracy rises; Pass: is no word of this."})
    assert w.verdict_words(said) == "Accuracy rises; Pass: is no word of this."
    assert w.verdict_words(verdict.model_copy(update={"sentence": "Nothing is judged."})) == "Nothing is judged."
