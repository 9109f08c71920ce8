import numpy as np
import pytest
import torch

from penjing.errors import WorkloadError
from penjing.workload import ExampleInputs

X = torch.arange(6.0).reshape(2, 3)
MASK = torch.tensor([True, False])


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [
        (X, 1, set()),
        ((X,), 1, set()),
        ([X, MASK], 2, set()),
        ((X, MASK), 2, set()),
        ({"x": X}, 0, {"x"}),
        (((X,), {"mask": MASK}), 1, {"mask"}),
        (((), {"x": X}), 0, {"x"}),
        ((X, {"mask": MASK}), 2, set()),
        ((((X, X), {"mask": MASK}), {}), 2, set()),
    ],
)
def test_every_way_to_give_inputs(given, args, kwargs):
    example = ExampleInputs.of(given)
    assert len(example.args) == args
    assert set(example.kwargs) == kwargs
    assert example.tensors[0] is X
    assert example.batch_size == 2


def test_a_tuple_and_a_dict_as_two_positional_arguments():
    example = ExampleInputs.of((((X, X), {"mask": MASK}), {}))
    assert example.args == ((X, X), {"mask": MASK})
    assert len(example.tensors) == 3


def test_example_inputs_pass_through_and_arrays_become_tensors():
    example = ExampleInputs.of({"x": np.ones((4, 2), dtype=np.float32)})
    assert ExampleInputs.of(example) is example
    assert torch.equal(example.kwargs["x"], torch.ones(4, 2))


@pytest.mark.parametrize("given", [None, 3, "x", {1: X}, (), {}, (1, 2), {"x": None}])
def test_what_is_no_input_is_refused(given):
    with pytest.raises(WorkloadError, match="tensor"):
        ExampleInputs.of(given)


def test_with_batch_repeats_and_slices_dimension_0_and_leaves_the_rest():
    scale = torch.tensor(3.0)
    example = ExampleInputs.of(((X, scale), {"mask": MASK, "flag": True}))
    longer = example.with_batch(5)
    assert torch.equal(longer.args[0], X[[0, 1, 0, 1, 0]])
    assert longer.args[1] is scale
    assert longer.kwargs["mask"].tolist() == [True, False, True, False, True]
    assert longer.kwargs["flag"] is True
    assert torch.equal(example.with_batch(1).args[0], X[:1])
    assert example.batch_size == 2


def test_an_impossible_batch_is_refused():
    with pytest.raises(WorkloadError, match="1 or more"):
        ExampleInputs.of(X).with_batch(0)
    with pytest.raises(WorkloadError, match="empty batch"):
        ExampleInputs.of(X[:0]).with_batch(2)


def test_to_moves_every_tensor_and_inputs_are_frozen():
    example = ExampleInputs.of(((X,), {"mask": MASK, "flag": True})).to("meta")
    assert [tensor.device.type for tensor in example.tensors] == ["meta", "meta"]
    with pytest.raises(AttributeError):
        example.args = ()
