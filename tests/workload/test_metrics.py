import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from penjing.errors import WorkloadError
from penjing.types import Direction
from penjing.workload import MetricKind, metrics
from penjing.workload.metric import Samples, check_scores, check_value


def value(metric, outputs, target, batches=3):
    """Score in several batches of unequal size, check every one, and aggregate all rows."""
    rows = []
    for part in torch.arange(len(target)).tensor_split(batches):
        chosen = outputs[part]
        labels = target[part] if isinstance(target, torch.Tensor) else [target[i] for i in part.tolist()]
        rows.append(check_scores(metric, metric.score(chosen, labels), len(part), "test"))
    samples = Samples(metric, np.concatenate(rows))
    check_value(samples, "test")
    assert len(samples) == len(target)
    return samples.value


@pytest.fixture
def classified():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(101, 7, generator=generator)
    return logits, torch.randint(0, 7, (101,), generator=generator)


@pytest.fixture
def regressed():
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(97, 3, generator=generator) + 4
    return target + 0.3 * torch.randn(97, 3, generator=generator), target


def test_accuracy(classified):
    logits, target = classified
    assert value(metrics.accuracy(), logits, target) == pytest.approx(oracle.accuracy_score(target, logits.argmax(1)))


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_accuracy_of_one_logit_and_of_one_probability(shape):
    logits = torch.linspace(-3, 3, 50).reshape(shape)
    target = (torch.arange(50) % 3 == 0).long()
    expected = oracle.accuracy_score(target, logits.flatten() > 0)
    assert value(metrics.accuracy(), logits, target) == pytest.approx(expected)
    assert value(metrics.accuracy(threshold=0.5), logits.sigmoid(), target.float()) == pytest.approx(expected)
    assert value(metrics.accuracy(), logits, target.unsqueeze(1)) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k(classified, k):
    logits, target = classified
    expected = oracle.top_k_accuracy_score(target, logits, k=k, labels=range(7))
    assert value(metrics.top_k(k), logits, target) == pytest.approx(expected)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1_of_many_classes(classified, average):
    logits, target = classified
    metric = metrics.f1(average)
    assert value(metric, logits, target) == pytest.approx(oracle.f1_score(target, logits.argmax(1), average=average))


def test_f1_of_two_classes_and_of_classes_that_never_occur(classified):
    logits, target = classified
    two = (target > 3).long()
    expected = oracle.f1_score(two, logits[:, 0] > 0)
    assert value(metrics.f1("binary"), logits[:, 0], two) == pytest.approx(expected)
    gap = torch.where(target == 1, 2, target)  # no sample is of class 1, or predicted to be
    logits[:, 1] = -9
    expected = oracle.f1_score(gap, logits.argmax(1), average="macro")
    assert value(metrics.f1(), logits, gap) == pytest.approx(expected)


def test_f1_aggregates_any_selection_of_rows(classified):
    logits, target = classified
    metric = metrics.f1()
    index = np.random.default_rng(0).integers(0, 101, 101)
    expected = oracle.f1_score(target[index], logits[index].argmax(1), average="macro")
    assert metric.aggregate(metric.score(logits, target)[index]) == pytest.approx(expected)


def test_errors(regressed):
    outputs, target = regressed
    expected = oracle.mean_absolute_error(target, outputs), oracle.mean_squared_error(target, outputs)
    assert value(metrics.mean_absolute_error(), outputs, target) == pytest.approx(expected[0])
    assert value(metrics.mean_squared_error(), outputs, target) == pytest.approx(expected[1])


def test_r2(regressed):
    outputs, target = regressed
    assert value(metrics.r2(), outputs, target) == pytest.approx(oracle.r2_score(target, outputs))
    single = outputs[:, 0], target[:, :1]
    assert value(metrics.r2(), *single) == pytest.approx(oracle.r2_score(*reversed(single)))


def test_r2_of_constant_targets(regressed):
    target = torch.full((10,), 2.0)
    for outputs in (target, target + 1):
        assert value(metrics.r2(), outputs, target) == oracle.r2_score(target, outputs)


