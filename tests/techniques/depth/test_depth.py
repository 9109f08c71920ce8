"""The DropBlocks step: what it chooses, what it says, and how it goes with the other steps."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import RecipeError
from penjing.recipe import DropBlocks, Finetune, PruneChannels, Recipe, Sparsify
from penjing.structure import capture
from penjing.structure.blocks import find_blocks, layers
from penjing.techniques import apply, read_outcome, restore
from penjing.techniques.depth import SCORES, Evidence, Score, register_score
from penjing.techniques.depth.without import Without
from penjing.workload import Batch, ResNet, Workload, accuracy


class Encoder(nn.Module):
    """Pre-norm transformer layers over a sequence."""

    def __init__(self, depth: int = 3, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet((2, 2, 2), (8, 8, 16), classes=4).eval()


def data(n: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    images = torch.randn(n, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return list(zip(images.split(16), labels.split(16), strict=True))


def workload(model: nn.Module, **given: Any) -> Workload:
    given = {"train": data(64, 1), "evaluation": data(64, 2), "loss": nn.functional.cross_entropy} | given
    return Workload(model, torch.zeros(4, 1, 8, 8), metric=accuracy(), **given)


def silenced(model: ResNet, *names: str) -> ResNet:
    """A network some of whose branches add next to nothing."""
    for name in names:
        with torch.no_grad():
            model.get_submodule(f"{name}.bn2").weight.mul_(1e-4)  # type: ignore[operator]
    return model


def gone(outcome: pj.Outcome, model: nn.Module) -> set[str]:
    """The blocks of which no parameter is left."""
    left = dict(outcome.model.named_parameters())
    blocks = layers(find_blocks(capture(model, torch.zeros(2, 1, 8, 8))))
    return {block.name for block in blocks if not any(name in left for name in block.parameters)}


@pytest.mark.parametrize("score", ["divergence", "influence", "magnitude", "taylor"])
def test_scores_that_see_data_find_the_branches_that_add_nothing(score: str) -> None:
    model = silenced(network(), "blocks.1", "blocks.5")
    outcome = apply(workload(model), DropBlocks(2, score=score))
    assert gone(outcome, model) == {"blocks.1", "blocks.5"}
    assert type(outcome.model) is ResNet
    assert outcome.log[0].proof is not None
    assert not outcome.fallbacks


def test_weights_alone_are_a_guess_that_needs_no_data() -> None:
    model = network()
    with torch.no_grad():
        model.get_submodule("blocks.3.conv1").weight.mul_(0.1)  # type: ignore[operator]
        model.get_submodule("blocks.3.conv2").weight.mul_(0.1)  # type: ignore[operator]
    outcome = apply(model, DropBlocks(1, score="weight"), torch.zeros(2, 1, 8, 8))
    assert gone(outcome, model) == {"blocks.3"}


def test_random_scores_follow_the_seed() -> None:
    captured = capture(network(), torch.zeros(2, 1, 8, 8))
    blocks = layers(find_blocks(captured))
    first, again, other = (SCORES["random"].function(blocks, Evidence(captured, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_scores_are_taken_anew_after_each_removal() -> None:
    asked: list[tuple[str, ...]] = []

    def score(blocks: Any, evidence: Evidence) -> list[float]:
        asked.append(tuple(block.name for block in evidence.dropped))
        return [0.0 if block.name == "blocks.3" else 1.0 for block in blocks]

    register_score("test", Score(score, needs_data=False))
    try:
        apply(network(), DropBlocks(2, score="test"), torch.zeros(2, 1, 8, 8))
    finally:
        del SCORES["test"]
    assert asked == [(), ("blocks.3",)]


def test_the_divergence_is_that_of_the_smaller_model() -> None:
    model = network()
    captured = capture(model, torch.zeros(2, 1, 8, 8))
    blocks = layers(find_blocks(captured))[:2]
    batches = tuple(Batch((x,), {}, y) for x, y in data(32, 3))
    (found,) = SCORES["divergence"].function(blocks[1:], Evidence(captured, blocks[:1], batches, workload(model)))
    smaller = apply(model, DropBlocks(2, score="weight", blocks=tuple(b.name for b in blocks)), torch.zeros(2, 1, 8, 8))
    expected = [
        nn.functional.kl_div(
            smaller.model(b.args[0]).log_softmax(1),
            model(b.args[0]).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        for b in batches
    ]
    assert found == pytest.approx(float(torch.stack(expected).detach().mean()), rel=1e-4)


def test_the_loss_of_a_block_is_what_the_loss_rises_by_without_it() -> None:
    model = network()
    captured = capture(model, torch.zeros(2, 1, 8, 8))
    (block, *_) = layers(find_blocks(captured))
    ((x, y),) = data(16, 3)
    (found,) = SCORES["loss"].function([block], Evidence(captured, (), (Batch((x,), {}, y),), workload(model)))
    step = DropBlocks(1, score="weight", blocks=block.name)
    smaller = apply(model, step, torch.zeros(2, 1, 8, 8)).model
    with torch.no_grad():
        before, after = (float(nn.functional.cross_entropy(m(x), y)) for m in (model, smaller))
    assert found == pytest.approx(after - before, abs=1e-6)


def test_a_gate_is_the_derivative_of_the_loss() -> None:
    model = network().double()
    captured = capture(model, torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    (block, *_) = layers(find_blocks(captured))
    x, y = data(16, 3)[0]

    def loss(gate: torch.Tensor) -> torch.Tensor:
        outputs = Without(captured, gates=[(block, gate)]).outputs((x.double(),), {})
        return nn.functional.cross_entropy(outputs, y)

    w = workload(network())
    (found,) = SCORES["taylor"].function([block], Evidence(captured, (), (Batch((x.double(),), {}, y),), w))
    with torch.no_grad():
        low, high = (loss(torch.tensor(g, dtype=torch.float64)) for g in (1 - 1e-6, 1 + 1e-6))
    assert found == pytest.approx(abs(float(high - low) / 2e-6), rel=1e-4)


@pytest.mark.parametrize("prefer", ["module", "graph"])
def test_depth_goes_with_width_masks_and_training(prefer: str, tmp_path: Path) -> None:
    model = network()
    steps = [
        DropBlocks(1),
        PruneChannels(0.4, round_to=None, compensate=False),
        Sparsify(0.5),
        DropBlocks(1, score="weight"),
        Finetune(epochs=0.5),
    ]
    outcome = apply(workload(model), steps, prefer=prefer)
    assert len(gone(outcome, model)) == 2
    left = dict(outcome.model.named_parameters())
    assert outcome.masks.keys() <= left.keys()
    assert all(not left[name][~mask].any() for name, mask in outcome.masks.items())
    assert [row.proof is not None for row in outcome.log if row.what.startswith("left out")] == [True, True]
    folder = outcome.save(tmp_path / "saved")
    fresh = None if prefer == "graph" else network(seed=9)
    again = restore(fresh, folder).eval()
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(again(x), outcome.model.eval()(x))
    assert (type(again) is ResNet) == (prefer == "module")


def test_an_interrupted_recipe_goes_on(tmp_path: Path) -> None:
    steps = [DropBlocks(1, score="weight"), DropBlocks(1, score="weight")]
    whole = apply(network(), steps, torch.zeros(2, 1, 8, 8))
    apply(network(), steps[:1], torch.zeros(2, 1, 8, 8), resume_dir=tmp_path)
    again = apply(network(), steps, torch.zeros(2, 1, 8, 8), resume_dir=tmp_path)
    assert whole.log == again.log
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(whole.model(x), again.model(x))


def test_the_original_is_not_changed() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    apply(workload(model), DropBlocks(2))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_post_norm_layer_keeps_its_norms_and_becomes_a_graph() -> None:
    model = Encoder(norm_first=False).eval()
    outcome = apply(model, DropBlocks(1, score="weight", blocks="encoder.layers.1"), torch.randn(2, 5, 4))
    assert outcome.graph
    assert any("rewritten graph" in row.what for row in outcome.fallbacks)
    left = [name for name, _ in outcome.model.named_parameters() if name.startswith("encoder.layers.1.")]
    assert left == [f"encoder.layers.1.norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")]


def test_a_branch_by_itself() -> None:
    model = Encoder().eval()
    step = DropBlocks(1, score="weight", unit="block", blocks=("*.self_attn",), exclude=("encoder.layers.0.*",))
    outcome = apply(model, step, torch.randn(2, 5, 4))
    left = {name for name, _ in outcome.model.named_parameters()}
    assert sum(f"encoder.layers.{i}.self_attn.in_proj_weight" in left for i in range(3)) == 2
    assert "encoder.layers.0.self_attn.in_proj_weight" in left
    assert all(f"encoder.layers.{i}.linear1.weight" in left for i in range(3))


def test_a_share_counts_the_blocks_there_are() -> None:
    model = network()
    outcome = apply(model, DropBlocks(0.5, score="weight"), torch.zeros(2, 1, 8, 8))
    assert len(gone(outcome, model)) == 2  # of 4


def test_what_is_asked_too_much_is_told() -> None:
    outcome = apply(network(), DropBlocks(9, score="weight"), torch.zeros(2, 1, 8, 8))
    (row,) = outcome.fallbacks
    assert row.what == "asked for 9, but only 4 can be bypassed"


def test_nothing_asked_for_and_nothing_to_drop() -> None:
    outcome = apply(network(), DropBlocks(0), torch.zeros(2, 1, 8, 8))
    assert [row.what for row in outcome.log] == ["nothing asked for: count is 0"]
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    (row,) = apply(plain, DropBlocks(1, score="weight"), torch.zeros(2, 4)).fallbacks
    assert "no block of this model can be bypassed" in row.what


def test_a_score_without_its_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="pass a Workload with calibration="):
        apply(network(), DropBlocks(1), torch.zeros(2, 1, 8, 8))
    with pytest.raises(RecipeError, match="needs a workload with loss="):
        apply(workload(network(), loss=None), DropBlocks(1, score="loss"))


def test_names_and_scores_that_nothing_has_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"'layer9', which is no layer .* blocks\.0, blocks\.1"):
        apply(network(), DropBlocks(1, blocks=("layer9",)), torch.zeros(2, 1, 8, 8))
    with pytest.raises(RecipeError, match="score='best' is unknown; use one of divergence"):
        apply(network(), DropBlocks(1, score="best"), torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="registered already"):
        register_score("loss", SCORES["loss"])


@pytest.mark.parametrize("count", [-1, 1.0, 1.5, True, "two"])
def test_a_count_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(RecipeError, match="DropBlocks: count="):
        DropBlocks(count)


def test_a_unit_that_is_unknown_is_refused() -> None:
    with pytest.raises(RecipeError, match="unit='stage' is unknown"):
        DropBlocks(1, unit="stage")


def test_the_step_is_written_and_read() -> None:
    recipe = Recipe([DropBlocks(), DropBlocks(0.25, "influence", "block", ("h.*",), ("h.0",))])
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert pj.DropBlocks is DropBlocks


def test_a_saved_surgery_names_what_is_bypassed(tmp_path: Path) -> None:
    step = DropBlocks(1, score="weight", blocks="blocks.3")
    folder = apply(network(), step, torch.zeros(2, 1, 8, 8)).save(tmp_path / "saved")
    saved = read_outcome(network(), folder)
    assert saved.surgery is not None
    assert dict(saved.surgery.bypassed) == {"blocks.3": None}
