r"""How much each layer, group of channels or block can lose: a grid of measurements, one part at a time.

    found = sensitivity(workload, kind="element", by="metric")
    found.table(), found.to_csv("sensitivity.csv")
    pj.Sparsify(found.amounts(0.01), scope="local")      each tensor by what it bears

By "metric": the workload's metric on the search split. By "sqnr": the signal-to-noise ratio of the outputs on
calibration data, 10 log10(|y|^2 / |y - y'|^2), in dB. By "kl": the mean divergence KL(softmax(y) || softmax(y')) of
class scores. The last two take no labels. The sensitivity analysis of Li et al. 2017 (arXiv:1608.08710), section 3.2,
and of Distiller.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.storage import atomic_write, fingerprint
from penjing.structure import Captured, Coupling, capture, couple
from penjing.structure.blocks import Block, find_blocks, layers
from penjing.structure.reference import mask_
from penjing.techniques.depth.without import Without
from penjing.techniques.sparsify import SCORES, copy_pruned, lowest_scores_mask
from penjing.techniques.sparsify.evidence import Evidence, Need
from penjing.techniques.sparsify.parameters import weight_names
from penjing.training import Progress
from penjing.types import Direction, Measure, Part, Split, choose
from penjing.workload import Batch, Workload

AMOUNTS = (0.1, 0.3, 0.5, 0.7, 0.9)
_BATCHES = 4  # of calibration data
_LIMIT_DB = 120.0  # of a ratio whose noise is nothing

Predict = Callable[..., Any]


@dataclass(frozen=True)
class Point:
    """What is left of the measure when a share of one part is gone."""

    name: str
    amount: float
    value: float


@dataclass(frozen=True)
class Sensitivity:
    """The grid: `baseline` is the value of the whole model, `higher` whether larger values are better."""

    part: Part
    by: Measure
    baseline: float
    higher: bool
    points: tuple[Point, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, in the order of the model."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares that were tried."""
        return tuple(sorted({point.amount for point in self.points}))

    def loss(self, point: Point) -> float:
        """How much worse than the whole model; never negative where it is better."""
        return max(0.0, (self.baseline - point.value) if self.higher else (point.value - self.baseline))

    def amounts(self, limit: float) -> dict[str, float]:
        """For each part the largest share up to which no value is worse than the whole model's by more than `limit`."""
        found = {}
        for name in self.names:
            mine = sorted((point for point in self.points if point.name == name), key=lambda point: point.amount)
            borne = [point.amount for i, point in enumerate(mine) if all(self.loss(p) <= limit for p in mine[: i + 1])]
            found[name] = max(borne, default=0.0)
        return found

    def table(self) -> str:
        """The grid as text, a line for each part.

        >>> points = (Point("fc.weight", 0.5, 0.8), Point("fc.weight", 0.9, 0.4))
        >>> print(Sensitivity(Part.ELEMENT, Measure.METRIC, 0.9, True, points).table())
        metric, 0.9 as it is   0.5   0.9
        fc.weight              0.8   0.4
        """
        values = {(point.name, point.amount): point.value for point in self.points}
        head = f"{self.by}, {self.baseline:.4g} as it is"
        width = max(len(head), *(len(name) for name in self.names))
        lines = [f"{head:<{width}}" + "".join(f"{share:>6g}" for share in self.shares)]
        for name in self.names:
            cells = [values.get((name, share)) for share in self.shares]
            row = "".join(f"{'' if cell is None else format(cell, '.3g'):>6}" for cell in cells)
            lines.append(f"{name:<{width}}{row}")
        return "\n".join(lines)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write name, amount, value and loss, a row for each point."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "amount", str(self.by), "loss"])
        writer.writerows([p.name, p.amount, p.value, self.loss(p)] for p in self.points)
        atomic_write(Path(path), text.getvalue())


