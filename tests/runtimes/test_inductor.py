"""TorchInductor: the conformance kit, and what is its own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from penjing.errors import RuntimeUnavailable
from penjing.runtimes import RUNTIMES, export
from penjing.testing.runtimes import RuntimeCase
from penjing.workload.samples import ResNet

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")


@needs_compiler
class TestInductor(RuntimeCase):
    runtime = "inductor"
    option = ("threads", 2)
    same_bytes = False  # the compiler writes names of temporary files into what it makes


@needs_compiler
@pytest.mark.slow
def test_bfloat16_is_built_in_and_recorded(tmp_path: Path) -> None:
    model, x = ResNet((1, 1), (8, 16)).eval(), torch.randn(2, 1, 8, 8)
    artifact = export(model, x, tmp_path / "a", "inductor", options={"precision": "bf16"})
    assert artifact.options["precision"] == "bf16"
    found, expected = artifact.load()(x).numpy(), model(x).detach().numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)
    assert np.abs(found - expected).max() > 1e-5, "float32 would be closer"


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"C\+\+ compiler.*apt-get install g\+\+"):
        export(torch.nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a", "inductor")
    assert not (tmp_path / "a").exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(RuntimeUnavailable, match=r"cannot run .*model.pt2"):
        RUNTIMES["inductor"].load(tmp_path, {})
