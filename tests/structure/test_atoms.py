"""Properties of labels: what brute force says about index sets, for random shapes and removals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.structure.atoms import Atoms, Ids

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def removed_of(atoms: Atoms, label: Ids, seed: int) -> list[int]:
    ids = atoms.free(label)
    return np.random.default_rng(seed).choice(ids, len(ids) // 2, replace=False).tolist() if len(ids) else []


@st.composite
def factorings(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Two factorings of one size, each made of the same prime factors in the same order."""
    primes = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5))

    def group() -> list[int]:
        cuts = sorted(draw(st.sets(st.integers(1, len(primes)), max_size=3)) | {0, len(primes)})
        return [math.prod(primes[a:b]) for a, b in itertools.pairwise(cuts)]

    return group(), group()


@settings(max_examples=60, deadline=None)
@given(factorings(), st.integers(0, 99))
def test_a_view_keeps_what_its_elements_keep(shapes: tuple[list[int], list[int]], seed: int) -> None:
    """Removing ids before or after a view leaves the same elements of the flat tensor."""
    before, after = shapes
    atoms = Atoms()
    labels = [atoms.fresh(size) if size > 1 else None for size in before]
    viewed = atoms.reshape(labels, before, after)
    ids = [i for label in labels if label is not None for i in atoms.free(label).tolist()]
    removed = np.random.default_rng(seed).choice(ids, len(ids) // 3, replace=False).tolist() if ids else []

    def elements(dims: list[Ids | None], shape: list[int]) -> np.ndarray:
        masks = [atoms.kept(label, removed) for label in dims]
        flags = [np.ones(size, bool) if mask is None else mask for mask, size in zip(masks, shape, strict=True)]
        grid = np.ix_(*flags)
        return np.arange(math.prod(shape)).reshape(shape)[grid].ravel()

    assert np.array_equal(elements(labels, before), elements(viewed, after))


@settings(max_examples=40, deadline=None)
@given(sizes)
def test_split_undoes_merge(shape: list[int]) -> None:
    atoms = Atoms()
    labels = [atoms.fresh(size) if size > 1 else None for size in shape]
    parts = atoms.split(atoms.merge(labels, shape), shape)
    for label, part in zip(labels, parts, strict=True):
        assert (label is None) == (part is None)
        if label is not None and part is not None:
            assert np.array_equal(atoms.resolve(label), atoms.resolve(part))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_union_find_agrees_with_graph_components(pairs: list[tuple[int, int]]) -> None:
    atoms = Atoms()
    label = atoms.fresh(20)
    component = list(range(20))
    for a, b in pairs:
        atoms.equate(label[[a]], label[[b]], "")
        component = [component[a] if c == component[b] else c for c in component]
    roots = atoms.find(label[:, 0])
    for i in range(20):
        for j in range(20):
            assert (roots[i] == roots[j]) == (component[i] == component[j])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_equal_labels_stay_equal_through_random_structure(seed: int) -> None:
    """Whatever is equated, split and frozen: dimensions made equal keep the same indices under every removal."""
    choice = np.random.default_rng(seed)
    atoms = Atoms()
    pool = [atoms.fresh(12) for _ in range(4)]
    equal: list[tuple[Ids, Ids]] = []
    for _ in range(12):
        a, b = (pool[i] for i in choice.integers(len(pool), size=2))
        match choice.integers(5):
            case 0:
                atoms.equate(a, b, "")
                equal.append((a, b))
            case 1:
                shape = [[3, 4], [4, 3], [2, 6], [2, 2, 3]][choice.integers(4)]
                merged = atoms.merge(atoms.split(a, shape), shape)
                if merged is not None:
                    equal.append((a, merged))
                    pool.append(merged)
            case 2:
                atoms.freeze(a[choice.integers(12, size=1)], "fixed")
            case 3:
                pool.append(a[choice.permutation(12)])
            case 4:
                joined = atoms.concatenate([a[:5], b[5:]], [5, 7])
                assert joined is not None
                pool.append(joined)
    ids = np.unique(np.concatenate([atoms.free(label) for label in pool])).tolist()
    for _ in range(5):
        removed = choice.choice(ids, len(ids) // 2, replace=False).tolist() if ids else []
        for a, b in equal:
            kept_a, kept_b = atoms.kept(a, removed), atoms.kept(b, removed)
            assert kept_a is not None
            assert kept_b is not None
            assert np.array_equal(kept_a, kept_b)


def test_a_fixed_dimension_freezes_what_meets_it_and_says_why() -> None:
    atoms = Atoms()
    a, b = atoms.fresh(3), atoms.fresh(3)
    atoms.equate(a, b, "")
    assert atoms.equate(a, None, "it meets a wall") is None
    assert atoms.reasons(b) == ["it meets a wall"] * 3
    assert not len(atoms.free(b))


def test_freezing_a_product_freezes_its_factors() -> None:
    atoms = Atoms()
    flat = atoms.fresh(6)
    rows, columns = atoms.split(flat, [2, 3])
    atoms.freeze(flat[:1], "the first")
    assert atoms.reasons(rows) == ["the first", ""]
    assert atoms.reasons(columns) == ["the first", "", ""]
    assert [bool(reason) for reason in atoms.reasons(flat)] == [True, False, False, False, False, False]


def test_factorings_that_do_not_fit_stay_sound() -> None:
    """4 x 6 against 3 x 8: over-constrained, but never unequal."""
    atoms = Atoms()
    flat = atoms.fresh(24)
    first = atoms.merge(atoms.split(flat, [4, 6]), [4, 6])
    second = atoms.merge(atoms.split(flat, [3, 8]), [3, 8])
    for i in atoms.free(flat).tolist():
        masks = [atoms.kept(label, [i]) for label in (flat, first, second)]
        assert all(mask is None or np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("size", [1, 3000])
def test_the_forest_grows(size: int) -> None:
    atoms = Atoms()
    label = atoms.fresh(size)
    assert atoms.count == size + 1
    assert len(atoms.free(label)) == size
