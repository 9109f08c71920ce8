"""What ratios count, and whose they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penjing.errors import PenjingError, RecipeError
from penjing.profiling import profile
from penjing.recipe import PruneChannels, Recipe
from penjing.structure import couple
from penjing.techniques import apply
from penjing.techniques.prune import SCORES, Score, Widths
from penjing.techniques.prune.budget import cost_of, pools_of
from penjing.techniques.prune.widths import widths_of
from penjing.types import Budget
from penjing.workload import Workload


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    ).eval()


class Attention(nn.Module):
    """Four heads of width 8 from one packed projection, and a plain layer of 32 neurons."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.up, self.down = nn.Linear(6, 96), nn.Linear(32, 6), nn.Linear(6, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, 32)
        return self.down(self.up(self.out(y)).relu())


@dataclass(frozen=True)
class Cliffs:
    """A made-up machine where a linear layer takes one ms for each block of 16 outputs, and two for a part of one."""

    name: str = "cliffs"

    def latency_of(self, graph: object) -> Callable[[Mapping[str, Any]], float]:
        return self.latency_ms

    def measured_ms(self, model: nn.Module) -> float:
        return self.latency_ms(couple(model, torch.zeros(2, 8)).captured.shapes)

    def latency_ms(self, shapes: Mapping[str, Any]) -> float:
        widths = [shape[-1] for node, shape in shapes.items() if node.startswith("linear")]
        return float(sum(width // 16 + 2 * (width % 16 > 0) for width in widths))


def test_latency_is_asked_of_the_target_and_lands_on_a_cliff() -> None:
    model, x = network(), torch.zeros(2, 8)
    step = PruneChannels(0.4, of="latency", round_to=None, scope="local", groups=("0",))
    outcome = apply(model, step, x, runtime=Cliffs())
    before, after = (Cliffs().latency_ms(couple(m, x).captured.shapes) for m in (model, outcome.model))
    assert (before, after) == (10.0, 7.0), "0.6 is out of reach; the cheapest width of layer 0 is 16"
    assert outcome.model[0].out_features == 16
    assert any("latency: asked to keep 60.0%, kept 70.0%" in row.what for row in outcome.fallbacks)
    gentle = apply(model, PruneChannels(0.1, of="latency", round_to=None, groups=("0",)), x, runtime=Cliffs())
    assert gentle.model[0].out_features == 48, "63 to 49 are slower than 64"


def test_latency_without_a_target_is_an_error() -> None:
    with pytest.raises(
        RecipeError, match=r"give apply\(..., runtime=\) the name of a runtime, or a Target, or use of='macs'"
    ):
        apply(network(), PruneChannels(0.5, of="latency"), torch.zeros(2, 8))


def test_latency_has_one_ratio() -> None:
    with pytest.raises(RecipeError, match="of='latency' has one ratio"):
        apply(network(), PruneChannels({"*": 0.5}, of="latency"), torch.zeros(2, 8), runtime=Cliffs())


def test_a_head_counts_as_many_channels_as_it_is_wide() -> None:
    coupling = couple(Attention(), torch.zeros(2, 5, 6))
    heads = next(group for group in coupling.groups if group.size == 4)
    neurons = next(group for group in coupling.groups if group.size == 32 and group.name.startswith("up"))
    cost = cost_of(coupling, [heads, neurons], Budget.CHANNELS)
    whole = cost({})
    assert whole == 96 + 32
    assert whole - cost({heads.name: np.array([0])}) == 24, "8 of query, key and value each"
    assert whole - cost({neurons.name: np.array([0])}) == 1


def test_a_packed_head_is_as_wide_as_the_head_that_is_read() -> None:
    coupling = couple(Attention(), torch.zeros(2, 5, 6))
    heads = next(group for group in coupling.groups if group.size == 4)
    found = widths_of(coupling, coupling.groups, Widths(multiple=16, least=24))
    assert found[heads.name] == Widths(multiple=2, least=3)


def test_ratios_by_pattern_are_budgets_of_their_own() -> None:
    step = PruneChannels({"0": 0.25, "[24]": 0.5, "*": 0.9}, round_to=None)
    outcome = apply(network(), step, torch.zeros(2, 8))
    widths = [layer.out_features for layer in outcome.model if isinstance(layer, nn.Linear)]
    assert widths[0] == 48
    assert sum(widths[1:3]) == 32, "layers 2 and 4 compete for one budget"
    assert widths[3] == 4
    assert not any("asked to keep" in row.what for row in outcome.fallbacks)


def test_groups_that_no_pattern_names_stay_whole() -> None:
    outcome = apply(network(), PruneChannels({"2": 0.5}, round_to=None), torch.zeros(2, 8))
    assert [layer.out_features for layer in outcome.model if isinstance(layer, nn.Linear)] == [64, 16, 32, 4]


@pytest.mark.parametrize("of", ["macs", "params"])
def test_a_part_counts_what_it_touches(of: str) -> None:
    """Layer 4 makes and layer 6 reads the 32 units: 32 * 32 + 32 * 4 weights, and 32 biases."""
    model, x = network(), torch.zeros(2, 8)
    outcome = apply(model, PruneChannels({"4": 0.5}, of=of, round_to=None), x)
    before, after = (getattr(profile(m, x), of) for m in (model, outcome.model))
    assert outcome.model[4].out_features == 16
    assert before - after == {"macs": 32 * 32 + 32 * 4, "params": (32 * 33 + 32 * 4) // 2}[of], "macs of two samples"


def test_prices_are_shares_of_the_budget() -> None:
    coupling = couple(network(), torch.zeros(1, 8))
    (pool,) = pools_of(coupling, coupling.groups, PruneChannels(0.5, of="macs"), {"*": 0.5}, None)
    whole = 8 * 64 + 64 * 32 + 32 * 32 + 32 * 4
    assert pool.prices() == pytest.approx({"0": 40 / whole, "2": 96 / whole, "4": 36 / whole})


def test_normalised_by_cost_the_dear_units_go_first() -> None:
    """Units of layer 2 cost 96 products, those of the others 40 and 36; all score the same."""
    with torch.no_grad():
        model = network()
        for layer in (0, 2, 4, 6):
            model[layer].weight.fill_(0.1)
    register = {"same": Score(lambda group, evidence: torch.ones(group.size))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penjing.techniques.prune.scores.SCORES", SCORES | register)
        step = PruneChannels(0.3, of="macs", score="same", normalize="cost", round_to=None)
        outcome = apply(model, step, torch.zeros(1, 8))
    widths = [layer.out_features for layer in outcome.model if isinstance(layer, nn.Linear)]
    assert widths[0] == 64
    assert widths[1] < 32
    assert widths[2] == 32


def test_the_score_auto_is_settled_by_the_data() -> None:
    from penjing.techniques.prune.choice import score_named
    from penjing.techniques.state import Context

    model, x = network(), torch.randn(64, 8)
    with_data = Context(Workload(model, x[:2], calibration=[(x,)]), model)
    without = Context(None, model)
    assert score_named(PruneChannels(score="auto"), with_data) == "reconstruction"
    assert score_named(PruneChannels(score="auto", compensate=False), with_data) == "l2"
    assert score_named(PruneChannels(score="auto"), without) == "l2"
    assert score_named(PruneChannels(score="lamp"), with_data) == "lamp"


def test_shares_of_iterations_multiply() -> None:
    outcome = apply(network(), PruneChannels({"0": 0.75, "4": 0.5}, round_to=None, iterations=2), torch.zeros(2, 8))
    assert [layer.out_features for layer in outcome.model if isinstance(layer, nn.Linear)] == [16, 32, 16, 4]


@pytest.mark.parametrize("fields", [{"groups": ("x*",)}, {"exclude": ("x*",)}, {"ratio": {"x*": 0.5}}])
def test_a_pattern_that_matches_nothing_is_an_error(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"names 'x\*', which matches no group; known: 0, 2, 4"):
        apply(network(), PruneChannels(**fields), torch.zeros(2, 8))


def test_ratios_go_through_yaml_in_order() -> None:
    step = PruneChannels(
        {"layer1*": 0.2, "layer*.conv2": 0.6, "*": 0.4}, score="lp", p=0.5, normalize="max", reduce="first"
    )
    (read,) = Recipe.from_yaml(Recipe([step]).to_yaml())
    assert read == step
    assert isinstance(read, PruneChannels)
    assert [pattern for pattern, _ in read.ratios] == ["layer1*", "layer*.conv2", "*"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": {"a*": 1.0}}, r"ratio\['a\*'\]=1.0 must lie in \[0, 1\)"),
        ({"ratio": {}}, "names no groups"),
        ({"score": "lp"}, "score='lp' and its order p go together"),
        ({"p": 2.0}, "score='lp' and its order p go together"),
        ({"score": "lp", "p": 0.0}, "p=0.0 must be positive"),
        ({"normalize": "median"}, "normalize='median' is unknown; use one of 'mean', 'max'"),
        ({"reduce": "prod"}, "reduce='prod' is unknown; use one of 'sum', 'mean'"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        PruneChannels(**fields)


@dataclass(frozen=True)
class Optimist(Cliffs):
    """Predicts a millisecond for each output of a layer; what was cut takes a fifth longer when it is measured."""

    def latency_ms(self, shapes: Mapping[str, Any]) -> float:
        return float(sum(shape[-1] for node, shape in shapes.items() if node.startswith("linear")))

    def measured_ms(self, model: nn.Module) -> float:
        found = self.latency_ms(couple(model, torch.zeros(2, 8)).captured.shapes)
        return found if found == self.latency_ms(couple(network(), torch.zeros(2, 8)).captured.shapes) else 1.2 * found


def test_a_prediction_that_is_off_is_made_up_for() -> None:
    step = PruneChannels(0.4, of="latency", round_to=None)
    outcome = apply(network(), step, torch.zeros(2, 8), runtime=Optimist())
    whole = Optimist().measured_ms(network())
    assert Optimist().measured_ms(outcome.model) <= 0.62 * whole
    assert any("measured of" in row.what for row in outcome.log)


def test_a_machine_that_cannot_measure_leaves_the_prediction() -> None:
    class Broken(Cliffs):
        def measured_ms(self, model: nn.Module) -> float:
            raise PenjingError("no such kernel")

    outcome = apply(network(), PruneChannels(0.4, of="macs"), torch.zeros(2, 8), runtime=Broken())
    assert any(row.what == "chosen by predicted latency alone, for no such kernel" for row in outcome.fallbacks)
    assert sum(p.numel() for p in outcome.model.parameters()) < sum(p.numel() for p in network().parameters())
