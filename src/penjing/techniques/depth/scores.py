r"""How much a block matters: scores that are compared between blocks, the lowest go first.

The scores that see data run the model on calibration data; those that ask what happens without a block ask again after
each removal, because two blocks that may each go need not be able to go together (Song et al. 2024, "SLEB: Streamlining
LLMs through Redundancy Verification and Elimination of Transformer Blocks", arXiv:2402.09025).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penjing.errors import RecipeError
from penjing.structure import Captured
from penjing.structure.blocks import Block
from penjing.techniques.depth.without import Without
from penjing.training.losses import distillation
from penjing.workload import Batch, Workload


@dataclass(frozen=True)
class Evidence:
    """What a score may look at: the captured model, the blocks dropped so far, data, and a seed.

    batches: calibration data, empty for a score that needs none; workload: its loss and how its outputs are read.
    """

    captured: Captured
    dropped: tuple[Block, ...] = ()
    batches: tuple[Batch, ...] = ()
    workload: Workload | None = None
    seed: int = 0

    def selected(self, run: Without, batch: Batch) -> Tensor:
        """The tensor to score that a run gives for a batch."""
        outputs = run.outputs(batch.args, batch.kwargs)
        selected: Tensor = outputs if self.workload is None else self.workload.select(outputs)
        return selected

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The owner's loss. Raises RecipeError where there is none, or no target."""
        if self.workload is None or self.workload.loss is None or batch.target is None:
            raise RecipeError(
                "DropBlocks: this score needs a workload with loss= and data with targets; or use score='divergence'"
            )
        loss: Tensor = self.workload.loss(outputs, batch.target)
        return loss


@dataclass(frozen=True)
class Score:
    """One row of SCORES: the function, whether it needs calibration data, and whether removals change it."""

    function: Callable[[Sequence[Block], Evidence], list[float]]
    needs_data: bool = True
    is_greedy: bool = True


