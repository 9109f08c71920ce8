import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import penjing
from penjing.errors import ArtifactError, WorkloadError
from penjing.types import Split
from penjing.workload import Batch, Workload, digits, metrics, without

X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
EXAMPLE = torch.zeros(1, 5)


def batches(low, high, size=16):
    return [(X[i : min(i + size, high)], Y[i : min(i + size, high)]) for i in range(low, high, size)]


TRAIN, EVALUATION, CERTIFICATE = batches(0, 80), batches(80, 140), batches(140, 200)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2))


@pytest.fixture
def workload(model):
    return Workload(model, EXAMPLE, train=TRAIN, evaluation=EVALUATION, certificate=CERTIFICATE)


def logits(model, x):
    with torch.no_grad():
        return model.eval()(x)


# What a workload gives


def test_evaluation_equals_scoring_by_hand(model, workload):
    (samples,) = workload.evaluate(model)
    expected = (logits(model, X[80:140]).argmax(1) == Y[80:140]).double()
    assert np.array_equal(samples.values, expected.numpy())
    assert samples.value == pytest.approx(expected.mean().item())
    assert samples.values.dtype == np.float64


def test_sizes_and_fingerprints(workload):
    assert (workload.size("search"), workload.size(Split.CERTIFICATE)) == (60, 60)
    assert (workload.train_size, workload.train_steps) == (80, 5)
    assert len({workload.fingerprint("search"), workload.fingerprint("certificate")}) == 2
    assert repr(workload) == "Workload('Sequential', accuracy, samples: 80 train, 60 search, 60 certificate)"


def test_without_a_certificate_evaluation_is_split_in_two(model):
    workload = Workload(model, EXAMPLE, evaluation=batches(0, 200))
    assert workload.size("search") + workload.size("certificate") == 200
    (search,), (certificate,) = (workload.evaluate(model, split) for split in Split)
    assert (len(search), len(certificate)) == (workload.size("search"), workload.size("certificate"))
    whole = (logits(model, X).argmax(1) == Y).double().mean().item()
    assert (search.values.sum() + certificate.values.sum()) / 200 == pytest.approx(whole)


