"""A union-find forest of ids, some of which are products of others, with reasons for those that must stay.

Everything works on whole arrays of ids; the few loops over single ids are for products that do not fit each other.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]
Label: TypeAlias = Ids | None

KEPT = 0
_HELD, _MISFIT = 1, 2
_ATOMIC = -1


class Forest:
    """Ids and what is known of them. Id 0, `KEPT`, stands for everything that stays.

    `_parent` is the union-find forest. `_product` says which row of `_factors` holds the ids whose product a root is,
    and is `_ATOMIC` for all others. `_why` numbers the reason why an id may not go.
    """

    def __init__(self) -> None:
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._why: Ids = np.zeros(1024, dtype=np.int64)
        self._product: Ids = np.full(1024, _ATOMIC)
        self._factors: Ids = np.zeros((256, 2), dtype=np.int64)
        self._products = 0
        self._reasons: list[str] = ["", "", "it is reshaped in ways that do not fit each other"]
        self._codes: dict[str, int] = {"": _HELD}
        self._count = 1
        self._why[KEPT] = _HELD

    # --- ids

    def fresh(self, size: int) -> Ids:
        """`size` new ids as the label [size, 1] of a dimension."""
        end = self._count + size
        if end > len(self._parent):
            capacity = max(end, 2 * len(self._parent))
            self._parent = _grown(self._parent, capacity)
            self._why = _grown(self._why, capacity)
            self._product = _grown(self._product, capacity, _ATOMIC)
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

    def _atoms_of(self, i: int) -> tuple[int, ...]:
        """The atomic roots whose product is id i, each once."""
        root = self._root(i)
        row = self._product[root]
        if row == _ATOMIC:
            return (root,)
        parts = self._factors[row][self._factors[row] != KEPT].tolist()
        return tuple(dict.fromkeys(atom for part in parts for atom in self._atoms_of(part)))

    def _compose(self, roots: Ids, factors: Ids) -> None:
        """Each of the roots [n] is the product of a row of factors [n, k] from now on."""
        end = self._products + len(roots)
        width = max(factors.shape[1], self._factors.shape[1])
        if end > len(self._factors) or width > self._factors.shape[1]:
            table = np.zeros((max(end, 2 * len(self._factors)), width), dtype=np.int64)
            table[: self._products, : self._factors.shape[1]] = self._factors[: self._products]
            self._factors = table
        self._factors[self._products : end, : factors.shape[1]] = factors
        self._product[roots] = np.arange(self._products, end)
        self._products = end

    # --- freezing

    def freeze(self, label: Label, reason: str) -> None:
        """Forbid the removal of every index of `label`. The first reason given to an id stays.

        An empty reason is for dimensions that nobody would cut, such as the window of a convolution.
        """
        if label is None:
            return
        if reason not in self._codes:
            self._codes[reason] = len(self._reasons)
            self._reasons.append(reason)
        self._freeze(label, self._codes[reason])

    def _freeze(self, ids: Ids, code: int) -> None:
        for roots in (self.find(ids), self.expand(ids.reshape(-1, 1))):
            self._why[roots] = np.where(self._why[roots] > 0, self._why[roots], code)

    def reasons(self, label: Ids) -> list[str]:
        """Why each index of `label` [size, factors] cannot be removed; empty where it can, or nobody would."""
        codes = self._why[self.expand(label)]
        codes = np.where((codes > 0).all(axis=1), codes.max(axis=1), 0)
        return [self._reasons[code] for code in codes.tolist()]

    # --- reading

    def expand(self, label: Ids) -> Ids:
        """The label [size, n] in atomic roots: products replaced by their factors, padded with KEPT."""
        atoms = self.find(label)
        while True:
            rows = self._product[atoms]
            is_product = rows != _ATOMIC
            if not is_product.any():
                return atoms
            factors = np.where(is_product[..., None], self._factors[rows], KEPT)
            factors[..., 0] = np.where(is_product, factors[..., 0], atoms)
            flat = factors.reshape(len(label), -1)
            atoms = self.find(flat[:, flat.any(axis=0)])

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
        rows = self.free_rows(label)
        return np.unique(rows[rows != KEPT])

    def free_rows(self, label: Ids) -> Ids:
        """The label [size, factors] in atomic roots, KEPT in the place of all that are not free."""
        atoms = self.expand(label)
        return np.where(self._why[atoms] == 0, atoms, KEPT)

    def has_free(self, label: Label) -> bool:
        """Whether any index of a label may be removed."""
        return label is not None and bool((self._why[self.expand(label)] == 0).any())

    def kept(self, label: Label, removed: Iterable[int]) -> NDArray[np.bool_] | None:
        """Which indices stay when the given ids go: bool [size], or None for a fixed dimension."""
        if label is None:
            return None
        return np.asarray(~np.any(np.isin(self.expand(label), np.fromiter(removed, dtype=np.int64)), axis=1))

    # --- equating

    def equate(self, a: Label, b: Label, reason: str) -> Label:
        """Make two dimensions the same; a fixed one freezes the other for `reason`. Returns the shorter label."""
        if a is b:
            return a
        if a is None or b is None:
            self.freeze(a, reason)
            self.freeze(b, reason)
            return None
        self._equate_rows(a, b)
        return a if a.shape[1] <= b.shape[1] else b

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

    def _unite_columns(self, a: Ids, b: Ids) -> None:
        a, b = self.find(a), self.find(b)
        different = a != b
        if not different.any():
            return
        keys = np.unique(a[different] * self._count + b[different])
        x, y = np.divmod(keys, self._count)
        met = np.concatenate([x, y])
        if met.min() != KEPT and (self._product[met] == _ATOMIC).all() and len(np.unique(met)) == len(met):
            # Atoms that each meet one other, as nearly always: all at once.
            self._parent[y] = x
            self._why[x] = np.where(self._why[x] > 0, self._why[x], self._why[y])
            return
        for i, j in zip(x.tolist(), y.tolist(), strict=True):
            self._unite(i, j)

    def _unite(self, x: int, y: int) -> None:
        x, y = self._root(x), self._root(y)
        if x == y:
            return
        if y == KEPT:
            x, y = y, x
        code = int(self._why[x] or self._why[y])
        factors_x, factors_y = self._atoms_of(x), self._atoms_of(y)
        product_x, product_y = self._product[[x, y]] != _ATOMIC
        self._product[[x, y]] = _ATOMIC
        self._parent[y] = x
        if product_x and product_y:
            self._compose_one(x, factors_x)
            self._match(factors_x, factors_y)
        elif product_x or product_y:
            factors = factors_x if product_x else factors_y
            if x in factors or y in factors:  # x = x * z: nothing short of x = z is certain
                for z in factors:
                    self._unite(x, z)
            elif x != KEPT:
                self._compose_one(x, factors)
        if code:
            self._why[self._root(x)] = code
            self._freeze(np.array([*factors_x, *factors_y]), code)

    def _compose_one(self, x: int, factors: Sequence[int]) -> None:
        self._compose(np.array([x]), np.array([factors]))

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
            self._freeze(np.array([*a, *b]), _MISFIT)

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
            self._freeze(np.concatenate([a[:, left].ravel(), b[:, right].ravel()]), _MISFIT)

    def _substitute(self, column: Ids, product: Ids) -> None:
        """Each id of a column [n] becomes the product of a row of ids [n, k]."""
        column, atoms = self.find(column), self.expand(product)
        free = np.sort(np.where(self._why[atoms] > 0, KEPT, atoms), axis=1)
        rows = np.unique(np.column_stack([column, free]), axis=0)
        x, factors = rows[:, 0], rows[:, 1:]
        plain = (self._product[x] == _ATOMIC) & (self._why[x] == 0) & (factors[:, 0] != KEPT)
        plain &= (factors[:, 1:] != factors[:, :-1]).all(axis=1) & ~np.isin(x, factors)
        plain[1:] &= x[1:] != x[:-1]
        plain[:-1] &= x[1:] != x[:-1]
        # Free atoms that each become one product of different free atoms, as nearly always: all at once.
        self._compose(x[plain], factors[plain])
        for i, *others in rows[~plain].tolist():
            self._substitute_one(i, others)

    def _substitute_one(self, x: int, product: Sequence[int]) -> None:
        """x = product[0] * product[1] * ..."""
        factors = tuple(dict.fromkeys(atom for i in product for atom in self._atoms_of(i)))
        free = tuple(z for z in factors if not self._why[z])
        factors = free or factors[:1]
        x = self._root(x)
        if self._why[x]:
            self._freeze(np.array(factors), int(self._why[x]))
        elif len(factors) == 1:
            self._unite(x, factors[0])
        elif self._product[x] != _ATOMIC:
            self._match(self._atoms_of(x), factors)
        elif x in factors:
            for z in factors:
                self._unite(x, z)
        else:
            self._compose_one(x, factors)


def _grown(array: Ids, capacity: int, fill: int = 0) -> Ids:
    return np.concatenate([array, np.full(capacity - len(array), fill)])


def _pattern(column: Ids) -> Ids:
    """Which entries of a column are equal, as numbers in order of first sight."""
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    order = np.empty_like(first)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[inverse.reshape(-1)])
