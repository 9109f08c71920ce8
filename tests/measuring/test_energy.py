"""Energy from a tree of our own: wrapped counters, parts that would count twice, and reasons."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from penjing.measuring.energy import Energy, Package, energy, packages
from penjing.runtimes import export

room = importlib.import_module("penjing.measuring.energy")  # the package gives the function of this name


def tree(root: Path, energies: dict[str, int], limit: int = 1_000_000) -> Path:
    for name, value in energies.items():
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return root


def test_packages_count_and_their_parts_do_not(tmp_path: Path) -> None:
    found = packages(tree(tmp_path, {"intel-rapl:0": 5, "intel-rapl:1": 6, "intel-rapl:0:0": 7}))
    assert [each.read() for each in found] == [5, 6]


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    (package,) = packages(tree(tmp_path, {"intel-rapl:0": 999_990}))
    readings: Iterator[int] = iter([999_995, 20])

    def call() -> None:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text(str(next(readings, 60)))

    joules, _, calls = room._spend((package,), call, 0.05, step_s=0.0)
    assert calls >= 3
    assert joules * 1e6 == pytest.approx(5 + 26 + 40)


def test_joules_are_those_above_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = export(nn.Linear(8, 4), torch.randn(2, 8), tmp_path / "artifact")
    spent = iter([(10.0, 2.0, 200), (30.0, 3.0, 100)])  # 5 W idle; 10 W running
    monkeypatch.setattr(room, "_spend", lambda *_: next(spent))
    found = energy(artifact, torch.randn(2, 8), seconds=0.01, root=tree(tmp_path / "cap", {"intel-rapl:0": 1}))
    assert found.joules_per_call == pytest.approx((30 - 5 * 3) / 100)
    assert (found.watts, found.idle_watts, found.calls, found.batch) == (10.0, 5.0, 100, 2)
    assert str(found) == "0.15 J a call of batch 2 above idle (10 W running, 5 W idle)"
    assert Energy.from_data(json.loads(json.dumps(found.to_data()))) == found


def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = export(nn.Linear(8, 4), torch.randn(2, 8), tmp_path / "artifact")
    found = energy(artifact, torch.randn(2, 8), root=tmp_path / "absent")
    assert found.joules_per_call is None
    assert "holds no intel-rapl:N" in str(found)

    def refuse(self: Package) -> int:
        raise PermissionError(13, "Permission denied", str(self.path / "energy_uj"))

    monkeypatch.setattr(Package, "read", refuse)
    found = energy(artifact, torch.randn(2, 8), root=tree(tmp_path / "cap", {"intel-rapl:0": 1}))
    assert "Permission denied" in str(found.reason)
