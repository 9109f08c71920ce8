r"""Sparsity without training: layer by layer, each solved for what the pruned layers before it give.

With x the inputs of a layer in the original and x' those in the model as it is pruned so far, both about their means,
the layer's W' is to give from x' what W gives from x:

    min E |W x - W' x'|^2 = min tr((W' - W*) H (W' - W*)^T) + const,    H = E[x' x'^T],  W* = E[W x x'^T] H^-1,

the k-sparse problem of `penjing.techniques.sparsify.solve`. W* is found by ridge regression whose strength is chosen on
held-out rows (`penjing.techniques.prune.compensate`), as in the reconstruction of feature maps (He et al. 2017,
"Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168); the means go into the bias, or into the
running mean of the batch norm behind. A convolution is a layer over its windows, each of its groups one of its own.
SparseGPT, as its authors have it, solves for W and leaves the bias alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from penjing.errors import RunError, WorkloadError
from penjing.storage import load_checkpoint, save_checkpoint
from penjing.structure import Captured
from penjing.structure.layers import Layer, Taker
from penjing.structure.rules import is_shape
from penjing.techniques.lockstep import Rows, Step, draw_rows, in_step, takers_of, uses_of
from penjing.techniques.prune.compensate import fit, normal_equations
from penjing.techniques.rows import as_matrix, from_matrix, is_regression
from penjing.techniques.sparsify.solve import METHODS, Budget, NofM, damped, relative_error
from penjing.techniques.sparsify.solve.methods import quickly
from penjing.types import Solver

_DOUBLE = 2**22  # values of a Hessian that is held in float64
_GROUPS = 8  # of a grouped convolution, that tell what it loses at a density


@dataclass(frozen=True)
class Problem:
    """The k-sparse problem of one group of a layer.

    weight: W* [outputs, inputs]; hessian: damped [inputs, inputs]; means: E[x'] and E[W x]; rows: samples of both;
    stronger: the share of the mean diagonal that damping took, where the usual one did not suffice.
    """

    weight: Tensor
    hessian: Tensor
    means: tuple[Tensor, Tensor]
    rows: int
    stronger: float | None

    @classmethod
    def of(cls, rows: Rows, weight: Tensor, *, intercept: bool, regained: bool) -> "Problem":
        """Read it from rows of inputs and wanted outputs; regained: solve for W*, and not for W itself."""
        better = fit(rows, weight, intercept=intercept) if regained else None
        means = tuple(z.mean(0) if intercept else z.new_zeros(z.shape[1]) for z in (rows.x, rows.y))
        gram, _ = normal_equations(rows.x - means[0], rows.y[:, :0])
        found = damped(gram / len(rows.x))
        dtype = torch.float64 if gram.numel() <= _DOUBLE else torch.float32
        target = weight if better is None else better.weight
        stronger = found.share if found.stronger else None
        return cls(target.to(dtype), found.matrix.to(dtype), (means[0], means[1]), len(rows.x), stronger)

    def shift(self, pruned: Tensor) -> Tensor:
        """What the bias takes: E[W x] - W' E[x']."""
        inputs, outputs = self.means
        shift: Tensor = outputs - pruned.to(inputs) @ inputs
        return shift


@dataclass(frozen=True)
class Solved:
    """What became of a layer: its weight's name, ||W* x' - W' x'||^2 / ||W* x'||^2, and what the log must tell."""

    name: str
    error: float
    rows: int
    inputs: int
    stronger: float | None


