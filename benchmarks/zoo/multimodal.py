"""Models of transformers for images with text, sound, time series and the like, from small random configurations.

A row names a class of transformers and the numbers in which it differs from those of its table.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import Entry, normal
from benchmarks.zoo.configured import Logits, rows

VOCABULARY, LENGTH, SIZE = 99, 12, 32
LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = LAYERS | {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IMAGE = LAYERS | {"image_size": SIZE, "patch_size": 8, "num_channels": 3}
PAIR: dict[str, Any] = {"text_config": TEXT, "vision_config": IMAGE, "projection_dim": 16}
TWO_SIDED: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
WAVES = LAYERS | {
    "vocab_size": 20,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [8, 4, 4],
    "conv_stride": [4, 4, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
SERIES: dict[str, Any] = TWO_SIDED | {
    "prediction_length": 4,
    "context_length": 8,
    "lags_sequence": [1, 2],
    "num_time_features": 2,
    "loss": "mse",
}


def words(length: int = LENGTH) -> Tensor:
    """Token ids [2, length], without those of padding, beginning and end."""
    return torch.randint(3, VOCABULARY, (2, length))


def image() -> dict[str, Tensor]:
    """Two images."""
    return {"pixel_values": normal(2, 3, SIZE, SIZE)()}


def captioned() -> dict[str, Tensor]:
    """Two images and a text for each."""
    return {"input_ids": words()} | image()


def spoken(samples: int = 800) -> dict[str, Tensor]:
    """Two pieces of sound."""
    return {"input_values": normal(2, samples)()}


def past_and_future() -> dict[str, Tensor]:
    """Two series with the values to predict."""
    return {
        "past_values": normal(2, 10)(),
        "past_time_features": normal(2, 10, 2)(),
        "past_observed_mask": torch.ones(2, 10),
        "future_values": normal(2, 4)(),
        "future_time_features": normal(2, 4, 2)(),
    }


class Picked(nn.Module):
    """A model of which one output counts; what it returns beside that may change."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, **inputs: Tensor) -> Tensor:
        picked: Tensor = self.model(**inputs)[self.output]
        return picked


def pick(output: str) -> Callable[[nn.Module], nn.Module]:
    """Wrap a model so that it gives one output alone."""
    return lambda model: Picked(model, output)


PAIRS = rows(
    "image and text",
    captioned,
    PAIR,
    {
        "CLIPModel": {},
        "SiglipModel": {},
        "ChineseCLIPModel": {},
        "AltCLIPModel": {"text_config": TEXT | {"project_dim": 32}},
        "GroupViTModel": {
            "vision_config": IMAGE
            | {
                "depths": [1, 1],
                "num_group_tokens": [8, 0],
                "num_output_groups": [4, 4],
                "projection_dim": 16,
            },
            "projection_intermediate_dim": 24,
        },
        "BlipModel": {"image_text_hidden_size": 16},
    },
    pick("logits_per_image"),
)
OTHER_PAIRS = [
    *rows(
        "image and text",
        captioned,
        TEXT | IMAGE,
        {"ViltForQuestionAnswering": {"num_labels": 7, "max_image_length": 16}},
    ),
    *rows(
        "image and text",
        captioned,
        PAIR | {"image_text_hidden_size": 16},
        {"BlipForImageTextRetrieval": {}},
        pick("itm_score"),
    ),
    *rows(
        "image and text",
        captioned,
        PAIR | {"extract_layers": [0, 1], "reduce_dim": 16, "decoder_num_attention_heads": 2},
        {"CLIPSegForImageSegmentation": {}},
        Logits,
    ),
    *rows(
        "image and text",
        lambda: image() | {"decoder_input_ids": words()},
        {
            "encoder": IMAGE | {"model_type": "vit"},
            "decoder": TEXT
            | {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "add_cross_attention": True},
        },
        {"VisionEncoderDecoderModel": {}},
        Logits,
    ),
    *rows(
        "image and text",
        lambda: {"input_ids": words()},
        TEXT | TWO_SIDED | {"is_decoder": True},
        {"TrOCRForCausalLM": {"decoder_ffn_dim": 64}},
        Logits,
    ),
    *rows(
        "image and text",
        lambda: {"input_ids": words(), "bbox": torch.randint(0, 60, (2, LENGTH, 2)).repeat(1, 1, 2)} | image(),
        TEXT | IMAGE | {"input_size": SIZE, "coordinate_size": 6, "shape_size": 4, "max_2d_position_embeddings": 64},
        {"LayoutLMv3ForTokenClassification": {}},
    ),
]

