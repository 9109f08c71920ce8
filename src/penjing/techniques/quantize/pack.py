"""Store weights in fewer bits where the activations stay as they are, or are quantised anew at each call."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from penjing.recipe import Grid, Scheme
from penjing.structure.rules import bind
from penjing.techniques.quantize.graph import LINEAR, aten, put, tensor_of
from penjing.techniques.quantize.recurrent import DYNAMIC_LSTM, can_be_dynamic, make_lstm_dynamic
from penjing.techniques.quantize.slots import Slot, weight_slots
from penjing.techniques.quantize.weights import TYPES, fit, quantize
from penjing.types import Granularity

UNPACK = torch.ops.penjing.unpack.default
DYNAMIC_LINEAR = torch.ops.penjing.dynamic_linear.default


def pack_weights(module: fx.GraphModule, schemes: Mapping[str, Scheme], apart: Collection[str] = ()) -> None:
    """Replace, in place, weights by what unpacks them; schemes: name of a weight's node -> how it is stored.

    apart: names of layers that read their weights in a form of their own.
    """
    readers = [slot for slot in weight_slots(module) if slot.reader.name not in apart]
    slots = {slot.weight.name: slot for slot in reversed(readers)}  # the first reader of each
    for name, scheme in schemes.items():
        slot = slots[name]
        if slot.reader.target is DYNAMIC_LSTM:
            continue  # came with the first weight of it
        if not runs_dynamic(slot, scheme):
            _unpack(module, slot, scheme.weight, apart)
        elif slot.reader.target is LINEAR:
            _make_dynamic(module, slot, scheme.weight)
        else:
            make_lstm_dynamic(module, slot.reader, scheme.weight)


def runs_dynamic(slot: Slot, scheme: Scheme) -> bool:
    """Whether the reader of a weight quantises its input as it comes: a linear or an LSTM that reads it alone."""
    linear = slot.reader.target is LINEAR and len(slot.weight.users) == 1
    return scheme.dynamic and (linear or can_be_dynamic(slot.reader))


def _make_dynamic(module: fx.GraphModule, slot: Slot, grid: Grid) -> None:
    """Put a linear that quantises its input as it comes in the place of a float one."""
    weight = tensor_of(module, slot.weight).detach()
    params = fit(weight, grid)
    x, bias = slot.reader.args[0], bind(slot.reader)["bias"]
    with module.graph.inserting_before(slot.reader):
        stored = put(module, f"{slot.path}_quantized", quantize(weight, params, grid).T.contiguous())
        scale = put(module, f"{slot.path}_scale", params.scale.flatten().expand(len(weight)).contiguous())
    slot.reader.target = DYNAMIC_LINEAR
    slot.reader.args, slot.reader.kwargs = (x, stored, scale, bias), {}


def _unpack(module: fx.GraphModule, slot: Slot, grid: Grid, apart: Collection[str]) -> None:
    weight = tensor_of(module, slot.weight).detach()
    with module.graph.inserting_before(min(slot.weight.users)):
        if grid.type in ("fp16", "bf16"):
            stored = put(module, f"{slot.path}_packed", weight.to(TYPES[grid.type]))
            new = module.graph.call_function(aten.to.dtype, (stored, weight.dtype))
        else:
            new = _stored_apart(module, slot, weight, grid)
    new.meta["val"] = weight
    slot.weight.replace_all_uses_with(new, lambda user: user.name not in apart)


def _stored_apart(module: fx.GraphModule, slot: Slot, weight: Tensor, grid: Grid) -> fx.Node:
    matrix = weight.movedim(slot.axis, 0)
    if slot.axis != 0:  # of a transposed convolution, whose inputs are not next to each other
        grid = replace(grid, granularity=Granularity.AXIS, group=None)
    params = fit(matrix.flatten(1), grid)
    stored = quantize(matrix.flatten(1), params, grid)
    if (groups := params.scale.shape[1]) > 1:
        stored = stored.reshape(len(matrix), groups, -1)
        scale, zero = params.scale[:, :, None], params.zero_point[:, :, None]
    else:
        stored = stored.reshape(matrix.shape).movedim(0, slot.axis).contiguous()
        shape = [-1 if dim == slot.axis else 1 for dim in range(weight.ndim)]
        scale, zero = params.scale.reshape(shape), params.zero_point.reshape(shape)
    kind = f"packed_int{grid.bits}" if grid.bits < 8 else "packed"
    nodes = [put(module, f"{slot.path}_{kind}", stored), put(module, f"{slot.path}_scale", scale.contiguous())]
    has_zero = grid.is_integer and bool(params.zero_point.any())
    nodes.append(put(module, f"{slot.path}_zero_point", zero.contiguous()) if has_zero else None)  # type: ignore[arg-type]
    return module.graph.call_function(UNPACK, (*nodes, list(weight.shape)))
