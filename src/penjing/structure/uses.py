"""Which attributes of a class are sizes of its tensors, seen from how its forward uses them.

    x.view(n, t, self.heads, self.width)    the graph knows what the numbers of this view become after a cut;
                                            marked numbers tell that the third is `heads` and the fourth is `width`

Every whole number that a module holds is replaced by a marked one, an int that knows its attribute; the forward runs
once, and each call of torch that receives a marked number is matched to its node in the captured graph. Nothing is
inferred from equal numbers: an attribute that no call receives is not touched.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from penjing.structure.capture import Captured
from penjing.structure.coupling import Coupling, Removal
from penjing.structure.rules import operator_name
from penjing.structure.surgery import rewritten
from penjing.workload.modes import preserved, preserved_buffers


@dataclass(frozen=True, order=True)
class Attribute:
    """A whole number that a module holds: `module.name`, or item `item` of the tuple or list there."""

    module: str
    name: str
    item: int | None = None

    def __str__(self) -> str:
        return ".".join(filter(None, (self.module, self.name)))


Undo: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Use:
    """An attribute arrives at place `place` among the numbers of the call `node`; `undo` leads back from there."""

    attribute: Attribute
    node: str
    place: int
    undo: Undo = ()


def attribute_uses(model: nn.Module, captured: Captured) -> tuple[Use, ...]:
    """Run the model once and find where the numbers that its modules hold enter the captured graph.

    The model is left as it was.
    """
    recorder = _Recorder()
    example = captured.example
    with preserved(model), preserved_buffers(model), torch.no_grad(), _path_kept(model, recorder), _marked(model):
        model.eval()
        with recorder, _without_memory():
            model(*example.args, **example.kwargs)
    nodes: dict[str, list[fx.Node]] = defaultdict(list)
    for node in captured.module.graph.nodes:
        if node.op == "call_function":
            nodes[captured.node_module[node.name]].append(node)
    return tuple(use for path, calls in recorder.calls.items() for use in _matched(calls, nodes[path], captured))


def sizes_after(uses: Sequence[Use], coupling: Coupling, removal: Removal) -> dict[Attribute, set[int]]:
    """What each attribute must be after a cut, by every call that receives it: more than one number is a conflict."""
    wanted: dict[Attribute, set[int]] = defaultdict(set)
    nodes = {node.name: node for node in coupling.captured.module.graph.nodes}
    after: dict[str, Sequence[int | None]] = {}
    for use in uses:
        if use.node not in after:
            after[use.node] = _numbers_after(nodes[use.node], coupling, removal)
        numbers = after[use.node]
        number = numbers[use.place] if use.place < len(numbers) else None
        size = None if number is None else _undone(number, use.undo)
        if size is not None:
            wanted[use.attribute].add(size)
    return wanted


class _Marked(int):
    """A number that knows where it is held, also after arithmetic with plain numbers that can be undone."""

    attribute: Attribute
    undo: Undo

    @classmethod
    def of(cls, value: int, attribute: Attribute, undo: Undo = ()) -> "_Marked":
        marked = cls(value)
        marked.attribute, marked.undo = attribute, undo
        return marked

    def _then(self, value: Any, other: Any, undo: str) -> Any:
        # Any other operand gives what int gives: NotImplemented for a tensor, a plain int for a second marked number.
        return _Marked.of(value, self.attribute, ((undo, other), *self.undo)) if type(other) is int else value

    def __add__(self, other: Any) -> Any:
        return self._then(int.__add__(self, other), other, "-")

    def __sub__(self, other: Any) -> Any:
        return self._then(int.__sub__(self, other), other, "+")

    def __mul__(self, other: Any) -> Any:
        return self._then(int.__mul__(self, other), other, "/")

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        return self._then(value, other, "*") if type(other) is int and int(self) % other == 0 else value

    __radd__, __rmul__ = __add__, __mul__


def _undone(value: int, undo: Undo) -> int | None:
    """The number before some arithmetic, from the number after it; None where there is none.

    >>> _undone(6, (("*", 2), ("-", 1))), _undone(7, (("/", 2),))
    (11, None)
    """
    for step, other in undo:
        if step == "/" and (other == 0 or value % other):
            return None
        value = {"+": value + other, "-": value - other, "*": value * other, "/": value // (other or 1)}[step]
    return value


@contextmanager
def _marked(model: nn.Module) -> Iterator[None]:
    before: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            for name, value in sizes_of(module).items():
                before.append((module, name, value))
                module.__dict__[name] = _mark(value, path, name)
        yield
    finally:
        for module, name, value in before:
            module.__dict__[name] = value


def sizes_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are whole numbers, or tuples and lists of them."""
    return {name: value for name, value in vars(module).items() if _is_size(value) or _has_sizes(value)}


def _is_size(value: Any) -> bool:
    return type(value) is int


def _has_sizes(value: Any) -> bool:
    return type(value) in (tuple, list) and bool(value) and all(map(_is_size, value))


