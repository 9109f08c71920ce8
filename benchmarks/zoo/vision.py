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
    "vit_b_16": 64,
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
    "s3d": (16, 224),
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
# One of the smallest models of each family of timm: name -> size of the input image.
TIMM = {
    "beit_base_patch16_224": 64,
    "caformer_s18": 64,
    "cait_xxs24_224": 64,
    "coat_lite_tiny": 64,
    "convit_tiny": 64,
    "convmixer_768_32": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "cpubone_nano": 64,
    "crossvit_tiny_240": 64,
    "cs3darknet_focus_s": 64,
    "csatv2": 64,
    "cspresnet50": 64,
    "davit_tiny": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "densenet121": 64,
    "dla46x_c": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 64,
    "efficientvim_m1": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 64,
    "ese_vovnet19b_slim_dw": 64,
    "eva02_tiny_patch14_224": 56,
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "focalnet_tiny_srf": 64,
    "gcvit_xxtiny": 64,
    "ghostnet_050": 64,
    "gmlp_ti16_224": 64,
    "halonet_h1": 256,
    "hardcorenas_b": 64,
    "hgnetv2_b0": 64,
    "hiera_tiny_224": 64,
    "hrnet_w18_small": 64,
    "inception_next_atto": 64,
    "inception_v4": 96,
    "lcnetv2_small": 64,
    "legacy_seresnet18": 64,
    "levit_128s": 64,
    "lowformer_b0": 64,
    "maxvit_rmlp_pico_rw_256": 64,
    "mixer_s32_224": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small": 64,
    "mobilevit_xxs": 64,
    "mvitv2_tiny": 64,
    "nest_tiny": 64,
    "nextvit_small": 64,
    "pit_ti_224": 64,
    "poolformer_s12": 64,
    "poolformerv2_s12": 64,
    "pvt_v2_b0": 64,
    "rdnet_tiny": 64,
    "regnetx_002": 64,
    "repghostnet_050": 64,
    "repvit_m1": 64,
    "res2net50_26w_4s": 64,
    "resmlp_12_224": 64,
    "resnest14d": 64,
    "resnetv2_18": 64,
    "rexnet_100": 64,
    "selecsls42": 64,
    "sequencer2d_s": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "starnet_s050": 64,
    "swiftformer_xs": 64,
    "swin_tiny_patch4_window7_224": 64,
    "swinv2_cr_tiny_224": 64,
    "test_byobnet": 64,
    "test_coatnet": 64,
    "test_efficientnet": 64,
    "test_mambaout": 64,
    "test_nfnet": 64,
    "test_resnet": 64,
    "test_vit": 64,
    "test_vit_relpos": 64,
    "tiny_vit_5m_224": 64,
    "tnt_s_legacy_patch16_224": 64,
    "tresnet_m": 64,
    "twins_svt_small": 64,
    "visformer_tiny": 64,
    "vit_tiny_r_s16_p8_224": 64,
    "vitamin_small_224": 64,
    "volo_d1_224": 64,
    "xception41p": 64,
    "xcit_nano_12_p16_224": 64,
}
# Named before any of them was cut.
HELD_OUT = {
    "coatnext_nano_rw_224": 64,
    "convformer_s18": 64,
    "crossvit_9_dagger_240": 64,
    "dla34": 64,
    "eca_nfnet_l0": 64,
    "ecaresnet26t": 64,
    "fbnetc_100": 64,
    "gernet_s": 64,
    "iformer_t": 64,
    "inception_resnet_v2": 96,
    "lambda_resnet26t": 64,
    "levit_conv_128s": 64,
    "mixnet_s": 64,
    "mobilenet_edgetpu_v2_xs": 64,
    "mobileone_s0": 64,
    "nf_regnet_b0": 64,
    "regnetz_b16": 64,
    "repvgg_a0": 64,
    "res2next50": 64,
    "resnetblur50": 64,
    "samvit_base_patch16_224": 64,
    "swin_s3_tiny_224": 64,
    "swinv2_tiny_window8_256": 64,
    "tf_efficientnet_cc_b0_4e": 64,
    "tinynet_e": 64,
    "twins_pcpvt_small": 64,
    "vit_small_patch16_rope_224": 64,
}


# Models that are built for the size of their input.
SIZED = {
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "coat_lite_tiny",
    "coatnext_nano_rw_224",
    "convit_tiny",
    "deit_tiny_distilled_patch16_224",
    "efficientformerv2_s0",
    "eva02_tiny_patch14_224",
    "gcvit_xxtiny",
    "gmlp_ti16_224",
    "hiera_tiny_224",
    "levit_128s",
    "levit_conv_128s",
    "maxvit_rmlp_pico_rw_256",
    "mixer_s32_224",
    "nest_tiny",
    "pit_ti_224",
    "resmlp_12_224",
    "swin_s3_tiny_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "swinv2_tiny_window8_256",
    "test_coatnet",
    "test_vit_relpos",
    "tnt_s_legacy_patch16_224",
    "visformer_tiny",
    "vit_small_patch16_rope_224",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "volo_d1_224",
}
SMALLER: dict[str, dict[str, Any]] = {  # of families that have no small member
    "beit_base_patch16_224": {"depth": 4, "embed_dim": 192, "num_heads": 3},
    "samvit_base_patch16_224": {"depth": 4, "embed_dim": 192, "num_heads": 3},
}


def torchvision_entry(name: str, kind: str, example: Callable[[], Any], note: str = "", **options: Any) -> Entry:
    """A model that torchvision.models lists."""

    def build() -> nn.Module:
        model: nn.Module = torchvision().models.get_model(name, weights=None, **options)
        return model

    return Entry(f"torchvision/{name}", kind, build, example, note, needs="torchvision")


def timm_entry(name: str, size: int, held_out: bool = False) -> Entry:
    """A model of timm."""
    options = {**({"img_size": size} if name in SIZED else {}), **SMALLER.get(name, {})}

    def build() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    return Entry(f"timm/{name}", "timm", build, image(size), needs="timm", held_out=held_out)


def images_of(size: int) -> Callable[[], tuple[list[Tensor], ...]]:
    """What a detection model is called with: a list of images of values between 0 and 1."""
    return lambda: ([torch.rand(3, size, size), torch.rand(3, size, size)],)


OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
    "vit_b_16": {"image_size": 64},
}
DATA_DEPENDENT = "boxes are chosen by their scores"

ENTRIES = (
    *(
        torchvision_entry(name, "classification", image(size), **OPTIONS.get(name, {}))
        for name, size in CLASSIFICATION.items()
    ),
    *(
        torchvision_entry(name, "segmentation", image(size), weights_backbone=None)
        for name, size in SEGMENTATION.items()
    ),
    *(torchvision_entry(name, "video", normal(2, 3, frames, size, size)) for name, (frames, size) in VIDEO.items()),
    torchvision_entry("raft_small", "optical_flow", lambda: (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128))),
    *(
        torchvision_entry(
            name,
            "detection",
            images_of(size),
            DATA_DEPENDENT,
            weights_backbone=None,
            **({} if name.startswith("ssd") else {"min_size": size, "max_size": 2 * size}),  # else 800 pixels
        )
        for name, size in DETECTION.items()
    ),
    *(timm_entry(name, size) for name, size in TIMM.items()),
    *(timm_entry(name, size, held_out=True) for name, size in HELD_OUT.items()),
)