def test_split_seed_moves_the_split(model):
    first, again, other = (Workload(model, EXAMPLE, evaluation=batches(0, 200), split_seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint("search") == again.fingerprint("search") != other.fingerprint("search")


def test_several_metrics_in_one_pass(model, workload):
    calls = []

    def predict(x):
        calls.append(len(x))
        return logits(model, x)

    chosen = metrics.accuracy(), metrics.f1(), metrics.top_k(1)
    samples = workload.evaluate(predict, metrics=chosen)
    assert calls == [16, 16, 16, 12]
    assert [one.metric.name for one in samples] == ["accuracy", "macro F1", "top-1 accuracy"]
    assert samples[0].value == samples[2].value


def test_a_session_that_takes_and_gives_arrays_is_scored_alike(model, workload):
    (by_module,) = workload.evaluate(model)
    (by_session,) = workload.evaluate(lambda x: logits(model, x).numpy())
    assert np.array_equal(by_module.values, by_session.values)


def test_groups_follow_their_samples(model):
    groups = [f"patient {i // 4}" for i in range(200)]
    workload = Workload(model, EXAMPLE, evaluation=batches(0, 200), groups=groups)
    (search,), (certificate,) = (workload.evaluate(model, split) for split in Split)
    assert len(search.groups) == len(search)
    assert not set(search.groups) & set(certificate.groups)
    both = Workload(model, EXAMPLE, evaluation=EVALUATION, certificate=CERTIFICATE, groups=groups[:120])
    assert list(both.evaluate(model, "certificate")[0].groups) == groups[60:120]


def test_calibration_data_comes_from_calibration_then_train_then_search(model, workload):
    def inputs(workload):
        return torch.cat([batch.args[0] for batch in workload.calibration_batches()])

    assert torch.equal(inputs(workload), X[:80])
    own = Workload(model, EXAMPLE, train=TRAIN, calibration=[X[:7]], evaluation=EVALUATION)
    assert torch.equal(inputs(own), X[:7])
    search_only = Workload(model, EXAMPLE, evaluation=batches(0, 200))
    assert len(inputs(search_only)) == search_only.size("search")
    with pytest.raises(WorkloadError, match="no data to calibrate on"):
        Workload(model, EXAMPLE, certificate=CERTIFICATE).calibration_batches()


def test_what_a_workload_brings(model, workload):
    needs = ("train", "calibration", "search", "certificate")
    bare, judged = Workload(model, EXAMPLE), Workload(model, EXAMPLE, certificate=CERTIFICATE)
    assert [need for need in needs if workload.brings(need)] == list(needs)
    assert [need for need in needs if judged.brings(need)] == ["certificate"]
    assert not any(bare.brings(need) for need in needs)


def test_training_batches_are_read_anew_each_time_and_keep_the_raw_batch(workload):
    for _ in range(2):
        read = list(workload.train_batches())
        assert all(isinstance(batch, Batch) for batch in read)
        assert torch.equal(torch.cat([batch.args[0] for batch in read]), X[:80])
        assert all(batch.raw is raw for batch, raw in zip(read, TRAIN, strict=True))


def test_a_shuffling_training_loader_is_welcome(model):
    loader = DataLoader(TensorDataset(X[:80], Y[:80]), batch_size=16, shuffle=True)
    workload = Workload(model, EXAMPLE, train=loader, evaluation=EVALUATION)
    first, second = (torch.cat([batch.args[0] for batch in workload.train_batches()]) for _ in range(2))
    assert not torch.equal(first, second)


def test_model_fingerprint_follows_the_weights(model, workload):
    before = workload.model_fingerprint()
    assert before == workload.model_fingerprint()
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    assert workload.model_fingerprint() != before


def test_outputs_are_selected_and_batches_unpacked(model):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, scale=1.0):
            return {"logits": self.inner(x) * scale, "hidden": x}

    data = [{"x": x, "labels": y} for x, y in EVALUATION]
    expected = Workload(model, EXAMPLE, evaluation=EVALUATION).evaluate(model)[0].values
    found = Workload(Wrapped(), {"x": EXAMPLE}, evaluation=data)
    assert np.array_equal(found.evaluate(found.model)[0].values, expected)
    flipped = Workload(
        Wrapped(),
        {"x": EXAMPLE},
        evaluation=EVALUATION,
        unpack=lambda batch: ((), {"x": batch[0]}, 1 - batch[1]),
        select=lambda outputs: -outputs["logits"],
    )
    assert np.array_equal(flipped.evaluate(flipped.model)[0].values, expected)


def test_a_regression_workload(model):
    data = [(x, x.sum(1, keepdim=True)) for x, _ in batches(0, 200)]
    workload = Workload(nn.Linear(5, 1), EXAMPLE, evaluation=data, metric=metrics.r2())
    exact = workload.evaluate(lambda x: x.sum(1, keepdim=True))
    assert exact[0].value == 1.0


# What a workload leaves as it was


def test_modes_gradients_and_randomness_are_as_before(model):
    model[1].eval()
    model[0].weight.requires_grad_(False)
    modes = [part.training for part in model.modules()]
    state, buffers = torch.get_rng_state(), {name: b.clone() for name, b in model.named_buffers()}
    loader = DataLoader(TensorDataset(X[80:140], Y[80:140]), batch_size=16)
    workload = Workload(model, EXAMPLE, train=TRAIN, evaluation=loader)
    workload.evaluate(model)
    workload.evaluate(lambda x: torch.rand(len(x), 2))
    assert [part.training for part in model.modules()] == modes
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert torch.is_grad_enabled()


def test_modes_are_as_before_when_the_model_fails(model, workload):
    with pytest.raises(WorkloadError):
        workload.evaluate(nn.Sequential(model, nn.Linear(3, 2)))
    assert model.training


def test_a_model_is_run_on_the_device_asked_for_and_left_where_it_was(model):
    seen = []

    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 5))

        def forward(self, x):
            seen.append((self.weight.device.type, x.device.type))
            return torch.zeros(len(x), 2)

    placed = Placed()
    workload = Workload(placed, EXAMPLE, evaluation=EVALUATION, device="meta")
    assert set(seen) == {("meta", "meta")}
    assert placed.weight.device.type == "cpu"
    assert workload.device.type == "meta"


# What a workload refuses


class Poisoned(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full((len(x), 2), self.value)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "2 are NaN and 0 infinite"), (np.inf, "0 are NaN and 2 inf")])
def test_a_model_that_gives_no_numbers(value, message):
    with pytest.raises(WorkloadError, match=f"Poisoned: example inputs: of 2 output values {message}"):
        Workload(Poisoned(value), EXAMPLE)


def test_nan_during_evaluation_names_the_batch(workload):
    fills = iter([0.0, 0.0, np.nan])
    with pytest.raises(WorkloadError, match=r"Sequential: evaluation, batch 2: of 32 output values 32 are NaN"):
        workload.evaluate(lambda x: torch.full((len(x), 2), next(fills)))


