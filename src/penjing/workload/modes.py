"""Use a module, then leave it, and the random generators, exactly as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch (CPU and every CUDA device in use) at the end."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    has_cuda = torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if has_cuda else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def preserved(module: nn.Module) -> Iterator[nn.Module]:
    """Restore a module at the end: the mode of every submodule, requires_grad, device, dtype, and the random state.

    Tensors that were replaced meanwhile (by `.to`, `.half`) are put back themselves, so that nothing is lost to a
    conversion there and back. Values written in place are not undone.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with preserved(model):
    ...     _ = model.eval().half()
    >>> [part.training for part in model]
    [True, False]
    """
    modes = [(part, part.training) for part in module.modules()]
    slots: list[tuple[dict[str, Any], str, Tensor | None]] = [
        (slot, name, tensor)
        for part in module.modules()
        for slot in (part._parameters, part._buffers)
        for name, tensor in slot.items()
    ]
    parameters = [
        (p, p.data, p.requires_grad, p.grad, None if p.grad is None else p.grad.data) for p in module.parameters()
    ]
    with preserved_randomness():
        try:
            yield module
        finally:
            for part, training in modes:
                part.training = training
            for slot, name, tensor in slots:
                slot[name] = tensor
            for parameter, data, requires_grad, grad, grad_data in parameters:
                _put_back(parameter, data)
                if grad is not None and grad_data is not None:
                    _put_back(grad, grad_data)
                parameter.grad = grad
                parameter.requires_grad_(requires_grad)


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Write the values of all buffers back at the end: a forward pass in training mode moves running statistics.

    >>> norm = nn.BatchNorm1d(1).train()
    >>> with preserved_buffers(norm):
    ...     _ = norm(torch.tensor([[1.0], [3.0]]))
    >>> norm.running_mean
    tensor([0.])
    """
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _put_back(tensor: Tensor, data: Tensor) -> None:
    if tensor.device != data.device or tensor.dtype != data.dtype or tensor.data_ptr() != data.data_ptr():
        tensor.data = data


def device_of(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a module without any.

    >>> device_of(nn.ReLU())
    device(type='cpu')
    """
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
