"""A recipe: an ordered, immutable list of steps that can be written to YAML, read back and explained."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from torch import nn

from penjing.errors import RecipeError
from penjing.recipe.step import Step
from penjing.recipe.steps import STEPS
from penjing.recipe.training_steps import Distill

SCHEMA = 1


@dataclass(frozen=True, init=False)
class Recipe:
    """The plan as data.

    >>> from penjing.recipe import PruneChannels, Quantize
    >>> recipe = Recipe([PruneChannels(0.3), Quantize("int8")])
    >>> Recipe.from_yaml(recipe.to_yaml()) == recipe
    True
    """

    steps: tuple[Step, ...]

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        given: tuple[Any, ...] = (steps,) if isinstance(steps, Step) else tuple(steps)
        for i, step in enumerate(given):
            if not isinstance(step, Step):
                known = ", ".join(cls.__name__ for cls in STEPS.values())
                raise RecipeError(f"step {i} of the recipe is {step!r}; use a step: one of penjing's {known}")
        object.__setattr__(self, "steps", given)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def explain(self) -> str:
        """Say the plan, one step a line."""
        return "\n".join(f"{i}. {step.explain()}" for i, step in enumerate(self.steps, 1)) or "(nothing to do)"

    def to_data(self) -> list[dict[str, Any]]:
        """Give plain values: a list of {key: settings}."""
        return [{step.key: _plain(step)} for step in self.steps]

    @classmethod
    def from_data(cls, data: Sequence[Any]) -> "Recipe":
        """Read what `to_data` wrote; an unknown step or field is an error that lists the known."""
        return cls([_step(i, entry) for i, entry in enumerate(data)])

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Write YAML, to a file as well if a path is given."""
        text = yaml.safe_dump({"penjing": SCHEMA, "steps": self.to_data()}, sort_keys=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, source: str | Path) -> "Recipe":
        """Read YAML text, or a file."""
        is_file = isinstance(source, Path) or ("\n" not in source and Path(source).suffix in {".yaml", ".yml"})
        name = str(source) if is_file else "the YAML text"
        try:
            text = Path(source).read_text(encoding="utf-8") if is_file else str(source)
            data = yaml.safe_load(text)
        except OSError as problem:
            raise RecipeError(f"{name} cannot be read: {problem.strerror}") from problem
        except yaml.YAMLError as problem:
            raise RecipeError(f"{name} is not valid YAML: {problem}") from problem
        if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
            raise RecipeError(
                f"{name} is no recipe: expected 'steps:' with a list, such as '- prune_channels: {{ratio: 0.3}}'"
            )
        if data.get("penjing", SCHEMA) != SCHEMA:
            raise RecipeError(f"{name} has recipe schema {data['penjing']!r}; this version reads schema {SCHEMA}")
        return cls.from_data(data["steps"])


def as_recipe(value: "Recipe | Step | Iterable[Step]") -> Recipe:
    """Accept a recipe, a list of steps or a single step."""
    if isinstance(value, Recipe):
        return value
    return Recipe([value] if isinstance(value, Step) else value)


def _plain(step: Step) -> dict[str, Any]:
    settings = step.settings()
    if isinstance(step, Distill) and isinstance(step.teacher, nn.Module):
        raise RecipeError(
            f"{step.key}: teacher is a live {settings['teacher']}, which a file cannot hold; leave it out (then the "
            "original teaches), or give it in Python after reading"
        )
    for name, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, tuple) for item in value):
            raise RecipeError(
                f"{step.key}: {name} holds (module, name) pairs, which a file cannot; "
                "give parameter names such as 'conv1.weight'"
            )
    return settings


def _step(index: int, entry: Any) -> Step:
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise RecipeError(f"step {index} is {entry!r}; write '- name: {{settings}}' with one of {', '.join(STEPS)}")
    ((key, settings),) = entry.items()
    if key not in STEPS:
        raise RecipeError(f"step {index}: {key!r} is unknown; use one of {', '.join(STEPS)}")
    cls = STEPS[key]
    settings = settings or {}
    known = [f.name for f in fields(cls)]
    for name in settings if isinstance(settings, dict) else [settings]:
        if name not in known:
            raise RecipeError(f"step {index} ({key}): setting {name!r} is unknown; use one of {', '.join(known)}")
    if key == "sparsify":  # (module, name) pairs never come from a file
        return cls(**settings)
    try:
        return TypeAdapter(cls).validate_python(settings)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = first["loc"][0]  # what follows names a branch of the field's type
        raise RecipeError(f"step {index} ({key}): {where}={first['input']!r}: {first['msg']}") from problem
