r"""Refit what follows a cut, so that it gives what it gave before.

A layer that lost input channels sees x' instead of x. Its weights and its bias are chosen anew, by ridge regression on
unlabelled calibration data, so that its output stays near the original y:

    W, b = argmin ||X' W^T + b - Y||_F^2 + lambda ||W - W_0||_F^2,    lambda = ridge * mean(diag(X'^T X'))

with X' [samples, inputs' * kernel] and Y [samples, outputs'] and W_0 the weights left by the cut. This is the channel
form of feature-map reconstruction (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
arXiv:1707.06168, section 3.1), solved in the order of the graph, each layer on the inputs that the refitted layers
before it give. A layer without bias gives its intercept to the running mean of the batch norm behind it, or has none.

A quarter of the samples is held out: among several ridges the best there is taken, and new weights only where they are
nearer to the original there; the errors told are those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.structure import Captured, Surgery
from penjing.structure.layers import Layer
from penjing.techniques.lockstep import Rows, draw_rows, in_step, takers_of, uses_of
from penjing.techniques.rows import as_matrix, from_matrix, is_regression

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
GAIN = 0.95  # a smaller gain on few held-out samples may be none
_CHUNK = 4_096


@dataclass(frozen=True)
class Refit:
    """One refitted layer: relative error ||Y' - Y|| / ||Y|| of its output on held-out rows, before and after."""

    parameter: str
    before: float
    after: float


@dataclass(frozen=True)
class Fit:
    """A solution: weights [m, k], shift of the bias [m], and the errors on the rows that were held out."""

    weight: Tensor
    shift: Tensor
    before: float
    after: float


