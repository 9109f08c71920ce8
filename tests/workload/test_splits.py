import numpy as np
import pytest
import torch

from penjing.errors import WorkloadError
from penjing.workload import unpack_default
from penjing.workload.identity import Identity
from penjing.workload.sources import Source
from penjing.workload.splits import split_in_two

X = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))


def split(x, groups=None, seed=0, batch=64):
    opened = Source.of(list(x.split(batch)), "evaluation", unpack_default)
    return split_in_two(opened, Identity.of(opened), None if groups is None else np.asarray(groups), seed)


def samples(part):
    return torch.cat([batch.args[0] for batch in part.batches()])


def rows(part):
    return {tuple(row) for row in samples(part).tolist()}


def test_the_sides_are_disjoint_complete_and_about_equal():
    search, certificate = split(X)
    assert len(search) + len(certificate) == 1000
    assert not rows(search) & rows(certificate)
    assert rows(search) | rows(certificate) == {tuple(row) for row in X.tolist()}
    assert 430 < len(search) < 570


def test_the_order_of_the_source_is_kept():
    search, _ = split(X)
    assert torch.equal(samples(search), X[search.index])
    assert (np.diff(search.index) > 0).all()


def test_batches_have_the_size_of_the_source():
    for part in split(X):
        sizes = [batch.size for batch in part.batches()]
        assert set(sizes[:-1]) == {64}
        assert sum(sizes) == len(part)


def test_reordering_and_rebatching_move_nothing():
    permuted = X[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    for before, after in zip(split(X), split(permuted, batch=17), strict=True):
        assert rows(before) == rows(after)
        assert before.fingerprint() == after.fingerprint()


def test_new_samples_never_move_the_old_ones():
    small, large = split(X[:500]), split(X)
    for before, after in zip(small, large, strict=True):
        assert rows(before) <= rows(after)


def test_the_seed_decides():
    assert rows(split(X)[0]) == rows(split(X)[0])
    both = len(rows(split(X, seed=0)[0]) & rows(split(X, seed=1)[0]))
    assert 180 < both < 320


def test_duplicates_stay_together():
    search, certificate = split(X[:100].repeat(3, 1))
    assert not rows(search) & rows(certificate)
    assert len(search) == 3 * len(rows(search))


def test_clusters_stay_together():
    groups = np.arange(1000) // 10
    search, certificate = split(X, groups)
    assert not set(search.groups) & set(certificate.groups)
    assert np.array_equal(search.groups, groups[search.index])
    assert len(search) % 10 == 0


def test_clusters_that_share_a_sample_stay_together():
    x = torch.cat([X[:200], X[:200]])  # cluster k and k + 100 hold the same samples
    groups = np.concatenate([np.arange(200) // 2, 100 + np.arange(200) // 2])
    search, certificate = split(x, groups)
    assert not rows(search) & rows(certificate)
    assert {(group + 100) % 200 for group in search.groups} == set(search.groups)
    order = np.random.default_rng(0).permutation(400)
    assert rows(split(x[order], groups[order])[0]) == rows(search)


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_samples(count):
    with pytest.raises(WorkloadError, match=rf"too small to split: of its {count} samples.*certificate="):
        split(X[:count])


def test_many_samples_of_one_cluster_cannot_be_split():
    with pytest.raises(WorkloadError, match=r"too small to split: of its 1000 samples \(1 different clusters\)"):
        split(X, np.zeros(1000))


def test_fingerprints_tell_parts_and_labels_apart():
    search, certificate = split(X)
    assert search.fingerprint() != certificate.fingerprint()
    labelled = Source.of([(X, torch.zeros(1000))], "evaluation", unpack_default)
    relabelled = Source.of([(X, torch.ones(1000))], "evaluation", unpack_default)
    first, second = (split_in_two(opened, Identity.of(opened), None, 0)[0] for opened in (labelled, relabelled))
    assert np.array_equal(first.index, second.index)
    assert first.fingerprint() != second.fingerprint()


def test_a_source_that_changes_its_length_later_is_noticed():
    data = list(X.split(64))
    opened = Source.of(data, "evaluation", unpack_default)
    search, _ = split_in_two(opened, Identity.of(opened), None, 0)
    data.pop()
    with pytest.raises(WorkloadError, match="gave 960 samples, but 1000 when it was first read"):
        list(search.batches())
