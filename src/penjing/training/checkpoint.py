"""Save a training between two epochs, so that a killed run goes on as if nothing had happened."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from penjing.recipe import Training
from penjing.storage import (
    fingerprint,
    fingerprint_tensors,
    get_random_state,
    load_checkpoint,
    save_checkpoint,
    set_random_state,
)
from penjing.training.hooks import Hook, LoopState
from penjing.training.log import EpochRow
from penjing.training.numerics import Numerics

Tensors = dict[str, Tensor]


@dataclass
class Record:
    """What a training has found so far: its rows, the best weights, and the average of weights where there is one.

    numerics, trials: how its steps are computed, and the candidates that were timed, in words.
    """

    rows: list[EpochRow]
    best: Tensors
    average: Tensors | None = None
    numerics: Numerics = field(default_factory=Numerics)
    trials: tuple[str, ...] = ()


def save(path: Path, state: LoopState, record: Record, beside: nn.Module, hooks: Sequence[Hook]) -> None:
    """Write everything that the loop needs to go on, whole or not at all; raises ArtifactError when the disk refuses.

    beside: what is trained with the model. The learning rate is missing, because it is a function of the step.
    """
    data = {
        "step": state.step,
        "rows": [asdict(row) for row in record.rows],
        "numerics": asdict(record.numerics),
        "trials": record.trials,
        "model": tensors_of(state.model),
        "beside": tensors_of(beside),
        "best": record.best,
        "average": record.average,
        "moments": state.optimizer.state_dict()["state"],
        "random": get_random_state(),
        "hooks": [hook.memory() for hook in hooks],
    }
    save_checkpoint(path, data=data)


def resume(path: Path, state: LoopState, beside: nn.Module, hooks: Sequence[Hook]) -> Record:
    """Set model, optimizer and random generators to what `save` wrote; raises ArtifactError for a torn file."""
    data = load_checkpoint(path).data
    state.step = data["step"]
    for hook, memory in zip(hooks, data["hooks"], strict=False):  # one may cut the model to what was saved
        hook.recall(state, memory)
    write_into(state.model, data["model"])
    write_into(beside, data["beside"])
    optimizer = state.optimizer
    optimizer.load_state_dict({"state": data["moments"], "param_groups": optimizer.state_dict()["param_groups"]})
    set_random_state(data["random"])
    rows = [EpochRow(**row) for row in data["rows"]]
    live, average = tensors_of(state.model), data["average"]
    if average is not None:  # it moves with the weights, and files are read on the CPU
        average = {name: tensor.to(live[name].device) for name, tensor in average.items()}
    return Record(rows, data["best"], average, Numerics(**data["numerics"]), data["trials"])


def checkpoint_path(
    folder: Path, step: Training, seed: int, total_steps: int, model: nn.Module, teacher: nn.Module | None
) -> Path:
    """Name the checkpoint of one training by what defines it.

    Another step, seed, starting point, teacher or amount of data has another name, so that several trainings share a
    folder and none is ever taken up by mistake.
    """
    identity = {
        "step": step.settings(),
        "seed": seed,
        "total_steps": total_steps,
        "model": fingerprint_tensors(tensors_of(model)),
        "teacher": None if teacher is None else fingerprint_tensors(tensors_of(teacher)),
    }
    return folder / f"{step.key}-{fingerprint(identity)[:16]}.checkpoint"


def tensors_of(model: nn.Module) -> Tensors:
    """Give the live parameters and buffers by their names in the state_dict."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def fitting(best: Tensors, model: nn.Module) -> Tensors:
    """Give the best weights, or those of now where a hook has cut the model, whose function stayed what it was."""
    live = tensors_of(model)
    whole = all(tensor.shape == live[name].shape for name, tensor in best.items())
    return best if whole else copy_of(live)


def copy_of(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copy parameters and buffers, so that training on does not change them."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def write_into(model: nn.Module, tensors: Tensors) -> None:
    """Set a model's parameters and buffers in place; the names are those of `tensors_of`."""
    live = tensors_of(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            live[name].copy_(tensor)