def test_example_inputs_of_the_wrong_rank(model):
    with pytest.raises(WorkloadError, match=r"the model failed on inputs .*float32\[1, 3\].*mat1 and mat2"):
        Workload(model, torch.zeros(1, 3))
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(WorkloadError, match=r"float32\[1, 2, 5\].*RuntimeError"):
        Workload(conv, torch.zeros(1, 2, 5))


def test_example_inputs_without_a_batch_dimension_that_the_model_happens_to_take():
    conv = nn.Conv2d(1, 2, 3)
    with pytest.raises(WorkloadError, match=r"float32\[1, 8, 8\].*float32\[4, 1, 8, 8\].*differ.*batch dimension"):
        Workload(conv, torch.zeros(1, 8, 8), train=[torch.zeros(4, 1, 8, 8)])


def test_example_inputs_and_batches_that_name_inputs_differently():
    class Named(nn.Module):
        def forward(self, x, mask=None):
            return x[:, :2]

    with pytest.raises(WorkloadError, match=r"first batch of evaluation.*differ in keywords"):
        Workload(Named(), {"x": EXAMPLE, "mask": EXAMPLE}, evaluation=[{"x": x, "labels": y} for x, y in EVALUATION])


@pytest.mark.parametrize("path", ["model.onnx", Path("model.onnx")])
def test_an_onnx_file_that_is_missing_is_named(path):
    with pytest.raises(ArtifactError, match=r"model.onnx is no file; give the path of an .onnx file"):
        Workload(path, EXAMPLE)


@pytest.mark.parametrize("model", ["model.pt", None, lambda x: x])
def test_what_is_no_model(model):
    with pytest.raises(WorkloadError, match=r"no torch.nn.Module"):
        Workload(model, EXAMPLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "metric='accuracy' is no Metric"),
        ({"loss": 3}, "loss=3 is not a function"),
        ({"select": "logits"}, "select='logits' is not a function"),
        ({"device": "warp drive"}, "device='warp drive' is unknown"),
        ({"evaluation": []}, "evaluation gave no batch"),
        ({"train": []}, "train gave no batch"),
        ({"evaluation": [(X[:1], Y[:1])]}, "too small to split"),
        ({"evaluation": EVALUATION, "groups": [1, 2]}, r"groups has shape \[2\], but there are 60 samples"),
        ({"evaluation": iter(EVALUATION)}, "read only once"),
        ({"evaluation": [(X, Y + 1)]}, r"evaluation, batch 0: metric accuracy: .*outputs have 2 classes"),
        ({"evaluation": [X]}, "evaluation, batch 0: metric accuracy: .*no target"),
        ({"evaluation": [(X, Y[:7])]}, "evaluation, batch 0: .*7 targets for 200 samples"),
        ({"evaluation": [(X, Y, Y)]}, "evaluation, batch 0: .*unknown form"),
        ({"evaluation": [(X, Y)], "select": lambda y: y.logits}, "evaluation, batch 0: select failed"),
        ({"train": [(X, Y)], "evaluation": EVALUATION}, "60 of the 200 samples of train are also in evaluation"),
        ({"train": [(X, Y)], "certificate": EVALUATION}, "60 of the 200 samples of train are also in certificate"),
        ({"evaluation": [(X, Y)], "certificate": EVALUATION}, "60 of the 60 samples of certificate are also in eval"),
        ({"calibration": EVALUATION, "evaluation": EVALUATION}, "of the 60 samples of calibration are also in eval"),
    ],
)
def test_what_does_not_fit_together(model, options, message):
    with pytest.raises(WorkloadError, match=message):
        Workload(model, EXAMPLE, **options)


# The loss is tried before anything depends on it


def cross_entropy(outputs, target):
    return nn.functional.cross_entropy(outputs, target)


def of_logits(outputs, target):
    return cross_entropy(outputs["logits"], target)


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, x):
        return {"logits": self.linear(x), "hidden": x}


@pytest.mark.parametrize("where", ["train", "evaluation"])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda o, t: o[9999],
            r"batch 0: loss .*<lambda> failed on select\(outputs\) = float32\[16, 2\] and target = int64\[16\]: "
            r"IndexError: .*it is called as loss\(select\(outputs\), target\).*training_step=",
        ),
        (lambda o, t: o.sum(1), r"loss .* gave float32\[16\] on .*it must give a scalar tensor"),
        (lambda o, t: 1.0, r"loss .* gave 1.0 on .*it must give a scalar tensor"),
        (lambda o, t: o.sum() * float("nan"), r"loss .*<lambda> is nan on select\(outputs\) = float32\[16, 2\]"),
        (nn.BCELoss(), "loss BCELoss failed on"),
    ],
)
def test_a_loss_that_cannot_be_taken(model, where, loss, message):
    with pytest.raises(WorkloadError, match=f"Sequential: {where}, {message}" if "batch 0" in message else message):
        Workload(model, EXAMPLE, **{where: TRAIN}, loss=loss)