def _mark(value: Any, path: str, name: str) -> Any:
    if _is_size(value):
        return _Marked.of(value, Attribute(path, name))
    return type(value)(_Marked.of(item, Attribute(path, name, i)) for i, item in enumerate(value))


@contextmanager
def _without_memory() -> Iterator[None]:
    """Let einops work out its shapes anew: it remembers them by value, and a number from its memory has no mark."""
    einops = sys.modules.get("einops.einops")
    remembers = getattr(einops, "_reconstruct_from_shape", None)
    if not hasattr(remembers, "__wrapped__"):
        yield
        return
    try:
        einops._reconstruct_from_shape = remembers.__wrapped__  # type: ignore[union-attr]
        yield
    finally:
        einops._reconstruct_from_shape = remembers  # type: ignore[union-attr]


class _Recorder(TorchFunctionMode):
    """The numbers of every call of torch that receives one, by the module whose forward makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.calls: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a call and note its numbers."""
        result = func(*args, **(kwargs or {}))
        calls = self.calls[self.path[-1]]
        if func is torch.Tensor.__getitem__:
            calls += [("slice", numbers) for numbers in _slices(args[0].ndim, args[1])]
        elif numbers := list(_numbers((args, kwargs or {}))):
            calls.append((_family(func.__name__), numbers))
        return result


@contextmanager
def _path_kept(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Let the recorder know whose forward runs."""

    def enter(path: str) -> Any:
        return lambda module, args: recorder.path.append(path)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        recorder.path.pop()

    handles = []
    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path), prepend=True))
            handles.append(module.register_forward_hook(leave))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _numbers(value: Any) -> Iterator[int]:
    """The whole numbers in the arguments of a call, in order."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)


def _slices(rank: int, index: Any) -> list[list[int]]:
    """The calls aten::slice(dim, start, end) that an index x[a:b, ..., :c] amounts to."""
    index = list(index) if isinstance(index, tuple) else [index]
    taken = sum(isinstance(item, slice | int) for item in index)
    calls, axis = [], 0
    for item in index:
        if item is Ellipsis:
            axis += rank - taken
        elif isinstance(item, slice):
            if item.start is not None or item.stop is not None:
                calls.append(
                    [axis, 0 if item.start is None else item.start, *([] if item.stop is None else [item.stop])]
                )
            axis += 1
        elif item is None:
            axis += 1
    return calls


def _family(name: str) -> str:
    """One name for the calls that torch.export may exchange."""
    return {"reshape": "view", "_unsafe_view": "view", "split_with_sizes": "split"}.get(name, name)


def _matched(calls: Sequence[tuple[str, Sequence[int]]], nodes: Sequence[fx.Node], captured: Captured) -> Iterator[Use]:
    """Pair the calls of one module with its nodes, both in the order in which they ran."""
    left = [
        (
            node,
            _family(operator_name(node.target).split("::")[-1]),
            list(_graph_numbers((node.args, node.kwargs), captured)),
        )
        for node in nodes
    ]
    for name, numbers in calls:
        found = next(
            (i for i, (_, called, given) in enumerate(left) if called == name and _alike(numbers, given)), None
        )
        if found is None:
            continue
        node, *_ = left.pop(found)
        for place, number in enumerate(numbers):
            if isinstance(number, _Marked):
                yield Use(number.attribute, node.name, place, number.undo)


def _alike(numbers: Sequence[int], given: Sequence[int | None]) -> bool:
    """Whether a call and a node have the same numbers, those that the graph computes and defaults left aside."""
    return all(b is None or a == b for a, b in zip(numbers, given, strict=False))


def _graph_numbers(value: Any, captured: Captured) -> Iterator[int | None]:
    """The same as `_numbers` for a node; None is a number that the graph computes."""
    if isinstance(value, fx.Node):
        if captured.shapes.get(value.name) is None and value.op == "call_function":
            yield None
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _graph_numbers(item, captured)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _graph_numbers(item, captured)


def _numbers_after(node: fx.Node, coupling: Coupling, removal: Removal) -> Sequence[int | None]:
    """The numbers of a call as the cut writes them."""
    ruling = coupling.labelling.rulings.get(node.name)
    if ruling is None or not ruling.constants or not removal.touches(coupling.labelling.labels_near(node.name)):
        return list(_graph_numbers((node.args, node.kwargs), coupling.captured))
    if ruling.target is not None:
        return _split_numbers(node, removal.evaluate(ruling.constants.get("split_sizes", [])))
    _, args, kwargs = rewritten(node, ruling, removal)
    return list(_graph_numbers((args, kwargs), coupling.captured))


def _split_numbers(node: fx.Node, sizes: Sequence[int]) -> list[int]:
    """The sizes of pieces as the call says them: each, or one for all, or none where one cannot say it."""
    written = node.args[1] if len(node.args) > 1 else None
    if isinstance(written, tuple | list):
        return list(sizes)
    if len(set(sizes)) == 1 and _family(operator_name(node.target).split("::")[-1]) == "split":
        return [sizes[0]]
    return []
