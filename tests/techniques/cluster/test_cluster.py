"""The Cluster step: palettes of every granularity, zeros, importance, training of centroids, files, later steps."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import ArtifactError, RecipeError
from penjing.storage import entropy_bound, load_tensors, save_tensors
from penjing.techniques import read_outcome
from penjing.techniques.cluster import Palette, load_palettes, save_palettes, technique
from penjing.types import Pooling

TRAIN = pj.Finetune(epochs=2, lr=0.05, distill=False, precision="fp32")
X = torch.zeros(2, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))


def workload(model: nn.Module) -> pj.Workload:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(480, 8, generator=generator)
    x[:, 0] *= 10
    y = (x @ torch.randn(8, 4, generator=generator)).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    return pj.Workload(model, x[:2], train=batches[:12], evaluation=batches[12:], loss=nn.functional.cross_entropy)


def on_palettes(outcome: pj.Outcome) -> bool:
    return bool(outcome.palettes) and all(
        torch.equal(palette.values(), outcome.model.get_parameter(name)) for name, palette in outcome.palettes.items()
    )


@pytest.mark.parametrize("granularity", ["tensor", "axis", "group"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_each_palette_has_so_many_values(bits: int, granularity: str) -> None:
    outcome = pj.apply(network(), pj.Cluster(bits, granularity=granularity, group_size=4), X)
    assert set(outcome.palettes) == {"0.weight", "3.weight"}
    assert on_palettes(outcome)
    weight = outcome.model.get_parameter("0.weight").detach()
    rows = {"tensor": weight.reshape(1, -1), "axis": weight, "group": weight.reshape(-1, 4)}[granularity]
    assert all(len(row.unique()) <= 2**bits for row in rows)
    assert outcome.palettes["0.weight"].centroids.shape == (len(rows), 2**bits)
    if 2**bits >= rows.shape[1]:
        assert torch.equal(weight, network().get_parameter("0.weight"))


def test_the_log_tells_the_relative_error() -> None:
    outcome = pj.apply(network(), pj.Cluster({"3*": 2}), X)
    before, after = (model.get_parameter("3.weight").detach().double() for model in (network(), outcome.model))
    error = float((before - after).norm() / before.norm())
    assert outcome.log[0].what == f"3.weight: 4 centroids, relative error {error:.3g}"
    assert torch.equal(network().get_parameter("0.weight"), outcome.model.get_parameter("0.weight"))


def test_rows_that_are_no_groups_get_a_palette_each() -> None:
    outcome = pj.apply(network(), pj.Cluster(2, granularity="group", group_size=5), X)
    assert outcome.fallbacks[0].what == "0.weight: rows of 8 weights are no groups of 5; a palette for each"
    assert len(outcome.palettes["0.weight"].centroids) == 24


@pytest.mark.parametrize("granularity", ["tensor", "axis"])
def test_zeros_stay_zero_through_training(granularity: str) -> None:
    steps = [pj.Sparsify(0.6), pj.Cluster(2, granularity=granularity), TRAIN]
    outcome = pj.apply(workload(network()), steps)
    for name, mask in outcome.masks.items():
        weight = outcome.model.get_parameter(name)
        assert torch.equal(weight != 0, mask)
        assert (outcome.palettes[name].centroids[:, 0] == 0).all()
    assert on_palettes(outcome)


def test_zeros_without_a_mask_may_go() -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.weight")[:6] = 0
    kept, free = (pj.apply(model, pj.Cluster(2, preserve_sparsity=each), X) for each in (True, False))
    assert kept.palettes["0.weight"].zero
    assert not free.palettes["0.weight"].zero
    assert int((kept.model.get_parameter("0.weight") == 0).sum()) == 48
    assert int((free.model.get_parameter("0.weight") == 0).sum()) == 0
    masked = pj.apply(model, [pj.Sparsify(0.25, scope="local"), pj.Cluster(2, preserve_sparsity=False)], X)
    assert masked.palettes["0.weight"].zero


def test_what_inputs_multiply_more_is_nearer() -> None:
    model = network()

    def error(importance: str) -> float:
        after = pj.apply(workload(model), pj.Cluster(4, start="exact", importance=importance)).model.get_parameter(
            "0.weight"
        )
        return float((after - model.get_parameter("0.weight")).detach()[:, 0].square().sum())

    assert error("inputs") < 0.2 * error("none")


def test_fisher_lowers_what_the_loss_sees() -> None:
    trained = pj.apply(workload(network()), TRAIN).model
    w = workload(trained)
    gradients = []
    for batch in itertools.islice(w.train_batches(), 8):
        loss = nn.functional.cross_entropy(trained.eval()(*batch.args), batch.target)
        gradients.append(torch.autograd.grad(loss, trained.get_parameter("0.weight"))[0].square())
    fisher = torch.stack(gradients).mean(0)

    def error(importance: str) -> float:
        after = pj.apply(w, pj.Cluster(2, start="exact", importance=importance)).model.get_parameter("0.weight")
        return float((fisher * (after - trained.get_parameter("0.weight")).detach().square()).sum())

    assert error("fisher") < error("none")


@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_training_moves_centroids_as_a_model_of_centroids_would(gradient: str) -> None:
    """The oracle has the centroids as its parameters, and autograd sums their gradients."""
    torch.manual_seed(2)
    model = nn.Linear(6, 3, bias=False)
    x, y = torch.randn(8, 6), torch.randn(8, 3)
    other = [(x + 1, y)]
    w = pj.Workload(
        model,
        x[:2],
        train=[(x, y)],
        evaluation=other,
        loss=nn.functional.mse_loss,
        metric=pj.metrics.mean_squared_error(),
    )
    train = pj.Finetune(
        epochs=3, lr=0.02, schedule="constant", warmup=0.0, weight_decay=0.01, distill=False, precision="fp32"
    )
    outcome = pj.apply(w, [pj.Cluster(2, gradient=gradient), train])
    palette = pj.apply(w, pj.Cluster(2)).palettes["weight"]
    assignment = palette.assignment.long()
    centroids = palette.centroids[0].clone().requires_grad_()
    optimizer = torch.optim.SGD([centroids], lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(x @ centroids[assignment].T, y).backward()
        assert centroids.grad is not None
        if gradient == "mean":
            centroids.grad /= assignment.flatten().bincount(minlength=4)
        optimizer.step()
    assert torch.equal(outcome.palettes["weight"].assignment, palette.assignment)
    torch.testing.assert_close(outcome.palettes["weight"].centroids[0], centroids.detach())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_recovers_and_stays_on_the_palette(optimizer: str) -> None:
    w = workload(pj.apply(workload(network()), TRAIN).model)
    steps = [
        pj.Cluster(1),
        pj.Finetune(epochs=3, optimizer=optimizer, ema=0.9, regularize=pj.Regularize("l1"), precision="fp32"),
    ]
    outcome = pj.apply(w, steps)
    assert on_palettes(outcome)
    clustered = pj.apply(w, pj.Cluster(1))
    assert torch.equal(outcome.palettes["0.weight"].assignment, clustered.palettes["0.weight"].assignment)
    assert not torch.equal(outcome.palettes["0.weight"].centroids, clustered.palettes["0.weight"].centroids)


def test_fitted_and_pooled_by_hand() -> None:
    palette = Palette(
        torch.tensor([[0, 1], [1, 2]], dtype=torch.uint8), torch.tensor([[0.0, 5.0, 6.0, 7.0]]), zero=True
    )
    given = torch.tensor([[9.0, 1.0], [2.0, 4.0]])
    assert palette.fitted(given).centroids.tolist() == [[0.0, 1.5, 4.0, 7.0]]
    assert palette.pooled(given).tolist() == [[0.0, 1.5], [1.5, 4.0]]
    summed = Palette(palette.assignment, palette.centroids, gradient=Pooling.SUM)
    assert summed.pooled(given).tolist() == [[9.0, 3.0], [3.0, 4.0]]


@pytest.mark.parametrize("compact", [False, True])
def test_saved_and_restored(tmp_path: Path, compact: bool) -> None:
    outcome = pj.apply(workload(network()), [pj.Sparsify(0.5), pj.Cluster(3, granularity="axis", gradient="sum")])
    folder = outcome.save(tmp_path / "saved", compact=compact)
    assert ("0.weight" in load_tensors(folder / "weights.safetensors")) is not compact
    again = read_outcome(network(), folder)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.model.state_dict().values(), outcome.model.state_dict().values(), strict=True)
    )
    assert on_palettes(again)
    assert again.palettes["0.weight"].zero
    assert again.palettes["0.weight"].gradient is Pooling.SUM
    assert again.recipe == outcome.recipe


@pytest.mark.parametrize("granularity", ["tensor", "axis"])
def test_a_compact_file_is_near_the_entropy_of_its_indices(tmp_path: Path, granularity: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(256, 128, bias=False)
    outcome = pj.apply(model, [pj.Sparsify(0.5), pj.Cluster(4, granularity=granularity)], torch.zeros(2, 256))
    folder = outcome.save(tmp_path / "saved", compact=True)
    palette = outcome.palettes["weight"]
    bound = entropy_bound(palette.assignment.numpy()) + palette.centroids.numel() * 4
    size = sum((folder / name).stat().st_size for name in ("weights.safetensors", "palettes.safetensors"))
    assert size < 1.05 * bound + 1000


def test_a_weight_that_was_changed_by_hand_is_saved_as_it_is(tmp_path: Path) -> None:
    outcome = pj.apply(network(), pj.Cluster(3), X)
    with torch.no_grad():
        outcome.model.get_parameter("0.weight").add_(torch.rand(24, 8))
    restored = pj.restore(network(), outcome.save(tmp_path / "saved", compact=True))
    assert torch.equal(restored.get_parameter("0.weight"), outcome.model.get_parameter("0.weight"))


def test_an_interrupted_recipe_goes_on_with_its_palettes(tmp_path: Path) -> None:
    steps = [pj.Cluster(2), TRAIN]
    whole = pj.apply(workload(network()), steps)
    pj.apply(workload(network()), steps, resume_dir=tmp_path / "run")
    (tmp_path / "run" / "after-1").rename(tmp_path / "gone")
    again = pj.apply(workload(network()), steps, resume_dir=tmp_path / "run")
    for name, palette in whole.palettes.items():
        assert torch.equal(palette.centroids, again.palettes[name].centroids)


@pytest.mark.parametrize(
    "step", [pj.PruneChannels(0.5), pj.Sparsify(0.5), pj.Quantize("w8"), pj.Rewind()], ids=lambda step: step.key
)
def test_a_step_that_changes_weights_tells_that_palettes_are_lost(step: pj.recipe.Step) -> None:
    outcome = pj.apply(network(), [pj.Cluster(3), step], X)
    assert not outcome.palettes
    assert outcome.log[-1].fell_back
    assert outcome.log[-1].what.startswith(
        f"palettes lost, for {step.key} has changed or replaced these weights: 0.weight"
    )


def test_a_step_that_changes_nothing_keeps_palettes() -> None:
    outcome = pj.apply(network(), [pj.Cluster(3), pj.Lossless()], X)
    assert on_palettes(outcome)


def test_recurrent_weights_and_embeddings_by_name() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.rnn, self.head = nn.Embedding(9, 6), nn.GRU(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.rnn(self.embedding(x))[0]
            return self.head(hidden)

    outcome = pj.apply(Tagger(), pj.Cluster({"rnn*": 2, "embedding*": 3}), torch.zeros(4, 2, dtype=torch.long))
    assert set(outcome.palettes) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "embedding.weight"}
    assert on_palettes(outcome)


def test_weights_of_half_precision() -> None:
    outcome = pj.apply(network().bfloat16(), pj.Cluster(2), X.bfloat16())
    assert on_palettes(outcome)
    assert len(outcome.model.get_parameter("0.weight").unique()) <= 4


def test_a_tensor_of_zeros_has_a_palette_of_zeros() -> None:
    model = network()
    nn.init.zeros_(model.get_parameter("0.weight"))
    outcome = pj.apply(model, pj.Cluster(2), X)
    assert not outcome.palettes["0.weight"].values().any()
    assert outcome.log[0].what == "0.weight: 4 centroids, relative error 0"


def test_exact_says_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(technique, "MOST_EXACT", 100)
    outcome = pj.apply(network(), pj.Cluster(2, start="exact"), X)
    assert [row.what for row in outcome.fallbacks] == [
        "0.weight has more than 100 values: neighbours were merged before the optimum was sought"
    ]


def test_yaml() -> None:
    recipe = pj.Recipe([pj.Cluster({"fc*": 2, "*": 4}, granularity="axis", start="linear", gradient="sum")])
    assert pj.Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 0}, "bits=0 must be a whole number from 1 to 8"),
        ({"bits": 9}, "bits=9 must"),
        ({"bits": {"fc*": 2.5}}, r"bits\['fc\*'\]=2.5 must"),
        ({"start": "best"}, "start='best' is unknown; use one of 'kmeans\\+\\+'"),
        ({"granularity": "row"}, "granularity='row'"),
        ({"importance": "size"}, "importance='size'"),
        ({"gradient": "max"}, "gradient='max'"),
        ({"group_size": 1}, "group_size=1 must be at least 2"),
    ],
)
def test_settings_that_are_none(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        pj.Cluster(**settings)  # type: ignore[arg-type]


def test_what_cannot_be_done_is_told() -> None:
    with pytest.raises(RecipeError, match=r"Cluster: bits names 'conv\*', which matches no weight; known: 0.weight"):
        pj.apply(network(), pj.Cluster({"conv*": 4}), X)
    with pytest.raises(RecipeError, match="the model has no convolution or linear weight"):
        pj.apply(nn.BatchNorm1d(8), pj.Cluster(), X)
    with pytest.raises(RecipeError, match="needs train data"):
        pj.apply(network(), pj.Cluster(importance="fisher"), X)
    with pytest.raises(RecipeError, match="let Cluster follow the training"):
        pj.apply(workload(network()), [pj.Cluster(), pj.Sparsify(0.5, schedule="cubic"), TRAIN])
    broken = copy.deepcopy(network())
    nn.init.constant_(broken.get_parameter("3.weight"), float("nan"))
    with pytest.raises(RecipeError, match=r"3\.weight has values that are not finite"):
        pj.apply(broken, pj.Cluster(), X)


def test_parametrised_weights_are_left_alone() -> None:
    model = network()
    nn.utils.parametrizations.weight_norm(model.get_submodule("0"))
    outcome = pj.apply(model, pj.Cluster(), X)
    assert [row.what for row in outcome.fallbacks] == ["0.weight is parametrised and was left alone"]


@pytest.mark.parametrize(
    ("assignment", "centroids", "message"),
    [
        (torch.tensor([[4]], dtype=torch.uint8), torch.zeros(1, 4), "do not fit"),
        (torch.zeros(3, 1, dtype=torch.uint8), torch.zeros(2, 4), "do not fit"),
        (torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 4), "do not fit"),
        (torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(4), "do not fit"),
    ],
)
def test_files_that_are_no_palettes(tmp_path: Path, assignment: Tensor, centroids: Tensor, message: str) -> None:
    save_palettes(tmp_path / "p", {"w": Palette(assignment, centroids)})
    with pytest.raises(ArtifactError, match=message):
        load_palettes(tmp_path / "p")
    for notes in ("{", json.dumps({"w": {"zero": True}}), json.dumps({"v": {"zero": True, "gradient": "mean"}}), "[1]"):
        save_tensors(tmp_path / "q", {"w.assignment": assignment, "w.centroids": centroids}, {"palettes": notes})
        with pytest.raises(ArtifactError, match="holds no palettes"):
            load_palettes(tmp_path / "q")
