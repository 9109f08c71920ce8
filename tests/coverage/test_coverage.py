"""Strangers' models, one or two of each kind, are cut by 30 % of every group and proven; the benchmark has them all.

Nothing here is tuned: a model is named, and its groups, cuts and proofs are what the structure room makes of it. The
smallest models of the zoo are chosen, so that all together take about a minute.
"""

from collections.abc import Mapping
from typing import Any

import pytest

FAST = (
    "plain/unet",
    "plain/super-resolution",
    "plain/separable-group-norm",
    "plain/squeeze-excite",
    "plain/shuffle",
    "plain/dense",
    "plain/maxout",
    "plain/feature-pyramid",
    "plain/spatial-transformer",
    "plain/siamese",
    "plain/weight-norm",
    "plain/generator",
    "plain/adaptive-style",
    "plain/film",
    "plain/diffusion-unet",
    "plain/vnet",
    "plain/mixer",
    "plain/window-attention",
    "plain/lstm",
    "plain/bidirectional-gru",
    "plain/lstm-cells",
    "plain/wavenet",
    "plain/conv-tasnet",
    "plain/gated",
    "plain/encoder",
    "plain/rotary-decoder",
    "plain/tied-autoencoder",
    "plain/pointnet",
    "plain/graph-attention",
    "plain/feature-tokens",
    "plain/recommender",
    "plain/mixture-of-experts",
    "plain/splines",
    "plain/hypernetwork",
    "plain/graph-convolution",
    "plain/radiance",
    "plain/cross-network",
    "torchvision/squeezenet1_1",
    "torchvision/resnet18",
    "timm/test_byobnet",
    "timm/test_efficientnet",
    "timm/test_resnet",
    "timm/test_vit",
    "timm/starnet_s050",
    "transformers/BertModel",
    "transformers/GPT2LMHeadModel",
    "transformers/LlamaForCausalLM",
    "transformers/ViTForImageClassification",
)


@pytest.mark.parametrize("name", FAST)
def test_a_stranger_is_cut_and_proven(zoo: Mapping[str, Any], name: str) -> None:
    from benchmarks.trials.trial import choose, cut_once, trains
    from benchmarks.trials.weights import randomise

    from penjing.structure import couple, cut
    from penjing.workload import ExampleInputs

    entry = zoo[name]
    if entry.missing:
        pytest.skip(f"{entry.needs} is not installed; pip install 'penjing[coverage]' brings it")
    model, inputs = entry.make()
    randomise(model)
    example = ExampleInputs.of(inputs)
    coupling = couple(model, example)
    assert not coupling.unknown
    removed = choose(coupling, 0.3, inexact=True)
    row = cut_once(model, example, coupling, removed)
    for check in ("cut", "runs", "proof", "zeroed"):
        assert row.get(check, {"passed": True})["passed"], (check, row[check])
    assert row["left"] <= 0.8
    assert trains(cut(coupling, removed).module, coupling.captured.example)["passed"]
