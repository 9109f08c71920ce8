"""`bench` in all its parts on the file that `init` writes: what is told, and which options go together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penjing.runtimes import Artifact

Penjing = Callable[..., tuple[int, str, str]]
PenjingJson = Callable[..., tuple[int, Any]]


def test_cost_of_what_was_measured(penjing_says: Penjing, penjing_json: PenjingJson, home: Path) -> None:
    arguments = ("bench", home / "small.py", home / "original", "--price-per-hour", 3.6, "--rate", 1000)
    code, out, _ = penjing_says(*arguments)
    assert code == 0
    assert " per million samples at " in out
    assert "machines needed: " in out
    code, data = penjing_json(*arguments)
    assert code == 0
    per_machine = data["batch"] / data["median_ms"] * 1e3
    assert data["cost"]["per_machine"] == pytest.approx(per_machine)
    assert data["cost"]["per_million"] == pytest.approx(1000 / per_machine)


def test_copies_that_ran_together_are_priced(penjing_json: PenjingJson, home: Path) -> None:
    code, data = penjing_json(
        "bench", home / "small.py", home / "original", "--concurrency=2", "--price-per-hour=1", "--seconds=0.1"
    )
    assert code == 0
    assert data["throughput"]["concurrency"] == 2
    assert data["cost"]["per_machine"] == pytest.approx(data["throughput"]["samples_per_second"])


def test_load_before_and_after(penjing_says: Penjing, home: Path) -> None:
    code, out, _ = penjing_says(
        "bench", home / "small.py", home / "original", "--against", home / "spoilt", "--serve=20,40", "--seconds=0.5"
    )
    assert code == 0
    lines = [line.partition(":")[0] for line in out.splitlines()[1:]]
    assert lines == ["before", "after", "before", "after"]
    assert "20 requests/s of batch 4" in out
    assert "% busy" in out


def test_everything(penjing_says: Penjing, home: Path) -> None:
    code, out, _ = penjing_says("bench", home / "small.py", home / "original", "--full", "--seconds=0.1")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()[1:]] == ["files", "memory", "cold start", "energy"]


def test_tuned_file_is_written_with_what_was_tried(penjing_json: PenjingJson, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    code, data = penjing_json(
        "bench", home / "small.py", home / "original", "--tune", "--batches=8", "--out", out, "--seconds=0.02"
    )
    assert code == 0
    written = Artifact.open(out)
    assert written.options == data["tuned"]["options"]
    assert written.manifest.extra["tuned"]["trials"] == data["tuned"]["trials"]
    assert data["tuned"]["trials"][-1]["batch"] == 8
    assert data["batch"] == data["tuned"]["batch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--serve", "10,x"), "--serve is '10,x'; give numbers above 0"),
        (("--serve", "0"), "--serve is '0'"),
        (("--tune",), "--tune writes the tuned artefact to --out"),
        (("--out", "x"), "--tune writes the tuned artefact to --out"),
        (("--batches", "8"), "--batches belongs to it"),
        (("--tune", "--out", "x", "--batches", "8,1.5"), "--batches is '8,1.5'"),
        (("--copies", "2", "--concurrency", "2"), "measured copies need no assumed ones"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], message: str, penjing_says: Penjing, tmp_path: Path
) -> None:
    code, out, err = penjing_says("bench", tmp_path / "absent.py", tmp_path / "absent", *options)
    assert (code, out) == (4, "")
    assert message in err
