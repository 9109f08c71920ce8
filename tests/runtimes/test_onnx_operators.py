"""Operators that the exporter lacks give in ONNX Runtime what they give in torch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from penjing.runtimes import export


@torch.library.custom_op("penjing_onnx_test::grouped_mm", mutates_args=())
def grouped_mm(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    out = x.new_zeros(len(x), weight.shape[2])
    start = 0
    for i, end in enumerate(offs.tolist()):
        out[start:end] = x[start:end] @ weight[i]
        start = end
    return out


@grouped_mm.register_fake
def _(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, x: Tensor, offs: Tensor) -> Tensor:
        result: Tensor = grouped_mm(x, self.weight, offs)
        return result


@pytest.mark.parametrize("offs", [[2, 2, 7], [0, 3, 5], [7, 7, 7]])
def test_grouped_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offs: list[int]) -> None:
    from penjing.runtimes import onnx_operators

    table = {**onnx_operators._TABLE, "penjing_onnx_test::grouped_mm": onnx_operators.grouped_product}
    monkeypatch.setattr(onnx_operators, "_TABLE", table)
    model, x, ends = Experts(), torch.randn(7, 4), torch.tensor(offs, dtype=torch.int32)
    artifact = export(model, (x, ends), tmp_path / "experts", dynamic_shapes={"x": {0: torch.export.Dim("n")}})
    session = artifact.load()
    for rows in (x, torch.randn(9, 4)):
        with torch.no_grad():
            assert torch.allclose(session(rows, ends), model(rows, ends), atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances(tmp_path: Path, p: float) -> None:
    class Distances(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cdist(x, y, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    x, y = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    artifact = export(Distances(), (x, y), tmp_path / "distances")
    assert torch.allclose(artifact.load()(x, y), torch.cdist(x, y, p=p), atol=1e-5)
