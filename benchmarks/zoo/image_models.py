"""Image models of transformers, from small random configurations: nothing is downloaded.

A row names a class of transformers and the numbers in which it differs from `SMALL`.
"""

from typing import Any

from benchmarks.zoo import Entry, normal
from benchmarks.zoo.configured import Logits, rows

SIZE, PATCH = 32, 8
SMALL: dict[str, Any] = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
STAGES: dict[str, Any] = {"image_size": 64, "num_channels": 3}
SWIN = {"patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "num_labels": 5}
DETECTOR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}


def images(size: int) -> Any:
    """Two images."""
    return {"pixel_values": normal(2, 3, size, size)()}


def clip() -> Any:
    """Two videos of four frames."""
    return {"pixel_values": normal(2, 4, 3, SIZE, SIZE)()}


PATCHES = rows(
    "image patches",
    lambda: images(SIZE),
    SMALL,
    {
        "ViTForImageClassification": {},
        "ViTModel": {},  # the hidden state itself is the output: its width stays
        "DeiTForImageClassification": {},
        "DeiTForImageClassificationWithTeacher": {},
        "BeitForImageClassification": {"use_relative_position_bias": True},
        "Data2VecVisionForImageClassification": {"use_shared_relative_position_bias": True},
        "Dinov2ForImageClassification": {},
        "Dinov2WithRegistersForImageClassification": {"num_register_tokens": 2},
        "DINOv3ViTModel": {"num_register_tokens": 2},
        "ViTMSNForImageClassification": {},
        "IJepaForImageClassification": {},
        "PixioModel": {},
        "VitPoseBackbone": {"image_size": [SIZE, SIZE], "patch_size": [PATCH, PATCH]},
        "HieraForImageClassification": {
            "image_size": [SIZE, SIZE],
            "patch_size": [7, 7],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 4],
            "masked_unit_size": [4, 4],
            "num_query_pool": 1,
            "query_stride": [2, 2],
            "patch_stride": [4, 4],
            "patch_padding": [3, 3],
        },
        "SiglipForImageClassification": {"vision_config": SMALL, "text_config": {"vocab_size": 9}},
        "CLIPForImageClassification": {"vision_config": SMALL, "text_config": {"vocab_size": 9}},
        "DPTForDepthEstimation": {
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 12, 16, 20],
            "fusion_hidden_size": 16,
            "reassemble_factors": [4, 2, 1, 0.5],
            "num_hidden_layers": 4,
        },
        "SamVisionModel": {"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64},
        "GLPNForDepthEstimation": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
            "num_encoder_blocks": 4,
            "decoder_hidden_size": 16,
        },
        "SegformerForSemanticSegmentation": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
            "decoder_hidden_size": 16,
        },
        "PvtForImageClassification": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
        },
        "PvtV2ForImageClassification": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
        },
    },
)

HIERARCHIES = rows(
    "image stages",
    lambda: images(64),
    STAGES,
    {
        "SwinForImageClassification": SWIN,
        "Swinv2ForImageClassification": SWIN,
        "DonutSwinForImageClassification": SWIN,
        "MaskFormerSwinBackbone": SWIN,
        "Swin2SRForImageSuperResolution": SWIN | {"patch_size": 1, "window_size": 8},
        "FocalNetForImageClassification": {
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        "ConvNextForImageClassification": {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]},
        "ConvNextV2ForImageClassification": {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]},
        "ResNetForImageClassification": {key: value for key, value in RESNET.items() if key != "model_type"},
        "RegNetForImageClassification": {
            "embedding_size": 16,
            "hidden_sizes": [16, 24, 32, 40],
            "depths": [1, 1, 2, 1],
            "groups_width": 8,
        },
        "BitForImageClassification": {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 64],
            "depths": [1, 1, 1, 1],
            "num_groups": 2,
        },
        "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25},
        "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35},
        "EfficientNetForImageClassification": {
            "width_coefficient": 0.25,
            "depth_coefficient": 0.5,
            "hidden_dim": 320,
        },
        "MobileViTForImageClassification": {
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [8, 12, 16, 20, 24, 28, 32],
            "num_attention_heads": 4,
        },
        "MobileViTV2ForImageClassification": {"width_multiplier": 0.25},
        "LevitForImageClassification": {
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        "CvtForImageClassification": {
            "embed_dim": [8, 16, 24],
            "num_heads": [1, 2, 3],
            "depth": [1, 2, 3],
        },
        "PoolFormerForImageClassification": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]},
        "SwiftFormerForImageClassification": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
        "UperNetForSemanticSegmentation": {
            "backbone_config": RESNET | {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
            "hidden_size": 16,
            "auxiliary_in_channels": 32,
            "auxiliary_channels": 16,
            "pool_scales": [1, 2],
        },
        "VitDetBackbone": SMALL | {"image_size": 64, "window_block_indices": [0], "window_size": 4},
        "HGNetV2ForImageClassification": {
            "stem_channels": [3, 8, 12],
            "stage_in_channels": [12, 16],
            "stage_mid_channels": [8, 12],
            "stage_out_channels": [16, 24],
            "stage_num_blocks": [1, 1],
            "stage_downsample": [False, True],
            "stage_light_block": [False, True],
            "stage_kernel_size": [3, 5],
            "stage_numb_of_layers": [2, 2],
            "embedding_size": 12,
            "hidden_sizes": [16, 24],
            "depths": [1, 1],
        },
    },
)

DETECTORS = rows(
    "object detection",
    lambda: images(64),
    DETECTOR | {"backbone_config": RESNET | {"out_features": ["stage4"]}},
    {"DetrForObjectDetection": {}, "ConditionalDetrForObjectDetection": {}, "TableTransformerForObjectDetection": {}},
    Logits,
)

LOOKERS = rows(
    "object detection",
    lambda: images(SIZE),
    SMALL | {"image_size": [SIZE, SIZE]},
    {"YolosForObjectDetection": {"num_detection_tokens": 4}},
    Logits,
)

VIDEOS = rows(
    "video",
    clip,
    SMALL | {"num_frames": 4},
    {
        "TimesformerForVideoClassification": {},
        "VideoMAEForVideoClassification": {"tubelet_size": 2},
        "VivitForVideoClassification": {"tubelet_size": [2, PATCH, PATCH], "video_size": [4, SIZE, SIZE]},
    },
)

ENTRIES: tuple[Entry, ...] = (*PATCHES, *HIERARCHIES, *DETECTORS, *LOOKERS, *VIDEOS)