def sensitivity(
    workload: Workload,
    kind: Part | str = Part.ELEMENT,
    amounts: Sequence[float] = AMOUNTS,
    *,
    by: Measure | str = Measure.METRIC,
    score: str = "l1",
    cache: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure the model with a share of one part gone, for each part and share.

    kind: "element" zeroes the lowest weights of one tensor, "channel" the units of one exact group by their l2 norm,
    "block" leaves one residual block or layer out (a single share, 1). cache: a file, to which each value is added as
    it comes, and from which a later call of the same model, data and question reads. workers: threads, each with its
    own copy of the model. The model is not changed.

    Raises RecipeError for unknown words, shares outside (0, 1), and data that the workload does not bring.
    """
    part, measure = (
        choose(Part, kind, "sensitivity: kind", RecipeError),
        choose(Measure, by, "sensitivity: by", RecipeError),
    )
    _check(workload, amounts, measure, score, workers)
    jobs = list(_jobs(workload, part, amounts, score))
    value_of, higher, data = _measure(workload, measure)
    question = fingerprint([workload.model_fingerprint(), data, str(part), str(measure), score])
    known = _read(cache, question)
    baseline = value_of(workload.model)
    done = 0

    def work(job: "_Job") -> Point:
        nonlocal done
        key = (job.name, job.amount)
        if key not in known:
            with job.without(workload.model) as smaller:
                known[key] = value_of(smaller)
            _add(cache, question, Point(*key, known[key]))
        done += 1
        if progress is not None:
            progress.update(done, len(jobs), f"sensitivity of {job.name}")
        return Point(*key, known[key])

    if workers == 1:
        points = tuple(map(work, jobs))
    else:
        with ThreadPoolExecutor(workers) as pool:
            points = tuple(pool.map(work, jobs))
    return Sensitivity(part, measure, baseline, higher, points)


@dataclass(frozen=True)
class _Job:
    """One cell of the grid, and the model without what it says."""

    name: str
    amount: float
    without: Callable[[nn.Module], Any]


def _jobs(workload: Workload, part: Part, amounts: Sequence[float], score: str) -> Iterator[_Job]:
    if part is Part.ELEMENT:
        for name in weight_names(workload.model):
            yield from (
                _Job(name, amount, partial(_sparse, name=name, amount=amount, score=score)) for amount in amounts
            )
        return
    captured = capture(workload.model, workload.example)
    if part is Part.BLOCK:
        for block in layers(find_blocks(captured)):
            yield _Job(block.name, 1.0, partial(_left_out, captured=captured, block=block))
        return
    coupling = couple(captured)
    for group in coupling.groups:
        if group.prunable and group.exact:
            norms = _norms(coupling, group.name)
            for amount in amounts:
                gone = np.argsort(norms, kind="stable")[: min(round(amount * group.size), group.size - 1)]
                removed = {group.name: np.sort(gone)}
                yield _Job(group.name, amount, partial(_silent, coupling=coupling, removed=removed))


@contextmanager
def _sparse(model: nn.Module, *, name: str, amount: float, score: str) -> Iterator[nn.Module]:
    smaller = copy_pruned(model)
    weight = smaller.get_parameter(name)
    with torch.no_grad():
        scores = SCORES[score](weight, Evidence(torch.Generator().manual_seed(0)))
        (alive,) = lowest_scores_mask([scores], [torch.ones_like(weight, dtype=torch.bool)], amount)
        weight.masked_fill_(~alive, 0)
    yield smaller


@contextmanager
def _silent(model: nn.Module, *, coupling: Coupling, removed: dict[str, Any]) -> Iterator[nn.Module]:
    """The model with the slices of removed units zero: an exact group cut."""
    smaller = copy_pruned(model)
    removal = coupling.removal(removed)
    tensors = {**dict(smaller.named_parameters(remove_duplicate=False)), **dict(smaller.named_buffers())}
    with torch.no_grad():
        for node in coupling.captured.module.graph.nodes:
            if node.op == "get_attr" and node.target in tensors and node.name in coupling.labelling.labels:
                mask_(tensors[node.target].data, coupling.labelling.labels[node.name][0], removal)
    yield smaller


@contextmanager
def _left_out(model: nn.Module, *, captured: Captured, block: Block) -> Iterator[Predict]:
    run = Without(captured, (block,))
    with torch.no_grad():
        yield lambda *args, **kwargs: run.outputs(args, kwargs)


def _norms(coupling: Coupling, name: str) -> Any:
    """The l2 norm of what each unit of a group owns."""
    tensors = coupling.captured.tensors
    total = np.zeros(coupling[name].size)
    for member in coupling[name].members:
        slices = tensors[member.parameter].detach().double().movedim(member.dim, 0)
        total += slices.reshape(len(slices), -1).square().sum(1).numpy()[member.index].sum(axis=1)
    return np.sqrt(total)


def _measure(workload: Workload, by: Measure) -> tuple[Callable[[Predict], float], bool, str]:
    """What gives a model's value, whether higher is better, and what names the data."""
    if by is Measure.METRIC:
        higher = workload.metric.direction is Direction.HIGHER
        return lambda model: workload.evaluate(model, Split.SEARCH)[0].value, higher, workload.fingerprint(Split.SEARCH)
    batches = tuple(islice(workload.calibration_batches(), _BATCHES))
    expected = [_outputs(workload, workload.model, batch) for batch in batches]

    def value(model: Predict) -> float:
        pairs = [(y, _outputs(workload, model, batch)) for y, batch in zip(expected, batches, strict=True)]
        if by is Measure.KL:
            rows = [(y.log_softmax(-1).exp() * (y.log_softmax(-1) - z.log_softmax(-1))).sum(-1) for y, z in pairs]
            return float(torch.cat([row.flatten() for row in rows]).mean())
        signal = sum(float(y.square().sum()) for y, _ in pairs)
        noise = sum(float((y - z).square().sum()) for y, z in pairs)
        return _LIMIT_DB if not noise else min(_LIMIT_DB, float(10 * np.log10(signal / noise)))

    return value, by is Measure.SQNR, fingerprint([y.tolist() for y in expected])


@torch.no_grad()
def _outputs(workload: Workload, model: Predict, batch: Batch) -> Tensor:
    batch = batch.to(workload.device)
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    selected: Tensor = workload.select(model(*batch.args, **batch.kwargs)).double()
    if isinstance(model, nn.Module):
        model.train(training)
    return selected


def _check(workload: Workload, amounts: Sequence[float], by: Measure, score: str, workers: int) -> None:
    if wrong := [amount for amount in amounts if not 0 < amount < 1]:
        raise RecipeError(f"sensitivity: amounts holds {wrong[0]!r}; each must be a share in (0, 1)")
    if score not in SCORES or SCORES[score].needs is not Need.WEIGHTS:
        known = ", ".join(name for name, each in SCORES.items() if each.needs is Need.WEIGHTS)
        raise RecipeError(f"sensitivity: score={score!r} must look at weights alone; use one of {known}")
    if workers < 1:
        raise RecipeError(f"sensitivity: workers={workers!r} must be at least 1")
    need = "search" if by is Measure.METRIC else "calibration"
    if not workload.brings(need):
        given = "evaluation=" if need == "search" else "calibration="
        raise RecipeError(f"sensitivity: by={str(by)!r} needs data; give Workload(..., {given})")


def _read(cache: str | os.PathLike[str] | None, question: str) -> dict[tuple[str, float], float]:
    """What an earlier call has measured; lines of other questions, and a torn last line, are passed over."""
    if cache is None or not Path(cache).exists():
        return {}
    found = {}
    for line in Path(cache).read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("question") == question:
            found[row["name"], row["amount"]] = row["value"]
    return found


def _add(cache: str | os.PathLike[str] | None, question: str, point: Point) -> None:
    if cache is not None:
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
        with Path(cache).open("a", encoding="utf-8") as file:
            row = {"question": question, "name": point.name, "amount": point.amount, "value": point.value}
            file.write(json.dumps(row) + "\n")
