"""Where batches come from: anything that can be read more than once."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from penjing.errors import WorkloadError
from penjing.workload import tree
from penjing.workload.batch import Batch, Unpack, read_batch


def dataset(
    samples: Any, batch_size: int = 64, collate: Callable[[list[Any]], Any] | None = None, shuffle: bool = False
) -> DataLoader[Any]:
    """Make batches of a dataset, an object with len(samples) and samples[i], in its own order unless shuffled.

    collate: list of samples -> batch, by default torch's. Raises WorkloadError for an empty dataset.

    >>> [batch.tolist() for batch in dataset([1.5, 2.5, 3.5], batch_size=2)]
    [[1.5, 2.5], [3.5]]
    """
    if batch_size < 1:
        raise WorkloadError(f"dataset: batch_size={batch_size!r} must be at least 1")
    if hasattr(samples, "__len__") and len(samples) == 0:
        raise WorkloadError("dataset: there are no samples in it; give at least one")
    return DataLoader(samples, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


@dataclass(frozen=True)
class Source:
    """A named source that can be read again and again; each reading starts at the first batch."""

    name: str
    read: Callable[[], Iterable[Any]]
    unpack: Unpack

    @classmethod
    def of(cls, value: Any, name: str, unpack: Unpack, shuffle: bool = False) -> Self:
        """Accept a DataLoader, a list or other re-iterable of batches, a function that returns an iterator, a Dataset.

        A torch Dataset holds samples, not batches: it is batched by `dataset`, shuffled if `shuffle`.
        Raises WorkloadError, with the remedy, for what can be read only once or holds no batches.
        """
        problem = _why_not(value)
        if problem:
            raise WorkloadError(f"{name} is {_kind(value)}: {problem}")
        if isinstance(value, Dataset):
            value = dataset(value, shuffle=shuffle and hasattr(value, "__len__"))
        if isinstance(value, Iterable):
            return cls(name, lambda: value, unpack)
        return cls(name, value, unpack)

    def batches(self) -> Iterator[Batch]:
        """Read the source once, batch by batch. Raises WorkloadError if it is empty."""
        batches = self.read()
        if not isinstance(batches, Iterable):
            raise WorkloadError(
                f"{self.name}: the function gave {_kind(batches)}; it must return an iterator of batches"
            )
        is_empty = True
        for i, raw in enumerate(batches):
            is_empty = False
            yield read_batch(raw, self.unpack, f"{self.name}, batch {i}")
        if is_empty:
            raise WorkloadError(
                f"{self.name} gave no batch; give at least one (is the dataset empty, drop_last=True with less than "
                "one batch, or the source a generator that was used up?)"
            )

    def first(self) -> Batch:
        """Read the first batch only."""
        return next(self.batches())


def _why_not(value: Any) -> str:
    """Say what to do about a value that is no source of batches; empty for one that is."""
    if isinstance(value, Iterator):
        return "it can be read only once; give a function that returns a fresh iterator (the generator function itself)"
    if isinstance(value, Mapping | Tensor | np.ndarray):
        return "that is one batch; give a list of batches, [batch]"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in value):
        return "a pair of tensors is one batch or two; give [(inputs, targets)] or penjing.dataset(TensorDataset(...))"
    if isinstance(value, str | bytes) or not (isinstance(value, Iterable | Dataset) or callable(value)):
        if hasattr(value, "__getitem__") and hasattr(value, "__len__") and not isinstance(value, str | bytes):
            return "it holds samples, not batches; give penjing.dataset(samples, batch_size=..., collate=...)"
        return "give a DataLoader, a list of batches, a dataset, or a function that returns an iterator of batches"
    return ""


def _kind(value: Any) -> str:
    return tree.describe(value) if isinstance(value, Tensor | np.ndarray | tuple) else f"a {type(value).__name__}"
