"""Which samples these are: fingerprints of content, so that leaks, shuffling and augmentation come to light.

The hash of a sample covers its inputs only: the same image under another label is the same sample.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import WorkloadError
from penjing.workload import tree
from penjing.workload.batch import Batch, Unpack, unpack_default
from penjing.workload.sources import Source

DIGEST_BYTES = 16  # a chance collision among 10^9 samples has probability 10^-21


def sample_digests(batch: Batch) -> list[bytes]:
    """Hash the inputs of each sample of a batch (blake2b), keywords in the order of their names.

    Positions that an `attention_mask` [n, tokens] hides do not count, so that padding does not change a sample.
    """
    mask = batch.kwargs.get("attention_mask")
    keywords = tuple(batch.kwargs[name] for name in sorted(batch.kwargs))
    return _row_digests((batch.args, keywords), batch.size, mask)


def target_digests(batch: Batch) -> list[bytes]:
    """Hash the target of each sample of a batch."""
    return _row_digests(batch.target, batch.size, batch.kwargs.get("attention_mask"))


@dataclass(frozen=True)
class Identity:
    """Content of a source, sample by sample, in its order."""

    inputs: list[bytes]
    targets: list[bytes]
    batch_size: int

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def of(cls, source: Source) -> "Identity":
        """Read the source once."""
        inputs: list[bytes] = []
        targets: list[bytes] = []
        largest = 0
        for batch in source.batches():
            inputs += sample_digests(batch)
            targets += target_digests(batch)
            largest = max(largest, batch.size)
        return cls(inputs, targets, largest)


def stable_identity(source: Source) -> Identity:
    """Read a source twice and make sure that both readings give the same samples in the same order.

    Raises WorkloadError that says whether the source shuffles, augments or dries up, and how to mend it.
    """
    first, second = Identity.of(source), Identity.of(source)
    if first.inputs == second.inputs and first.targets == second.targets:
        return first
    name = source.name
    if len(first) != len(second):
        raise WorkloadError(
            f"{name} gave {len(first)} samples when read first and {len(second)} when read again; "
            "it must give the same samples each time"
        )
    if Counter(first.inputs) == Counter(second.inputs):
        if first.inputs == second.inputs:
            raise WorkloadError(f"{name} gives other targets each time it is read; targets must not be random")
        raise WorkloadError(
            f"{name} shuffles: read twice, it gave the same samples in another order. Scores are compared sample by "
            "sample; build its DataLoader with shuffle=False"
        )
    changed = len(first) - (Counter(first.inputs) & Counter(second.inputs)).total()
    raise WorkloadError(
        f"{name} augments: read twice, {changed} of its {len(first)} samples changed. "
        "Remove random transformations (crops, flips, noise, random sampling) from it"
    )


def check_disjoint(source: Source, held_out: Mapping[str, Iterable[bytes]]) -> tuple[int, int]:
    """Read a source once and make sure that it shares no sample with held-out data; count its samples and batches.

    Raises WorkloadError that names how many samples are shared, and the first.
    """
    known = {name: frozenset(digests) for name, digests in held_out.items()}
    shared = dict.fromkeys(known, 0)
    first = dict.fromkeys(known, "")
    count = steps = 0
    for batch in source.batches():
        digests = sample_digests(batch)
        count += len(digests)
        for name, digests_held_out in known.items():
            rows = [row for row, digest in enumerate(digests) if digest in digests_held_out]
            if rows and not shared[name]:
                first[name] = f"sample {rows[0]} of batch {steps}"
            shared[name] += len(rows)
        steps += 1
    for name, hits in shared.items():
        if hits:
            raise WorkloadError(
                f"{hits} of the {count} samples of {source.name} are also in {name} (the first is {first[name]}). "
                f"Remove them, for instance {source.name}=penjing.without({source.name}, {name})"
            )
    return count, steps


def without(source: Any, *held_out: Any, unpack: Unpack = unpack_default) -> Callable[[], Iterator[Batch]]:
    """Leave out of a source every sample that also occurs, with the same content, in held-out sources.

    >>> train, evaluation = [torch.tensor([[1.0], [2.0]])], [torch.tensor([[2.0]])]
    >>> [batch.args for batch in without(train, evaluation)()]
    [(tensor([[1.]]),)]
    """
    opened = Source.of(source, "source", unpack, shuffle=True)
    known: set[bytes] = set()
    for i, other in enumerate(held_out):
        for batch in Source.of(other, f"held-out source {i}", unpack).batches():
            known.update(sample_digests(batch))

    def batches() -> Iterator[Batch]:
        for batch in opened.batches():
            keep = [row for row, digest in enumerate(sample_digests(batch)) if digest not in known]
            if len(keep) == batch.size:
                yield batch
            elif keep:
                yield replace(batch.take(keep), raw=tree.take(batch.raw, keep, batch.size))

    return batches


def _row_digests(value: Any, size: int, mask: Any) -> list[bytes]:
    """Hash a nested value sample by sample; what belongs to the whole batch goes into the hash of every sample."""
    token_mask = mask.detach().cpu().bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None
    whole = blake2b(digest_size=DIGEST_BYTES)
    columns: list[Iterable[Any]] = []
    for leaf in tree.leaves(value):
        if tree.is_column(leaf) and len(leaf) == size:
            kind, rows = _rows(leaf, token_mask)
            whole.update(kind.encode())
            columns.append(rows)
        else:
            whole.update(tree.describe(leaf).encode())
            if isinstance(leaf, Tensor):
                whole.update(_bytes(leaf.detach().cpu().reshape(1, -1))[0])
    digests = [whole.copy() for _ in range(size)]
    for rows in columns:
        for digest, row in zip(digests, rows, strict=True):
            digest.update(row)
    return [digest.digest() for digest in digests]


def _rows(column: tree.Column, token_mask: Tensor | None) -> tuple[str, Iterable[Any]]:
    """Give the kind of a column and the bytes of each of its rows."""
    if not isinstance(column, Tensor):
        return "objects", (_framed(repr(item).encode()) for item in column)
    rows = column.detach().cpu()
    if token_mask is not None and rows.shape[:2] == token_mask.shape:
        shown = (row[keep].reshape(1, -1) for row, keep in zip(rows, token_mask, strict=True))
        return f"{rows.dtype}{list(rows.shape[2:])}", (_framed(_bytes(row).tobytes()) for row in shown)
    return f"{rows.dtype}{list(rows.shape[1:])}", _bytes(rows)


def _bytes(rows: Tensor) -> NDArray[np.uint8]:
    """Memory of each row: [n, ...] -> bytes [n, size]."""
    return rows.contiguous().reshape(len(rows), prod(rows.shape[1:])).view(torch.uint8).numpy()


def _framed(data: bytes) -> bytes:
    """Put the length before the data, so that rows of varying length cannot run into each other."""
    return len(data).to_bytes(8, "little") + data
