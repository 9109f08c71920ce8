"""Sparsify(method=...): how much goes from each layer, the layers solved in their order, and what the log tells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from penjing.errors import RecipeError
from penjing.recipe import Sparsify
from penjing.storage import save_checkpoint
from penjing.structure import capture
from penjing.techniques.prune.calibration import affordable
from penjing.techniques.prune.compensate import install
from penjing.techniques.sparsify.allocation import erdos_renyi_kernel, least_error
from penjing.techniques.sparsify.masks import prune_count
from penjing.techniques.sparsify.patterns import UNSTRUCTURED, OfEvery, block_sizes, find_pattern
from penjing.techniques.sparsify.post_training import Model, Solved, read_marked
from penjing.techniques.sparsify.solve import SHARE, Blocks, Budget, NofM, PerLayer, PerRow
from penjing.techniques.state import Context, State
from penjing.types import Solver, Spread
from penjing.workload import device_of

DENSITIES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.06, 0.03)
"""At which each layer is tried, to see what it loses."""
Shares = Mapping[str, float]


def solve_layers(
    state: State, step: Sparsify, context: Context, amounts: Sequence[tuple[float | int, Sequence[str]]]
) -> tuple[State, Shares]:
    """Solve the layers that read the named weights; give the shares that are to go from the weights left over.

    amounts: what goes, and the weights that share it.
    """
    workload = context.workload
    if state.masks:
        raise RecipeError(
            f"Sparsify: method='{step.method}' solves for all weights of a layer, and some of "
            f"{', '.join(state.masks)} are pruned already; prune in one step, or use method='magnitude'"
        )
    assert workload is not None  # apply has seen that it brings calibration data
    captured = capture(state.model, state.example, workload.dynamic_shapes)
    found = list(affordable(workload.calibration_batches(), captured, device_of(state.model)))
    batches = [captured.flatten(batch.args, batch.kwargs) for batch in found]
    model = Model.of(captured, batches, [name for _, names in amounts for name in names], context.seed)
    mark = f"{step.explain()}, seed {context.seed}"
    shares = _shares(model, step, amounts, context.resume_dir, mark)
    budgets = {name: budget_of(step, 1 - shares[name]) for name in model.names}
    tensors, solved = model.solve(Solver(step.method), budgets, context.resume_dir, mark)
    install(state.model, tensors)
    masks = {name: tensors[name] != 0 for name in model.names}
    samples = sum(batch.size for batch in found)
    return _logged(replace(state, masks=masks), step, solved, shares, samples), {
        name: share for name, share in shares.items() if name not in model.names
    }


def check_solvable(step: Sparsify) -> None:
    """Raise RecipeError for what goes together with method="magnitude" alone."""
    what = f"Sparsify: method='{step.method}' solves layers as a whole"
    if step.score != "l1":
        raise RecipeError(f"{what} and looks at no score={step.score!r}; leave one of the two out")
    if step.schedule is not None:
        raise RecipeError(f"{what} and at once, not by schedule={step.schedule!r}; leave one of the two out")
    if step.scope in (Spread.DEVIATION, Spread.THRESHOLD):
        raise RecipeError(f"{what} for a number of weights, and scope='{step.scope}' names none; use 'global'")
    if not (
        step.pattern == UNSTRUCTURED or block_sizes(step.pattern) or isinstance(find_pattern(step.pattern), OfEvery)
    ):
        raise RecipeError(
            f"{what} for single weights, N:M and blocks, not pattern={step.pattern!r}; use PruneChannels, or "
            "method='magnitude'"
        )
    if step.scope is Spread.ROW and block_sizes(step.pattern):
        raise RecipeError(f"{what}, blocks of {step.pattern} among all of a layer, not scope='row'; use 'local'")
    if step.method == Solver.OBS and block_sizes(step.pattern):
        raise RecipeError(f"{what}, 'obs' weight by weight, not in blocks of {step.pattern}; use method='admm'")


def budget_of(step: Sparsify, density: float) -> Budget:
    """What may stay of a weight by the pattern of a step.

    >>> budget_of(Sparsify(pattern="4x1"), 0.5)
    Blocks(rows=4, unit=1, density=0.5)
    """
    pattern = find_pattern(step.pattern)
    if isinstance(pattern, OfEvery):
        return NofM(pattern.keep, pattern.group)
    if sizes := block_sizes(step.pattern):
        return Blocks(*sizes, density)
    return PerRow(density) if step.scope is Spread.ROW else PerLayer(density)


def _shares(
    model: Model,
    step: Sparsify,
    amounts: Sequence[tuple[float | int, Sequence[str]]],
    folder: Path | None,
    mark: str,
) -> dict[str, float]:
    """The share that goes from each weight; kept in the folder, for it takes a pass over all layers."""
    pattern = find_pattern(step.pattern)
    if isinstance(pattern, OfEvery):
        return {name: pattern.amount for _, names in amounts for name in names}
    path = None if folder is None else folder / "shares"
    if path is not None and path.exists():
        _, saved = read_marked(path, mark)
        return dict(saved)
    tensors = model.captured.tensors
    sizes = {name: tensors[name].numel() for _, names in amounts for name in names}
    even: dict[str, float] = {}
    for amount, names in amounts:
        of = {
            Spread.GLOBAL: dict.fromkeys(names, sum(sizes[name] for name in names)),
            Spread.ROW: {name: sizes[name] // len(tensors[name]) for name in names},
        }.get(Spread(step.scope), sizes)
        for name in names:
            even[name] = prune_count(amount, of[name]) / of[name] if isinstance(amount, int) else amount
    shares = dict(even)
    if step.scope is Spread.GLOBAL:
        curves = model.curves([budget_of(step, density) for density in DENSITIES])
        for _, names in amounts:
            mine = [name for name in names if name in curves]
            if not mine:
                continue
            found = least_error(
                [curves[name] for name in mine], DENSITIES, [sizes[name] for name in mine], even[names[0]]
            )
            shares |= dict(zip(mine, found, strict=True))
    elif step.scope is Spread.ERK:
        for _, names in amounts:
            found = erdos_renyi_kernel([tensors[name].shape for name in names], even[names[0]])
            shares |= dict(zip(names, found, strict=True))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, data={"mark": mark, "row": shares})
    return shares


def _logged(state: State, step: Sparsify, solved: Sequence[Solved], shares: Shares, samples: int) -> State:
    """Tell how large the errors of the layers are, what goes where, and where damping had to help."""
    if solved:
        worst = max(solved, key=lambda each: each.error)
        mean = sum(each.error for each in solved) / len(solved)
        state = state.log(
            step.key,
            f"method '{step.method}' on {samples} samples, {len(solved)} layers: their outputs are off by {mean:.2%} "
            f"of their energy on average, {worst.name} by {worst.error:.2%}",
        )
        least, most = (choose(solved, key=lambda each: shares[each.name]).name for choose in (min, max))
        state = state.log(step.key, f"from {shares[least]:.0%} of {least} to {shares[most]:.0%} of {most} go")
    for each in solved:
        if each.rows < each.inputs:
            what = (
                f"{each.name}: {each.rows} rows of calibration data leave {each.inputs} weights open; damping decides"
            )
            state = state.log(step.key, what, fell_back=True)
        if each.stronger is not None:
            what = f"{each.name}: its Hessian took damping by {each.stronger:g} of its mean, where {SHARE:g} is usual"
            state = state.log(step.key, what, fell_back=True)
    return state
