"""ExecuTorch: the conformance kit, and what is its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penjing.errors import ArtifactError, RuntimeUnavailable, ShapeError
from penjing.runtimes import RUNTIMES, export
from penjing.testing.runtimes import RuntimeCase


class TestExecuTorch(RuntimeCase):
    runtime = "executorch"
    option = ("threads", 2)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean()


def test_more_samples_than_planned_for_run_in_parts(tmp_path: Path) -> None:
    model, x = nn.Linear(6, 3).eval(), torch.randn(11, 6)
    artifact = export(model, x[:4], tmp_path / "a", "executorch", options={"max_batch": 4})
    assert artifact.options["max_batch"] == 4
    np.testing.assert_allclose(artifact.load()(x).numpy(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_that_mixes_its_samples_is_refused(tmp_path: Path) -> None:
    """Samples that are run apart cannot be centred together, and the comparison shows it."""
    with pytest.raises(ArtifactError, match="differs from the model"):
        export(Centred(), torch.randn(4, 6), tmp_path / "a", "executorch")


def test_more_samples_than_planned_for_are_refused_where_they_cannot_be_run_apart(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(0)

    with pytest.raises(ShapeError, match=r"batches of up to 4 samples, not 5; .*max_batch"):
        export(Mean(), torch.randn(4, 6), tmp_path / "a", "executorch")


def test_a_size_without_a_limit_is_refused(tmp_path: Path) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with pytest.raises(RuntimeUnavailable, match=r"'length' of input 'input' has no limit.*max="):
        export(
            nn.ReLU(), torch.randn(2, 5), tmp_path / "a", "executorch", dynamic_shapes={"input": {0: batch, 1: length}}
        )


def test_a_size_with_a_limit_is_free_below_it(tmp_path: Path) -> None:
    length = torch.export.Dim("length", max=16)
    artifact = export(nn.ReLU(), torch.randn(2, 5), tmp_path / "a", "executorch", dynamic_shapes={"input": {1: length}})
    for n in (3, 16):
        x = torch.randn(2, n)
        np.testing.assert_array_equal(artifact.load()(x).numpy(), x.relu().numpy())


def test_sessions_with_other_threads_live_side_by_side(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval(), torch.randn(4, 64)
    sessions = [
        export(model, x, tmp_path / str(threads), "executorch", options={"threads": threads}).load()
        for threads in (1, 2, 1)
        if not (tmp_path / str(threads)).exists()
    ]
    sessions.append(sessions[0].artifact.load())
    for session in (*sessions, *sessions[::-1]):
        np.testing.assert_allclose(session(x).numpy(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("most", [0, 2.5, True])
def test_impossible_batches(most: object) -> None:
    with pytest.raises(RuntimeUnavailable, match="max_batch="):
        RUNTIMES["executorch"].options({"max_batch": most})


def test_an_operator_that_it_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    class Eigenvalues(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvalsh(x @ x.mT)

    with pytest.raises(RuntimeUnavailable, match=r"_linalg_eigh.*0 \(Eigenvalues\)"):
        export(nn.Sequential(Eigenvalues()), torch.randn(2, 3, 3), tmp_path / "a", "executorch")
