r"""Refit what follows a cut, so that it gives what it gave before.

A layer that lost input channels sees x' instead of x. Its weights are chosen anew, by ridge regression on unlabelled
calibration data, so that its output stays near the original y:

    W = argmin ||X' W^T - Y||_F^2 + lambda ||W - W_0||_F^2,    lambda = ridge * mean(diag(X'^T X'))

with X' [samples, inputs' * kernel], Y [samples, outputs'] and W_0 the weights left by the cut. This is the channel form
of feature-map reconstruction (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks",
arXiv:1707.06168, section 3.1), solved in the order of the graph, each layer on the inputs that the refitted layers
before it give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

from penjing.structure import Surgery

_ROWS = 20_000
_aten = torch.ops.aten


@dataclass(frozen=True)
class Refit:
    """One refitted layer: relative error ||Y' - Y|| / ||Y|| of its output before and after."""

    parameter: str
    before: float
    after: float


def ridge_fit(x: Tensor, y: Tensor, initial: Tensor, ridge: float = 1e-3) -> Tensor:
    """Solve the regression above: x [n, k], y [n, m], initial [m, k] -> [m, k].

    >>> x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> w = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    >>> torch.allclose(ridge_fit(x, x @ w.T, torch.zeros(1, 3, dtype=torch.float64), ridge=1e-9), w)
    True
    """
    gram = x.T @ x
    damping = ridge * (float(gram.diagonal().mean()) or 1.0)
    gram.diagonal().add_(damping)
    correction: Tensor = torch.linalg.solve(gram, x.T @ (y - x @ initial.T))
    return initial + correction.T


def _columns(node: fx.Node, x: Tensor, weight: Tensor, arguments: Sequence[Any]) -> Tensor:
    """Give the rows that a layer's weight matrix multiplies: [n, inputs * kernel]."""
    if node.target is _aten.linear.default:
        return x.reshape(-1, x.shape[-1])
    stride, padding, dilation = (arguments[i] if len(arguments) > i else d for i, d in ((3, 1), (4, 0), (5, 1)))
    patches = F.unfold(x, tuple(weight.shape[2:]), dilation=dilation, padding=padding, stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _outputs(node: fx.Node, y: Tensor) -> Tensor:
    return (
        y.reshape(-1, y.shape[-1]) if node.target is _aten.linear.default else y.movedim(1, -1).reshape(-1, y.shape[1])
    )


def refit(
    original: fx.GraphModule,
    cut: fx.GraphModule,
    surgery: Surgery,
    inputs: Sequence[Any],
    *,
    ridge: float = 1e-3,
    seed: int = 0,
) -> tuple[Mapping[str, Tensor], tuple[Refit, ...]]:
    """Refit every convolution and linear layer that lost inputs; give the new weights by name and the errors.

    original, cut: the captured graph before and after, whose nodes have the same names. inputs: flat example tensors of
    one calibration batch. Grouped convolutions and weights used more than once are left as they are.
    """
    weights: dict[str, Tensor] = {}
    refits: list[Refit] = []
    with torch.no_grad():
        before = _record(original, inputs)
        uses = _uses(cut.graph)

        class Refitting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                result = super().run_node(n)
                name = _consumer(n, surgery, uses)
                if name is None or n.name not in before:
                    return result
                arguments, _ = self.fetch_args_kwargs_from_env(n)
                x, weight = arguments[0], arguments[1]
                bias = arguments[2] if len(arguments) > 2 else None
                wanted = before[n.name]
                kept = surgery.kept.get(name, {}).get(0)
                if kept is not None:
                    axis = -1 if n.target is _aten.linear.default else 1
                    wanted = wanted.index_select(axis, torch.as_tensor(kept))
                columns, y = _columns(n, x, weight, arguments), _outputs(n, wanted)
                if bias is not None:
                    y = y - bias
                rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:_ROWS]
                initial = weight.reshape(weight.shape[0], -1)
                columns, y = columns[rows].double(), y[rows].double()
                fitted = ridge_fit(columns, y, initial.double(), ridge)
                scale = y.norm().clamp_min(1e-30)
                error = [float((columns @ w.T - y).norm() / scale) for w in (initial.double(), fitted)]
                if not error[1] < error[0]:
                    return result
                refits.append(Refit(name, *error))
                weights[name] = fitted.to(weight.dtype).reshape(weight.shape)
                return n.target(x, weights[name], *arguments[2:])  # type: ignore[operator]

        Refitting(cut).run(*inputs, enable_io_processing=False)
    return weights, tuple(refits)


def _uses(graph: fx.Graph) -> dict[str, int]:
    uses: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            uses[str(node.target)] = uses.get(str(node.target), 0) + len(node.users)
    return uses


def _consumer(node: fx.Node, surgery: Surgery, uses: Mapping[str, int]) -> str | None:
    """Name the weight of a layer that lost inputs and can be refitted, or None."""
    if node.target not in (_aten.linear.default, _aten.conv2d.default) or not isinstance(node.args[1], fx.Node):
        return None
    name = str(node.args[1].target)
    grouped = len(node.args) > 6 and node.args[6] != 1
    lost = 1 in surgery.kept.get(name, {})
    return name if lost and not grouped and uses.get(name) == 1 else None


def _record(graph: fx.GraphModule, inputs: Sequence[Any]) -> dict[str, Tensor]:
    """Run a graph and keep the outputs of its convolution and linear nodes."""
    outputs: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.target in (_aten.linear.default, _aten.conv2d.default):
                outputs[n.name] = result
            return result

    Recorder(graph).run(*inputs, enable_io_processing=False)
    return outputs


def install(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write refitted weights into a module by parameter name."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
