"""Make code that names a shorter float compute in float64: a graph by rewriting it, a module while it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from penjing.structure.surgery import copy_graph

SHORT_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def in_double(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph that computes in float64: casts to shorter floats become casts to it, checks of dtypes go."""
    graph = copy_graph(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert_tensor_metadata" in str(node.target):
            graph.erase_node(node)
        else:
            node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _lengthened)
    return graph


class InDouble(TorchDispatchMode):
    """While it is active, dtypes that name a shorter float mean float64, and what is created in one is lengthened.

    It acts on the operators that a graph would record, so that a module of any class computes as its graph does.

    >>> with InDouble():
    ...     torch.ones(1, dtype=torch.float64).float().dtype, torch.zeros(2).dtype, torch.arange(2).dtype
    (torch.float64, torch.float64, torch.int64)
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator in float64."""
        args, kwargs = pytree.tree_map_only(torch.dtype, _lengthened, (tuple(args), dict(kwargs or {})))
        func = _IN_DOUBLE.get(func, func)
        return pytree.tree_map_only(Tensor, lambda x: x.to(_lengthened(x.dtype)), func(*args, **kwargs))


def _lengthened(leaf: Any) -> Any:
    return torch.float64 if isinstance(leaf, torch.dtype) and leaf in SHORT_FLOATS else leaf


def grouped_product(a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """aten::_grouped_mm, which has no float64: part i of a times part i of b; `offs` are where the parts end.

    >>> grouped_product(torch.ones(3, 2), torch.stack([torch.eye(2), 2 * torch.eye(2)]), torch.tensor([1, 3]))
    tensor([[1., 1.],
            [2., 2.],
            [2., 2.]])
    """
    if offs is None:
        return a @ b
    ends = offs.tolist()
    parts = list(enumerate(zip([0, *ends[:-1]], ends, strict=True)))
    if a.ndim == b.ndim == 2:
        return torch.stack([a[:, start:end] @ b[start:end] for _, (start, end) in parts])
    if a.ndim == 2:
        rows = [a[start:end] @ b[i] for i, (start, end) in parts]
        return torch.cat([*rows, a.new_zeros(len(a) - ends[-1], b.shape[-1])])
    columns = [a[i] @ b[:, start:end] for i, (start, end) in parts]
    return torch.cat([*columns, a.new_zeros(a.shape[1], b.shape[1] - ends[-1])], 1)


_IN_DOUBLE = {torch.ops.aten._grouped_mm.default: grouped_product}
