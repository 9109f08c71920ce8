"""Use a module, then leave it, and the random generators, exactly as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch (CPU and every CUDA device in use) at the end."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    has_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
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
    parameters = [
        (p, p.data, p.requires_grad, p.grad, None if p.grad is None else p.grad.data) for p in module.parameters()
    ]
    buffers = [(part, name, buffer) for part in module.modules() for name, buffer in part._buffers.items()]
    with preserved_randomness():
        try:
            yield module
        finally:
            for part, training in modes:
                part.training = training
            for parameter, data, requires_grad, grad, grad_data in parameters:
                if parameter.data_ptr() != data.data_ptr() or parameter.dtype != data.dtype:
                    parameter.data = data
                parameter.requires_grad_(requires_grad)
                if grad is not None and grad_data is not None and grad.data_ptr() != grad_data.data_ptr():
                    grad.data = grad_data
                parameter.grad = grad
            for part, name, buffer in buffers:
                part._buffers[name] = buffer


def device_of(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; the CPU for a module without any.

    >>> device_of(nn.ReLU())
    device(type='cpu')
    """
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
