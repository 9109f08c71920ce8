"""Image and video models of torchvision and timm with random weights, at the smallest input that each takes easily."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import Entry, image, normal
from benchmarks.zoo.torchvision_import import torchvision

# Every family of architectures of torchvision.models, one or two sizes each: name -> size of the input image.
CLASSIFICATION = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 96,
    "inception_v3": 128,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
    "vit_b_32": 224,
    "wide_resnet50_2": 64,
}
SEGMENTATION = {
    "deeplabv3_mobilenet_v3_large": 64,
    "deeplabv3_resnet50": 64,
    "fcn_resnet50": 64,
    "lraspp_mobilenet_v3_large": 64,
}
VIDEO: dict[str, tuple[int, int]] = {  # frames, size of each
    "mc3_18": (8, 32),
    "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224),
    "r2plus1d_18": (8, 32),
    "r3d_18": (8, 32),
    "s3d": (16, 64),
    "swin3d_t": (4, 64),
}
DETECTION = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 128,
    "fcos_resnet50_fpn": 128,
    "keypointrcnn_resnet50_fpn": 128,
    "maskrcnn_resnet50_fpn": 128,
    "retinanet_resnet50_fpn": 128,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
# timm: name -> (size of the input image, whether the model is built for that size); one of the smallest of each family.
TIMM: dict[str, int] = {
    "convnextv2_atto": 64,
    "levit_128s": 224,
    "mobilevit_xxs": 64,
}
HELD_OUT: dict[str, int] = {}


def torchvision_entry(name: str, kind: str, example: Callable[[], Any], note: str = "", **options: Any) -> Entry:
    """A model that torchvision.models lists."""

    def build() -> nn.Module:
        model: nn.Module = torchvision().models.get_model(name, weights=None, **options)
        return model

    return Entry(f"torchvision/{name}", kind, build, example, note, needs="torchvision")


def timm_entry(name: str, size: int, held_out: bool = False, **options: Any) -> Entry:
    """A model of timm."""

    def build() -> nn.Module:
        torchvision()
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    return Entry(f"timm/{name}", "timm", build, image(size), needs="timm", held_out=held_out)


def images_of(size: int) -> Callable[[], tuple[list[Tensor], ...]]:
    """What a detection model is called with: a list of images of values between 0 and 1."""
    return lambda: ([torch.rand(3, size, size), torch.rand(3, size, size)],)


NO_INIT = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
DATA_DEPENDENT = "boxes are chosen by their scores"

ENTRIES = (
    *(
        torchvision_entry(name, "classification", image(size), **NO_INIT.get(name, {}))
        for name, size in CLASSIFICATION.items()
    ),
    *(
        torchvision_entry(name, "segmentation", image(size), weights_backbone=None)
        for name, size in SEGMENTATION.items()
    ),
    *(torchvision_entry(name, "video", normal(2, 3, frames, size, size)) for name, (frames, size) in VIDEO.items()),
    torchvision_entry("raft_small", "optical_flow", lambda: (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))),
    *(
        torchvision_entry(name, "detection", images_of(size), DATA_DEPENDENT, weights_backbone=None)
        for name, size in DETECTION.items()
    ),
    *(timm_entry(name, size) for name, size in TIMM.items()),
    *(timm_entry(name, size, held_out=True) for name, size in HELD_OUT.items()),
)
