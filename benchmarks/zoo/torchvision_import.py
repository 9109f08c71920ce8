"""Import torchvision beside any build of torch.

A wheel made for another build (CUDA beside CPU) has kernels that do not load, and its import stops at two operators
that are then missing. Both are declared here; `nms` in plain torch, for the detection models that call it.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def torchvision() -> Any:
    """The torchvision package, with its operators declared where its own kernels do not load."""
    warnings.filterwarnings("ignore", message="Failed to load image Python extension")
    try:
        import torchvision
    except RuntimeError:
        _declare_operators()
        import torchvision
        import torchvision.ops.boxes

        torchvision.ops.boxes._assert_has_ops = lambda: None
    return torchvision


def _declare_operators() -> None:
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.impl(f"torchvision::{name}", "CPU", nms)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes [n, 4] that overlap no better one by more than the threshold, best first.

    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
    tensor([1, 2])
    """
    order = scores.argsort(descending=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    overlap = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clamp(min=0).prod(2)
    too_near = overlap > iou_threshold * (area[:, None] + area[None, :] - overlap)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[i + 1 :] &= ~too_near[i, i + 1 :]
    return order[alive]
