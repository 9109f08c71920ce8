"""Make code that names a shorter float compute in float64: a graph by rewriting it, a module while it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from penjing.structure.surgery import copy_graph

LONG = dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64)
LONG |= dict.fromkeys((torch.complex64, torch.complex32), torch.complex128)
_AROUND = ("bernoulli", "normal", "poisson", "binomial")  # what they draw lies around their first argument
_FLOATS = ("rand", "randn", "rand_like", "randn_like", "normal_", "uniform_", "exponential_", "bernoulli_")
_NUMBERS = ("randint", "randint_like", "randperm", "multinomial", "random_")


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
    """While it is active, everything is computed in float64, and nothing is random.

    Tensors of a shorter float are converted when an operator reads them, so that a module of any class computes as its
    graph does and no copy of it is made; dtypes that name a shorter float mean float64. `added`, by the id of a
    tensor, is added to it then. What would be drawn is a constant, or the mean around which it is drawn.

    >>> with InDouble():
    ...     torch.ones(1, dtype=torch.float64).float().dtype, torch.zeros(2).dtype, torch.arange(2).dtype
    (torch.float64, torch.float64, torch.int64)
    """

    supports_higher_order_operators = True

    def __init__(self, added: Mapping[int, Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._added = added or {}
        self._long: dict[int, tuple[Tensor, Tensor]] = {}
        self._converting = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator in float64."""
        if self._converting:
            return func(*args, **(kwargs or {}))
        args, kwargs = self.read_all(args), self.read_all(kwargs or {})
        if func is torch.ops.aten._assert_tensor_metadata.default:
            return None
        func = _IN_DOUBLE.get(func, func)
        result = _undrawn(func, args, kwargs) if _is_random(func) else func(*args, **kwargs)
        return _lengthened(result) if isinstance(result, Tensor) else pytree.tree_map(_lengthened, result)

    def read_all(self, values: Any) -> Any:
        """Arguments as an operator sees them."""
        if isinstance(values, Tensor | torch.dtype):
            return self.read(values)
        if type(values) in (list, tuple):  # these are nearly all; pytree knows the rest
            return type(values)(map(self.read_all, values))
        if type(values) is dict:
            return {name: self.read_all(value) for name, value in values.items()}
        return values if isinstance(values, int | float | str | None) else pytree.tree_map(self.read, values)

    def read(self, value: Any) -> Any:
        """A value as an operator sees it."""
        if isinstance(value, torch.dtype):
            return _lengthened(value)
        if not isinstance(value, Tensor) or (value.dtype not in LONG and id(value) not in self._added):
            return value
        if id(value) in self._long:
            return self._long[id(value)][1]
        self._converting = True  # where this is called from outside, the operators below come here as well
        long = value.to(LONG.get(value.dtype, value.dtype))
        if id(value) in self._added:
            long = long + self._added[id(value)]
        self._converting = False
        if not isinstance(value, nn.Parameter):  # a buffer may be written to: what is written must be found again
            self._long[id(value)] = value, long
        return long


def _is_random(func: Any) -> bool:
    seeded = isinstance(func, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in func.tags
    return seeded and func._schema.name.removeprefix("aten::") in (*_AROUND, *_FLOATS, *_NUMBERS, "native_dropout")


def _undrawn(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a random operator gives where both sides of a comparison must see the same, whatever their widths."""
    name = func._schema.name.removeprefix("aten::")
    if name == "native_dropout":
        return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
    if name in _AROUND and isinstance(args[0], Tensor):
        return args[0].clone()
    torch.manual_seed(0)  # for whole numbers, such as permutations
    result = func(*args, **kwargs)
    if name in _NUMBERS:
        return result
    return result.fill_(1.0 if name == "bernoulli_" else 0.5)


def _lengthened(leaf: Any) -> Any:
    """A tensor or dtype in float64, or complex128, where it is a shorter one of its kind."""
    if isinstance(leaf, Tensor):
        return leaf.to(LONG[leaf.dtype]) if leaf.dtype in LONG else leaf
    return LONG.get(leaf, leaf) if isinstance(leaf, torch.dtype) else leaf


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
