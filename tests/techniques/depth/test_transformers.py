"""Layers of the transformers library: which are found, and whether the class or only its graph can lose them."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from penjing.recipe import DropBlocks
from penjing.structure import capture
from penjing.structure.blocks import branches, find_blocks, layers
from penjing.techniques import apply

pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
IMAGES = {"image_size": 32, "patch_size": 8}
GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "n_positions": 32, "use_cache": False}
LLAMA = {**SMALL, "num_key_value_heads": 1, "use_cache": False}

# Name -> configuration, path of its layers, the two branches of each, and whether the class keeps running without one.
MODELS: dict[str, tuple[dict[str, Any], str, tuple[str, str], bool]] = {
    "Bert": (SMALL, "encoder.layer", ("attention", "intermediate"), False),  # post-norm: the norms stay
    "GPT2": (GPT2, "h", ("attn", "mlp"), True),
    "Llama": (LLAMA, "layers", ("self_attn", "mlp"), True),
    "ViT": ({**SMALL, **IMAGES}, "layers", ("attention", "mlp"), True),
}


@pytest.fixture(autouse=True)
def _torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of images import torchvision where it is there, whose kernels may be those of another build of torch."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    from benchmarks.zoo.torchvision_import import torchvision

    if find_spec("torchvision"):
        torchvision()


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_left_out(name: str) -> None:
    import transformers

    settings, path, parts, keeps_class = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}Model")(config).eval()
    tokens = {"input_ids": torch.randint(50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    example = {"pixel_values": torch.randn(2, 3, 32, 32)} if name == "ViT" else tokens

    found = find_blocks(capture(model, example))
    prefix = next(block.name for block in layers(found)).removesuffix(".0")
    assert prefix.endswith(path)
    assert [block.name for block in layers(found)] == [f"{prefix}.0", f"{prefix}.1"]
    assert [block.name for block in branches(found)] == [f"{prefix}.{i}.{part}" for i in (0, 1) for part in parts]

    outcome = apply(model, DropBlocks(1, score="weight", blocks=f"{prefix}.1"), example)
    assert outcome.log[0].proof is not None
    assert outcome.log[0].proof.startswith("proven in float64")
    assert (type(outcome.model) is type(model)) == keeps_class
    assert outcome.model(**example).last_hidden_state.shape == model(**example).last_hidden_state.shape
