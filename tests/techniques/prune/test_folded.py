"""PruneChannels moves the constants of removed channels into the layers behind them, where that is proven."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from penjing.recipe import PruneChannels
from penjing.structure import prove
from penjing.techniques import apply
from penjing.techniques.prune import attempt

STEP = PruneChannels(0.5, round_to=None, compensate=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[0].bias, 2.0)
    return model


@pytest.mark.parametrize("prefer", ["module", "graph"])
def test_constants_are_installed_and_the_original_is_left_alone(prefer: str) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = apply(model, STEP, torch.zeros(2, 4), prefer=prefer)
    assert outcome.surgery is not None
    gone = [i for i in range(8) if i not in outcome.surgery.kept["0.bias"][0]]
    shift = 2.0 * model[2].weight[:, gone].sum(1)
    torch.testing.assert_close(outcome.model.get_parameter("2.bias"), model[2].bias + shift)
    assert any("4 removed inputs of layers are constants" in (row.proof or "") for row in outcome.log)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_where_the_fold_fails_the_constants_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(coupling: Any, candidate: Any, removed: Any, **how: Any) -> Any:
        proof = prove(coupling, candidate, removed, **how)
        return replace(proof, passed=False, what="no fold") if "folding" in how else proof

    monkeypatch.setattr(attempt, "prove", refusing)
    model = network()
    outcome = apply(model, STEP, torch.zeros(2, 4))
    assert torch.equal(outcome.model.get_parameter("2.bias"), model[2].bias)
    assert not any("constants" in (row.proof or "") for row in outcome.log)
