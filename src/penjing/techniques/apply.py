"""Apply a recipe: a fold of its steps over the state of the model.

This is the only loop, and TECHNIQUES the only registry.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penjing.errors import RecipeError, RunError
from penjing.recipe import (
    Cluster,
    Distill,
    DropBlocks,
    Factorize,
    Finetune,
    Lossless,
    PruneChannels,
    Quantize,
    Recipe,
    Rewind,
    Sparsify,
    Step,
    Target,
    Training,
    as_recipe,
)
from penjing.recipe.target import target_named
from penjing.storage import fingerprint_tensors
from penjing.techniques import cluster, depth, factorize, prune, quantize, rewind, sparsify
from penjing.techniques.outcome import Outcome, read_outcome
from penjing.techniques.prune import lossless
from penjing.techniques.recover import run as recover
from penjing.techniques.sparsify import copy_pruned
from penjing.techniques.sparsify.parameters import plain_names
from penjing.techniques.state import Context, State
from penjing.training import Progress, Team
from penjing.training.checkpoint import tensors_of
from penjing.workload import ExampleInputs, Workload, is_onnx, read_model


@dataclass(frozen=True)
class Technique:
    """How a step is carried out.

    run: (state, step, context) -> state. needs: what the workload must bring for a step. last: whether no step but
    training may follow.
    """

    run: Callable[[State, Any, Context], State]
    needs: Callable[[Any], frozenset[str]] = lambda step: frozenset()
    last: bool = False


TECHNIQUES: dict[type[Step], Technique] = {
    PruneChannels: Technique(prune.run),
    DropBlocks: Technique(depth.run),
    Factorize: Technique(factorize.run, needs=factorize.needs),
    Lossless: Technique(lossless.run),
    Sparsify: Technique(sparsify.run, needs=sparsify.needs),
    Rewind: Technique(rewind.run),
    Cluster: Technique(cluster.run, needs=cluster.needs),
    Quantize: Technique(quantize.run, needs=quantize.needs, last=True),
    Finetune: Technique(recover, needs=lambda step: frozenset({"train"})),
    Distill: Technique(recover, needs=lambda step: frozenset({"train"})),
}


def apply(
    workload_or_model: Workload | nn.Module | str | Path,
    recipe: Recipe | Step | Iterable[Step],
    example_inputs: Any = None,
    *,
    runtime: Target | str | None = None,
    prefer: str = "module",
    device: str | torch.device | None = None,
    seed: int = 0,
    resume_dir: str | Path | None = None,
    consume: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Apply a recipe to a model and give the new model with a log of all that happened.

    The model is not changed unless consume=True, which saves a copy (where no step needs the original's weights),
    and where nothing is refitted has each tensor give way to its slice once the cut is proven. A bare model needs
    example_inputs; steps that need data need a Workload. prefer="module" keeps the user's class where the proof allows,
    "graph" goes straight to the rewritten graph. resume_dir keeps the state after each step, so that an interrupted
    call goes on where it stopped.

    runtime: the name of a runtime, or a Target. PruneChannels then takes widths that pay there (round_to="auto"), and
    of="latency" counts its milliseconds: narrower versions of the model are timed on this machine, once, which takes a
    minute or so. Quantize stores nothing before a sum that the runtime would not round either.

    Raises RecipeError before any work if a step is unknown, out of order, or lacks the data it needs.

    >>> import torch, penjing as pj
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> outcome = pj.apply(model, pj.PruneChannels(0.5), torch.zeros(2, 4))
    >>> outcome.model[0].out_features
    8
    """
    steps = as_recipe(recipe)
    if is_onnx(workload_or_model):
        workload_or_model = read_model(workload_or_model)
    if isinstance(workload_or_model, Workload):
        workload, original, example = workload_or_model, workload_or_model.model, workload_or_model.example
    elif isinstance(workload_or_model, nn.Module):
        if example_inputs is None:
            raise RecipeError(
                "apply: a bare model needs example_inputs= so that it can be captured; or pass a Workload"
            )
        workload, original, example = None, workload_or_model, ExampleInputs.of(example_inputs)
    else:
        raise RecipeError(f"apply: got {type(workload_or_model).__name__}; pass a Workload or an nn.Module")
    if prefer not in ("module", "graph"):
        raise RecipeError(f"apply: prefer={prefer!r} is unknown; use 'module' or 'graph'")
    check(steps, workload)
    steps = _plain(steps, original)
    written = _written(steps)

    place = torch.device(device) if device is not None else None
    folder = Path(resume_dir) if resume_dir is not None else None
    consume = consume and not any(map(_asks_the_original, steps))
    target: Target | None
    if isinstance(runtime, str):
        make = target_named(runtime)
        target = make(original, example, progress) if any(map(_asks_the_machine, steps)) else None
    else:
        target = runtime
    name = runtime if isinstance(runtime, str) or runtime is None else runtime.name
    context = Context(workload, original, target, seed, place, prefer, progress, folder, consume, name)
    done, state = _resumed(written, original, example, context)
    team = Team.join() if any(isinstance(step, Training) for step in steps) else Team()
    team.wait()  # before the leading process writes what the others look for
    if done == 0 and not consume:
        state = replace(state, model=copy_pruned(original))
    if place is not None:
        state = replace(state, model=state.model.to(place), example=example.to(place))
    for i, step in enumerate(steps.steps[done:], start=done):
        inner = replace(context, resume_dir=folder / f"step-{i}" if folder is not None else None)
        state = cluster.surviving(TECHNIQUES[type(step)].run(state, step, inner), step.key)
        if folder is not None and team.leads:
            _outcome(state, Recipe(written.steps[: i + 1])).save(folder / f"after-{i}")
        team.wait()
    if (source := getattr(original, "metadata", None)) is not None and not hasattr(state.model, "metadata"):
        state.model.metadata = source  # what an .onnx file says about itself outlives a rewritten graph
    return _outcome(state, written)