def divergence(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    r"""How far the outputs move from those of the whole model when a block goes: no labels are needed.

    For class scores the divergence KL(softmax(z) || softmax(z')), else the mean squared error. Kim et al. 2024,
    "Shortened LLaMA" (arXiv:2402.02834) and SLEB rank blocks by the perplexity without them; the whole model's outputs
    take the place of the labels here.
    """
    with torch.no_grad():
        whole = Without(evidence.captured)
        expected = [evidence.selected(whole, batch) for batch in evidence.batches]

        def without(block: Block) -> float:
            run = Without(evidence.captured, (*evidence.dropped, block))
            return _mean(
                evidence.batches,
                [
                    float(distillation(evidence.selected(run, batch), wanted, batch.target, temperature=1.0))
                    for batch, wanted in zip(evidence.batches, expected, strict=True)
                ],
            )

        return [without(block) for block in blocks]


def loss(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    """How much the owner's loss rises when a block goes (Kim et al. 2024, arXiv:2402.02834, section 3.1)."""

    def of(dropped: tuple[Block, ...]) -> float:
        run = Without(evidence.captured, dropped)
        losses = [float(evidence.loss(evidence.selected(run, batch), batch)) for batch in evidence.batches]
        return _mean(evidence.batches, losses)

    with torch.no_grad():
        before = of(evidence.dropped)
        return [of((*evidence.dropped, block)) - before for block in blocks]


def influence(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    r"""Block influence, 1 - E[x . y / (||x|| ||y||)] over positions, of what comes in, x, and what goes out, y.

    Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (arXiv:2403.03853).
    """

    def change(x: Tensor, y: Tensor, channels: int) -> Tensor:
        alike: Tensor = torch.nn.functional.cosine_similarity(x.float(), y.float(), dim=channels)
        return 1 - alike

    return _of_passing(blocks, evidence, change)


def magnitude(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    r"""Relative magnitude of what a block adds, E[||y - x|| / ||x||] over positions."""

    def change(x: Tensor, y: Tensor, channels: int) -> Tensor:
        given: Tensor = torch.linalg.vector_norm(x.float(), dim=channels).clamp_min(1e-12)
        added: Tensor = torch.linalg.vector_norm((y - x).float(), dim=channels)
        return added / given

    return _of_passing(blocks, evidence, change)


def taylor(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    r"""First-order estimate of the change of the loss, |dL/dg| at g = 1 of a gate in y = x + g f(x).

    The gates of Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning" (arXiv:1906.10771), one for
    each block; the mean over batches of the absolute value.
    """
    totals = [0.0] * len(blocks)
    gates = [torch.ones((), requires_grad=True) for _ in blocks]
    run = Without(evidence.captured, evidence.dropped, gates=list(zip(blocks, gates, strict=True)))
    for batch in evidence.batches:
        with torch.enable_grad():
            value = evidence.loss(evidence.selected(run, batch), batch)
        for i, gradient in enumerate(torch.autograd.grad(value, gates)):
            totals[i] += abs(float(gradient)) * batch.size
    return [total / sum(batch.size for batch in evidence.batches) for total in totals]


def weight(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    """Root mean square of the weight matrices of a block: a guess, for want of data."""
    tensors = evidence.captured.tensors

    def of(block: Block) -> float:
        matrices = [tensors[name].detach().double() for name in block.parameters if tensors[name].ndim > 1]
        count = sum(matrix.numel() for matrix in matrices)
        return math.sqrt(sum(float(matrix.square().sum()) for matrix in matrices) / max(count, 1))

    return [of(block) for block in blocks]


def random(blocks: Sequence[Block], evidence: Evidence) -> list[float]:
    """Uniform noise: the baseline that any other score has to beat."""
    seeds = [(evidence.seed * 1_000_003 + sum(block.name.encode())) % 2**31 for block in blocks]
    return [float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in seeds]


SCORES: dict[str, Score] = {
    "divergence": Score(divergence),
    "loss": Score(loss),
    "influence": Score(influence),
    "magnitude": Score(magnitude),
    "taylor": Score(taylor),
    "weight": Score(weight, needs_data=False, is_greedy=False),
    "random": Score(random, needs_data=False, is_greedy=False),
}


def register_score(name: str, score: Score) -> None:
    """Make a score known to DropBlocks under a name; raises ValueError when the name is taken."""
    if name in SCORES:
        raise ValueError(f"a score named {name!r} is registered already; choose another name")
    SCORES[name] = score


def find_score(name: str) -> Score:
    """Look a score up by name; an unknown one is a RecipeError that lists the known."""
    if name not in SCORES:
        raise RecipeError(f"DropBlocks: score={name!r} is unknown; use one of {', '.join(SCORES)}")
    return SCORES[name]


def _of_passing(
    blocks: Sequence[Block], evidence: Evidence, change: Callable[[Tensor, Tensor, int], Tensor]
) -> list[float]:
    """The mean over positions and data of a change between what comes into a block and what goes out."""
    watched = {name for block in blocks for name in (block.skip, block.output)}
    run = Without(evidence.captured, evidence.dropped, watched=watched)
    found: list[list[float]] = [[] for _ in blocks]
    with torch.no_grad():
        for batch in evidence.batches:
            run.outputs(batch.args, batch.kwargs)
            for block, values in zip(blocks, found, strict=True):
                x, y = run.values[block.skip], run.values[block.output]
                values.append(float(change(x, y, _channels(block, x, evidence.captured)).mean()))
    return [_mean(evidence.batches, values) for values in found]


def _channels(block: Block, x: Tensor, captured: Captured) -> int:
    """The dimension of the channels: 1 where the block convolves over all others, else the last."""
    convolution = f"aten.conv{x.ndim - 2}d."
    targets = (str(node.target) for node in captured.module.graph.nodes if node.name in block.nodes)
    return 1 if any(target.startswith(convolution) for target in targets) else -1


def _mean(batches: Sequence[Batch], values: Sequence[float]) -> float:
    """Mean over samples of means over batches; infinite where a value is no number."""
    mean = sum(value * batch.size for value, batch in zip(values, batches, strict=True))
    mean /= sum(batch.size for batch in batches)
    return math.inf if math.isnan(mean) else mean