@pytest.mark.parametrize("shift", [False, True])
def test_perplexity_skips_padding(shift):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(12, 9, 20, generator=generator)
    target = torch.randint(0, 20, (12, 9), generator=generator)
    target[3, 4:] = -100
    scored = (logits[:, :-1], target[:, 1:]) if shift else (logits, target)
    expected = cross_entropy(scored[0].flatten(0, 1), scored[1].flatten()).exp().item()
    assert value(metrics.perplexity(shift=shift), logits, target) == pytest.approx(expected, rel=1e-6)


def test_perplexity_of_nothing_but_padding_is_an_error():
    with pytest.raises(WorkloadError, match="perplexity is nan"):
        value(metrics.perplexity(), torch.zeros(3, 4, 5), torch.full((3, 4), -100))


def test_mean_of_a_function(regressed):
    outputs, target = regressed
    metric = metrics.mean_of(lambda y, t: cosine_similarity(y, t), "cosine", low=-1, high=1)
    assert metric.kind is MetricKind.BOUNDED
    assert metric.has_known_range
    assert value(metric, outputs, target) == pytest.approx(cosine_similarity(outputs, target).double().mean().item())


def test_corpus_function_sees_all_rows(regressed):
    outputs, target = regressed
    metric = metrics.corpus(lambda y, t: float(np.corrcoef(y[:, 0], t[:, 0])[0, 1]), "correlation", low=-1, high=1)
    assert value(metric, outputs, target) == pytest.approx(np.corrcoef(outputs[:, 0], target[:, 0])[0, 1])
    rows = metric.score(outputs, target)
    expected = np.corrcoef(outputs[:9, 0], target[:9, 0])[0, 1]
    assert metric.aggregate(rows[:9]) == pytest.approx(expected)


