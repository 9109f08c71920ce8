"""The three files on disk, and what is read back."""

import json
from pathlib import Path

import pytest

from penjing.errors import ArtifactError
from penjing.reporting import ReportData, read_report, write_report


def test_three_files_and_the_way_back(any_report: ReportData, tmp_path: Path) -> None:
    page = write_report(tmp_path / "run", any_report)
    assert page == tmp_path / "run" / "report.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["report.html", "report.json", "report.md"]
    assert read_report(page.parent) == read_report(page.with_name("report.json")) == any_report
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_writing_again_replaces(report: ReportData, reports: dict[str, ReportData], tmp_path: Path) -> None:
    write_report(tmp_path, report)
    write_report(str(tmp_path), reports["fail"])
    assert read_report(tmp_path) == reports["fail"]
    assert "Fail:" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_same_data_gives_the_same_files(report: ReportData, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, report)
    for name in ("report.html", "report.json", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_place_that_takes_no_files_is_told(report: ReportData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="file"):
        write_report(tmp_path / "file", report)


def test_a_missing_or_foreign_report_is_told(report: ReportData, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone\.json cannot be read"):
        read_report(tmp_path / "gone.json")
    path = tmp_path / "report.json"
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"report\.json is no report of schema 1: the file: .*write it anew"):
        read_report(path)
    path.write_text(json.dumps(report.model_dump(mode="json") | {"schema_version": 2}))
    with pytest.raises(ArtifactError, match="no report of schema 1: schema_version"):
        read_report(tmp_path)
