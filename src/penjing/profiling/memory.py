"""Peak activation memory, by liveness over the graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure import Captured
from penjing.structure.rules import Shapes, is_shape, operator_name
from penjing.structure.rules.site import bind

SAME_TENSOR = {f"aten::{name}" for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")}


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of memory that a tensor and all its views share."""

    node: str
    output: int
    size_bytes: int


@dataclass(frozen=True)
class Peak:
    """The fullest moment of a forward pass.

    node: the call that runs at that moment. live: what is held then, the largest first. unknown: nodes whose shape
    depends on values, which count nothing.
    """

    size_bytes: int
    node: str
    live: tuple[Storage, ...]
    unknown: tuple[str, ...] = ()


def peak_memory(captured: Captured, shapes: Mapping[str, Shapes] | None = None) -> Peak:
    """Find the most memory that activations occupy at once, in bytes.

    A tensor lives from the call that makes it to the last one that reads it or a view of it; the model's inputs live
    throughout, because the caller holds them, and its outputs from their making on. In-place calls and views take
    nothing. Parameters and buffers are left out. `shapes` is that of `cost`.

    This is what the order of the graph needs at least: scratch space of kernels, padding, copies for another layout,
    and an allocator's gaps come on top, while a runtime that fuses calls may never make some of these tensors.

    >>> from torch import nn, zeros
    >>> from penjing.structure import capture
    >>> peak_memory(capture(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), zeros(2, 8))).size_bytes
    128
    """
    shapes = captured.shapes if shapes is None else shapes
    nodes = list(captured.module.graph.nodes)
    storages: dict[fx.Node, tuple[Storage, ...]] = {}
    unknown: list[str] = []
    last_use: dict[Storage, int] = {}
    for i, node in enumerate(nodes):
        made = _storages(node, storages, shapes)
        if made is None:
            unknown.append(node.name)
        storages[node] = made or ()
        for storage in (*storages[node], *_read(node, storages)):
            last_use[storage] = i
    held = [s for node in nodes if node.op == "placeholder" for s in storages[node]]
    last_use |= dict.fromkeys(held, len(nodes))

    best = Peak(0, "", ())
    live: set[Storage] = set(held)
    for i, node in enumerate(nodes):
        live |= set(storages[node])
        size_bytes = sum(storage.size_bytes for storage in live)
        if size_bytes > best.size_bytes:
            best = Peak(size_bytes, node.name, tuple(sorted(live, key=lambda s: -s.size_bytes)))
        live = {storage for storage in live if last_use[storage] > i}
    return Peak(best.size_bytes, best.node, best.live, tuple(unknown))


def _storages(
    node: fx.Node, storages: Mapping[fx.Node, tuple[Storage, ...]], shapes: Mapping[str, Shapes]
) -> tuple[Storage, ...] | None:
    """The storages of the outputs of a node, those of its base for a view; None when their size is unknown."""
    if node.op in ("get_attr", "output"):
        return ()
    if operator_name(node.target) == "_operator.getitem":
        source, index = node.args
        of_source = storages[source] if isinstance(source, fx.Node) else ()
        if not isinstance(index, int) or not of_source:
            return ()
        return of_source if len(of_source) == 1 else (of_source[index],)
    values = _tensors(node.meta.get("val"))
    base = _base(node)
    if base is not None and _dtype(base) == _dtype(node):
        return storages[base]
    if not values:
        return ()
    found = shapes.get(node.name)
    of_outputs = (found,) if is_shape(found) else found
    if of_outputs is None or None in of_outputs:
        return None
    sizes = [prod(shape) for shape in of_outputs]  # type: ignore[arg-type]
    return tuple(
        Storage(node.name, i, size * value.element_size())
        for i, (size, value) in enumerate(zip(sizes, values, strict=True))
    )


def _read(node: fx.Node, storages: Mapping[fx.Node, tuple[Storage, ...]]) -> list[Storage]:
    """What a node reads; asking for a size, or for one of several outputs, reads no data."""
    if operator_name(node.target) in ("_operator.getitem", "aten::sym_size", "aten::sym_numel"):
        return []
    return [storage for source in node.all_input_nodes for storage in storages[source]]


def _base(node: fx.Node) -> fx.Node | None:
    """The argument of which the output is a view, or the same tensor changed in place."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    arguments = bind(node)
    if node.target._schema.name in SAME_TENSOR and arguments["train"] is False:
        return arguments["input"]  # type: ignore[no-any-return]
    returned = [r.alias_info.before_set for r in node.target._schema.returns if r.alias_info is not None]
    for argument in node.target._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.before_set in returned:
            value = arguments[argument.name]
            return value if isinstance(value, fx.Node) else None
    return None


def _tensors(value: Any) -> list[Tensor]:
    values = value if isinstance(value, list | tuple) else [value]
    return [item for item in values if isinstance(item, Tensor)]


def _dtype(node: fx.Node) -> torch.dtype | None:
    values = _tensors(node.meta.get("val"))
    return values[0].dtype if values else None