def test_the_loss_gets_what_select_gives():
    Workload(Dictionary(), EXAMPLE, train=TRAIN, loss=cross_entropy)
    Workload(Dictionary(), EXAMPLE, train=TRAIN, loss=of_logits, select=lambda outputs: outputs)
    with pytest.raises(
        WorkloadError, match=r"loss of_logits failed .*the model gave \{'logits': float32\[16, 2\], 'hid"
    ):
        Workload(Dictionary(), EXAMPLE, train=TRAIN, loss=of_logits)


def test_trying_the_loss_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[1].eval()
    modes = []

    def loss(outputs, target):
        modes.append(model.training)
        return cross_entropy(outputs, target)

    Workload(model, EXAMPLE, train=TRAIN, evaluation=EVALUATION, loss=loss)
    Workload(model, EXAMPLE, evaluation=EVALUATION, loss=loss)
    assert modes == [True, False]
    assert [part.training for part in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shared_samples_can_be_left_out(model):
    workload = Workload(model, EXAMPLE, train=without([(X, Y)], EVALUATION), evaluation=EVALUATION)
    assert workload.train_size == 140


@pytest.mark.parametrize("which", ["evaluation", "certificate"])
def test_a_shuffling_or_augmenting_source_of_scores(model, which):
    loader = DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)
    with pytest.raises(WorkloadError, match=f"{which} shuffles"):
        Workload(model, EXAMPLE, **{which: loader})
    with pytest.raises(WorkloadError, match=f"{which} augments"):
        Workload(model, EXAMPLE, **{which: lambda: iter([(X + torch.rand(1), Y)])})


def test_a_metric_outside_its_range(model):
    metric = metrics.mean_of(lambda outputs, target: outputs[:, 0] * 0 + 7, "mine", low=0, high=1)
    with pytest.raises(
        WorkloadError, match=r"evaluation, batch 0: metric mine, sample 0, is 7, outside its range \[0, 1\]"
    ):
        Workload(model, EXAMPLE, evaluation=EVALUATION, metric=metric)


def test_a_metric_that_fails_is_quoted(model):
    metric = metrics.mean_of(lambda outputs, target: outputs[:, 9], "mine")
    with pytest.raises(
        WorkloadError, match=r"batch 0: metric mine failed on float32\[16, 2\], int64\[16\]: IndexError"
    ):
        Workload(model, EXAMPLE, evaluation=EVALUATION, metric=metric)


def test_rows_of_unlike_shapes(model):
    metric = metrics.corpus(lambda outputs, target: 0.0, "mine")
    data = [(torch.zeros(4, n, 5), torch.zeros(4)) for n in (2, 3)]
    workload = Workload(nn.Linear(5, 2), torch.zeros(1, 1, 5), certificate=data, metric=metric)
    with pytest.raises(WorkloadError, match=r"metric mine gave rows of unlike shapes.*pad"):
        workload.evaluate(workload.model, "certificate")


def test_asking_for_what_is_not_there(model):
    workload = Workload(model, EXAMPLE)
    with pytest.raises(WorkloadError, match=r"Sequential has no search data; give Workload\(..., evaluation="):
        workload.evaluate(model)
    with pytest.raises(WorkloadError, match="no training data"):
        workload.train_batches()
    with pytest.raises(WorkloadError, match="split='validation' is unknown; use one of 'search', 'certificate'"):
        workload.size("validation")


def test_outputs_with_several_tensors(model):
    class Two(nn.Module):
        def forward(self, x):
            return x, x[:, :2]

    with pytest.raises(WorkloadError, match=r"batch 0: select: .*2 tensors and none called 'logits'; give select="):
        Workload(Two(), EXAMPLE, evaluation=EVALUATION)


# Rules of the house


def test_only_the_verdict_room_evaluates_on_the_certificate():
    root = Path(penjing.__file__).parent
    rooms = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "evaluate":
                splits = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "split")]
                if any(ast.unparse(split) != "Split.SEARCH" for split in splits):
                    rooms.add(path.relative_to(root).parts[0])
    assert rooms <= {"verdict"}


def test_the_packaged_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    images, labels = digits()
    assert images.dtype is torch.float32
    assert labels.dtype is torch.int64
    assert np.array_equal(images[:, 0].numpy() * 16, original.images)
    assert np.array_equal(labels.numpy(), original.target)
