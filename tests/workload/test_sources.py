import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from penjing.errors import WorkloadError
from penjing.workload import dataset, unpack_default, without
from penjing.workload.identity import Identity, check_disjoint, sample_digests, stable_identity
from penjing.workload.sources import Source

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4
PAIRS = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]


def source(value, name="evaluation"):
    return Source.of(value, name, unpack_default)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Rows:
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return X[i], Y[i]


class Reiterable:
    def __iter__(self):
        return iter(PAIRS)


def generate():
    yield from PAIRS


@pytest.mark.parametrize(
    "value",
    [
        PAIRS,
        tuple(PAIRS),
        DataLoader(TensorDataset(X, Y), batch_size=8),
        TensorDataset(X, Y),
        Stream(),
        generate,
        lambda: iter(PAIRS),
        Reiterable(),
        dataset(Rows(), batch_size=7),
        dataset(list(zip(X, Y, strict=True)), collate=lambda rows: tuple(map(torch.stack, zip(*rows, strict=True)))),
    ],
    ids=["list", "tuple", "loader", "dataset", "stream", "generator function", "lambda", "iterable", "rows", "collate"],
)
def test_every_kind_of_source_gives_all_samples_twice(value):
    opened = source(value)
    for _ in range(2):
        assert torch.equal(torch.cat([batch.args[0] for batch in opened.batches()]), X)
        assert torch.equal(torch.cat([batch.target for batch in opened.batches()]), Y)
    assert len(stable_identity(opened)) == 20


def test_a_dataset_is_shuffled_only_for_training():
    torch.manual_seed(0)
    shuffled = Source.of(TensorDataset(X, Y), "train", unpack_default, shuffle=True)
    rows = torch.cat([batch.args[0] for batch in shuffled.batches()])
    assert not torch.equal(rows, X)
    assert torch.equal(rows.sort(0).values, X.sort(0).values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (generate(), "read only once; give a function"),
        (iter(PAIRS), "read only once; give a function"),
        ({"x": X}, r"one batch; give a list of batches, \[batch\]"),
        (X, r"one batch; give a list"),
        ((X, Y), r"give \[\(inputs, targets\)\]"),
        (Rows(), r"holds samples, not batches; give penjing.dataset"),
        ("data", "give a DataLoader"),
        (3, "give a DataLoader"),
    ],
    ids=["generator", "iterator", "dict", "tensor", "pair", "rows", "text", "number"],
)
def test_what_is_no_source_says_what_to_give(value, message):
    with pytest.raises(WorkloadError, match=f"^evaluation is .*{message}"):
        source(value)


@pytest.mark.parametrize(
    "empty", [[], (), lambda: iter(()), DataLoader(TensorDataset(X), batch_size=64, drop_last=True)]
)
def test_an_empty_source(empty):
    with pytest.raises(WorkloadError, match="evaluation gave no batch"):
        list(source(empty).batches())


def test_an_empty_dataset_and_an_impossible_batch_size():
    with pytest.raises(WorkloadError, match="no samples"):
        dataset([])
    with pytest.raises(WorkloadError, match="batch_size=0"):
        dataset(Rows(), batch_size=0)


def test_a_function_that_gives_no_iterator():
    with pytest.raises(WorkloadError, match="must return an iterator of batches"):
        list(source(lambda: None).batches())


def test_a_function_that_gives_the_same_used_up_generator():
    used_up = generate()
    with pytest.raises(WorkloadError, match=r"gave no batch.*used up"):
        stable_identity(source(lambda: used_up))


def test_a_shuffling_source():
    torch.manual_seed(0)
    with pytest.raises(WorkloadError, match=r"evaluation shuffles.*shuffle=False"):
        stable_identity(source(DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)))


def test_an_augmenting_source_says_how_many_samples_changed():
    def noisy():
        yield X[:8], Y[:8]
        yield X[8:] + torch.rand(12, 3), Y[8:]

    with pytest.raises(WorkloadError, match=r"evaluation augments: read twice, 12 of its 20 samples changed"):
        stable_identity(source(noisy))


