"""Rewinding: earlier weights under today's masks and cuts, and iterative magnitude pruning as a recipe."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune

import penjing as pj
from penjing.errors import ArtifactError, RecipeError
from penjing.training import KeepMasks, finetune

TRAIN = pj.Finetune(epochs=3, lr=0.1, distill=False, precision="fp32")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3))


def workload(model: nn.Module) -> pj.Workload:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(480, 8, generator=generator)
    y = (x @ torch.randn(8, 3, generator=generator)).argmax(1)
    batches = [(a, b) for a, b in zip(x.split(24), y.split(24), strict=True)]
    return pj.Workload(model, x[:2], train=batches[:12], evaluation=batches[12:], loss=nn.functional.cross_entropy)


def test_a_recipe_is_iterative_magnitude_pruning_as_one_would_write_it() -> None:
    init = network()
    theirs = copy.deepcopy(init)
    masks: dict[str, Tensor] = {}
    for _ in range(2):
        finetune(theirs, workload(init), TRAIN, hooks=[KeepMasks(masks)], seed=3)
        layers = [theirs.get_submodule(name) for name in ("0", "3")]
        for layer, name in zip(layers, ("0.weight", "3.weight"), strict=True):
            prune.custom_from_mask(layer, "weight", masks.get(name, torch.ones_like(layer.weight)))  # type: ignore[arg-type]
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=0.4)
        masks = {f"{i}.weight": theirs.get_submodule(i).weight_mask.bool() for i in ("0", "3")}  # type: ignore[operator, union-attr]
        theirs = copy.deepcopy(init)
        for name, mask in masks.items():
            theirs.get_parameter(name).data *= mask
    outcome = pj.apply(workload(init), 2 * [TRAIN, pj.Sparsify(0.4), pj.Rewind()], seed=3)
    for name, tensor in outcome.model.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert all(torch.equal(outcome.masks[name], mask) for name, mask in masks.items())
    assert outcome.log[-1].what.endswith(f"{sum(int((~m).sum()) for m in masks.values())} masked weights stay zero")


def test_what_was_cut_goes_back_in_part(tmp_path: Path) -> None:
    early = network()
    trained = pj.apply(workload(early), TRAIN).model
    save_file(early.state_dict(), tmp_path / "early.safetensors")
    steps = [pj.PruneChannels(0.5, compensate=False), pj.Sparsify(0.25), pj.Rewind(tmp_path / "early.safetensors")]
    outcome = pj.apply(workload(trained), steps)
    assert outcome.surgery is not None
    for name, tensor in early.state_dict().items():
        expected = outcome.surgery.slice(name, tensor)
        if name in outcome.masks:
            expected = expected * outcome.masks[name]
        assert torch.equal(outcome.model.state_dict()[name], expected), name
    assert pj.Recipe.from_yaml(pj.Recipe(steps).to_yaml()) == pj.Recipe(steps)


def test_masks_of_torch_are_kept() -> None:
    model = network()
    prune.l1_unstructured(model.get_submodule("0"), "weight", amount=0.5)
    given = model.state_dict()
    outcome = pj.apply(model, pj.Rewind(), torch.zeros(2, 8))
    assert torch.equal(outcome.model.state_dict()["0.weight"], given["0.weight_orig"] * given["0.weight_mask"])


def test_the_original_stays_to_go_back_to() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    outcome = pj.apply(workload(model), [TRAIN, pj.Sparsify(0.5), pj.Rewind()], consume=True)
    for name, mask in outcome.masks.items():
        assert torch.equal(outcome.model.get_parameter(name), before[name] * mask)


def test_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(ArtifactError, match=r"other\.safetensors"):
        pj.apply(network(), pj.Rewind(path), torch.zeros(2, 8))
    save_file({"0.weight": torch.zeros(24, 8)}, path)
    with pytest.raises(RecipeError, match=r"other.safetensors has no tensor '0.bias'; give the state_dict"):
        pj.apply(network(), pj.Rewind(path), torch.zeros(2, 8))
    save_file({"0.weight": torch.zeros(24, 9)}, path)
    with pytest.raises(RecipeError, match=r"0.weight has shape \(24, 9\) in .* and \(24, 8\) in the model"):
        pj.apply(network(), pj.Rewind(path), torch.zeros(2, 8))
