"""Submodules that can be captured, where the whole model cannot."""

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import CaptureError
from penjing.structure.parts import capture_parts, record_calls
from penjing.workload import ExampleInputs


class Chooser(nn.Module):
    """Two stages with a choice by value between them, as in a detector; the head is called once for each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"stem": nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), "body": nn.Conv2d(8, 4, 3)}
        )
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        self.tied = nn.Linear(6, 2)
        self.tied.weight = self.head[2].weight
        self.unused = nn.Linear(2, 2)

    def forward(self, images: list[Tensor]) -> Tensor:
        features = self.backbone["body"](self.backbone["stem"](torch.stack(images))).mean((2, 3))
        chosen = features[features[:, 0] > features[:, 0].median()]
        if chosen.numel() == 0:
            return self.head(features)
        return self.head(chosen) + self.tied.bias


IMAGES = ([torch.rand(3, 8, 8), torch.rand(3, 8, 8), torch.rand(3, 8, 8)],)


def test_the_largest_submodules_that_can_be_captured_are_the_parts() -> None:
    parts = {part.path: part for part in capture_parts(Chooser().eval(), IMAGES)}
    assert list(parts) == ["backbone.stem", "backbone.body", "head"]
    assert parts["head"].captured.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_tensor_that_is_used_outside_of_its_part_is_named() -> None:
    parts = {part.path: part for part in capture_parts(Chooser().eval(), IMAGES)}
    assert parts["head"].shared == {"2.weight"}
    assert parts["backbone.stem"].shared == frozenset()


def test_a_model_that_can_be_captured_is_one_part() -> None:
    (part,) = capture_parts(nn.Linear(3, 2), torch.zeros(2, 3))
    assert (part.path, part.shared) == ("", frozenset())


def test_a_model_without_any_part_raises_the_error_of_the_model() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    with pytest.raises(CaptureError, match="Sum"):
        capture_parts(Sum(), torch.ones(2, 3))


def test_recording_leaves_modes_and_hooks_as_they_were() -> None:
    model = Chooser().train()
    calls = record_calls(model, ExampleInputs(IMAGES))
    assert calls["head"].args[0].shape == (1, 4)
    assert "unused" not in calls
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())


def test_a_scripted_submodule_is_no_part_and_no_obstacle() -> None:
    class Scripted(Chooser):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.jit.script(nn.Linear(4, 2))

        def forward(self, images: list[Tensor]) -> Tensor:
            features = self.backbone["body"](self.backbone["stem"](torch.stack(images))).mean((2, 3))
            return self.head(features) if features.sum() > 0 else features

    assert [part.path for part in capture_parts(Scripted().eval(), IMAGES)] == ["backbone.stem", "backbone.body"]
