import numpy as np
import pytest
import torch

from penjing.errors import WorkloadError
from penjing.workload import Batch, unpack_default
from penjing.workload.batch import join, read_batch, rebatch

X = torch.arange(6.0).reshape(3, 2)
Y = torch.tensor([0, 1, 2])


def read(raw, unpack=unpack_default):
    return read_batch(raw, unpack, "train, batch 7")


@pytest.mark.parametrize(
    ("raw", "args", "kwargs", "has_target"),
    [
        ((X, Y), 1, [], True),
        ([X, Y], 1, [], True),
        (((X, X), Y), 2, [], True),
        (({"x": X}, Y), 0, ["x"], True),
        ({"x": X, "mask": X, "labels": Y}, 0, ["x", "mask"], True),
        ({"x": X}, 0, ["x"], False),
        (X, 1, [], False),
        ((X,), 1, [], False),
        ((X.numpy(), Y.numpy()), 1, [], True),
    ],
)
def test_common_forms_of_batches(raw, args, kwargs, has_target):
    batch = read(raw)
    assert (len(batch.args), list(batch.kwargs)) == (args, kwargs)
    assert torch.equal((*batch.args, *batch.kwargs.values())[0], X)
    assert batch.size == 3
    assert batch.raw is raw
    assert torch.equal(batch.target, Y) if has_target else batch.target is None


def test_unknown_forms_name_the_batch_and_the_remedy():
    with pytest.raises(WorkloadError, match=r"train, batch 7.*float32\[3, 2\].*unpack="):
        read((X, Y, Y))


def test_targets_that_do_not_fit_the_inputs():
    with pytest.raises(WorkloadError, match=r"train, batch 7.*2 targets for 3 samples"):
        read((X, Y[:2]))


@pytest.mark.parametrize("unpacked", [X, (X, {}, Y), ((X,), Y, None), ((X,), {})])
def test_an_unpack_function_must_give_args_kwargs_target(unpacked):
    with pytest.raises(WorkloadError, match=r"train, batch 7: unpack gave"):
        read(X, lambda raw: unpacked)


def test_an_unpack_function_that_fails_is_quoted():
    with pytest.raises(WorkloadError, match=r"train, batch 7: unpack failed.*KeyError\('image'\)"):
        read({"x": X}, lambda raw: raw["image"])


def test_a_batch_without_tensors():
    with pytest.raises(WorkloadError, match=r"train, batch 7.*no tensor"):
        read((3, 4))


def test_samples_are_taken_from_every_column():
    batch = Batch(
        (X,), {"scale": torch.tensor(2.0), "text": ["a", "b", "c"]}, {"y": Y, "names": np.array(["p", "q", "r"])}
    )
    taken = batch.take([2, 0])
    assert torch.equal(taken.args[0], X[[2, 0]])
    assert taken.kwargs == {"scale": torch.tensor(2.0), "text": ["c", "a"]}
    assert taken.target["y"].tolist() == [2, 0]
    assert taken.target["names"].tolist() == ["r", "p"]


def test_rebatching_keeps_order_and_fills_batches():
    parts = [Batch((X[:n],), {}, Y[:n]) for n in (2, 1, 3, 3, 1)]
    whole = list(rebatch(parts, 4))
    assert [batch.size for batch in whole] == [4, 4, 2]
    assert torch.equal(join(whole).args[0], join(parts).args[0])
    assert torch.equal(join(whole).target, join(parts).target)


def test_samples_of_unlike_lengths_stay_apart():
    parts = [Batch((torch.zeros(2, length),), {}, Y[:2]) for length in (5, 5, 7, 5)]
    assert [batch.args[0].shape for batch in rebatch(parts, 4)] == [(4, 5), (2, 7), (2, 5)]


def test_moving_a_batch_moves_its_target_too():
    batch = read((X, Y)).to("meta")
    assert batch.args[0].device.type == batch.target.device.type == "meta"
