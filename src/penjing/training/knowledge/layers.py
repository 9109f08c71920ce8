"""Which layers of a student learn from which layers of its teacher, and what these give while both run."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.workload import tree

Outputs = dict[str, Any]
"""What modules gave when they were called last, by name."""


@dataclass(frozen=True)
class Pair:
    """Names of a module of the student and of the one of the teacher that it learns from."""

    student: str
    teacher: str

    def __str__(self) -> str:
        return f"{self.student} and {self.teacher}"


@contextmanager
def listening(model: nn.Module, names: Collection[str]) -> Iterator[Outputs]:
    """Note what the named modules give while it is active."""
    seen: Outputs = {}

    def note(name: str) -> Any:
        return lambda _, args, outputs: seen.__setitem__(name, outputs)

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features_of(outputs: Any) -> Tensor | None:
    """The features that a module gives: its first output that is a tensor of floats with one row per sample."""
    return next((t for t in tree.tensors(outputs) if t.ndim > 1 and t.is_floating_point()), None)


def attention_of(outputs: Any) -> Tensor | None:
    """The attention matrices [N, heads, T, T] among a module's outputs; they come after what it computes with them."""
    found = tree.tensors(outputs)[1:]
    return next((t for t in found if t.ndim == 4 and t.shape[-1] == t.shape[-2] and t.is_floating_point()), None)


def named_pairs(layers: Mapping[str, str], student: nn.Module, teacher: nn.Module) -> tuple[Pair, ...]:
    """Pair layers as told: what a * stands for in the student's name, it stands for in the teacher's.

    Raises RecipeError for names that are not there.

    >>> blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> [str(pair) for pair in named_pairs({"*": "body.*"}, blocks, nn.ModuleDict({"body": blocks}))]
    ['0 and body.0', '1 and body.1']
    """
    mine, theirs = ([name for name, _ in model.named_modules() if name] for model in (student, teacher))
    pairs = []
    for pattern, target in layers.items():
        form = re.compile(re.escape(pattern).replace(r"\*", "(.*)"))
        matches = [match for name in mine if (match := form.fullmatch(name))]
        found = [Pair(match.string, _filled(target, match.groups())) for match in matches]
        wrong = [(pattern, mine)] if not found else [(p.teacher, theirs) for p in found if p.teacher not in theirs]
        for name, known in wrong:
            raise RecipeError(
                f"Distill: layers names {name!r}, which is no module; known: {', '.join(known[:12])}, ..."
            )
        pairs += found
    return tuple(pairs)


def _filled(target: str, parts: tuple[str, ...]) -> str:
    """A name with its stars filled in, from left to right."""
    for part in parts:
        target = target.replace("*", part, 1)
    return target


def block_pairs(student: nn.Module, seen: Collection[str], theirs: Collection[str]) -> tuple[Pair, ...]:
    """Pair the ends of blocks that have one name in both models; of layers with weights, but the last, without blocks.

    A block is an item of a list that holds other modules, and lies in no other block. seen, theirs: names of modules
    that give features.

    >>> layer = lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> names = ["blocks.0", "blocks.0.0", "blocks.1", "blocks.1.0"]
    >>> model = nn.ModuleDict({"blocks": nn.ModuleList([layer(), layer()])})
    >>> [pair.student for pair in block_pairs(model, names, names)]
    ['blocks.0', 'blocks.1']
    """
    common = {name: module for name, module in student.named_modules() if name in seen and name in theirs}
    blocks = [name for name, module in common.items() if name.split(".")[-1].isdigit() and any(module.children())]
    blocks = [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks)]
    weighted = [name for name, module in common.items() if any(p.ndim > 1 for p in module.parameters(recurse=False))]
    return tuple(Pair(name, name) for name in blocks or weighted[:-1])


def attention_pairs(seen: Collection[str], theirs: Collection[str]) -> tuple[Pair, ...]:
    """Pair the innermost modules of one name that give attention matrices in both models.

    >>> [pair.student for pair in attention_pairs(["layer.0", "layer.0.self"], ["layer.0", "layer.0.self"])]
    ['layer.0.self']
    """
    common = [name for name in seen if name in theirs]
    return tuple(Pair(a, a) for a in common if not any(b.startswith(f"{a}.") for b in common))