SOUND = [
    *rows(
        "speech",
        spoken,
        WAVES,
        {
            "Wav2Vec2ForCTC": {},
            "Wav2Vec2ForSequenceClassification": {"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
            "HubertForCTC": {},
            "WavLMForCTC": {},
            "UniSpeechSatForCTC": {},
            "SEWForCTC": {"squeeze_factor": 2},
            "Data2VecAudioForCTC": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
            "Wav2Vec2ConformerForCTC": {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
        },
    ),
    *rows(
        "speech",
        lambda: {"input_features": normal(2, 16, 40)(), "decoder_input_ids": words(6)},
        TWO_SIDED | {"vocab_size": VOCABULARY, "num_mel_bins": 16, "max_source_positions": 20},
        {"WhisperForConditionalGeneration": {"max_target_positions": 24}},
        Logits,
    ),
    *rows(
        "speech",
        lambda: {"input_features": normal(2, 40, 16)(), "decoder_input_ids": words(6)},
        TWO_SIDED | {"vocab_size": VOCABULARY, "input_feat_per_channel": 16, "conv_channels": 24},
        {"Speech2TextForConditionalGeneration": {}},
        Logits,
    ),
    *rows(
        "speech",
        lambda: {"input_values": normal(2, 24, 16)()},
        LAYERS | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "num_mel_bins": 16, "max_length": 24},
        {"ASTForAudioClassification": {}},
    ),
    *rows(
        "speech",
        lambda: {"input_values": normal(2, 1, 640)()},
        {
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_size": 16,
            "codebook_dim": 16,
            "upsampling_ratios": [4, 2],
            "target_bandwidths": [24.0],
            "sampling_rate": 24000,
        },
        {"EncodecModel": {}},
        pick("audio_values"),
    ),
    *rows(
        "speech",
        lambda: {"input_values": normal(2, 800)(), "decoder_input_ids": words(6)},
        WAVES
        | TWO_SIDED
        | {
            "vocab_size": VOCABULARY,
            "speech_decoder_prenet_units": 16,
            "num_mel_bins": 8,
            "max_speech_positions": 60,
            "encoder_max_relative_position": 8,
        },
        {"SpeechT5ForSpeechToText": {}},
        Logits,
    ),
]

TIME = [
    *rows(
        "time series",
        lambda: {"past_values": normal(2, 16, 3)()},
        {
            "num_input_channels": 3,
            "context_length": 16,
            "patch_length": 4,
            "patch_stride": 4,
            "prediction_length": 4,
            "d_model": 32,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_layers": 2,
            "num_targets": 3,
        },
        {
            "PatchTSTForPrediction": {"loss": "mse"},
            "PatchTSMixerForPrediction": {"loss": "mse"},
        },
        pick("prediction_outputs"),
    ),
    *rows(
        "time series",
        past_and_future,
        SERIES,
        {
            "InformerModel": {"attention_type": "full", "distil": False},
            "TimeSeriesTransformerModel": {},
            "AutoformerModel": {"label_length": 4, "moving_average": 3},
        },
        pick("last_hidden_state"),
    ),
    *rows(
        "time series",
        lambda: {
            "states": normal(2, 5, 7)(),
            "actions": normal(2, 5, 3)(),
            "rewards": normal(2, 5, 1)(),
            "returns_to_go": normal(2, 5, 1)(),
            "timesteps": torch.arange(5).repeat(2, 1),
        },
        {"state_dim": 7, "act_dim": 3, "hidden_size": 32, "max_ep_len": 20, "n_layer": 2, "n_head": 4},
        {"DecisionTransformerModel": {}},
        pick("action_preds"),
    ),
]

OTHERS = rows(
    "latent array",
    lambda: {"inputs": words()},
    {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 24,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LENGTH,
    },
    {"PerceiverForMaskedLM": {"qk_channels": 32, "v_channels": 32}, "PerceiverForSequenceClassification": {}},
)

ENTRIES: tuple[Entry, ...] = (*PAIRS, *OTHER_PAIRS, *SOUND, *TIME, *OTHERS)