def _asks_the_original(step: Step) -> bool:
    """Whether a step needs the original's weights, as a teacher or to go back to."""
    return (isinstance(step, Training) and step.needs_original) or (isinstance(step, Rewind) and step.weights is None)


def _asks_the_machine(step: Step) -> bool:
    """Whether a step needs to know what widths cost in the runtime."""
    return isinstance(step, PruneChannels) and (step.of == "latency" or step.round_to == "auto")


def check(recipe: Recipe, workload: Workload | None) -> None:
    """Raise RecipeError if the recipe cannot be carried out on this workload."""
    closed: Step | None = None
    for i, step in enumerate(recipe):
        technique = TECHNIQUES.get(type(step))
        if technique is None:
            known = ", ".join(cls.__name__ for cls in TECHNIQUES)
            raise RecipeError(f"step {i} is {type(step).__name__}, which no technique carries out; known: {known}")
        if closed is not None and not isinstance(step, Training):
            raise RecipeError(
                f"step {i} ({step.key}) comes after {closed.key}, which only training may follow; move it before"
            )
        if technique.last:
            closed = step
        if isinstance(step, Distill) and isinstance(step.teacher, str):
            raise RecipeError(
                f"step {i} ({step.key}) was taught by {step.teacher}, of which a file holds the name alone; give "
                "Distill(teacher=module)"
            )
        after = next(iter(recipe.steps[i + 1 :]), None)
        if isinstance(step, Sparsify) and step.schedule is not None and not isinstance(after, Training | Sparsify):
            raise RecipeError(
                f"step {i} ({step.key}) has schedule={step.schedule!r}, by which zeros grow in training; a Finetune "
                "step must come next, or leave schedule out"
            )
        clustered = any(isinstance(earlier, Cluster) for earlier in recipe.steps[:i])
        if clustered and isinstance(step, Sparsify) and step.schedule is not None:
            raise RecipeError(
                f"step {i} ({step.key}) has schedule={step.schedule!r}, by which zeros grow in training, and a step "
                "before it put weights on palettes, which training keeps; let Cluster follow the training"
            )
        for need in sorted(technique.needs(step)):
            if workload is None or not workload.brings(need):
                raise RecipeError(f"step {i} ({step.key}) needs {need} data; pass a Workload with {need}=")


def _plain(recipe: Recipe, original: nn.Module) -> Recipe:
    """Name the modules that a recipe holds, so that it is data that can be saved and compared."""
    return Recipe(
        replace(step, parameters=plain_names(step.parameters, original))
        if isinstance(step, Sparsify) and step.parameters is not None
        else step
        for step in recipe
    )


def _written(recipe: Recipe) -> Recipe:
    """The recipe as an outcome tells it, with the names of teachers in their place."""
    return Recipe(
        replace(step, teacher=f"{type(step.teacher).__name__} {fingerprint_tensors(tensors_of(step.teacher))[:12]}")
        if isinstance(step, Distill) and isinstance(step.teacher, nn.Module)
        else step
        for step in recipe
    )


def _pending(done: Sequence[Step]) -> tuple[Sparsify, ...]:
    """The last steps whose zeros are to grow in the training that comes next."""
    last = takewhile(lambda step: isinstance(step, Sparsify), reversed(done))
    return tuple(reversed([step for step in last if isinstance(step, Sparsify) and step.schedule is not None]))


def _outcome(state: State, recipe: Recipe) -> Outcome:
    return Outcome(state.model, state.rows, recipe, state.surgery, state.masks, state.graph, state.palettes)


def _resumed(recipe: Recipe, original: nn.Module, example: ExampleInputs, context: Context) -> tuple[int, State]:
    """Find the last step whose outcome was saved, and its state; (0, the original) if there is none."""
    fresh = State(original, example)
    if context.resume_dir is None or not context.resume_dir.exists():
        return 0, fresh
    for i in reversed(range(len(recipe))):
        folder = context.resume_dir / f"after-{i}"
        if not folder.exists():
            continue
        saved = read_outcome(copy_pruned(original), folder)
        if saved.recipe != Recipe(recipe.steps[: i + 1]):
            raise RunError(
                f"{folder} was left by another recipe; remove {context.resume_dir} or give another resume_dir"
            )
        state = State(saved.model, example, saved.masks, saved.surgery, saved.graph, saved.log)
        return i + 1, replace(state, ramps=_pending(recipe.steps[: i + 1]), palettes=saved.palettes)
    return 0, fresh
