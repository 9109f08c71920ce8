"""Steps, recipes and contracts: what is accepted, what is refused and how, and that YAML keeps everything."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from penjing.errors import ContractError, RecipeError
from penjing.recipe import (
    Contract,
    Finetune,
    MaxDrop,
    MinValue,
    PruneChannels,
    Quantize,
    Recipe,
    Sparsify,
    Step,
    as_recipe,
)
from penjing.types import Budget, Scope

steps = st.one_of(
    st.builds(
        PruneChannels,
        ratio=st.floats(0, 0.99),
        of=st.sampled_from(["channels", "macs", "params"]),
        scope=st.sampled_from(["global", "local"]),
        round_to=st.sampled_from(["auto", None, 4, 16]),
        groups=st.sampled_from([None, ("blocks.*",), ("a", "b")]),
        exclude=st.sampled_from([(), ("fc",)]),
    ),
    st.builds(
        Sparsify,
        st.one_of(st.floats(0, 0.99), st.integers(0, 100)),
        parameters=st.sampled_from([None, ("conv.weight",)]),
    ),
    st.builds(Quantize, overrides=st.sampled_from([{}, {"fc": "float"}])),
    st.builds(
        Finetune,
        epochs=st.floats(0.25, 40),
        lr=st.sampled_from([None, 0.1, {"fc*": 0.1, "*": 0.01}]),
        patience=st.sampled_from([None, 3]),
        schedule=st.sampled_from(["cosine", "multi_step"]),
        milestones=st.sampled_from([(0.5, 0.75), (0.3,)]),
        ema=st.sampled_from([None, 0.99]),
    ),
)


@given(st.lists(steps, max_size=5))
def test_yaml_keeps_every_recipe(made: list[Step]) -> None:
    recipe = Recipe(made)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_yaml_file_round_trip(tmp_path: Path) -> None:
    recipe = Recipe([PruneChannels(0.3, of="macs"), Quantize()])
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == recipe
    assert Recipe.from_yaml(str(tmp_path / "recipe.yaml")) == recipe


def test_strings_become_closed_vocabularies_at_once() -> None:
    step = PruneChannels(of="macs", scope="local")
    assert step.of is Budget.MACS
    assert step.scope is Scope.LOCAL


def test_as_recipe_takes_a_step_a_list_or_a_recipe() -> None:
    step = Quantize()
    assert as_recipe(step) == as_recipe([step]) == as_recipe(Recipe([step])) == Recipe([step])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PruneChannels(1.0), "ratio=1.0 must lie in [0, 1)"),
        (lambda: PruneChannels(of="flops"), "use one of 'channels', 'macs'"),
        (lambda: PruneChannels(round_to="even"), "use 'auto', None or a number"),
        (lambda: PruneChannels(min_width=0), "min_width=0 must be at least 1"),
        (lambda: Sparsify(1.5), "amount=1.5 must lie in [0, 1)"),
        (lambda: Sparsify(True), "amount=True must be a share"),
        (lambda: Quantize("int5"), "use one of int8, int8-tensor, int8-dynamic"),
        (lambda: Finetune(lr=0), "lr=0 must be positive"),
        (lambda: Finetune(lr={}), "lr={} names no parameters"),
        (lambda: Finetune(lr={"fc*": -1}), "lr['fc*']=-1 must be at least 0"),
        (lambda: Finetune(layer_decay=2), "layer_decay=2 must lie in (0, 1]"),
        (lambda: Finetune(ema=1.0), "ema=1.0 must lie in (0, 1)"),
        (lambda: Finetune(milestones=(0.5, 1)), "milestones=(0.5, 1) must be shares"),
        (lambda: Finetune(schedule="steps"), "schedule='steps' is unknown; use one of cosine, linear"),
        (lambda: Finetune(temperature=0), "temperature=0 must be positive"),
        (lambda: Finetune(optimizer="lamb"), "use one of sgd, adamw"),
        (lambda: Finetune(distill_weight=2), "distill_weight=2 must lie in [0, 1]"),
        (lambda: Recipe(["prune"]), "step 0 of the recipe is 'prune'"),  # type: ignore[list-item]
        (lambda: Recipe.from_data([{"prun": {}}]), "'prun' is unknown; use one of prune_channels, "),
        (lambda: Recipe.from_data([{"quantize": {"bits": 3}}]), "setting 'bits' is unknown; use one of scheme"),
        (lambda: Recipe.from_data([{"prune_channels": {"ratio": "half"}}]), "ratio='half'"),
        (lambda: Recipe.from_data([3]), "step 0 is 3; write"),
        (lambda: Recipe.from_yaml("steps: 3\n"), "expected 'steps:' with a list"),
        (lambda: Recipe.from_yaml("steps: [\n"), "not valid YAML"),
        (lambda: Recipe.from_yaml("penjing: 9\nsteps: []\n"), "schema 9; this version reads schema 1"),
        (lambda: Recipe.from_yaml(Path("nowhere.yaml")), "nowhere.yaml cannot be read"),
    ],
)
def test_bad_recipes_are_refused_with_the_remedy(make: object, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value)


def test_module_pairs_cannot_be_written() -> None:
    layer = nn.Linear(2, 2)
    recipe = Recipe([Sparsify(0.2, parameters=[(layer, "weight")])])
    with pytest.raises(RecipeError, match=r"give parameter names such as 'conv1.weight'"):
        recipe.to_yaml()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Contract(max_drop=-0.1), "max_drop=-0.1 must be a number of at least 0"),
        (lambda: Contract(max_drop=float("nan")), "max_drop=nan"),
        (lambda: Contract(confidence=1.0), "confidence=1.0 must lie in [0.5, 1)"),
        (lambda: Contract(max_latency_ms=0), "max_latency_ms=0 must be positive"),
        (lambda: Contract(minimize="joy"), "use one of latency, size, memory, macs"),
        (lambda: Contract(limits=(0.3,)), "limits holds 0.3"),  # type: ignore[arg-type]
        (lambda: MaxDrop("f1", -1), "MaxDrop: max_drop=-1"),
    ],
)
def test_bad_contracts_are_refused_with_the_remedy(make: object, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value)


def test_a_contract_describes_itself() -> None:
    contract = Contract(0.01, limits=(MinValue("recall", 0.9), MaxDrop("f1", 0.02)), max_latency_ms=5)
    assert contract.describe() == (
        "the metric may drop by at most 0.01, at 95 % confidence, "
        "recall no worse than 0.9, f1 drops at most 0.02, at most 5 ms latency"
    )
    assert contract.alpha == 0.05


def test_a_recipe_explains_itself() -> None:
    assert Recipe([PruneChannels(0.3), Quantize()]).explain() == "1. prune_channels(ratio=0.3)\n2. quantize()"
    assert Recipe([]).explain() == "(nothing to do)"
