"""A file that leaves the model: the first operator that differs is named, with its layer."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from penjing.errors import ArtifactError
from penjing.runtimes import RUNTIMES, Program, export, register_runtime
from penjing.runtimes.eager import Eager
from penjing.runtimes.rewrite import recapture


class Careless(Eager):
    """A runtime that takes a hard sigmoid for a sigmoid."""

    name = "careless"

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        def change(module: fx.GraphModule) -> fx.GraphModule:
            for node in module.graph.nodes:
                if node.target is torch.ops.aten.sigmoid.default:
                    node.target = torch.ops.aten.hardsigmoid.default
            module.recompile()
            return module

        super().export(replace(program, exported=recapture(program, change)), folder, options)


@pytest.fixture
def careless() -> Iterator[str]:
    register_runtime(Careless())
    yield "careless"
    del RUNTIMES["careless"]


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def test_the_first_operator_that_differs_is_named_with_its_layer(careless: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Gate(), nn.Linear(4, 2))
    with pytest.raises(
        ArtifactError, match=r"first operator that differs is aten.sigmoid.default in layer '2 \(Gate\)'"
    ):
        export(model, torch.randn(3, 4), tmp_path / "a", careless)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_agrees_is_not_named(careless: str, tmp_path: Path) -> None:
    artifact = export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4), tmp_path / "a", careless)
    assert artifact.runtime == careless
