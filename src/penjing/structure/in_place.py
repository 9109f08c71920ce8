"""The user's own class, cut: its parameters are sliced, and the sizes that it holds as numbers follow.

    uses = attribute_uses(model, captured)                            once for a model: what each number is for
    surgery = replace(surgery, attributes=attributes_after(...))      what each number becomes with a cut
    smaller = cut_in_place(share(model), surgery)                     the cut

Whether the code of the class still runs at its new widths is for `prove` to say.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from penjing.errors import ShapeError
from penjing.structure.attributes import owner_of, set_attributes
from penjing.structure.capture import fetch
from penjing.structure.coupling import Coupling, Units
from penjing.structure.stand_in import put_bypasses
from penjing.structure.surgery import Indices, Size, Surgery, slice_tensor
from penjing.structure.uses import Attribute, Use, sizes_after, sizes_of


def attributes_after(
    model: nn.Module, uses: Sequence[Use], coupling: Coupling, removed: Mapping[str, Sequence[int] | Units]
) -> dict[str, Size]:
    """The numbers that a model's modules must hold after a cut, where they change.

    A number that would have to be two at once stays as it is (`torn_by` names it), and the proof will refuse.

    >>> import torch
    >>> from penjing.structure import couple
    >>> from penjing.structure.uses import attribute_uses
    >>> model = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 4)), nn.Flatten(), nn.Linear(12, 2))
    >>> coupling = couple(model, torch.zeros(2, 4))
    >>> attributes_after(model, attribute_uses(model, coupling.captured), coupling, {"0": [1]})
    {'1.unflattened_size': (2, 4)}
    """
    wanted = sizes_after(uses, coupling, coupling.removal(removed))
    certain = {attribute: next(iter(sizes)) for attribute, sizes in wanted.items() if len(sizes) == 1}
    after: dict[str, Size] = {}
    for attribute in sorted(certain, key=str):
        value = getattr(model.get_submodule(attribute.module), attribute.name)
        if attribute.item is not None:
            items = [certain.get(Attribute(attribute.module, attribute.name, i), size) for i, size in enumerate(value)]
            if items != list(value):
                after[str(attribute)] = tuple(items)
        elif certain[attribute] != value:
            after[str(attribute)] = certain[attribute]
    return after


def torn_by(
    uses: Sequence[Use], coupling: Coupling, removed: Mapping[str, Sequence[int] | Units]
) -> dict[str, tuple[int, ...]]:
    """The numbers that a cut needs to be several at once: {"attention.head_dim": (12, 16)}."""
    wanted = sizes_after(uses, coupling, coupling.removal(removed))
    return {str(attribute): tuple(sorted(sizes)) for attribute, sizes in wanted.items() if len(sizes) > 1}


def share(model: nn.Module) -> nn.Module:
    """A copy of a model that holds the same tensors: what is replaced in the copy stays in the original."""
    tensors = [*model.parameters(), *model.buffers()]
    # What a parametrised or masked weight left behind at the last forward has a history, and cannot be copied.
    tensors += [value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def cut_in_place(model: nn.Module, surgery: Surgery, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Cut the model itself, by the names of its state_dict: pass `share(model)` to keep the original.

    Sliced parameters are new objects that keep dtype, device and requires_grad, for the captured graph that a proof
    needs holds the old ones (`remap_optimizer` moves an optimizer over); tied ones stay tied. Standard modules have
    their attributes (out_channels, in_features, groups ...) set right, and those of the surgery are set. The class, its
    hooks and its code stay; whether its code still runs at the new widths is for `prove` to say. tensors: what each cut
    tensor is by name, where it was sliced before.

    Raises ShapeError when the surgery does not fit the model.

    >>> import numpy as np
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> cut_in_place(model, Surgery({"0.weight": {0: np.array([0, 2])}, "0.bias": {0: np.array([0, 2])},
    ...     "2.weight": {1: np.array([0, 2])}}))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    put_bypasses(model, surgery.bypassed)
    done: dict[int, Tensor] = {}
    replaced: list[Tensor] = []  # kept alive, so that no id in `done` is used twice
    for path, module in model.named_modules():
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                name = f"{path}.{key}" if path else key
                if tensor is not None and name in surgery.kept:
                    replaced.append(tensor)
                    slots[key] = slice_tensor(name, tensor, surgery, done) if tensors is None else tensors[name]
    own: dict[str, dict[str, Mapping[int, Indices]]] = defaultdict(dict)
    for name, dims in surgery.kept.items():
        path, key = owner_of(name)
        own[path][key] = dims
    for path, module in model.named_modules():
        if path in own:
            set_attributes(module, own[path])
    for name, size in surgery.attributes.items():
        _set_attribute(model, name, size)
    return model


def _set_attribute(model: nn.Module, name: str, size: Size) -> None:
    path, _, key = name.rpartition(".")
    try:
        module = fetch(model, path) if path else model
        before: Any = sizes_of(module)[key]
    except (AttributeError, KeyError, TypeError) as problem:
        raise ShapeError(
            f"{type(model).__name__} holds no number {name}; apply the surgery to the model that it was made for"
        ) from problem
    setattr(module, key, type(before)(size))
