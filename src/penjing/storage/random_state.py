"""State of every global random generator, as plain values and tensors that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """Take the state of the global generators of Python, numpy and torch (each CUDA device included).

    >>> state = get_random_state()
    >>> before = random.random(), np.random.rand(), torch.rand(1).item()
    >>> set_random_state(state)
    >>> before == (random.random(), np.random.rand(), torch.rand(1).item())
    True
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the global generators back to a state that `get_random_state` took; spare CUDA states are left out."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda, device)
