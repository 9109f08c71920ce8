"""What scores are computed from: weights, gradients of the loss, and what the rest of the model reads of each unit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from penjing.errors import RecipeError
from penjing.recipe import Finetune
from penjing.structure import Captured, Coupling, Group
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.ends import End, ends_of
from penjing.training import Objective
from penjing.workload import Batch, Workload, device_of, preserved

_GRADIENT_BATCHES = 8


class Need(StrEnum):
    """What a score asks for beyond the weights."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    ACTIVATIONS = "activations"
    SENSITIVITIES = "sensitivities"


@dataclass(frozen=True)
class Activity:
    """What is read of each unit of a group at its ends, over all samples and positions; both are [ends, size].

    mean: of the absolute value. active: share of values that are not zero.
    """

    mean: Tensor
    active: Tensor


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

    parameters (and the model's constants), and gradients where the score needs them, by name of the tensor; activities
    and sensitivities, where it needs them, by name of the group; a seed.
    """

    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    activities: Mapping[str, Activity] = field(default_factory=dict)
    sensitivities: Mapping[str, Sensitivity] = field(default_factory=dict)


def gather(
    need: Need, score: str, model: nn.Module, coupling: Coupling, groups: Sequence[Group], workload: Workload | None
) -> Evidence:
    """Gather what a score needs; data that the workload does not bring is a RecipeError that names the remedy."""
    parameters = coupling.captured.tensors
    if need is Need.WEIGHTS:
        return Evidence(parameters)
    data = "calibration" if need is Need.ACTIVATIONS else "train"
    if workload is None or not workload.brings(data):
        what = "calibration= data (inputs suffice)" if data == "calibration" else "train= and loss="
        raise RecipeError(f"PruneChannels: score={score!r} needs a workload with {what}; or use score='l2'")
    if need is Need.GRADIENTS:
        return Evidence(parameters, gradients=gradients(model, workload))
    ends = _ends(coupling, groups, score)
    if need is Need.ACTIVATIONS:
        batches = affordable(workload.calibration_batches(), coupling.captured, device_of(model))
        return Evidence(parameters, activities=activities(coupling.captured, groups, ends, batches))
    return Evidence(parameters, sensitivities=sensitivities(coupling.captured, groups, ends, workload))


def gradients(model: nn.Module, workload: Workload) -> dict[str, Tensor]:
    """Sum the gradients of the workload's loss over a few training batches in eval mode, of frozen parameters too."""
    objective = _objective(workload)
    with preserved(model):
        model.eval()
        model.zero_grad(set_to_none=True)
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        for batch in islice(workload.train_batches(), _GRADIENT_BATCHES):
            objective(model, batch.to(device_of(model))).backward()
        parameters = model.named_parameters(remove_duplicate=False)
        found = {name: tensor.grad.clone() for name, tensor in parameters if tensor.grad is not None}
        model.zero_grad(set_to_none=True)
    return found


def activities(
    captured: Captured, groups: Sequence[Group], ends: Sequence[End], batches: Iterator[Batch]
) -> dict[str, Activity]:
    """Run the graph on calibration data and average what is read of each unit, end by end."""
    sizes = {group.name: group.size for group in groups}
    totals = [torch.zeros(3, sizes[end.group], dtype=torch.float64) for end in ends]  # |value|, not zero, count
    with torch.no_grad():
        for batch in batches:
            reader = _Reader(captured, ends)
            reader(*batch.args, **batch.kwargs)
            for i, value in reader.read.items():
                rows = value.detach().movedim(ends[i].dim, 0).flatten(1)
                columns = [rows.abs().double().sum(1), (rows != 0).sum(1), torch.full(rows.shape[:1], rows.shape[1])]
                for total, column in zip(totals[i], columns, strict=True):
                    total += _by_unit(column.double().cpu(), ends[i], len(total))
    found: dict[str, list[Tensor]] = {name: [] for name in sizes}
    for end, total in zip(ends, totals, strict=True):
        found[end.group].append(total[:2] / total[2].clamp_min(1))
    return {name: Activity(*torch.stack(each, 1).unbind()) for name, each in found.items()}


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
            reader = _Reader(captured, ends)
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


class _Reader(nn.Module):
    """The captured model, called like the original, which keeps what its operators read at the given ends."""

    def __init__(self, captured: Captured, ends: Sequence[End]) -> None:
        super().__init__()
        self._captured = captured
        self.read: dict[int, Tensor] = {}
        at: dict[str, dict[str, list[int]]] = {}
        for i, end in enumerate(ends):
            at.setdefault(end.reader, {}).setdefault(end.source, []).append(i)
        reader = self

        class Run(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                for source in n.all_input_nodes if n.name in at else ():
                    for i in at[n.name].get(source.name, ()):
                        # A view of its own for this reader: its gradient leaves out what others make of the value.
                        reader.read[i] = reader.read.get(at[n.name][source.name][0], _leaf(self.env[source]))
                return super().run_node(n)

            def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
                mine = {source: reader.read[where[0]] for source, where in at.get(n.name, {}).items()}
                args, kwargs = super().fetch_args_kwargs_from_env(n)
                if not mine:
                    return args, kwargs

                def load(source: fx.Node) -> Any:
                    return mine.get(source.name, self.env[source])

                return fx.node.map_arg(n.args, load), fx.node.map_arg(n.kwargs, load)

        self._run = Run(captured.module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._run.run(*self._captured.flatten(args, kwargs), enable_io_processing=False)
        return self._captured.signature.unflatten(outputs)


def _leaf(value: Tensor) -> Tensor:
    """A view to differentiate by, also where nothing before it is trained."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_(torch.is_grad_enabled())


def _ends(coupling: Coupling, groups: Sequence[Group], score: str) -> tuple[End, ...]:
    ends = ends_of(coupling, groups)
    unread = {group.name for group in groups} - {end.group for end in ends}
    if unread:
        raise RecipeError(
            f"PruneChannels: score={score!r} finds no place where group {min(unread)!r} is read; "
            "exclude it, or use score='l2'"
        )
    return ends


def _objective(workload: Workload) -> Objective:
    return Objective.of(workload, Finetune(distill=False), teacher=None)


def _by_unit(values: Tensor, end: End, size: int) -> Tensor:
    """Sum values [..., indices] of a dimension by the unit that owns each index: [..., size]."""
    owned = torch.from_numpy(np.flatnonzero(end.units >= 0))
    units = torch.from_numpy(end.units)[owned]
    return values.new_zeros(*values.shape[:-1], size).index_add_(-1, units, values[..., owned])


def _by_sample(products: Tensor, end: End, batch: int, size: int) -> Tensor:
    """Sum value times slope over positions: [batch, size]. A first dimension of batch * k has k positions of each."""
    rows = products.movedim(end.dim, -1).double()
    if end.dim == 0 or rows.shape[0] % batch:
        raise RecipeError(
            f"PruneChannels: the samples of the activation {end.source} cannot be told apart, so that no score of "
            "samples exists; use score='taylor' or 'l2'"
        )
    return _by_unit(rows.reshape(batch, -1, rows.shape[-1]).sum(1).cpu(), end, size)
