r"""Refit what follows a cut, so that it gives what it gave before.

A layer that lost input channels sees x' instead of x. Its weights are chosen anew, by ridge regression on unlabelled
calibration data, so that its output stays near the original y:

    W = argmin ||X' W^T - Y||_F^2 + lambda ||W - W_0||_F^2,    lambda = ridge * mean(diag(X'^T X'))

with X' [samples, inputs' * kernel], Y [samples, outputs'] and W_0 the weights left by the cut. This is the channel form
of feature-map reconstruction (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
arXiv:1707.06168, section 3.1), solved in the order of the graph, each layer on the inputs that the refitted layers
before it give. A quarter of the samples is held out: new weights are taken only where they are nearer to the original
there, and the errors told are those.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure import Surgery
from penjing.techniques.prune.rows import CONV, LINEAR, Places, draw_places, has_rows, inputs_at, outputs_at

GAIN = 0.95  # a smaller gain on few held-out samples may be none
_ROWS = 20_000  # of one layer's regression, held-out ones included
_CHUNK = 4_096
_HELD_OUT = 4  # one sample in four


@dataclass(frozen=True)
class Refit:
    """One refitted layer: relative error ||Y' - Y|| / ||Y|| of its output on held-out rows, before and after."""

    parameter: str
    before: float
    after: float


@dataclass(frozen=True)
class Sample:
    """The original's outputs [rows, channels] at some places of one batch, and which rows are held out."""

    places: Places
    outputs: Tensor
    held: Tensor


def ridge_fit(x: Tensor, y: Tensor, initial: Tensor, ridge: float = 1e-3, alive: Tensor | None = None) -> Tensor:
    """Solve the regression above in float64: x [n, k], y [n, m], initial [m, k] -> [m, k].

    alive: bool [m, k], the weights that may change; None for all.

    >>> x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> w = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    >>> torch.allclose(ridge_fit(x, x @ w.T, torch.zeros(1, 3, dtype=torch.float64), ridge=1e-9), w)
    True
    """
    initial = initial.double()
    gram, moment = initial.new_zeros(x.shape[1], x.shape[1]), initial.new_zeros(x.shape[1], y.shape[1])
    for rows, outputs in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
        rows = rows.double()
        gram += rows.T @ rows
        moment += rows.T @ (outputs.double() - rows @ initial.T)
    gram.diagonal().add_(ridge * (float(gram.diagonal().mean()) or 1.0))
    if alive is None:
        correction: Tensor = torch.linalg.solve(gram, moment)
        return initial + correction.T
    fitted = initial.clone()
    for i, free in enumerate(alive):
        fitted[i, free] += torch.linalg.solve(gram[free][:, free], moment[free, i])
    return fitted


