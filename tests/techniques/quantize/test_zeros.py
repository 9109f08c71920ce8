"""A pruned model keeps its zeros, exactly, in every scheme and by every method."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import penjing as pj
from penjing.recipe import SCHEMES
from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import CONVOLUTIONS, LINEAR
from penjing.techniques.quantize.pack import DYNAMIC_LINEAR
from penjing.techniques.quantize.refine import ROUNDINGS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    ).eval()  # fmt: skip


X = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5


def computed_with(model: nn.Module) -> list[Tensor]:
    """The weights that a quantised graph computes with, as it does."""
    seen: list[Tensor] = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            if n.target in CONVOLUTIONS or n.target is LINEAR:
                seen.append(self.env[bind(n)["weight"]])
            if n.target is DYNAMIC_LINEAR:
                seen.append(self.env[n.args[1]].T)
            return super().run_node(n)

    Watch(model, graph=model.graph, garbage_collect_values=False).run(X)  # type: ignore[arg-type]
    return seen


def check(step: pj.Quantize, model: nn.Module) -> None:
    outcome = pj.apply(pj.Workload(model, X[:2], calibration=[X[:16], X[16:]]), [pj.Sparsify(0.6), step])
    weights = computed_with(outcome.model)
    assert len(weights) == len(outcome.masks) == 4
    for (name, mask), weight in zip(outcome.masks.items(), weights, strict=True):
        assert not weight[~mask].any(), name
        assert weight[mask].count_nonzero() > 0.5 * mask.sum()


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_stores_zeros_as_zeros(scheme: str) -> None:
    check(pj.Quantize(scheme, method="minmax"), network())


@pytest.mark.parametrize("scheme", ["int8", "w4-asymmetric"])
@pytest.mark.parametrize("method", [*ROUNDINGS, "awq", "smooth", "equalize", "bias", "auto"])
def test_every_method_leaves_zeros_where_they_are(scheme: str, method: str) -> None:
    check(pj.Quantize(scheme, method=method), network())


def test_masks_of_torch_go_the_same_way() -> None:
    model = network()
    pairs = [(module, "weight") for module in model if isinstance(module, nn.Conv2d | nn.Linear)]  # type: ignore[union-attr]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.5)
    zeros = [module.weight == 0 for module, _ in pairs]
    outcome = pj.apply(pj.Workload(model, X[:2], calibration=[X]), pj.Quantize(method="minmax"))
    for zero, weight in zip(zeros, computed_with(outcome.model), strict=True):
        assert not weight[zero].any()
