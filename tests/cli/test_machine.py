"""`runtimes`, `calibrate-machine`, `deploy`: what runs here, what it is worth, and the fastest that is certified."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penjing.measuring import capability
from penjing.measuring.probes import PROBES
from penjing.optimizing import deployment
from penjing.runtimes import RUNTIMES, Artifact

Says = Callable[..., tuple[int, str, str]]
Json = Callable[..., tuple[int, Any]]


@pytest.fixture
def one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability.calibrate, "__defaults__", (None, [p for p in PROBES if p.pattern == "low rank"]))


def test_what_was_measured_is_shown_with_the_runtimes(penjing_says: Says, penjing_json: Json, one_probe: None) -> None:
    code, out, _ = penjing_says("runtimes")
    assert code == 0
    assert "not measured yet: penjing calibrate-machine" in out
    for name, runtime in RUNTIMES.items():
        assert name in out
        assert runtime.summary in out
    code, rows = penjing_json("calibrate-machine", "--runtime", "onnxruntime")
    assert code == 0
    assert [(row["runtime"], row["pattern"], row["factor"] > 0) for row in rows] == [("onnxruntime", "low rank", True)]
    code, out, _ = penjing_says("runtimes")
    assert "Measured on this machine" in out
    assert f"{rows[0]['factor']:.2f}x" in out


def test_an_unknown_runtime_is_refused_before_anything_is_measured(penjing_says: Says) -> None:
    code, _, err = penjing_says("calibrate-machine", "--runtime", "abacus")
    assert code == 4
    assert "runtime='abacus' is unknown" in err


def test_a_missing_runtime_is_listed_with_its_remedy(penjing_says: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES["openvino"], "packages", ("no_such_package",), raising=False)
    code, out, _ = penjing_says("runtimes")
    assert code == 0
    assert "openvino     not installed; pip install 'penjing[openvino]' brings no_such_package" in out


def test_deploy(penjing_says: Says, penjing_json: Json, home: Path, tmp_path: Path) -> None:
    real = deployment.measure

    def quick(artifact: Any, example: Any, **options: Any) -> Any:
        return real(artifact, example, **(options | {"seconds": 0.02}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "measure", quick)
        code, out, _ = penjing_says(
            "deploy", home / "workload.py", "--out", tmp_path / "d", "--runtime", "torch", "--max-drop", "0.05"
        )
    assert code in (0, 1, 3)
    assert "torch-bf16" in out
    assert f"ships: {tmp_path / 'd' / 'best'}" in out
    assert Artifact.open(tmp_path / "d" / "best").size_bytes > 0
    code, _, err = penjing_says("deploy", home / "workload.py", "--out", tmp_path / "d")
    assert code == 4
    assert "exists; give the name of a new folder" in err
