"""Measuring a real file: what is recorded, not how fast it is."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from penjing.errors import RunError, ShapeError
from penjing.measuring import Latency, Machine, Memory, Sizes, machine, measure, measure_fresh, memory, sizes
from penjing.measuring.latency import summarize
from penjing.measuring.machine import _cpu
from penjing.measuring.timing import Timings
from penjing.runtimes import Artifact, export


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
    return export(model, torch.randn(4, 64), tmp_path_factory.mktemp("measuring") / "artifact")


def timings(wall_ms: np.ndarray, running: float = 1.0) -> Timings:
    return Timings(wall_ms, wall_ms.mean(axis=1) * running)


def test_a_latency_says_all_that_it_depends_on(artifact: Artifact) -> None:
    found = measure(artifact, torch.randn(4, 64), against=artifact, seconds=0.1)
    assert 0 < found.low_ms <= found.median_ms <= found.high_ms
    assert found.p95_ms >= found.median_ms
    assert (found.batch, found.threads, found.processes, found.runtime) == (4, 1, 1, "onnxruntime")
    assert found.runs >= found.blocks >= 8
    assert found.machine == machine()
    assert found.ratio is not None
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert Latency.from_data(json.loads(json.dumps(found.to_data()))) == found


def test_inputs_that_do_not_fit_are_refused_first(artifact: Artifact) -> None:
    with pytest.raises(ShapeError, match="batch, 64"):
        measure(artifact, torch.randn(4, 63), seconds=0.1)


def test_summary_of_known_timings() -> None:
    wall = np.full((20, 5), 2.0)
    wall[:, 4] = 10.0  # one slow call in five
    found = summarize(
        [timings(wall), timings(wall * 3)], batch=8, threads=1, pinned=True, runtime="r", single_threaded=True
    )
    assert (found.median_ms, found.low_ms, found.high_ms, found.p95_ms) == (2.0, 2.0, 2.0, 10.0)
    assert found.samples_per_second == pytest.approx(4000)
    assert found.cpu_ms == pytest.approx(3.6)
    assert not found.noisy
    assert found.ratio is not None
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == pytest.approx((3, 3, 3))
    assert str(found) == "2 ms [2, 2], p95 10 ms (batch 8, 1 thread); ratio 3.00x [3.00, 3.00]"


def test_a_busy_machine_is_noisy_and_does_not_bend_the_ratio() -> None:
    rng = np.random.default_rng(0)
    base = 1 + 0.01 * rng.random((40, 5))
    ours = Timings(base * rng.choice([1.0, 4.0], (40, 1)), base.mean(axis=1))
    theirs = Timings(2 * base * rng.choice([1.0, 4.0], (40, 1)), 2 * base.mean(axis=1))
    found = summarize([ours, theirs], batch=1, threads=1, pinned=True, runtime="r", single_threaded=True)
    assert found.noisy
    assert "other work" in str(found.noise)
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(2.0, rel=0.01)
    several = summarize([ours, theirs], batch=1, threads=2, pinned=True, runtime="r", single_threaded=False)
    assert several.cpu_ms is None
    assert "interval" in str(several.noise)


def test_fresh_processes(artifact: Artifact) -> None:
    found = measure_fresh(artifact, torch.randn(4, 64), processes=2, seconds=0.1)
    assert (found.processes, found.batch) == (2, 4)
    assert found.low_ms < found.median_ms < found.high_ms
    assert found.blocks >= 16
    with pytest.raises(ValueError, match="processes=1"):
        measure_fresh(artifact, torch.randn(4, 64), processes=1)


def test_memory_grows_with_what_the_model_holds(tmp_path: Path) -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 2048).cumsum(1).sum(1)  # 32 MiB at batch 64

    found = memory(export(Wide(), torch.randn(2, 64), tmp_path / "a"), torch.randn(64, 64))
    assert 32 * 2**20 < found.model_bytes < 320 * 2**20
    assert found.model_bytes < found.process_bytes
    assert Memory.from_data(found.to_data()) == found


def test_a_child_that_fails_is_told(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    broken = dataclasses.replace(artifact, path=artifact.path)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunError, match="exit code 1"):
        memory(broken, torch.randn(4, 64))


def test_sizes_on_disk(artifact: Artifact) -> None:
    found = sizes(artifact)
    assert found.raw_bytes == artifact.size_bytes == (artifact.path / "model.onnx").stat().st_size
    assert 0 < found.zstd_bytes < found.raw_bytes
    assert 0 < found.gzip_bytes < found.raw_bytes
    assert Sizes.from_data(found.to_data()) == found


def test_gzip_size_is_that_of_gzip(artifact: Artifact) -> None:
    import gzip

    content = (artifact.path / "model.onnx").read_bytes()
    assert sizes(artifact).gzip_bytes == pytest.approx(len(gzip.compress(content, 6)), abs=64)


def test_a_machine_is_named_by_all_it_is() -> None:
    here = machine()
    assert Machine.from_data(json.loads(json.dumps(here.to_data()))) == here
    assert len(here.fingerprint) == 12
    assert dataclasses.replace(here, cores=here.cores + 1).fingerprint != here.fingerprint
    assert here.versions["torch"] == torch.__version__
    assert here.memory_bytes > 2**28


def test_cpu_facts_are_read_for_both_families(tmp_path: Path) -> None:
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text(
        "processor\t: 0\nmodel name\t: Fast 9\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nmodel name\t: no\n"
    )
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert _cpu(x86) == ("Fast 9", frozenset({"fpu", "avx2", "avx512f"}))
    assert _cpu(arm) == ("", frozenset({"fp", "asimd", "asimddp"}))
    assert _cpu(tmp_path / "absent") == ("", frozenset())