def normal_equations(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Give X^T X [k, k] and X^T R [k, m] in float64: x [n, k], residual [n, m]."""
    gram = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    moment = x.new_zeros(x.shape[1], residual.shape[1], dtype=torch.float64)
    for rows, outputs in zip(x.split(_CHUNK), residual.split(_CHUNK), strict=True):
        rows = rows.double()
        gram += rows.T @ rows
        moment += rows.T @ outputs.double()
    return gram, moment


def ridge_correction(gram: Tensor, moment: Tensor, ridge: float, alive: Tensor | None = None) -> Tensor:
    """Solve (G + lambda I) D = M, float64 [m, k]: what is added to the weights.

    alive: bool [m, k], the weights that may change; None for all.

    >>> ridge_correction(torch.eye(2).double(), torch.tensor([[1.0], [3.0]]).double(), ridge=1.0)
    tensor([[0.5000, 1.5000]], dtype=torch.float64)
    """
    damped = gram.clone()
    damped.diagonal().add_(ridge * (float(gram.diagonal().mean()) or 1.0))
    if alive is None:
        correction: Tensor = torch.cholesky_solve(moment, torch.linalg.cholesky(damped)).T
        return correction
    correction = moment.new_zeros(moment.shape[1], moment.shape[0])
    for i, free in enumerate(alive):
        correction[i, free] = torch.linalg.solve(damped[free][:, free], moment[free, i])
    return correction


def fit(rows: Rows, initial: Tensor, *, intercept: bool, alive: Tensor | None = None) -> Fit | None:
    """Solve the regression above for every ridge; None where the best gains too little, or no sample is held out."""
    if rows.held.all() or not rows.held.any():
        return None
    x, y = rows.x[~rows.held], rows.y[~rows.held]
    mean_x, mean_y = (z.mean(0, keepdim=True) if intercept else z.new_zeros(1, z.shape[1]) for z in (x, y))
    x, y = x - mean_x, y - mean_y
    gram, moment = normal_equations(x, y - x @ initial.T)
    new_x, new_y = rows.x[rows.held], rows.y[rows.held]
    size = new_y.norm().clamp_min(1e-30)
    fits = []
    before = float((new_x @ initial.T - new_y).norm() / size)
    for ridge in RIDGES:
        weight = initial + ridge_correction(gram, moment, ridge, alive).to(initial.dtype)
        shift = (mean_y - mean_x @ weight.T)[0]
        fits.append(Fit(weight, shift, before, float((new_x @ weight.T + shift - new_y).norm() / size)))
    best = min(fits, key=lambda found: found.after)
    return best if best.after < GAIN * before else None


def refit(
    original: Captured,
    cut: Captured,
    surgery: Surgery,
    batches: Sequence[Sequence[Any]],
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> tuple[Mapping[str, Tensor], tuple[Refit, ...]]:
    """Refit every convolution and linear layer that lost inputs; give new tensors by name, and the errors.

    original, cut: the model before and after, whose graphs have the same nodes. batches: flat inputs of the graph.
    masks: of the weights that live after the cut; the others stay zero. Transposed convolutions, weights used more than
    once, and layers that come no nearer to the original on held-out samples are left as they are.
    """
    tensors, new = cut.tensors, dict[str, Tensor]()
    refits: list[Refit] = []
    layers = _layers(cut, surgery)
    takers = takers_of(cut, layers)
    with torch.no_grad():
        for step in in_step(original, cut, batches, tensors):
            layer = layers.get(step.node.name)
            if layer is None or not is_regression(layer, step.value(layer.weight), step.outputs[0]):
                continue
            name, weight = str(layer.weight.target), step.value(layer.weight)
            kept = surgery.kept.get(name, {}).get(1 - layer.contracted)
            rows = draw_rows(layer, step, seed, None if kept is None else torch.from_numpy(kept))
            takes = takers.get(step.node.name)
            alive = (masks or {}).get(name)
            found = _fit_groups(layer, rows, weight, takes is not None, alive)
            if found is None:
                continue
            new[name] = from_matrix(layer, found.weight, weight)
            if takes is not None:
                old = tensors[takes.name]
                new[takes.name] = old + takes.sign * found.shift.to(old)
            refits.append(Refit(name, found.before, found.after))
            tensors |= new
            step.reread()
    return new, tuple(refits)


def install(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put refitted tensors into a module by name; they are new objects, since a cut shares what it did not slice."""
    for name, value in tensors.items():
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        if key in owner._parameters:
            old = owner._parameters[key]
            owner._parameters[key] = nn.Parameter(value, requires_grad=old is not None and old.requires_grad)
        else:
            owner._buffers[key] = value


def _fit_groups(layer: Layer, rows: Rows, weight: Tensor, intercept: bool, alive: Tensor | None) -> Fit | None:
    """Fit each group of a grouped convolution by itself, a plain layer at once."""
    groups = int(layer.settings.get("groups", 1))
    initial = as_matrix(layer, weight).to(rows.x.dtype).chunk(groups)
    masks: Sequence[Tensor | None] = [None] * groups
    if alive is not None and not alive.all():
        masks = as_matrix(layer, alive.to(weight.device, torch.bool)).chunk(groups)
    parts = [Rows(x, y, rows.held) for x, y in zip(rows.x.chunk(groups, 1), rows.y.chunk(groups, 1), strict=True)]
    fits = [
        fit(part, start, intercept=intercept, alive=mask)
        for part, start, mask in zip(parts, initial, masks, strict=True)
    ]
    done = [found for found in fits if found is not None]
    if not done:
        return None
    kept = [
        found or Fit(start, start.new_zeros(len(start)), 1.0, 1.0) for found, start in zip(fits, initial, strict=True)
    ]
    before, after = (sum(getattr(found, side) for found in done) / len(done) for side in ("before", "after"))
    return Fit(torch.cat([found.weight for found in kept]), torch.cat([found.shift for found in kept]), before, after)


def _layers(cut: Captured, surgery: Surgery) -> dict[str, Layer]:
    """Find the layers that lost inputs and can be refitted, by node."""
    tensors = cut.tensors
    uses = uses_of(cut)
    found = {}
    for node in cut.module.graph.nodes:
        layer = Layer.of(node, tensors)
        if layer is not None:
            name = str(layer.weight.target)
            if layer.contracted in surgery.kept.get(name, {}) and uses[id(tensors[name])] == 1:
                found[node.name] = layer
    return found
