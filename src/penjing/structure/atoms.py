"""Dimension atoms: which indices of which dimensions live and die together.

A dimension carries a *label*: `None` (nothing of it may ever go) or an int64 array [size, factors]. Row i lists the
ids whose product makes index i: index i is removed as soon as one of its ids is removed. Id 0 stands for "kept".

    y = x + z          the ids of x and z become equal            (`equate`)
    x.view(B, H, D)    index h * D + d is the product of h and d  (`split`)
    x.flatten(1)       the inverse                                (`merge`)
    cat, slice, flip   plain indexing of labels

Ids are kept in a union-find forest; an id may further be the product of other ids. Freezing an id is always sound, and
so is equating too much: both only take choices away.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from penjing.structure.forest import KEPT, Forest, Ids, Label

__all__ = ["KEPT", "Atoms", "Ids", "Label", "blocks"]


class Atoms(Forest):
    """The forest of ids, and how labels follow the shapes of tensors.

    >>> atoms = Atoms()
    >>> heads, width = atoms.fresh(2), atoms.fresh(3)
    >>> flat = atoms.merge([heads, width], [2, 3])
    >>> flat.tolist()
    [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]
    >>> atoms.kept(flat, removed=[2, 4]).tolist()
    [True, False, True, False, False, False]
    """

    def merge(self, labels: Sequence[Label], sizes: Sequence[int]) -> Label:
        """The label of dimensions flattened into one (row-major)."""
        if all(label is None for label in labels):
            return None
        positions = np.unravel_index(np.arange(math.prod(sizes)), tuple(sizes))
        columns = [label[at] for label, at in zip(labels, positions, strict=True) if label is not None]
        return self.resolve(np.concatenate(columns, axis=1))

    def split(self, label: Label, sizes: Sequence[int]) -> list[Label]:
        """The labels of one dimension unfolded into `sizes` (row-major); factors over several axes are refined."""
        result: list[Label] = [None] * len(sizes)
        axes = [axis for axis, size in enumerate(sizes) if size > 1]
        if label is None or not axes:
            self.freeze(label, "a dimension of size one cannot become smaller")
            return result
        if len(axes) == 1:
            result[axes[0]] = label
            return result
        label = self.resolve(label)
        columns: dict[int, list[Ids]] = {axis: [] for axis in axes}
        for j in range(label.shape[1]):
            column = label[:, j].reshape(tuple(sizes))
            if (self._why[column] > 0).all():
                continue
            varies = [axis for axis in axes if (column != column.take([0], axis=axis)).any()] or axes[:1]
            if len(varies) == 1:
                axis = varies[0]
                columns[axis].append(np.moveaxis(column, axis, 0).reshape(sizes[axis], -1)[:, :1])
                continue
            refined = {axis: self.fresh(sizes[axis]) for axis in varies}
            positions = np.unravel_index(np.arange(len(label)), tuple(sizes))
            product = np.concatenate([refined[axis][positions[axis]] for axis in varies], axis=1)
            self._equate_rows(label[:, j : j + 1], product)
            for axis in varies:
                columns[axis].append(refined[axis])
        for axis, found in columns.items():
            if found:
                result[axis] = self.resolve(np.concatenate(found, axis=1))
        return result

    def reshape(self, labels: Sequence[Label], before: Sequence[int], after: Sequence[int]) -> list[Label]:
        """The labels after a view from sizes `before` to sizes `after`."""
        if math.prod(before) == 0:
            for label in labels:
                self.freeze(label, "an empty tensor is reshaped")
            return [None] * len(after)
        result: list[Label] = []
        for sources, targets in blocks(before, after):
            if len(sources) == 1:
                merged = labels[sources[0]]
            else:
                merged = self.merge([labels[i] for i in sources], [before[i] for i in sources])
            if len(targets) == 1 and len(sources) >= 1:
                result.append(merged)
            else:
                result += self.split(merged, [after[i] for i in targets])
        return result

    def concatenate(self, labels: Sequence[Label], sizes: Sequence[int]) -> Label:
        """The label of dimensions laid end to end."""
        if all(label is None for label in labels):
            return None
        parts = [
            np.zeros((size, 1), dtype=np.int64) if label is None else self.resolve(label)
            for label, size in zip(labels, sizes, strict=True)
        ]
        width = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The finest pairing of runs of dimensions with equal products.

    >>> list(blocks((2, 12, 5), (2, 3, 4, 5)))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    >>> list(blocks((2, 8, 1, 1), (2, 8)))
    [([0], [0]), ([1], [1]), ([2], []), ([3], [])]
    """
    i = j = 0
    while i < len(before) or j < len(after):
        sources, targets = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        left, right = math.prod(before[i : i + 1]), math.prod(after[j : j + 1])
        i, j = i + len(sources), j + len(targets)
        while left != right:
            if left < right:
                sources.append(i)
                left *= before[i]
                i += 1
            else:
                targets.append(j)
                right *= after[j]
                j += 1
        yield sources, targets
