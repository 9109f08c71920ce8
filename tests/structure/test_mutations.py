"""A kept index that is rolled in any weight of a small transformer, U-Net or recurrent net fails the proof."""

import copy

import pytest
import torch
from structure_zoo import ZOO

from penjing.structure import couple, cut, cut_in_place, fold, prove


@pytest.mark.parametrize("name", ["encoder", "unet", "lstm", "transformer"])
def test_a_folded_cut_fails_when_any_of_its_weights_is_rolled(name: str) -> None:
    torch.manual_seed(0)
    model, example = ZOO[name]()
    coupling = couple(model.eval(), example)
    removed = {group.name: [0] for group in coupling.groups if group.prunable and group.exact}
    done, folding = cut(coupling, removed), fold(coupling, removed)
    assert prove(coupling, done, removed, folding=folding).passed
    for weight, dims in done.surgery.kept.items():
        for dim in dims:
            wrong = copy.deepcopy(done.module)
            tensor = wrong.get_parameter(weight)
            if tensor.ndim < 2 or tensor.shape[dim] < 2:
                continue
            with torch.no_grad():
                tensor.copy_(tensor.roll(1, dim))
            assert not prove(coupling, wrong, removed, folding=folding).passed, (weight, dim)


@pytest.mark.parametrize("name", ["vgg", "gated mlp", "lstm"])
def test_a_class_fails_when_any_of_its_weights_is_off_by_a_little(name: str) -> None:
    torch.manual_seed(0)
    model, example = ZOO[name]()
    coupling = couple(model.eval(), example)
    removed = {group.name: [0] for group in coupling.groups if group.prunable}
    done = cut(coupling, removed)
    for weight in done.surgery.kept:
        wrong = cut_in_place(copy.deepcopy(model), done.surgery)
        tensor = {**dict(wrong.named_parameters()), **dict(wrong.named_buffers())}[weight]
        with torch.no_grad():
            tensor.flatten()[:1].add_(1e-4)
        assert not prove(coupling, wrong, removed).passed, weight
