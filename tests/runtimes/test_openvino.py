"""OpenVINO: the conformance kit, and what is its own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from penjing.errors import RuntimeUnavailable
from penjing.runtimes import RUNTIMES, export
from penjing.testing.runtimes import RuntimeCase
from penjing.workload.samples import ResNet


class TestOpenVino(RuntimeCase):
    runtime = "openvino"
    option = ("threads", 2)


def test_float32_is_float32(tmp_path: Path) -> None:
    """Left alone, OpenVINO takes bfloat16 where the processor has it; here the precision is always said."""
    model, x = ResNet((1, 1), (8, 16)).eval(), torch.randn(2, 1, 8, 8)
    artifact = export(model, x, tmp_path / "a", "openvino")
    assert artifact.options["precision"] == "fp32"
    np.testing.assert_allclose(artifact.load()(x).numpy(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_asked_for_and_recorded(tmp_path: Path) -> None:
    model, x = ResNet((1, 1), (8, 16)).eval(), torch.randn(2, 1, 8, 8)
    artifact = export(model, x, tmp_path / "a", "openvino", options={"precision": "bf16"})
    assert artifact.options["precision"] == "bf16"
    np.testing.assert_allclose(artifact.load()(x).numpy(), model(x).detach().numpy(), rtol=0.1, atol=0.05)


def test_float16_halves_the_file(tmp_path: Path) -> None:
    model, x = ResNet((1, 1), (32, 64)).eval(), torch.randn(2, 1, 8, 8)
    sizes = [
        export(model, x, tmp_path / precision, "openvino", options={"precision": precision}).size_bytes
        for precision in ("fp32", "fp16")
    ]
    weights = sum(p.numel() for p in model.parameters())
    assert sizes[0] - sizes[1] > 1.8 * weights


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(RuntimeUnavailable, match=r"openvino .* cannot run .*model.xml"):
        RUNTIMES["openvino"].load(tmp_path, {})