def test_corpus_targets_may_be_texts_of_any_length():
    metric = metrics.corpus(lambda y, t: float(np.mean([len(text) for text in t])), "length", low=0)
    assert value(metric, torch.zeros(4, 2), ["a", "bcd", "efghij", "kl"], batches=2) == 3.0
    references = [["a", "b"], ["c"], ["d"], ["e", "f", "g"]]
    assert value(metric, torch.zeros(4, 2), references, batches=2) == pytest.approx(7 / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_and_double_precision_outputs(classified, dtype):
    logits, target = classified
    expected = oracle.accuracy_score(target, logits.to(dtype).float().argmax(1))
    assert value(metrics.accuracy(), logits.to(dtype), target) == pytest.approx(expected)
    assert value(metrics.mean_squared_error(), torch.ones(4, 2, dtype=dtype), torch.zeros(4, 2)) == 1.0


def test_numpy_outputs_are_scored_too(classified):
    logits, target = classified
    scores = metrics.accuracy().score(logits.numpy(), target)
    assert np.array_equal(scores, metrics.accuracy().score(logits, target))


@pytest.mark.parametrize(
    ("metric", "direction", "kind", "low", "high"),
    [
        (metrics.accuracy(), "higher", "binary", 0, 1),
        (metrics.top_k(3), "higher", "binary", 0, 1),
        (metrics.mean_absolute_error(), "lower", "unbounded", 0, np.inf),
        (metrics.mean_squared_error(), "lower", "unbounded", 0, np.inf),
        (metrics.r2(), "higher", "corpus", -np.inf, 1),
        (metrics.f1(), "higher", "corpus", 0, 1),
        (metrics.perplexity(), "lower", "corpus", 1, np.inf),
    ],
)
def test_what_each_metric_declares(metric, direction, kind, low, high):
    assert (metric.direction, metric.kind, metric.low, metric.high) == (
        Direction(direction),
        MetricKind(kind),
        low,
        high,
    )


def test_a_metric_is_equal_to_another_of_its_name_and_range():
    assert metrics.accuracy() == metrics.accuracy()
    assert metrics.top_k(1) != metrics.top_k(2)


@pytest.mark.parametrize(
    ("metric", "outputs", "target", "message"),
    [
        (metrics.accuracy(), torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "outputs have 3 classes"),
        (metrics.accuracy(), torch.zeros(4, 3), torch.tensor([0.5, 1, 2, 1]), "class numbers 0 to 2"),
        (metrics.accuracy(), torch.zeros(4, 3), torch.zeros(4, 3), "do not fit"),
        (metrics.accuracy(), torch.zeros(4, 3), torch.zeros(3, dtype=torch.long), "do not fit"),
        (metrics.accuracy(), torch.zeros(4, 3), None, "no target"),
        (metrics.accuracy(), torch.zeros(4, 3), ["a", "b", "c", "d"], "must be tensors"),
        (metrics.top_k(5), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), "at least 5 classes"),
        (metrics.mean_squared_error(), torch.zeros(4, 3), torch.zeros(4, 2), "do not fit"),
        (metrics.r2(), torch.zeros(4, 3), torch.zeros(4), "do not fit"),
        (metrics.perplexity(), torch.zeros(4, 3, 5), torch.zeros(4, 2, dtype=torch.long), "do not fit"),
        (metrics.perplexity(), torch.zeros(4, 3, 5), torch.full((4, 3), 5), "outputs have 5 classes"),
        (metrics.f1("binary"), torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), "more than two classes"),
        (metrics.corpus(lambda y, t: 0.0, "x"), torch.zeros(4, 3), None, "no target"),
        (metrics.corpus(lambda y, t: 0.0, "x"), torch.zeros(4, 3), ["a"], "4 outputs for 1 targets"),
    ],
)
def test_targets_that_do_not_fit(metric, outputs, target, message):
    with pytest.raises(WorkloadError, match=f"metric {metric.name}.*{message}"):
        metric.score(outputs, target)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.5, 2.0, 0.1], r"sample 1, is 2, outside its range \[0, 1\]"),
        ([0.5, -0.1, 0.1], r"sample 1, is -0.1, outside"),
        ([0.5, float("nan"), 0.1], "is NaN for sample 1"),
        ([0.5, 0.1], r"scores of shape \[2\] for 3 samples"),
        (0.5, r"scores of shape \[\] for 3 samples"),
        ([[0.5], [0.1], [0.2]], r"one number a sample"),
    ],
)
def test_scores_outside_their_range(scores, message):
    metric = metrics.mean_of(lambda outputs, target: torch.tensor(scores), "mine", low=0, high=1)
    with pytest.raises(WorkloadError, match=f"train, batch 4: metric mine.*{message}"):
        check_scores(metric, metric.score(None, None), 3, "train, batch 4")


def test_infinite_scores_and_half_right_answers_are_refused():
    unbounded = metrics.mean_of(lambda outputs, target: outputs, "mine")
    with pytest.raises(WorkloadError, match="is inf, outside"):
        check_scores(unbounded, np.array([1.0, np.inf]), 2, "x")
    with pytest.raises(WorkloadError, match=r"is 0.5, outside its range \{0, 1\}"):
        check_scores(metrics.accuracy(), np.array([1.0, 0.5]), 2, "x")


def test_a_corpus_value_outside_its_range():
    metric = metrics.corpus(lambda y, t: 100.0, "BLEU", low=0, high=1)
    with pytest.raises(WorkloadError, match=r"metric BLEU is 100, outside its range \[0, 1\]"):
        value(metric, torch.zeros(4, 1), torch.zeros(4))


def test_wrong_arguments_of_metrics():
    with pytest.raises(WorkloadError, match="must be at least 1"):
        metrics.top_k(0)
    with pytest.raises(WorkloadError, match=r"average='weighted' is unknown; use one of 'macro'"):
        metrics.f1("weighted")
    with pytest.raises(WorkloadError, match="direction='up' is unknown"):
        metrics.mean_of(lambda y, t: y, "mine", "up")
    with pytest.raises(WorkloadError, match=r"low=1 must be below high=0"):
        metrics.mean_of(lambda y, t: y, "mine", low=1, high=0)


def test_the_module_shows_metrics_alone():
    assert {"accuracy", "f1", "Average"} <= set(dir(metrics))
    assert not {"np", "torch", "Any", "Tensor"} & set(dir(metrics))
