"""The one split of the evaluation data into a part for decisions and a part for the certificate.

The side of a sample depends on its content (or its cluster) and the seed alone. Reordering the data moves nothing,
duplicates stay together, and samples that are added later never move the others across.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from penjing.errors import WorkloadError
from penjing.workload.batch import Batch, rebatch
from penjing.workload.identity import DIGEST_BYTES, Identity
from penjing.workload.sources import Source

SMALLEST_SIDE = 2


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples of a source: those at `index`, in the order of the source; digests and groups are theirs."""

    source: Source
    index: NDArray[np.intp]
    source_size: int
    batch_size: int
    inputs: list[bytes]
    targets: list[bytes]
    groups: NDArray[Any] | None

    @classmethod
    def whole(cls, source: Source, identity: Identity, groups: NDArray[Any] | None) -> Self:
        """Take every sample."""
        return cls.of(source, identity, groups, np.arange(len(identity)))

    @classmethod
    def of(cls, source: Source, identity: Identity, groups: NDArray[Any] | None, index: NDArray[np.intp]) -> Self:
        """Take the samples at `index`."""
        return cls(
            source,
            index,
            len(identity),
            identity.batch_size,
            [identity.inputs[i] for i in index],
            [identity.targets[i] for i in index],
            None if groups is None else groups[index],
        )

    def __len__(self) -> int:
        return len(self.index)

    def fingerprint(self) -> str:
        """Hash what the samples and their targets are, in any order, as 64 hexadecimal digits."""
        digest = blake2b(digest_size=32)
        for pair in sorted(zip(self.inputs, self.targets, strict=True)):
            digest.update(b"".join(pair))
        return digest.hexdigest()

    def batches(self) -> Iterator[Batch]:
        """Read the samples in batches of the source's size. Raises WorkloadError if the source changed its length."""
        if len(self.index) == self.source_size:
            yield from self._checked()
        else:
            yield from rebatch(self._selected(), self.batch_size)

    def _selected(self) -> Iterator[Batch]:
        start = 0
        for batch in self._checked():
            low, high = np.searchsorted(self.index, [start, start + batch.size])
            if high > low:
                yield batch.take((self.index[low:high] - start).tolist())
            start += batch.size

    def _checked(self) -> Iterator[Batch]:
        count = 0
        for batch in self.source.batches():
            count += batch.size
            yield batch
        if count != self.source_size:
            raise WorkloadError(
                f"{self.source.name} gave {count} samples, but {self.source_size} when it was first read; "
                "it must give the same samples each time"
            )


def split_in_two(source: Source, identity: Identity, groups: NDArray[Any] | None, seed: int) -> tuple[Part, Part]:
    """Split a source into (search, certificate), about half each. Raises WorkloadError if it is too small."""
    keys = identity.inputs if groups is None else _cluster_keys(identity.inputs, groups.tolist())
    is_certificate = np.array([_goes_to_certificate(key, seed) for key in keys], dtype=bool)
    search, certificate = np.flatnonzero(~is_certificate), np.flatnonzero(is_certificate)
    if min(len(search), len(certificate)) < SMALLEST_SIDE:
        what = f"{len(set(keys))} different {'samples' if groups is None else 'clusters'}"
        raise WorkloadError(
            f"{source.name} is too small to split: of its {len(identity)} samples ({what}) {len(search)} would go to "
            f"the search and {len(certificate)} to the certificate; give more samples, or certificate= of its own"
        )
    return Part.of(source, identity, groups, search), Part.of(source, identity, groups, certificate)


def _goes_to_certificate(key: bytes, seed: int) -> bool:
    return blake2b(key, digest_size=1, key=str(seed).encode()).digest()[0] < 128


def _cluster_keys(inputs: Sequence[bytes], groups: Sequence[Any]) -> list[bytes]:
    """Give one key to all samples of a cluster; clusters that share a sample have the same key."""
    parent: dict[bytes, bytes] = {}

    def root(node: bytes) -> bytes:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    names = [blake2b(repr(group).encode(), digest_size=DIGEST_BYTES).digest() for group in groups]
    for sample, name in zip(inputs, names, strict=True):
        # The smaller root wins, so that the key does not depend on the order of the samples.
        low, high = sorted((root(b"sample" + sample), root(b"group" + name)))
        parent[high] = low
    return [root(b"group" + name) for name in names]