def refit(
    original: fx.GraphModule,
    cut: fx.GraphModule,
    surgery: Surgery,
    batches: Sequence[Sequence[Any]],
    *,
    masks: Mapping[str, Tensor] | None = None,
    ridge: float = 1e-3,
    seed: int = 0,
) -> tuple[Mapping[str, Tensor], tuple[Refit, ...]]:
    """Refit every convolution and linear layer that lost inputs; give the new weights by name and the errors.

    original, cut: the captured graph before and after, whose nodes have the same names. batches: flat inputs of the
    graph. masks: of the weights that live after the cut; the others stay zero. Grouped convolutions, weights used more
    than once, and layers that come no nearer to the original on held-out samples are left as they are.
    """
    weights: dict[str, Tensor] = {}
    refits: list[Refit] = []
    names = _consumers(cut, surgery)
    rows = -(-_ROWS // len(batches))
    with torch.no_grad():
        samples = [_record(original, inputs, names, rows, i, seed) for i, inputs in enumerate(batches)]
        for node, runners in _in_step(cut, batches):
            if node.name not in names or any(node.name not in sample for sample in samples):
                continue
            name, source = names[node.name], _weight_of(node)
            weight = runners[0].env[source]
            alive = (masks or {}).get(name)
            found = _refit_layer(
                [
                    _rows(node, runner, sample[node.name], surgery)
                    for runner, sample in zip(runners, samples, strict=True)
                ],
                weight.flatten(1).double(),
                None if alive is None or alive.all() else alive.to(weight.device, torch.bool).flatten(1),
                ridge,
            )
            if found is not None:
                fitted, before, after = found
                weights[name] = fitted.to(weight.dtype).reshape(weight.shape)
                refits.append(Refit(name, before, after))
                for runner in runners:
                    runner.env[source] = weights[name]
    return weights, tuple(refits)


def install(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write refitted weights into a module by parameter name."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def _refit_layer(
    batches: Sequence[tuple[Tensor, Tensor, Tensor]], initial: Tensor, alive: Tensor | None, ridge: float
) -> tuple[Tensor, float, float] | None:
    """Fit on the rows that are not held out; give weights and held-out errors, None where they gain too little."""
    x, y, held = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if held.all() or not held.any():
        return None
    fitted = ridge_fit(x[~held], y[~held], initial, ridge, alive)
    x, y = x[held].double(), y[held].double()
    before, after = (float((x @ w.T - y).norm() / y.norm().clamp_min(1e-30)) for w in (initial, fitted))
    return (fitted, before, after) if after < GAIN * before else None


def _rows(node: fx.Node, runner: fx.Interpreter, sample: Sample, surgery: Surgery) -> tuple[Tensor, Tensor, Tensor]:
    """Give inputs [rows, k], wanted outputs without the bias [rows, m], and which rows are held out."""
    arguments, _ = runner.fetch_args_kwargs_from_env(node)
    wanted, bias = sample.outputs, arguments[2] if len(arguments) > 2 else None
    kept = surgery.kept.get(str(_weight_of(node).target), {}).get(0)
    if kept is not None:
        wanted = wanted[:, torch.from_numpy(kept).to(wanted.device)]
    return inputs_at(node, arguments, sample.places), wanted if bias is None else wanted - bias, sample.held


def _consumers(cut: fx.GraphModule, surgery: Surgery) -> dict[str, str]:
    """Name the weights of the layers that lost inputs and can be refitted, by node."""
    tensors = {node: attrgetter(str(node.target))(cut) for node in cut.graph.nodes if node.op == "get_attr"}
    uses: Counter[int] = Counter()
    for node, tensor in tensors.items():
        uses[id(tensor)] += len(node.users)
    found = {}
    for node in cut.graph.nodes:
        if node.target not in (LINEAR, CONV) or (weight := _weight_of(node)) not in tensors:
            continue
        name = str(weight.target)
        grouped = len(node.args) > 6 and node.args[6] != 1
        if 1 in surgery.kept.get(name, {}) and not grouped and uses[id(tensors[weight])] == 1:
            found[node.name] = name
    return found


def _weight_of(node: fx.Node) -> fx.Node:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return weight


def _record(
    graph: fx.GraphModule, inputs: Sequence[Any], names: Mapping[str, str], rows: int, batch: int, seed: int
) -> dict[str, Sample]:
    """Run a graph on one batch and keep some rows of the outputs of the named nodes."""
    samples: dict[str, Sample] = {}
    generator = torch.Generator().manual_seed(seed + batch)

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in names and has_rows(n, result):
                places = draw_places(n, result, rows, generator)
                held = (places[0] + batch) % _HELD_OUT == _HELD_OUT - 1
                samples[n.name] = Sample(places, outputs_at(n, result, places), held)
            return result

    Recorder(graph).run(*inputs, enable_io_processing=False)
    return samples


def _in_step(
    graph: fx.GraphModule, batches: Sequence[Sequence[Any]]
) -> Iterator[tuple[fx.Node, tuple[fx.Interpreter, ...]]]:
    """Run a graph on all batches node by node; each node is given out before it runs, when its inputs are there."""
    runners = tuple(fx.Interpreter(graph) for _ in batches)
    for runner, inputs in zip(runners, batches, strict=True):
        runner.env, runner.args_iter = {}, iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "output":
            return
        yield node, runners
        for runner in runners:
            runner.env[node] = runner.run_node(node)
            for last in runner.user_to_last_uses.get(node, ()):
                del runner.env[last]
