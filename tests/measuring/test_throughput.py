"""Several copies: the window counts what all finish together; a copy that fails is told."""

import importlib
import json
import subprocess
import time

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import RunError
from penjing.measuring.cold import ColdStart, cold_start
from penjing.measuring.throughput import SLICES, Throughput, slice_rates, throughput
from penjing.runtimes import Artifact, export

room = importlib.import_module("penjing.measuring.throughput")  # the package gives the function of this name


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(nn.Linear(64, 8), torch.randn(4, 64), tmp_path_factory.mktemp("copies") / "artifact")


def test_rates_of_unequal_workers_add_up() -> None:
    # One worker ends a call each 100 ms, the other each 300 ms and not at the edges: 10 + 3.33 in a second.
    finished = [np.arange(0.0, 5e9, 1e8), np.arange(0.5e8, 5e9, 3e8)]
    assert slice_rates(finished, 1e9, 2e9) == pytest.approx(np.full(SLICES, 10 + 1e9 / 3e8))


def test_a_worker_that_slows_down_widens_the_spread() -> None:
    finished = [np.concatenate([np.arange(0.0, 2e9, 1e8), np.arange(2e9, 5e9, 2e8)])]
    assert slice_rates(finished, 1e9, 2e9).tolist() == pytest.approx([10.0] * 5 + [5.0] * 5)


def test_two_copies_are_counted_together(artifact: Artifact) -> None:
    found = throughput(artifact, torch.randn(4, 64), concurrency=2, seconds=0.2)
    assert (found.concurrency, found.batch, found.threads, found.seconds) == (2, 4, 1, pytest.approx(0.2))
    assert 0 < found.low <= found.samples_per_second <= found.high
    assert Throughput.from_data(json.loads(json.dumps(found.to_data()))) == found
    assert "(2 copies, batch 4, 1 thread each)" in str(found)


def test_a_copy_that_fails_is_told(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="concurrency=0"):
        throughput(artifact, torch.randn(4, 64), concurrency=0)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunError, match="exit code 1"):
        throughput(artifact, torch.randn(4, 64))


def test_cold_start_tells_its_three_parts(artifact: Artifact) -> None:
    found = cold_start(artifact, torch.randn(4, 64), processes=2)
    assert (found.processes, found.batch) == (2, 4)
    for part in (found.import_ms, found.load_ms, found.first_run_ms):
        assert 0 < part.low <= part.median <= part.high
    assert found.import_ms.median > 1, "importing a runtime takes more than looking it up"
    assert ColdStart.from_data(json.loads(json.dumps(found.to_data()))) == found
    with pytest.raises(ValueError, match="processes=0"):
        cold_start(artifact, torch.randn(4, 64), processes=0)


def test_a_copy_without_a_core_is_noisy(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_start", lambda *_: subprocess.Popen(["cat"], stdin=-1, stdout=-1, stderr=-1, text=True))
    ends = list(range(0, 10**11, 10**7))

    def said(share: float) -> Throughput:
        answers = iter(["1000000", json.dumps({"finished": [time.monotonic_ns() + t for t in ends], "running": share})])
        monkeypatch.setattr(room, "_line", lambda *_: next(answers))
        return throughput(artifact, torch.randn(4, 64), seconds=0.1)

    assert said(0.99).noise is None
    assert said(0.99).samples_per_second == pytest.approx(400, rel=0.01)
    assert "had a core for 50 %" in str(said(0.5).noise)
    assert str(said(0.5)).endswith(", noisy")
