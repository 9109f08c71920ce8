"""What scores of single weights are computed from: gradients of the loss, and what comes into each layer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.training import Objective
from penjing.workload import Workload, device_of, preserved

_BATCHES = 8


class Need(StrEnum):
    """What a score asks for beyond the weights."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    CURVATURE = "curvature"
    INPUTS = "inputs"
    MOVEMENT = "movement"


@dataclass(frozen=True)
class Evidence:
    """What a score may look at beside a weight; each tensor has the weight's shape, and is there where it is asked for.

    gradient: of the mean loss. square: the mean over batches of its square. hessian: the Hessian of the loss times its
    gradient. inputs: the l2 norm, over samples and places, of the input that each weight multiplies. movement: -sum g w
    over the training steps so far; zero before the first.
    """

    generator: torch.Generator = field(default_factory=torch.Generator)
    gradient: Tensor | None = None
    square: Tensor | None = None
    hessian: Tensor | None = None
    inputs: Tensor | None = None
    movement: Tensor | None = None


def gather(
    need: Need,
    score: str,
    model: nn.Module,
    names: Sequence[str],
    workload: Workload | None,
    seed: int,
    movement: Mapping[str, Tensor],
) -> list[Evidence]:
    """Gather what a score needs for each named weight; data that the workload does not bring is a RecipeError."""
    generator = torch.Generator().manual_seed(seed)
    if need is Need.WEIGHTS:
        return [Evidence(generator) for _ in names]
    if need is Need.MOVEMENT:
        still = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
        return [Evidence(generator, movement=movement.get(name, still[name])) for name in names]
    data = "calibration" if need is Need.INPUTS else "train"
    if workload is None or not workload.brings(data):
        what = "calibration= data (inputs suffice)" if need is Need.INPUTS else "train= and loss="
        raise RecipeError(f"Sparsify: score={score!r} needs a workload with {what}; or use score='l1'")
    if need is Need.INPUTS:
        norms = input_norms(model, names, workload)
        return [Evidence(generator, inputs=norms[name]) for name in names]
    found = derivatives(model, names, workload, curvature=need is Need.CURVATURE)
    return [Evidence(generator, *found[name]) for name in names]


def derivatives(
    model: nn.Module, names: Sequence[str], workload: Workload, *, curvature: bool
) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    """The gradient, its mean square and, with curvature, the Hessian times the gradient, over a few training batches.

    In eval mode, so that nothing is random and no statistic moves.
    """
    objective = Objective.of(workload, Finetune(distill=False), None)
    weights = [model.get_parameter(name) for name in names]
    batches = [batch.to(device_of(model)) for batch in islice(workload.train_batches(), _BATCHES)]
    with preserved(model):
        model.eval()
        for weight in weights:
            weight.requires_grad_()
        each = [torch.autograd.grad(objective(model, batch), weights, materialize_grads=True) for batch in batches]
        gradients = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
        squares = [torch.stack(parts).square().mean(0) for parts in zip(*each, strict=True)]
        products: Sequence[Tensor | None] = [None] * len(weights)
        if curvature:
            products = [
                torch.stack(parts).mean(0)
                for parts in zip(*(_hessian(objective(model, b), weights, gradients) for b in batches), strict=True)
            ]
    return dict(zip(names, zip(gradients, squares, products, strict=True), strict=True))


def _hessian(loss: Tensor, weights: Sequence[Tensor], vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
    first = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    product = torch.stack([(g * v).sum() for g, v in zip(first, vector, strict=True)]).sum()
    return torch.autograd.grad(product, weights, materialize_grads=True)


def input_norms(model: nn.Module, names: Sequence[str], workload: Workload) -> dict[str, Tensor]:
    """The l2 norm of what each weight multiplies, over calibration samples and places: the shape of the weight.

    The weights of a convolution's window share the norm of their input channel. Raises RecipeError for a weight of
    which no layer is known that reads it.
    """
    with _listening(model, names) as squares, preserved(model), torch.no_grad():
        model.eval()
        for batch in islice(workload.calibration_batches(), _BATCHES):
            batch = batch.to(device_of(model))
            model(*batch.args, **batch.kwargs)
    for name in names:
        if name not in squares:
            raise RecipeError(
                f"nothing is seen of what comes into {name}; leave this tensor out, or weigh by what needs no inputs, "
                "such as magnitudes or gradients"
            )
    return {name: _spread(squares[name].sqrt(), model.get_parameter(name)) for name in names}


@contextmanager
def _listening(model: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Sum the squares of the inputs of layers by input feature, while it is active."""
    squares: dict[str, Tensor] = {}

    def add(name: str, value: Tensor, dim: int) -> None:
        others = [i for i in range(value.ndim) if i != dim % value.ndim]
        squares[name] = squares.get(name, torch.zeros(())) + value.float().square().sum(others)

    handles = []
    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            dim = -1 if isinstance(module, nn.Linear) else -len(module.kernel_size) - 1
            handles.append(
                module.register_forward_pre_hook(lambda _, args, name=name, dim=dim: add(name, args[0], dim))
            )
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()


def _spread(norms: Tensor, weight: Tensor) -> Tensor:
    """Norms of input features, [inputs], in the shape of a weight [outputs, inputs / groups, ...]."""
    per_group = weight.shape[1]
    groups = len(norms) // per_group
    rows = norms.view(groups, per_group).repeat_interleave(weight.shape[0] // groups, 0)
    return rows.view(*rows.shape, *(1,) * (weight.ndim - 2)).expand(weight.shape)
