"""Language models of transformers, from small random configurations: nothing is downloaded.

A row names a class of transformers and the numbers in which it differs from `SMALL`. Models with experts have four of
them; where keys and values can have fewer heads than queries, they have half as many.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.zoo import Entry
from benchmarks.zoo.configured import Logits, rows

VOCABULARY, LENGTH = 99, 12
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
STRAIGHT = {"use_cache": False}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}


def tokens(length: int = LENGTH) -> Tensor:
    """Token ids [2, length], without those of padding, beginning and end."""
    return torch.randint(3, VOCABULARY, (2, length))


def text() -> dict[str, Tensor]:
    """A batch for a model that reads one text."""
    return {"input_ids": tokens()}


def masked_text() -> dict[str, Tensor]:
    """A batch of which the second text is shorter than the first."""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, LENGTH - 4 :] = 0
    return {"input_ids": tokens(), "attention_mask": mask}


def two_texts() -> dict[str, Tensor]:
    """A batch for an encoder and its decoder."""
    return {"input_ids": tokens(), "decoder_input_ids": tokens(length=LENGTH - 3)}


def pages() -> dict[str, Tensor]:
    """Words and their boxes on a page."""
    corner = torch.randint(0, 500, (2, LENGTH, 2))
    return {"input_ids": tokens(), "bbox": torch.cat([corner, corner + torch.randint(1, 400, (2, LENGTH, 2))], dim=-1)}


ENCODERS = rows(
    "text encoder",
    masked_text,
    SMALL,
    {
        "BertForSequenceClassification": {},
        "BertModel": {},  # the hidden state itself is the output: its width stays
        "RobertaForSequenceClassification": {},
        "AlbertForSequenceClassification": {"embedding_size": 16},  # one layer, used twice
        "DistilBertForSequenceClassification": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        "DebertaForSequenceClassification": DEBERTA | {"max_relative_positions": 16},
        "DebertaV2ForSequenceClassification": DEBERTA
        | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        "ElectraForSequenceClassification": {"embedding_size": 16},
        "MPNetForSequenceClassification": {},
        "ModernBertForSequenceClassification": {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        "XLMRobertaForTokenClassification": {},
        "CamembertForMaskedLM": {},
        "RobertaPreLayerNormForMaskedLM": {},
        "ConvBertForSequenceClassification": {
            "embedding_size": 32,
            "head_ratio": 2,
            "conv_kernel_size": 5,
            "num_groups": 2,
        },
        "MobileBertForSequenceClassification": {
            "embedding_size": 16,
            "intra_bottleneck_size": 16,
            "true_hidden_size": 16,
        },
        "SqueezeBertForSequenceClassification": {
            "embedding_size": 32,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "output_groups": 2,
        },
        "NystromformerForSequenceClassification": {"num_landmarks": 12, "segment_means_seq_len": LENGTH},
        "BigBirdForSequenceClassification": {"attention_type": "original_full"},
        "RemBertForSequenceClassification": {"input_embedding_size": 16},
        "EsmForSequenceClassification": {"position_embedding_type": "rotary", "mask_token_id": 3},
        "RoFormerForSequenceClassification": {"embedding_size": 32},
        "YosoForSequenceClassification": {"use_expectation": True},
        "MegatronBertForSequenceClassification": {},
        "IBertForSequenceClassification": {"quant_mode": False},
        "SplinterForQuestionAnswering": {},
        "LukeForSequenceClassification": {
            "entity_vocab_size": 20,
            "entity_emb_size": 16,
            "use_entity_aware_attention": False,
        },
        "NomicBertForSequenceClassification": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 64},
        "EuroBertForSequenceClassification": GROUPED | {"head_dim": 8},
    },
)
OTHER_ENCODERS = rows(
    "text encoder",
    text,
    {key: value for key, value in SMALL.items() if key not in ("num_hidden_layers", "max_position_embeddings")},
    {
        "FNetForSequenceClassification": {"use_tpu_fourier_optimizations": False, "num_hidden_layers": 2},
        "FunnelForSequenceClassification": {
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
        },
        "XLNetForSequenceClassification": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "d_head": 8},
        "XLMForSequenceClassification": {"n_words": VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
        "FlaubertForSequenceClassification": {"n_words": VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    },
)

DECODERS = rows(
    "text decoder",
    text,
    SMALL | STRAIGHT,
    {
        "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "GPTNeoXForCausalLM": {},
        "GPTNeoForCausalLM": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        "GPTJForCausalLM": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
        "CodeGenForCausalLM": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
        "GPTBigCodeForCausalLM": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "OPTForCausalLM": {"ffn_dim": 64, "word_embed_proj_dim": 16},
        "BloomForCausalLM": {"n_layer": 2, "n_head": 4},
        "LlamaForCausalLM": GROUPED,
        "MistralForCausalLM": GROUPED | {"head_dim": 8, "sliding_window": 8},
        "Qwen2ForCausalLM": GROUPED,
        "Qwen3ForCausalLM": GROUPED | {"head_dim": 8},
        "GemmaForCausalLM": {"num_key_value_heads": 1, "head_dim": 8},
        "Gemma2ForCausalLM": GROUPED | {"head_dim": 8, "sliding_window": 8},
        "Gemma3ForCausalLM": GROUPED | {"head_dim": 8, "sliding_window": 8},
        "PhiForCausalLM": {"partial_rotary_factor": 0.5},
        "Phi3ForCausalLM": GROUPED,
        "FalconForCausalLM": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "CohereForCausalLM": GROUPED | {"use_qk_norm": True},
        "OlmoForCausalLM": GROUPED,
        "Olmo2ForCausalLM": GROUPED,
        "StableLmForCausalLM": GROUPED | {"partial_rotary_factor": 0.5},
        "MptForCausalLM": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64},
        "Starcoder2ForCausalLM": GROUPED,
        "PersimmonForCausalLM": {},
        "NemotronForCausalLM": GROUPED | {"head_dim": 8},
        "GlmForCausalLM": GROUPED | {"head_dim": 8},
        "Exaone4ForCausalLM": GROUPED | {"sliding_window": 8, "sliding_window_pattern": 2},
        "GraniteForCausalLM": GROUPED,
        "SmolLM3ForCausalLM": GROUPED,
        "BitNetForCausalLM": GROUPED,
        "DiffLlamaForCausalLM": GROUPED,
        "BioGptForCausalLM": {},
        "CTRLLMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64, "n_positions": 64},
        "XGLMForCausalLM": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 64},
        "OpenAIGPTLMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "HeliumForCausalLM": GROUPED | {"head_dim": 8},
    },
)

EXPERT_MIXTURES = rows(
    "mixture of experts",
    text,
    SMALL | STRAIGHT | GROUPED | EXPERTS,
    {
        "MixtralForCausalLM": {"num_local_experts": 4},
        "Qwen2MoeForCausalLM": {"shared_expert_intermediate_size": 32},
        "Qwen3MoeForCausalLM": {"head_dim": 8},
        "OlmoeForCausalLM": {},
        "GptOssForCausalLM": {"num_local_experts": 4, "head_dim": 8, "sliding_window": 8},
        "DeepseekV2ForCausalLM": {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 12,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
        "DeepseekV3ForCausalLM": {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 12,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "n_group": 2,
            "topk_group": 1,
        },
        "GraniteMoeForCausalLM": {"num_local_experts": 4},
        "JetMoeForCausalLM": {"kv_channels": 8, "num_local_experts": 4},
    },
)

STATE_SPACES = rows(
    "state space",
    text,
    SMALL | STRAIGHT,
    {
        "MambaForCausalLM": {"state_size": 8, "time_step_rank": 4},
        "Mamba2ForCausalLM": {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8},
        "FalconMambaForCausalLM": {"state_size": 8, "time_step_rank": 4},
        "RwkvForCausalLM": {"attention_hidden_size": 32, "context_length": 64},
        "JambaForCausalLM": GROUPED
        | {
            "num_experts": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        "Zamba2ForCausalLM": GROUPED
        | {
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "mamba_ngroups": 1,
            "use_mamba_kernels": False,
            "layers_block_type": ["mamba", "hybrid"],
        },
        "BambaForCausalLM": GROUPED
        | {
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
        "FalconH1ForCausalLM": GROUPED
        | {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_ssm": 64, "mamba_d_state": 8, "mamba_chunk_size": 8},
        "RecurrentGemmaForCausalLM": {"lru_width": 32, "attention_window_size": 8, "num_key_value_heads": 1},
        "Lfm2ForCausalLM": GROUPED | {"layer_types": ["conv", "full_attention"]},
    },
)

_HALVES = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
TWO_SIDED = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_start_token_id": 1} | _HALVES
T5_LIKE = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 1}
TRANSLATORS = rows(
    "encoder and decoder",
    two_texts,
    SMALL | STRAIGHT | TWO_SIDED,
    {
        "T5ForConditionalGeneration": T5_LIKE,
        "MT5ForConditionalGeneration": T5_LIKE | {"feed_forward_proj": "gated-gelu"},
        "UMT5ForConditionalGeneration": T5_LIKE,
        "BartForConditionalGeneration": {},
        "MBartForConditionalGeneration": {},
        "PegasusForConditionalGeneration": {},
        "MarianMTModel": {},
        "M2M100ForConditionalGeneration": {},
        "BlenderbotForConditionalGeneration": {},
        "BlenderbotSmallForConditionalGeneration": {},
        "PLBartForConditionalGeneration": {},
    },
    Logits,
)

PAGES = rows(
    "page reader",
    pages,
    SMALL,
    {
        "LayoutLMForTokenClassification": {"max_2d_position_embeddings": 1024},
        "LiltForTokenClassification": {"max_2d_position_embeddings": 1024, "hidden_size": 48},
    },
)

ENTRIES: tuple[Entry, ...] = (
    *ENCODERS,
    *OTHER_ENCODERS,
    *DECODERS,
    *EXPERT_MIXTURES,
    *STATE_SPACES,
    *TRANSLATORS,
    *PAGES,
)
