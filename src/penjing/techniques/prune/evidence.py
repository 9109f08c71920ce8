"""What scores are computed from: weights, gradients of the loss, and what the rest of the model reads of each unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.structure import Captured, Coupling, Group
from penjing.structure.coupling import is_number
from penjing.techniques.prune.activity import Activity, Reading, activities, readings
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.ends import End, ends_of
from penjing.techniques.prune.watch import Watch, by_unit
from penjing.training import Objective
from penjing.workload import Workload, device_of, preserved

_GRADIENT_BATCHES = 8


class Need(StrEnum):
    """What a score asks for beyond the weights."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    ACTIVATIONS = "activations"
    READINGS = "readings"
    SENSITIVITIES = "sensitivities"


@dataclass(frozen=True)
class Sensitivity:
    r"""How the loss of a sample feels a unit: g_n = d loss_n / d m at m = 1, where m scales all that is read of it.

    mean: of |g_n| over samples; square: of g_n^2; both [size].
    """

    mean: Tensor
    square: Tensor


@dataclass(frozen=True)
class Evidence:
    """What a score may look at.

    parameters (and the model's constants), and gradients where the score needs them, by name of the tensor; activities,
    readings and sensitivities, where it needs them, by name of the group; a seed.
    """

    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    activities: Mapping[str, Activity] = field(default_factory=dict)
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=dict)


def gather(
    need: Need, score: str, model: nn.Module, coupling: Coupling, groups: Sequence[Group], workload: Workload | None
) -> Evidence:
    """Gather what a score needs; data that the workload does not bring is a RecipeError that names the remedy."""
    parameters = coupling.captured.tensors
    if need is Need.WEIGHTS:
        return Evidence(parameters)
    data = "calibration" if need in (Need.ACTIVATIONS, Need.READINGS) else "train"
    if workload is None or not workload.brings(data):
        what = "calibration= data (inputs suffice)" if data == "calibration" else "train= and loss="
        raise RecipeError(f"PruneChannels: score={score!r} needs a workload with {what}; or use score='l2'")
    if need is Need.GRADIENTS:
        return Evidence(parameters, gradients=gradients(model, workload))
    ends = ends_of(coupling, groups)
    captured = coupling.captured
    if need is Need.SENSITIVITIES:
        return Evidence(parameters, sensitivities=sensitivities(captured, groups, ends, workload))
    batches = list(affordable(workload.calibration_batches(), captured, device_of(model)))
    if need is Need.ACTIVATIONS:
        return Evidence(parameters, activities=activities(captured, groups, ends, batches))
    return Evidence(parameters, readings=readings(captured, groups, ends, batches))


def gradients(model: nn.Module, workload: Workload) -> dict[str, Tensor]:
    """Sum the gradients of the workload's loss over a few training batches in eval mode, of frozen parameters too."""
    objective = _objective(workload)
    with preserved(model):
        model.eval()
        model.zero_grad(set_to_none=True)
        for parameter in model.parameters():
            parameter.requires_grad_(is_number(parameter))
        for batch in islice(workload.train_batches(), _GRADIENT_BATCHES):
            objective(model, batch.to(device_of(model))).backward()
        parameters = model.named_parameters(remove_duplicate=False)
        found = {name: tensor.grad.clone() for name, tensor in parameters if tensor.grad is not None}
        model.zero_grad(set_to_none=True)
    return found


def sensitivities(
    captured: Captured, groups: Sequence[Group], ends: Sequence[End], workload: Workload
) -> dict[str, Sensitivity]:
    """Differentiate the loss of each sample by a factor on all that is read of a unit, over a few training batches."""
    objective = _objective(workload)
    sums = {group.name: torch.zeros(2, group.size, dtype=torch.float64) for group in groups}
    samples = 0
    with preserved(captured.module):
        for batch in islice(workload.train_batches(), _GRADIENT_BATCHES):
            batch = batch.to(device_of(captured.module))
            reader = Watch(captured, ends)
            with torch.enable_grad():
                loss = objective(reader, batch)
                values = list(reader.read.items())
                slopes = torch.autograd.grad(loss, [value for _, value in values], allow_unused=True)
            gates = {group.name: torch.zeros(batch.size, group.size, dtype=torch.float64) for group in groups}
            for (i, value), slope in zip(values, slopes, strict=True):
                if slope is not None:
                    gate = gates[ends[i].group]
                    gate += _by_sample(value.detach() * slope, ends[i], *gate.shape)
            for name, gate in gates.items():
                gate *= batch.size  # the loss is a mean over the samples
                sums[name] += torch.stack([gate.abs().sum(0), gate.square().sum(0)])
            samples += batch.size
    return {name: Sensitivity(*(total / max(samples, 1)).unbind()) for name, total in sums.items()}


def _objective(workload: Workload) -> Objective:
    return Objective.of(workload, Finetune(distill=False), teacher=None)


def _by_sample(products: Tensor, end: End, batch: int, size: int) -> Tensor:
    """Sum value times slope over positions: [batch, size]. A first dimension of batch * k has k positions of each."""
    rows = products.movedim(end.dim, -1).double()
    if end.dim == 0 or rows.shape[0] % batch:
        raise RecipeError(
            f"PruneChannels: the samples of the activation {end.source} cannot be told apart, so that no score of "
            "samples exists; use score='taylor' or 'l2'"
        )
    return by_unit(rows.reshape(batch, -1, rows.shape[-1]).sum(1).cpu(), end, size)
