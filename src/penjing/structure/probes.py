"""What a model is probed with: its example and a random input like it, and noise that no zero can hide from."""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.structure.capture import Captured
from penjing.workload.inputs import ExampleInputs


def batches_of(captured: Captured) -> tuple[int, int]:
    """Two batch sizes: different ones where the model's batch is free."""
    size = captured.example.batch_size
    return (size, size) if captured.fixed_batch else (min(size, 2), min(size, 2) + 1)


class Care(IntEnum):
    """How far the inputs may be from the example."""

    BOLD = 0  # integers in another order, floats drawn
    INTEGERS = 1  # integers as they are
    ALL = 2  # all as it is
    SIZE = 3  # at the example's own batch size; floats drawn, integers as they are: some point across the batch


Result = TypeVar("Result")


def boldest(
    captured: Captured,
    seed: int,
    attempt: Callable[[Sequence[ExampleInputs]], Result],
    fits: Callable[[Result], bool] = lambda _: True,
) -> Result:
    """What an attempt gives on the boldest probes that the model takes; on the mildest, should no result fit.

    Bold inputs can be ones that a model refuses: indices out of order, samples that others point to cut off.
    """
    for care in Care:
        try:
            result = attempt(probes(captured, seed, care))
        except (RuntimeError, IndexError, ValueError):
            if care is Care.SIZE:
                raise
        else:
            if fits(result):
                break
    return result


def probes(captured: Captured, seed: int, care: Care = Care.BOLD) -> list[ExampleInputs]:
    """The example at one batch size and a random input like it at another, in float64."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    own = captured.example.batch_size
    for careful, size in zip((Care.ALL, care), (own, own) if care is Care.SIZE else batches_of(captured), strict=True):
        example = captured.example.with_batch(size)
        converted = {id(tensor): _like(tensor, generator, careful) for tensor in example.tensors}
        args, kwargs = pytree.tree_map(lambda leaf: converted.get(id(leaf), leaf), (example.args, dict(example.kwargs)))  # noqa: B023
        examples.append(ExampleInputs(args, kwargs))
    return examples


def _like(tensor: Tensor, generator: torch.Generator, care: Care) -> Tensor:
    """A tensor of the same shape, device and range of values; floats become float64."""
    if tensor.is_complex():
        return torch.complex(_like(tensor.real, generator, care), _like(tensor.imag, generator, care))
    if not tensor.is_floating_point():
        return tensor if care > Care.BOLD else _shuffled(tensor, generator)
    tensor = tensor.double()
    return tensor if care is Care.ALL or not tensor.numel() else _drawn(tensor, generator)


def _drawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values within the range of the example, where it has one: images in [0, 1] stay there, and lengths whole.

    >>> _drawn(torch.tensor([0.5, 2.0, 1.0]).double(), torch.Generator().manual_seed(0)).aminmax().min >= 0.5
    tensor(True)
    """
    low, high = (float(bound) for bound in tensor.aminmax())
    if low == high:  # it tells no range: zeros stand for anything, another constant for its sign and size
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
        return drawn if low == 0 else low * (1 + drawn.tanh() / 2)
    if bool((tensor == tensor.round()).all()):
        return _shuffled(tensor, generator)
    drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    return low + (high - low) * drawn


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def noise_for(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What is added to constant tensors, by name; positive, because a running variance must stay so."""
    generator = torch.Generator().manual_seed(seed)
    done: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in done and _is_constant(tensor):
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            done[id(tensor)] = (0.1 + 0.4 * noise).to(tensor.device)
    return {name: done[id(tensor)] for name, tensor in tensors.items() if id(tensor) in done}


def _is_constant(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    flat = tensor.flatten()
    return all(bool((values == flat[0]).all()) for values in (flat[:64], flat))  # a few tell of most that they vary


def leaves(outputs: object) -> Sequence[Tensor]:
    """The tensors of an output, whatever its structure."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
