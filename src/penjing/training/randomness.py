"""A seed that governs a block and nothing around it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from penjing.storage import get_random_state, set_random_state


@contextmanager
def isolated_randomness(seed: int | None = None) -> Iterator[None]:
    """Leave the caller's global generators as they were, whatever happens inside; inside they start from `seed`.

    >>> with isolated_randomness(0):
    ...     first = torch.rand(1)
    >>> with isolated_randomness(0):
    ...     print(bool(torch.rand(1) == first))
    True
    """
    before = get_random_state()
    try:
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
        yield
    finally:
        set_random_state(before)
