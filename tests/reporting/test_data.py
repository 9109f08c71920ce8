"""ReportData: what it refuses, and that nothing is lost on the way through JSON."""

import json

import pytest
from pydantic import ValidationError

from penjing.reporting import Figure, Layer, ReportData


def test_json_round_trip_keeps_everything(any_report: ReportData) -> None:
    assert ReportData.model_validate_json(any_report.model_dump_json()) == any_report


def test_json_is_strict(any_report: ReportData) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(any_report.model_dump_json(), parse_constant=refuse)["schema_version"] == 1


def test_a_missing_figure_needs_a_reason_and_a_known_one_has_none() -> None:
    with pytest.raises(ValidationError, match="say why there is none"):
        Figure()
    with pytest.raises(ValidationError, match="say why there is none"):
        Figure(reason="  ")
    with pytest.raises(ValidationError, match="give a number, or say why"):
        Figure(value=1.0, reason="unknown")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_figure_is_finite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        Figure.of(value)
    with pytest.raises(ValidationError, match="finite"):
        Figure.of(0.0, -1.0, value)


def test_an_interval_has_two_ends_in_order() -> None:
    with pytest.raises(ValidationError, match="both ends"):
        Figure.of(1.0, low=0.5)
    with pytest.raises(ValidationError, match=r"low=2\.0 lies above high=1\.0"):
        Figure.of(1.5, 2.0, 1.0)


def test_a_layer_that_misses_a_figure_says_why(report: ReportData) -> None:
    values = report.layers[0].model_dump() | {"width_after": None}
    with pytest.raises(ValidationError, match="layer 'conv1' misses a figure: say why"):
        Layer(**values)
    assert Layer(**values | {"note": "merged"}).width_after is None


def test_unknown_fields_and_other_schemas_are_refused(report: ReportData) -> None:
    values = report.model_dump()
    with pytest.raises(ValidationError, match="Extra inputs"):
        ReportData(**values, surprise=1)
    with pytest.raises(ValidationError, match="schema_version"):
        ReportData(**values | {"schema_version": 2})


def test_a_report_is_frozen(report: ReportData) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report.title = "another"  # type: ignore[misc]
