"""The fold over a recipe: what comes out, what stays as it was, what is refused before any work, and going on."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from penjing.errors import ArtifactError, RecipeError, RunError
from penjing.recipe import Finetune, PruneChannels, Quantize, Recipe, Sparsify
from penjing.techniques import TECHNIQUES, apply, read_outcome, restore
from penjing.workload import ResNet, Workload, accuracy


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet((1, 1), (8, 16), classes=4).eval()


def data(n: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    images = torch.randn(n, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return list(zip(images.split(16), labels.split(16), strict=True))


def workload(model: nn.Module, **given: Any) -> Workload:
    given = {"train": data(64, 1), "evaluation": data(64, 2), "loss": nn.functional.cross_entropy} | given
    return Workload(model, torch.zeros(4, 1, 8, 8), metric=accuracy(), **given)


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_original_is_not_changed() -> None:
    model = network()
    before = copy.deepcopy(model)
    apply(workload(model), [Sparsify(0.5), PruneChannels(0.5, round_to=None), Finetune(epochs=1)])
    assert same(model, before)
    assert not model.training


def test_consume_works_on_the_model_itself() -> None:
    model = network()
    outcome = apply(model, Sparsify(0.5), torch.zeros(2, 1, 8, 8), consume=True)
    assert outcome.model is model


def test_consume_leaves_the_teacher_alone() -> None:
    model = network()
    before = copy.deepcopy(model)
    apply(workload(model), [PruneChannels(0.5, round_to=None), Finetune(epochs=1, distill=True)], consume=True)
    assert same(model, before)


def test_a_cut_is_proven_and_keeps_the_class() -> None:
    outcome = apply(network(), PruneChannels(0.5, round_to=None), torch.zeros(2, 1, 8, 8))
    assert type(outcome.model) is ResNet
    assert outcome.model.conv.out_channels == 4
    proofs = [row.proof for row in outcome.log if row.proof]
    assert len(proofs) == 1
    assert proofs[0].startswith("proven in float64")


def test_the_graph_route_gives_the_same_function() -> None:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    step = PruneChannels(0.5, round_to=None, compensate=False)
    module, graph = (apply(network(), step, torch.zeros(2, 1, 8, 8), prefer=p).model for p in ("module", "graph"))
    assert type(graph) is not ResNet
    with torch.no_grad():
        assert torch.allclose(module(x), graph(x), atol=1e-6)


def test_zeros_survive_cutting_and_training() -> None:
    outcome = apply(workload(network()), [Sparsify(0.6), PruneChannels(0.5, round_to=None), Finetune(epochs=2)])
    parameters = dict(outcome.model.named_parameters())
    assert outcome.masks
    for name, mask in outcome.masks.items():
        assert mask.shape == parameters[name].shape
        assert not parameters[name].detach()[~mask.bool()].any()


def test_iterations_reach_the_same_width_in_steps() -> None:
    once, thrice = (
        apply(network(), PruneChannels(0.5, scope="local", round_to=None, iterations=n), torch.zeros(2, 1, 8, 8))
        for n in (1, 3)
    )
    assert thrice.model.conv.out_channels in (once.model.conv.out_channels, once.model.conv.out_channels + 1)
    assert sum(row.proof is not None for row in thrice.log) == 3


@pytest.mark.parametrize("of", ["channels", "params", "macs"])
def test_budgets_count_what_they_name(of: str) -> None:
    from penjing.profiling import profile

    model, x = network(), torch.zeros(2, 1, 8, 8)
    outcome = apply(model, PruneChannels(0.6, of=of, round_to=None), x)
    before, after = profile(model, x), profile(outcome.model, x)
    if of == "channels":
        assert sum(len(kept[0]) for n, kept in outcome.surgery.kept.items() if n.endswith("bn1.weight")) <= 12
    else:
        assert getattr(after, of) <= 0.4 * getattr(before, of)
        assert getattr(after, of) >= 0.25 * getattr(before, of), "and not far below"


def test_what_the_widths_cannot_reach_is_a_row() -> None:
    outcome = apply(network(), PruneChannels(0.9, round_to=8), torch.zeros(2, 1, 8, 8))
    assert any("the allowed widths reach no further" in row.what for row in outcome.fallbacks)
    assert any("no smaller width is a multiple of 8: conv" in row.what for row in outcome.fallbacks)


def test_a_ratio_of_zero_asks_for_nothing() -> None:
    outcome = apply(network(), PruneChannels(0.0, iterations=2), torch.zeros(2, 1, 8, 8))
    assert [row.what for row in outcome.log] == ["nothing asked for: ratio is 0"]
    assert not outcome.fallbacks


def encoder() -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()


def test_widths_count_channels_so_that_heads_are_cut_one_by_one() -> None:
    """Four heads of eight channels: any number of heads is a multiple of eight channels."""
    step = PruneChannels(0.5, scope="local", groups=("layers.0.self_attn*",), compensate=False)
    outcome = apply(encoder(), step, torch.randn(2, 5, 32))
    assert outcome.surgery is not None
    assert len(outcome.surgery.kept["layers.0.self_attn.out_proj.weight"][1]) == 16
    assert any("4 to 2" in row.what for row in outcome.log)
    assert any("multiple of 8: layers.0.self_attn" in row.what for row in outcome.fallbacks), "heads stay 8 wide"


def test_units_of_grouped_convolutions_count_their_channels() -> None:
    """Four groups of four channels: two groups are eight; fewer channels in each would not be a multiple for sure."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 2, 1)
    )
    outcome = apply(model, PruneChannels(0.5, scope="local", compensate=False), torch.randn(2, 2, 8, 8))
    assert outcome.model[2].in_channels == outcome.model[2].out_channels == 8


