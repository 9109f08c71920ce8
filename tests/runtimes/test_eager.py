"""PyTorch itself: the conformance kit, and what is its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from penjing.errors import ArtifactError
from penjing.runtimes import RUNTIMES, export
from penjing.testing.runtimes import RuntimeCase
from penjing.workload.samples import ResNet


class TestEager(RuntimeCase):
    runtime = "torch"
    option = ("threads", 2)


def test_bfloat16_runs_in_bfloat16(tmp_path: Path) -> None:
    model, x = ResNet((1, 1), (8, 16)).eval(), torch.randn(2, 1, 8, 8)
    found = export(model, x, tmp_path / "a", "torch", options={"precision": "bf16"}).load()(x).numpy()
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.05)
    assert np.abs(found - expected).max() > 1e-5, "float32 would be closer"


def test_the_process_keeps_its_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    artifact = export(torch.nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a", "torch", options={"threads": 2})
    artifact.load()(torch.zeros(1, 2))
    assert torch.get_num_threads() == before


def test_a_graph_that_names_an_unknown_operator_is_refused(tmp_path: Path) -> None:
    artifact = export(torch.nn.Linear(2, 2), torch.zeros(1, 2), tmp_path / "a", "torch")
    graph = json.loads((artifact.path / "graph.json").read_text())
    graph["nodes"][-2][2] = "aten.no_such_operator.default"
    (artifact.path / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(ArtifactError, match=r"graph.json"):
        RUNTIMES["torch"].load(artifact.path, {})
