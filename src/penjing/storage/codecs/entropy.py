"""How small a tensor could be, were its elements coded one by one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def entropy_bound(array: NDArray[Any]) -> float:
    """Bytes that no code for single elements goes below on average: n H / 8, H = -sum_v p_v log2 p_v.

    p_v is the share of the elements with the value v. Shannon 1948, "A Mathematical Theory of Communication". The table
    of values is not counted; a code that sees how elements depend on each other can be smaller.

    >>> entropy_bound(np.array([0, 1, 2, 3] * 4))
    4.0
    """
    _, counts = np.unique(array, return_counts=True)
    shares = counts / max(array.size, 1)
    return float(-array.size * (shares @ np.log2(shares)) / 8) + 0.0
