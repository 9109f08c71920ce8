"""Dimension atoms: which indices of which dimensions live and die together.

A dimension carries a *label*: `None` (nothing of it may ever go) or an int64 array [size, factors]. Row i lists the
ids whose product makes index i: index i is removed as soon as one of its ids is removed. Id 0 stands for "kept".

    y = x + z          the ids of x and z become equal            (`equate`)
    x.view(B, H, D)    index h * D + d is the product of h and d  (`split`)
    x.flatten(1)       the inverse                                (`merge`)
    cat, slice, flip   plain indexing of labels

Ids are kept in a union-find forest; an id may further be *composite*, the product of other ids. Freezing an id is
always sound, and so is equating too much: both only take choices away.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Label: TypeAlias = Ids | None

KEPT = 0
_HELD, _MISFIT = 1, 2


class Atoms:
    """A union-find forest of ids with reasons for the frozen ones.

    >>> atoms = Atoms()
    >>> heads, width = atoms.fresh(2), atoms.fresh(3)
    >>> flat = atoms.merge([heads, width], [2, 3])
    >>> flat.tolist()
    [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]
    >>> atoms.kept(flat, removed=[2, 4]).tolist()
    [True, False, True, False, False, False]
    """

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._why: Ids = np.zeros(1024, dtype=np.int64)
        self._composite: NDArray[np.bool_] = np.zeros(1024, dtype=np.bool_)
        self._parts: dict[int, tuple[int, ...]] = {}
        self._reasons: list[str] = ["", "", "it is reshaped in ways that do not fit each other"]
        self._count = 1
        self._why[KEPT] = _HELD

    # --- ids

    def fresh(self, size: int) -> Ids:
        """`size` new ids as the label [size, 1] of a dimension."""
        end = self._count + size
        while end > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
            self._why = np.concatenate([self._why, np.zeros_like(self._why)])
            self._composite = np.concatenate([self._composite, np.zeros_like(self._composite)])
        ids = np.arange(self._count, end)
        self._parent[ids] = ids
        self._count = end
        return ids.reshape(-1, 1)

    @property
    def count(self) -> int:
        """The number of ids so far, KEPT included."""
        return self._count

    def is_free(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of the given atomic roots may be removed."""
        free: NDArray[np.bool_] = self._why[ids] == 0
        return free

    def find(self, ids: Ids) -> Ids:
        """The root of each id."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[ids] = roots
        return roots

    def _root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    def _factors(self, i: int) -> tuple[int, ...]:
        """The atomic roots whose product is id i, each once."""
        root = self._root(i)
        if root not in self._parts:
            return (root,)
        return tuple(dict.fromkeys(atom for part in self._parts[root] for atom in self._factors(part)))

    def _compose(self, i: int, factors: tuple[int, ...]) -> None:
        """Root i is the product of `factors` from now on."""
        self._parts[i] = factors
        self._composite[i] = True

    # --- freezing

    def freeze(self, label: Label, reason: str) -> None:
        """Forbid the removal of every index of `label`. The first reason given to an id stays.

        An empty reason is for dimensions that nobody would cut, such as the window of a convolution.
        """
        if label is None:
            return
        if reason and reason not in self._reasons:
            self._reasons.append(reason)
        code = self._reasons.index(reason) if reason else _HELD
        for root in np.unique(self.find(label)).tolist():
            self._freeze(root, code)

    def _freeze(self, i: int, code: int) -> None:
        for atom in {self._root(i), *self._factors(i)}:
            if not self._why[atom]:
                self._why[atom] = code

    def reasons(self, label: Ids) -> list[str]:
        """Why each index of `label` [size, factors] cannot be removed; empty where it can, or nobody would."""
        codes = self._why[self.expand(label)]
        codes = np.where((codes > 0).all(axis=1), codes.max(axis=1), 0)
        return [self._reasons[code] for code in codes.tolist()]

    # --- reading

    def expand(self, label: Ids) -> Ids:
        """The label in atomic roots: composite ids replaced by their factors, padded with KEPT."""
        roots = self.find(label)
        if not self._composite[roots].any():
            return roots
        unique, inverse = np.unique(roots, return_inverse=True)
        rows = np.flatnonzero(self._composite[unique])
        products = [self._factors(i) for i in unique[rows].tolist()]
        table = np.zeros((len(unique), max(map(len, products))), dtype=np.int64)
        table[:, 0] = unique
        for row, factors in zip(rows, products, strict=True):
            table[row, : len(factors)] = factors
        return np.asarray(table[inverse.reshape(-1)].reshape(len(label), -1))

    def resolve(self, label: Ids) -> Ids:
        """The shortest equal label: atomic roots; factors that are frozen or repeated fall away from products."""
        atoms = self.expand(label)
        if atoms.shape[1] == 1:
            return atoms
        free = np.where(self._why[atoms] > 0, KEPT, atoms)
        columns: list[Ids] = []
        for column in free.T:
            if column.any() and not any(np.array_equal(column, other) for other in columns):
                columns.append(column)
        return np.stack(columns, axis=1) if columns else atoms[:, :1]

    def free(self, label: Label) -> Ids:
        """Every free id of a label, once."""
        if label is None:
            return np.zeros(0, dtype=np.int64)
        ids = np.unique(self.expand(label))
        return np.asarray(ids[self._why[ids] == 0])

    def kept(self, label: Label, removed: Iterable[int]) -> NDArray[np.bool_] | None:
        """Which indices stay when the given ids go: bool [size], or None for a fixed dimension."""
        if label is None:
            return None
        return np.asarray(~np.any(np.isin(self.expand(label), np.fromiter(removed, dtype=np.int64)), axis=1))

    # --- equating

    def equate(self, a: Label, b: Label, reason: str) -> Label:
        """Make two dimensions the same; a fixed one freezes the other for `reason`. Returns the shorter label."""
        if a is None or b is None:
            self.freeze(a, reason)
            self.freeze(b, reason)
            return None
        self._equate_rows(a, b)
        return a if a.shape[1] <= b.shape[1] else b

    def _unite(self, x: int, y: int) -> None:
        x, y = self._root(x), self._root(y)
        if x == y:
            return
        if y == KEPT:
            x, y = y, x
        code = int(self._why[x] or self._why[y])
        factors_x, factors_y = self._factors(x), self._factors(y)
        composite_x, composite_y = self._parts.pop(x, None), self._parts.pop(y, None)
        self._composite[[x, y]] = False
        self._parent[y] = x
        if composite_x and composite_y:
            self._compose(x, factors_x)
            self._match(factors_x, factors_y)
        elif composite_x or composite_y:
            factors = factors_x if composite_x else factors_y
            if x in factors or y in factors:  # x = x * z: nothing short of x = z is certain
                for z in factors:
                    self._unite(x, z)
            elif x != KEPT:
                self._compose(x, factors)
        if code:
            self._why[self._root(x)] = code
            for z in (*factors_x, *factors_y):
                self._freeze(z, code)

    def _match(self, a: Sequence[int], b: Sequence[int]) -> None:
        """Make two products equal: one factor each, or a factor against a product, else freeze them all."""
        only_a = [x for x in a if x not in b]
        only_b = [x for x in b if x not in a]
        if len(only_a) == len(only_b):
            for x, y in zip(only_a, only_b, strict=True):
                self._unite(x, y)
        elif len(only_a) == 1 and only_b:
            self._substitute_one(only_a[0], only_b)
        elif len(only_b) == 1 and only_a:
            self._substitute_one(only_b[0], only_a)
        else:
            for x in (*a, *b):
                self._freeze(x, _MISFIT)

    def _unite_columns(self, a: Ids, b: Ids) -> None:
        pairs = np.unique(np.stack([self.find(a), self.find(b)], axis=1), axis=0)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if not len(pairs):
            return
        met = np.unique(pairs)
        if len(met) == pairs.size and met[0] != KEPT and not self._composite[met].any():
            # Atoms that each meet one other, as nearly always: all at once.
            x, y = pairs.T
            self._parent[y] = x
            self._why[x] = np.where(self._why[x] > 0, self._why[x], self._why[y])
            return
        for x, y in pairs.tolist():
            self._unite(x, y)

    def _equate_rows(self, a: Ids, b: Ids) -> None:
        a, b = self.resolve(a), self.resolve(b)
        if a.shape[1] > b.shape[1]:
            a, b = b, a
        if b.shape[1] == 1:
            self._unite_columns(a[:, 0], b[:, 0])
        elif a.shape[1] == 1:
            self._substitute(a[:, 0], b)
        elif a.shape != b.shape or not np.array_equal(a, b):
            self._equate_products(a, b)

    def _equate_products(self, a: Ids, b: Ids) -> None:
        """Pair the factors that vary alike along the dimension; settle what is left as a whole."""
        left = list(range(a.shape[1]))
        right = list(range(b.shape[1]))
        for i in tuple(left):
            for j in right:
                if np.array_equal(_pattern(a[:, i]), _pattern(b[:, j])):
                    self._unite_columns(a[:, i], b[:, j])
                    left.remove(i)
                    right.remove(j)
                    break
        if not left and not right:
            return
        if len(left) == 1 and right:
            self._substitute(a[:, left[0]], b[:, right])
        elif len(right) == 1 and left:
            self._substitute(b[:, right[0]], a[:, left])
        elif len(left) == len(right):
            for i, j in zip(left, right, strict=True):
                self._unite_columns(a[:, i], b[:, j])
        else:
            for x in np.unique(np.concatenate([a[:, left].ravel(), b[:, right].ravel()])).tolist():
                self._freeze(x, _MISFIT)

    def _substitute(self, column: Ids, product: Ids) -> None:
        rows = np.unique(np.column_stack([self.find(column), product]), axis=0)
        for x, *factors in rows.tolist():
            self._substitute_one(x, factors)

    def _substitute_one(self, x: int, product: Sequence[int]) -> None:
        """x = product[0] * product[1] * ..."""
        factors = tuple(dict.fromkeys(atom for i in product for atom in self._factors(i)))
        free = tuple(z for z in factors if not self._why[z])
        factors = free or factors[:1]
        x = self._root(x)
        if self._why[x]:
            for z in factors:
                self._freeze(z, int(self._why[x]))
        elif len(factors) == 1:
            self._unite(x, factors[0])
        elif x in self._parts:
            self._match(self._factors(x), factors)
        elif x in factors:
            for z in factors:
                self._unite(x, z)
        else:
            self._compose(x, factors)

    # --- shapes

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


def _pattern(column: Ids) -> Ids:
    """Which entries of a column are equal, as numbers in order of first sight."""
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    order = np.empty_like(first)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[inverse.reshape(-1)])


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
