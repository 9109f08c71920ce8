"""What a model is probed with: its example and a random input like it, and noise that no zero can hide from."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from penjing.structure.capture import Captured
from penjing.workload.inputs import ExampleInputs


def batches_of(captured: Captured) -> tuple[int, int]:
    """Two batch sizes: different ones where the model's batch is free."""
    size = captured.example.batch_size
    return (size, size) if captured.fixed_batch else (min(size, 2), min(size, 2) + 1)


def probes(captured: Captured, seed: int) -> list[ExampleInputs]:
    """The example at one batch size and a random input like it at another, in float64."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for random, size in zip((False, True), batches_of(captured), strict=True):
        example = captured.example.with_batch(size)
        converted = {id(tensor): _like(tensor, generator, random) for tensor in example.tensors}
        args, kwargs = pytree.tree_map(lambda leaf: converted.get(id(leaf), leaf), (example.args, dict(example.kwargs)))  # noqa: B023
        examples.append(ExampleInputs(args, kwargs))
    return examples


def _like(tensor: Tensor, generator: torch.Generator, random: bool) -> Tensor:
    """A tensor of the same shape, device and range of values; floats become float64."""
    if not random:
        return tensor.double() if tensor.is_floating_point() else tensor
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
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
    return tensor.is_floating_point() and tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())


def leaves(outputs: object) -> Sequence[Tensor]:
    """The tensors of an output, whatever its structure."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
