"""How much calibration data a technique looks at."""

import math
from collections.abc import Iterable, Iterator

import torch

from penjing.structure import Captured
from penjing.structure.rules import is_shape
from penjing.workload import Batch

_SAMPLES = 4_096
_ELEMENTS = 2**26  # of the largest activation, over all batches: 256 MiB in single precision


def affordable(batches: Iterable[Batch], captured: Captured, device: torch.device) -> Iterator[Batch]:
    """Take as many calibration batches as are useful and fit into memory, one at least."""
    shapes = [captured.shapes[node.name] for node in captured.module.graph.nodes if node.op == "call_function"]
    largest = max((math.prod(shape) for shape in shapes if is_shape(shape)), default=1)
    left = min(_SAMPLES, _ELEMENTS * captured.example.batch_size // max(largest, 1))
    for i, batch in enumerate(batches):
        if i and batch.size > left:
            return
        left -= batch.size
        yield batch.to(device)
