"""Save a training between two epochs, so that a killed run goes on as if nothing had happened."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penjing.recipe import Finetune
from penjing.storage import fingerprint, fingerprint_tensors, load_checkpoint, save_checkpoint
from penjing.training.log import EpochRow
from penjing.training.numerics import Numerics

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """Everything the loop needs to go on. The learning rate is missing, because it is a function of `step`."""

    step: int
    rows: tuple[EpochRow, ...]
    numerics: Numerics
    trials: tuple[str, ...]
    model: Tensors
    best: Tensors
    moments: dict[Any, Any]
    random: dict[str, Any]
    hooks: tuple[dict[str, Any], ...]

    def save(self, path: Path) -> None:
        """Write it whole or not at all; raises ArtifactError when the disk refuses."""
        data = {
            "step": self.step,
            "rows": [asdict(row) for row in self.rows],
            "numerics": asdict(self.numerics),
            "trials": self.trials,
            "model": self.model,
            "best": self.best,
            "moments": self.moments,
            "random": self.random,
            "hooks": self.hooks,
        }
        save_checkpoint(path, data=data)

    @classmethod
    def load(cls, path: Path) -> "Snapshot":
        """Read what `save` wrote; raises ArtifactError for a torn or foreign file."""
        data = load_checkpoint(path).data
        rows = tuple(EpochRow(**row) for row in data["rows"])
        return cls(**{**data, "rows": rows, "numerics": Numerics(**data["numerics"])})


def checkpoint_path(
    folder: Path, step: Finetune, seed: int, total_steps: int, model: nn.Module, teacher: nn.Module | None
) -> Path:
    """Name the checkpoint of one training by what defines it.

    Another step, seed, starting point, teacher or amount of data has another name, so that several trainings share a
    folder and none is ever taken up by mistake.
    """
    identity = {
        "step": asdict(step),
        "seed": seed,
        "total_steps": total_steps,
        "model": fingerprint_tensors(tensors_of(model)),
        "teacher": None if teacher is None else fingerprint_tensors(tensors_of(teacher)),
    }
    return folder / f"finetune-{fingerprint(identity)[:16]}.checkpoint"


def tensors_of(model: nn.Module) -> Tensors:
    """Give the live parameters and buffers by their names in the state_dict."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def fitting(best: Tensors, model: nn.Module) -> Tensors:
    """Give the best weights, or those of now where a hook has cut the model, whose function stayed what it was."""
    live = tensors_of(model)
    whole = all(tensor.shape == live[name].shape for name, tensor in best.items())
    return best if whole else copy_of(model)


def copy_of(model: nn.Module) -> Tensors:
    """Copy parameters and buffers, so that training on does not change them."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


def write_into(model: nn.Module, tensors: Tensors) -> None:
    """Set a model's parameters and buffers in place; the names are those of `tensors_of`."""
    live = tensors_of(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            live[name].copy_(tensor)


def restore_moments(optimizer: Optimizer, moments: dict[Any, Any]) -> None:
    """Give a new optimizer the state of an old one."""
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
