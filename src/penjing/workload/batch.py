"""One batch as the model, the loss and the metric see it, and how it is read from what a source gives."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from penjing.errors import WorkloadError
from penjing.workload import tree
from penjing.workload.inputs import batch_size

Unpack = Callable[[Any], Any]


@dataclass(frozen=True)
class Batch:
    """Arguments of the model, and the target (None where there is none).

    raw: the batch as the source gave it, for training steps that read it themselves; None once samples were selected.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any = None
    raw: Any = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of samples."""
        size = batch_size((self.args, self.kwargs))
        if size is None:
            raise WorkloadError(
                f"a batch {tree.describe((self.args, self.kwargs))} holds no tensor with a batch dimension; "
                "give unpack=, a function batch -> (args, kwargs, target)"
            )
        return size

    def to(self, device: torch.device | str) -> Self:
        """Move every tensor to a device."""
        args, kwargs, target, raw = tree.to_device((self.args, self.kwargs, self.target, self.raw), device)
        return type(self)(args, kwargs, target, raw)

    def take(self, index: Sequence[int]) -> Self:
        """Select samples by their place in the batch."""
        return type(self)(*tree.take((self.args, dict(self.kwargs), self.target), index, self.size))

    def fits(self, other: "Batch") -> bool:
        """Tell whether samples of the other batch can stand in one batch with these."""
        mine, theirs = (tree.layout((batch.args, batch.kwargs, batch.target), batch.size) for batch in (self, other))
        return mine == theirs and self.kwargs.keys() == other.kwargs.keys()


def unpack_default(batch: Any) -> tuple[tuple[Any, ...], Mapping[str, Any], Any]:
    """Read (args, kwargs, target) from a batch of a common form.

    (inputs, target), where inputs is a tensor, a tuple of positional arguments or a dict of keywords; a dict whose
    "labels" are the target and are not passed to the model; a bare tensor, or a sequence of one, without a target.

    Raises WorkloadError for any other form.

    >>> unpack_default({"x": 1, "labels": 2})
    ((), {'x': 1}, 2)
    """
    if isinstance(batch, Mapping):
        return (), {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
    if isinstance(batch, Tensor | np.ndarray):
        return (batch,), {}, None
    if isinstance(batch, tuple | list) and len(batch) in (1, 2):
        inputs, target = batch if len(batch) == 2 else (batch[0], None)
        if isinstance(inputs, Mapping):
            return (), inputs, target
        return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}, target
    raise WorkloadError(
        f"a batch {tree.describe(batch)} has an unknown form; use (inputs, target) or a dict with 'labels', "
        "or give unpack=, a function batch -> (args, kwargs, target)"
    )


def read_batch(raw: Any, unpack: Unpack, where: str) -> Batch:
    """Unpack one batch and check that its inputs and target have the same number of samples.

    Raises WorkloadError that names the source and the place of the batch in it (`where`).
    """
    if isinstance(raw, Batch):
        return raw
    try:
        unpacked = unpack(raw)
    except WorkloadError as problem:
        raise WorkloadError(f"{where}: {problem}") from problem
    except Exception as problem:
        raise WorkloadError(f"{where}: unpack failed on {tree.describe(raw)}: {problem!r}") from problem
    if isinstance(unpacked, Batch):
        return unpacked
    if not isinstance(unpacked, tuple) or len(unpacked) != 3:
        raise WorkloadError(f"{where}: unpack gave {tree.describe(unpacked)}; it must give (args, kwargs, target)")
    args, kwargs, target = unpacked
    if not isinstance(args, tuple | list) or not isinstance(kwargs, Mapping):
        raise WorkloadError(
            f"{where}: unpack gave args={tree.describe(args)} and kwargs={tree.describe(kwargs)}; "
            "args must be a tuple, such as (x,), and kwargs a dict"
        )
    args, kwargs, target = tree.as_tensors((tuple(args), dict(kwargs), target))
    batch = Batch(args, kwargs, target, raw)
    try:
        size = batch.size
    except WorkloadError as problem:
        raise WorkloadError(f"{where}: {problem}") from problem
    wrong = [leaf for leaf in tree.leaves(target) if tree.is_column(leaf) and len(leaf) != size]
    if wrong:
        raise WorkloadError(
            f"{where}: the target {tree.describe(wrong[0])} does not fit the inputs "
            f"{tree.describe((batch.args, batch.kwargs))}: {len(wrong[0])} targets for {size} samples"
        )
    return batch


def rebatch(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Put selected samples together again into batches of `size`; samples of unlike shapes (padding) stay apart."""
    held: list[Batch] = []
    count = 0
    for batch in batches:
        if held and not held[0].fits(batch):
            yield join(held)
            held, count = [], 0
        held.append(batch)
        count += batch.size
        while count >= size:
            whole = join(held)
            yield whole.take(range(size)) if count > size else whole
            held = [whole.take(range(size, count))] if count > size else []
            count -= size
    if held:
        yield join(held)


def join(batches: Sequence[Batch]) -> Batch:
    """Put the samples of several batches one after the other."""
    if len(batches) == 1:
        return batches[0]
    return Batch(*tree.join([(b.args, dict(b.kwargs), b.target) for b in batches], [batch.size for batch in batches]))