def test_least_widths_count_channels_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU(), nn.Conv2d(16, 2, 1)
    )
    step = PruneChannels(0.9, scope="local", min_width=10, round_to=None, compensate=False)
    assert apply(model, step, torch.randn(2, 2, 8, 8)).model[2].in_channels == 12


class Half(nn.Module):
    """Two hidden layers; a cut of the second is refused by the class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.b(self.a(x).relu())
        return self.c(h.reshape(len(h), 16).relu())


def test_a_class_that_refuses_says_why_the_model_is_a_graph() -> None:
    outcome = apply(Half(), PruneChannels(0.5, scope="local", round_to=None), torch.randn(3, 4))
    (row,) = (row for row in outcome.fallbacks if "rewritten graph" in row.what)
    assert "it does not run: shape '[" in row.what


def test_what_was_kept_is_that_of_the_cuts_that_were_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    from penjing.structure import prove
    from penjing.techniques.prune import attempt

    def refusing(coupling: Any, candidate: Any, removed: Any, **how: Any) -> Any:
        proof = prove(coupling, candidate, removed, **how)
        return replace(proof, passed=False, what="b is sacred") if "b" in removed else proof

    monkeypatch.setattr(attempt, "prove", refusing)
    outcome = apply(Half(), PruneChannels(0.5, scope="local", round_to=None), torch.randn(3, 4))
    rows = [row.what for row in outcome.fallbacks]
    assert "group b was left whole: its cut could not be proven (b is sacred)" in rows
    assert "channels: asked to keep 50.0%, kept 75.0%; not every cut was proven" in rows


def test_zeros_survive_compensation() -> None:
    outcome = apply(workload(network()), [Sparsify(0.6), PruneChannels(0.5, round_to=None)])
    assert any(row.what.startswith("refitted") for row in outcome.log)
    parameters = dict(outcome.model.named_parameters())
    for name, mask in outcome.masks.items():
        assert not parameters[name].detach()[~mask.bool()].any()


def test_excluded_and_chosen_groups() -> None:
    x = torch.zeros(2, 1, 8, 8)
    spared = apply(network(), PruneChannels(0.5, scope="local", round_to=None, exclude=("conv.weight",)), x)
    assert spared.model.conv.out_channels == 8
    only = apply(network(), PruneChannels(0.5, scope="local", round_to=None, groups=("blocks.0.conv1",)), x)
    assert only.model.conv.out_channels == 8
    assert only.model.blocks[0].conv1.out_channels == 4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: apply(network(), Sparsify(0.5)), "needs example_inputs="),
        (lambda: apply("model.pt", Sparsify(0.5)), "got str; pass a Workload or an nn.Module"),
        (lambda: apply(network(), Sparsify(0.5), torch.zeros(2, 1, 8, 8), prefer="both"), "prefer='both' is unknown"),
        (lambda: apply(network(), Finetune(), torch.zeros(2, 1, 8, 8)), r"step 0 \(finetune\) needs train data"),
        (lambda: apply(network(), Quantize(), torch.zeros(2, 1, 8, 8)), r"step 0 \(quantize\) needs calibration data"),
        (lambda: apply(workload(network(), train=None), Finetune()), "needs train data"),
        (
            lambda: apply(workload(network()), [Quantize(), PruneChannels()]),
            "comes after quantize, which only training may",
        ),
        (lambda: apply(network(), PruneChannels(score="best"), torch.zeros(2, 1, 8, 8)), "score='best' is unknown"),
        (lambda: apply(network(), PruneChannels(of="latency"), torch.zeros(2, 1, 8, 8)), "of='latency' needs"),
        (lambda: apply(network(), PruneChannels(exclude=("no.such",)), torch.zeros(2, 1, 8, 8)), "matches no group"),
        (
            lambda: apply(network(), PruneChannels(score="taylor"), torch.zeros(2, 1, 8, 8)),
            "needs a workload with train=",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        call()


def test_taylor_prunes_with_the_gradients_of_the_loss() -> None:
    outcome = apply(workload(network()), PruneChannels(0.5, score="taylor", round_to=None))
    assert outcome.surgery is not None
    assert all(p.grad is None for p in outcome.model.parameters())


def test_taylor_scores_frozen_layers_as_if_they_were_not() -> None:
    frozen, free = network(), network()
    frozen.conv.requires_grad_(False)
    cuts = [apply(workload(m), PruneChannels(0.5, score="taylor", round_to=None)) for m in (frozen, free)]
    for name, dims in cuts[1].surgery.kept.items():
        assert {d: k.tolist() for d, k in cuts[0].surgery.kept[name].items()} == {
            d: k.tolist() for d, k in dims.items()
        }
    assert not frozen.conv.weight.requires_grad
    assert not cuts[0].model.conv.weight.requires_grad
    assert cuts[0].model.blocks[0].conv1.weight.requires_grad


def test_save_and_restore_by_class(tmp_path: Path) -> None:
    def network(seed: int = 0) -> ResNet:
        torch.manual_seed(seed)
        return ResNet((1,), (48,), classes=4).eval()

    outcome = apply(workload(network()), [Sparsify(0.7), PruneChannels(0.5, round_to=None)])
    for compact in (False, True):
        folder = outcome.save(tmp_path / f"saved-{compact}", compact=compact)
        back = restore(network(seed=9), folder)
        assert type(back) is ResNet
        assert same(back, outcome.model)
        read = read_outcome(network(seed=9), folder)
        assert read.recipe == outcome.recipe
        assert read.log == outcome.log
        assert read.masks.keys() == outcome.masks.keys()
    sizes = [(tmp_path / f"saved-{c}" / "weights.safetensors").stat().st_size for c in (False, True)]
    assert sizes[1] < sizes[0]


def test_the_surgery_of_cuts_in_a_row_is_one_of_the_original(tmp_path: Path) -> None:
    steps = [PruneChannels(ratio, round_to=None, compensate=False) for ratio in (0.25, 0.5)]
    outcome = apply(network(), steps, torch.zeros(2, 1, 8, 8))
    outcome.save(tmp_path / "saved")
    assert same(restore(network(seed=1), tmp_path / "saved"), outcome.model)
    original = dict(network().named_parameters())["conv.weight"]
    kept = outcome.surgery.slice("conv.weight", original)
    assert 1 < len(kept) < 6
    assert torch.equal(kept, outcome.model.conv.weight)


def test_save_and_restore_a_graph_without_any_class(tmp_path: Path) -> None:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    outcome = apply(workload(network()), [PruneChannels(0.5, round_to=None), Quantize()])
    back = restore(None, outcome.save(tmp_path / "graph"))
    with torch.no_grad():
        assert torch.equal(back.eval()(x), outcome.model.eval()(x))


def test_restore_names_what_is_wrong(tmp_path: Path) -> None:
    folder = apply(network(), PruneChannels(0.5, round_to=None), torch.zeros(2, 1, 8, 8)).save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="pass a fresh instance of that class"):
        restore(None, folder)
    with pytest.raises(ArtifactError, match="does not fit Sequential"):
        restore(nn.Sequential(nn.Linear(2, 2)), folder)
    (folder / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(ArtifactError):
        restore(network(), folder)


def test_an_interrupted_recipe_goes_on_after_the_last_finished_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Sparsify(0.5), PruneChannels(0.5, round_to=None), Finetune(epochs=1, precision="fp32")]
    whole = apply(workload(network()), steps)

    calls: list[str] = []
    table = dict(TECHNIQUES)

    def counted(step: type, fail: bool = False) -> None:
        inner = table[step].run

        def run(*args: Any) -> Any:
            calls.append(step.__name__)
            if fail:
                raise KeyboardInterrupt
            return inner(*args)

        monkeypatch.setitem(TECHNIQUES, step, type(table[step])(run, needs=table[step].needs))

    for step in (Sparsify, PruneChannels):
        counted(step)
    counted(Finetune, fail=True)
    with pytest.raises(KeyboardInterrupt):
        apply(workload(network()), steps, resume_dir=tmp_path)
    counted(Finetune)
    calls.clear()
    resumed = apply(workload(network()), steps, resume_dir=tmp_path)
    assert calls == ["Finetune"]
    assert same(resumed.model, whole.model)
    assert [row.step for row in resumed.log] == [row.step for row in whole.log]


def test_a_resume_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    apply(network(), Sparsify(0.5), torch.zeros(2, 1, 8, 8), resume_dir=tmp_path)
    with pytest.raises(RunError, match="left by another recipe"):
        apply(network(), Sparsify(0.6), torch.zeros(2, 1, 8, 8), resume_dir=tmp_path)


def test_modules_in_a_recipe_become_names_so_that_it_can_be_resumed(tmp_path: Path) -> None:
    model, x = network(), torch.zeros(2, 1, 8, 8)
    outcomes = [
        apply(model, Sparsify(0.5, parameters=[(model.conv, "weight")]), x, resume_dir=tmp_path) for _ in range(2)
    ]
    for outcome in outcomes:
        assert outcome.recipe == Recipe([Sparsify(0.5, parameters=["conv.weight"])])
        assert list(outcome.masks) == ["conv.weight"]
    assert same(outcomes[0].model, outcomes[1].model)
    with pytest.raises(RecipeError, match="is no part of the model"):
        apply(network(), Sparsify(0.5, parameters=[(model.conv, "weight")]), x)


def test_every_step_has_a_technique() -> None:
    from penjing.recipe import STEPS

    assert set(TECHNIQUES) == set(STEPS.values())
    assert Recipe([cls() for cls in STEPS.values()]).explain()


def test_a_saved_model_holds_its_recipe_and_its_proofs(tmp_path: Path) -> None:
    from penjing.storage import read_manifest

    outcome = apply(network(), PruneChannels(0.5, round_to=None), torch.zeros(2, 1, 8, 8))
    manifest = read_manifest(outcome.save(tmp_path / "saved"))
    assert manifest.recipe == outcome.recipe.to_data()
    assert manifest.surgery_proof is not None
    assert manifest.surgery_proof["cuts"][0].startswith("proven in float64")
    untouched = apply(network(), Sparsify(0.5), torch.zeros(2, 1, 8, 8))
    assert read_manifest(untouched.save(tmp_path / "untouched")).surgery_proof is None
