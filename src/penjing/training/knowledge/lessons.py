"""What a student learns from the layers of its teacher: for each loss the layers, and what makes them comparable."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.training.knowledge.attention import attention_matrices, attention_transfer
from penjing.training.knowledge.features import feature_distance, projection
from penjing.training.knowledge.layers import (
    Outputs,
    Pair,
    attention_of,
    attention_pairs,
    block_pairs,
    features_of,
    listening,
    named_pairs,
)
from penjing.training.knowledge.relations import relational_angles, relational_distances, similarity
from penjing.workload import Batch, Workload
from penjing.workload.evaluation import ready

LAYER_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "features": feature_distance,
    "attention": attention_transfer,
    "attention_matrices": attention_matrices,
    "distances": relational_distances,
    "angles": relational_angles,
    "similarity": similarity,
}
PROJECTED = "features"
_PARTS: dict[str, Callable[[Any], Tensor | None]] = {"attention_matrices": attention_of}


@dataclass(frozen=True)
class Lessons:
    """Pairs of layers for each loss, and the learned projections of the student's features, in the order of theirs."""

    pairs: Mapping[str, tuple[Pair, ...]]
    projections: nn.ModuleList

    @classmethod
    def of(
        cls,
        losses: Mapping[str, float],
        layers: Mapping[str, str] | None,
        student: nn.Module,
        teacher: nn.Module,
        workload: Workload,
    ) -> "Lessons":
        """Find the layers by running both models on the example.

        Raises WorkloadError where there is nothing to compare.
        """
        seen, expected = (_outputs(model, workload) for model in (student, teacher))
        pairs = {}
        for loss in losses:
            part = _PARTS.get(loss, features_of)
            mine, theirs = ([n for n, out in each.items() if part(out) is not None] for each in (seen, expected))
            if layers is not None:
                found = named_pairs(layers, student, teacher)
            else:
                found = attention_pairs(mine, theirs) if loss in _PARTS else block_pairs(student, mine, theirs)
            silent = [str(p) for p in found if p.student not in mine or p.teacher not in theirs]
            if silent or not found:
                what = f"{silent[0]} do not both give" if silent else "no modules of one name in both models give"
                raise WorkloadError(
                    f"Distill: {what} what {loss!r} compares; name layers={{student: teacher}}, or leave {loss!r} out. "
                    "A rewritten graph has no modules to listen to (keep the class: prefer='module'); attention "
                    "matrices are given where a model computes them eagerly (attn_implementation='eager')"
                )
            pairs[loss] = found
        projections = [
            projection(*_values(pair, seen, expected, features_of), str(pair)) for pair in pairs.get(PROJECTED, ())
        ]
        return cls(pairs, nn.ModuleList(projections).to(workload.device))

    def losses(self, seen: Outputs, expected: Outputs) -> dict[str, Tensor]:
        """Each loss for one batch, the mean over its pairs of layers."""
        found = {}
        for loss, pairs in self.pairs.items():
            values = [_values(pair, seen, expected, _PARTS.get(loss, features_of)) for pair in pairs]
            if loss == PROJECTED:
                values = [(project(a), b) for project, (a, b) in zip(self.projections, values, strict=True)]
            found[loss] = torch.stack([LAYER_LOSSES[loss](a, b) for a, b in values]).mean()
        return found

    def names(self, of: str) -> set[str]:
        """The modules to listen to, of the "student" or of the "teacher"."""
        return {getattr(pair, of) for pairs in self.pairs.values() for pair in pairs}


def _outputs(model: nn.Module, workload: Workload) -> Outputs:
    """What each module gives for the example."""
    names = [name for name, _ in model.named_modules() if name]
    with listening(model, names) as seen, ready(model, workload.device) as run:
        run(Batch(workload.example.args, workload.example.kwargs), "Distill: the example")
    return {name: seen[name] for name in names if name in seen}


def _values(
    pair: Pair, seen: Outputs, expected: Outputs, part: Callable[[Any], Tensor | None]
) -> tuple[Tensor, Tensor]:
    mine, theirs = part(seen[pair.student]), part(expected[pair.teacher])
    assert mine is not None
    assert theirs is not None
    return mine, theirs