def test_random_targets():
    with pytest.raises(WorkloadError, match="other targets each time"):
        stable_identity(source(lambda: iter([(X, torch.rand(20))])))


def test_a_source_of_changing_length():
    lengths = iter([20, 12])
    with pytest.raises(WorkloadError, match="gave 20 samples when read first and 12 when read again"):
        stable_identity(source(lambda: iter([X[: next(lengths)]])))


def test_the_identity_of_a_sample_is_its_content():
    by_eight, whole = Identity.of(source(PAIRS)), Identity.of(source([(X, Y)]))
    assert by_eight.inputs == whole.inputs
    assert by_eight.targets == whole.targets
    assert (by_eight.batch_size, whole.batch_size) == (8, 20)
    assert len(set(whole.inputs)) == 20
    assert whole.inputs == Identity.of(source([(X.T.contiguous().T, 1 - Y)])).inputs
    assert whole.inputs == Identity.of(source([{"x": X, "labels": Y}])).inputs


@pytest.mark.parametrize(
    "changed",
    [X.double(), X.reshape(20, 1, 3), X.nextafter(torch.tensor(9.0)), (X, X)],
    ids=["dtype", "shape", "last bit", "two inputs"],
)
def test_any_other_content_is_another_sample(changed):
    same, other = source([(X, Y)]).first(), source([(changed, Y)]).first()
    assert not set(sample_digests(same)) & set(sample_digests(other))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_every_dtype_is_hashed(dtype):
    batch = source([torch.tensor([[0, 1], [1, 0], [0, 1]]).to(dtype)]).first()
    first, second, third = sample_digests(batch)
    assert first == third != second


def test_padding_does_not_change_a_sample():
    def text(length):
        ids, mask = torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length, dtype=torch.long)
        ids[:, :3], mask[:, :3] = torch.tensor([[5, 6, 7], [5, 6, 8]]), 1
        return sample_digests(source([{"input_ids": ids, "attention_mask": mask}]).first())

    assert text(3) == text(9)
    assert len(set(text(5))) == 2


def test_texts_and_whole_batch_values_are_hashed():
    def digests(texts, scale):
        return sample_digests(source([{"x": X[:2], "text": texts, "scale": torch.tensor(scale)}]).first())

    assert digests(["a", "b"], 1.0) == digests(["a", "b"], 1.0)
    assert digests(["a", "b"], 1.0)[0] == digests(["a", "c"], 1.0)[0]
    assert digests(["a", "b"], 1.0)[1] != digests(["a", "c"], 1.0)[1]
    assert digests(["a", "b"], 1.0) != digests(["a", "b"], 2.0)


def test_neighbouring_columns_do_not_run_into_each_other():
    first, second = (source([{"x": X[:1], "a": [a], "b": [b]}]).first() for a, b in ((1, 12), (11, 2)))
    assert sample_digests(first) != sample_digests(second)


def test_shared_samples_are_counted_and_the_first_is_named():
    held_out = {"evaluation": Identity.of(source([(X[10:13], Y[10:13])])).inputs}
    message = (
        r"3 of the 20 samples of train are also in evaluation \(the first is sample 2 of batch 1\).*penjing.without"
    )
    with pytest.raises(WorkloadError, match=message):
        check_disjoint(source(PAIRS, "train"), held_out)
    assert check_disjoint(source(PAIRS[:1], "train"), held_out) == (8, 1)


def test_without_leaves_out_what_is_shared():
    rest = without(PAIRS, [(X[10:13], Y[10:13])], [X[:8]])
    kept = torch.cat([X[8:10], X[13:]])
    for _ in range(2):
        batches = list(rest())
        assert torch.equal(torch.cat([batch.args[0] for batch in batches]), kept)
        assert all(torch.equal(batch.raw[1], batch.target) for batch in batches)
    assert check_disjoint(source(rest, "train"), {"evaluation": Identity.of(source([X[10:13]])).inputs}) == (9, 2)