@dataclass(frozen=True)
class Model:
    """A model that is solved layer by layer.

    layers, by node, are those that are solved; takers, by node, what can take their intercepts.
    """

    captured: Captured
    batches: Sequence[Sequence[Any]]
    layers: Mapping[str, Layer]
    takers: Mapping[str, Taker]
    seed: int

    @classmethod
    def of(cls, captured: Captured, batches: Sequence[Sequence[Any]], names: Sequence[str], seed: int) -> "Model":
        """Find the layers that read the named weights, each the only reader of its weight."""
        tensors, uses = captured.tensors, uses_of(captured)
        found = ((node.name, Layer.of(node, tensors)) for node in captured.module.graph.nodes)
        layers = {
            node: layer
            for node, layer in found
            if layer is not None
            and (name := str(layer.weight.target)) in names
            and uses[id(tensors[name])] == 1
            and is_shape(shape := captured.shapes[node])
            and is_regression(layer, tensors[name], torch.empty(shape, device="meta"))
        }
        return cls(captured, batches, layers, takers_of(captured, layers), seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The weights that are solved for, in the order in which they run."""
        return tuple(str(layer.weight.target) for layer in self.layers.values())

    @torch.no_grad()
    def curves(self, budgets: Sequence[Budget]) -> dict[str, list[float]]:
        """What each layer loses under each budget, of what it gives, quickly solved for the original's inputs."""
        found = {}
        for layer, step in self._steps(self.captured.tensors):
            problems = list(self._problems(layer, step, regained=False))
            some = problems[:: -(-len(problems) // _GROUPS)]
            errors = [quickly(p.weight, p.hessian, budgets) for p in some]
            found[str(layer.weight.target)] = [_mean(column) for column in zip(*errors, strict=True)]
        return found

    @torch.no_grad()
    def solve(
        self, method: Solver, budgets: Mapping[str, Budget], folder: Path | None, mark: str
    ) -> tuple[dict[str, Tensor], list[Solved]]:
        """Solve layer after layer; give new tensors by name, and what became of each layer.

        With a folder, each layer is saved there when it is done, and taken from there by the next call with this mark.
        """
        tensors, new, rows = self.captured.tensors, dict[str, Tensor](), list[Solved]()
        for layer, step in self._steps(tensors):
            name = str(layer.weight.target)
            path = None if folder is None else folder / f"{name}.layer"
            if path is not None and path.exists():
                saved, row = read_marked(path, mark)
                changed = {key: value.to(tensors[key].device) for key, value in saved.items()}
                solved = Solved(**row)
            else:
                changed, solved = self._solve(layer, step, method, budgets[name])
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save_checkpoint(path, tensors=changed, data={"mark": mark, "row": vars(solved)})
            new |= changed
            tensors |= changed
            rows.append(solved)
            step.reread()
        return new, rows

    def _solve(self, layer: Layer, step: Step, method: Solver, budget: Budget) -> tuple[dict[str, Tensor], Solved]:
        regained = method is not Solver.SPARSEGPT
        name, weight = str(layer.weight.target), step.value(layer.weight)
        problems = list(self._problems(layer, step, regained=regained))
        order = _order(weight, budget)
        pruned = [_solved_in(order, method, problem, budget) for problem in problems]
        changed = {name: from_matrix(layer, torch.cat(pruned), weight)}
        if regained and (taker := self.takers.get(step.node.name)) is not None:
            shift = torch.cat([problem.shift(each) for problem, each in zip(problems, pruned, strict=True)])
            old = step.tensors[taker.name]
            changed[taker.name] = old + taker.sign * shift.to(old)
        error = _mean(relative_error(p.weight, each, p.hessian) for p, each in zip(problems, pruned, strict=True))
        stronger = max((p.stronger for p in problems if p.stronger is not None), default=None)
        return changed, Solved(name, error, problems[0].rows, len(order), stronger)

    def _steps(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[Layer, Step]]:
        for step in in_step(self.captured, self.captured, self.batches, tensors):
            if (layer := self.layers.get(step.node.name)) is not None:
                yield layer, step

    def _problems(self, layer: Layer, step: Step, *, regained: bool) -> Iterator[Problem]:
        """The problem of each group of a layer."""
        rows, name = draw_rows(layer, step, self.seed), str(layer.weight.target)
        if not bool(rows.x.isfinite().all() and rows.y.isfinite().all()):
            raise WorkloadError(
                f"Sparsify: on the calibration data NaN or infinity passes the layer of {name}; look at these data, or "
                "leave it out with parameters=[...]"
            )
        groups = int(layer.settings.get("groups", 1))
        weights = as_matrix(layer, step.value(layer.weight)).to(rows.x.dtype).chunk(groups)
        intercept = regained and step.node.name in self.takers
        for x, y, weight in zip(rows.x.chunk(groups, 1), rows.y.chunk(groups, 1), weights, strict=True):
            yield Problem.of(Rows(x, y, rows.held), weight, intercept=intercept, regained=regained)


def read_marked(path: Path, mark: str) -> tuple[dict[str, Tensor], Any]:
    """Read a file that an interrupted call has left. Raises RunError where it was left by another step."""
    saved = load_checkpoint(path)
    if saved.data["mark"] != mark:
        raise RunError(
            f"{path} was left by {saved.data['mark']}, not by {mark}; remove {path.parent} or give another resume_dir"
        )
    return saved.tensors, saved.data["row"]


def _order(weight: Tensor, budget: Budget) -> Tensor:
    """The order of columns in which an N:M pattern finds the inputs of a window one after the other."""
    inputs, window = weight.shape[1], weight[0, 0].numel()
    columns = torch.arange(inputs * window, device=weight.device)
    return columns.view(inputs, window).T.flatten() if isinstance(budget, NofM) else columns


def _solved_in(order: Tensor, method: Solver, problem: Problem, budget: Budget) -> Tensor:
    solved = METHODS[method](problem.weight[:, order], problem.hessian[order][:, order], budget)
    return torch.empty_like(solved).index_copy_(1, order, solved)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
