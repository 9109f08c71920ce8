"""A model that is no graph as a whole is pruned in its parts, and restored from what was saved."""

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError


class Detector(nn.Module):
    """A backbone, and a head for those positions only that score high enough; one weight is tied across the two."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.head = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4))
        self.boxes = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4))
        self.boxes[0].weight = self.head[0].weight

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        features = self.backbone(torch.stack(images)).flatten(2).mT.flatten(0, 1)
        chosen = features[features[:, 0] > features[:, 0].median()]
        if len(chosen) == 0:
            return []
        return [self.head(chosen), self.boxes(chosen)]


def detector() -> Detector:
    torch.manual_seed(0)
    return Detector().eval()


IMAGES = ([torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(1)) for _ in range(2)],)


def test_backbone_and_heads_are_cut_and_the_model_runs() -> None:
    model = detector()
    outcome = pj.apply(model, pj.PruneChannels(0.5), IMAGES)
    assert type(outcome.model) is Detector
    assert outcome.model.backbone[0].out_channels == 8
    assert model.backbone[0].out_channels == 16, "the original stays as it was"
    assert len(outcome.model(*IMAGES)) == 2
    assert any("no graph as a whole" in row.what and row.fell_back for row in outcome.log)
    proofs = [row for row in outcome.log if row.proof]
    assert [row.what.split(":")[0] for row in proofs] == ["backbone"]


def test_what_is_shared_between_parts_stays_whole() -> None:
    outcome = pj.apply(detector(), pj.PruneChannels(0.5), IMAGES)
    assert outcome.model.head[0].out_features == 24
    assert outcome.model.boxes[0].weight is outcome.model.head[0].weight


def test_the_result_is_restored_on_a_fresh_instance(tmp_path) -> None:
    outcome = pj.apply(detector(), pj.PruneChannels(0.5), IMAGES)
    outcome.save(tmp_path / "saved")
    restored = pj.restore(Detector().eval(), tmp_path / "saved")
    for a, b in zip(restored(*IMAGES), outcome.model(*IMAGES), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_patterns_are_those_of_the_whole_model() -> None:
    outcome = pj.apply(detector(), pj.PruneChannels(0.5, exclude=("backbone.*",)), IMAGES)
    assert outcome.model.backbone[0].out_channels == 16
    assert outcome.surgery is None
    with pytest.raises(RecipeError, match=r"'neck\.\*' matches no group of any part"):
        pj.apply(detector(), pj.PruneChannels(0.5, groups=("neck.*",)), IMAGES)


@pytest.mark.parametrize(("step", "remedy"), [
    (pj.PruneChannels(0.5, score="activation"), "use score='l2'"),
    (pj.PruneChannels({"backbone*": 0.5}), "give one ratio"),
])  # fmt: skip
def test_what_takes_the_whole_graph_is_refused_with_the_remedy(step: pj.PruneChannels, remedy: str) -> None:
    with pytest.raises(RecipeError, match=remedy):
        pj.apply(detector(), step, IMAGES)
