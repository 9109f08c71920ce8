"""The workload: a model, the data that shows what it is for, and the metric that says how well it does it."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from penjing.errors import WorkloadError
from penjing.storage import fingerprint, fingerprint_tensors
from penjing.types import Split, choose
from penjing.workload import tree
from penjing.workload.batch import Batch, Unpack, unpack_default
from penjing.workload.evaluation import evaluate, ready, score, try_loss
from penjing.workload.identity import check_disjoint, stable_identity
from penjing.workload.inputs import ExampleInputs
from penjing.workload.metric import Metric, Samples
from penjing.workload.metrics import accuracy
from penjing.workload.model import read_model
from penjing.workload.modes import device_of, preserved_randomness
from penjing.workload.outputs import check_finite, select_default
from penjing.workload.sources import Source
from penjing.workload.splits import Part, split_in_two

ACCURACY = accuracy()


class Workload:
    """A model with its example inputs, data and metric, checked as a whole when it is made.

    The model is a module, or the path of an .onnx file, which becomes one (`penjing.import_onnx`).

    train, calibration, evaluation and certificate are sources of batches: a DataLoader, a list or another re-iterable,
    a Dataset, or a function that returns an iterator. Evaluation and certificate are read twice, the others once,
    before anything else happens. Without a certificate the evaluation data is split in two, once, by `split_seed` and
    the content of the samples.

    unpack(batch) -> (args, kwargs, target). select(outputs) -> what metric and loss get of the model's outputs; by
    default the only tensor, or the one called "logits". loss(select(outputs), target) -> scalar to be minimised, tried
    once on the first training batch (else evaluation batch). training_step(model, batch) -> loss, in place of `loss`
    for what that cannot say; the batch is as the source gave it. groups: a cluster id for each evaluation sample,
    followed by those of the certificate if there is one. Modules run on `device` if one is given, else where they are.

    Raises WorkloadError for whatever does not fit together.

    >>> model = nn.Linear(4, 3)
    >>> data = [(torch.randn(16, 4), torch.arange(16) % 3) for _ in range(4)]
    >>> workload = Workload(model, torch.zeros(1, 4), evaluation=data)
    >>> workload.size("search") + workload.size("certificate")
    64
    >>> (samples,) = workload.evaluate(model)
    >>> samples.metric.name, len(samples) == workload.size("search")
    ('accuracy', True)
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        example_inputs: Any,
        train: Any = None,
        calibration: Any = None,
        evaluation: Any = None,
        certificate: Any = None,
        metric: Metric = ACCURACY,
        loss: Callable[[Any, Any], Any] | None = None,
        unpack: Unpack | None = None,
        select: Callable[[Any], Any] | None = None,
        training_step: Callable[[nn.Module, Any], Any] | None = None,
        groups: Sequence[Any] | None = None,
        dynamic_shapes: Any = None,
        device: torch.device | str | None = None,
        name: str | None = None,
        split_seed: int = 0,
    ) -> None:
        self.model = model = read_model(model)
        self.name = name or type(model).__name__
        self.example = ExampleInputs.of(example_inputs)
        self.metric = _checked_metric(metric)
        self.loss = loss
        self.unpack = unpack or unpack_default
        self.select = select or select_default
        self.training_step = training_step
        self.dynamic_shapes = dynamic_shapes
        self.split_seed = split_seed
        for what in ("loss", "unpack", "select", "training_step"):
            if getattr(self, what) is not None and not callable(getattr(self, what)):
                raise WorkloadError(f"{self.name}: {what}={getattr(self, what)!r} is not a function")
        self._forced_device = _checked_device(device)
        self.device = self._forced_device or device_of(model)
        self._check_example()
        with preserved_randomness():
            self._train = self._source(train, "train", shuffle=True, learnt=True)
            self._calibration = self._source(calibration, "calibration")
            self._parts = self._read(
                self._source(evaluation, "evaluation", scored=True, learnt=train is None),
                self._source(certificate, "certificate", scored=True),
                groups,
            )
            self.train_size, self.train_steps = self._check_leaks()

    def __repr__(self) -> str:
        sizes = {"train": self.train_size, **{str(split): len(part) for split, part in self._parts.items()}}
        shown = ", ".join(f"{size} {what}" for what, size in sizes.items())
        return f"Workload({self.name!r}, {self.metric.name}, samples: {shown})"

    def with_model(self, model: nn.Module) -> "Workload":
        """The same data and metric for another model that is called like this one, such as what `apply` made of it."""
        other = copy.copy(self)
        other.model = read_model(model)
        return other

    def with_batch(self, batch: int) -> "Workload":
        """The same workload with an example of another batch size: what it is measured at."""
        other = copy.copy(self)
        other.example = self.example.with_batch(batch)
        return other

    def brings(self, need: str) -> bool:
        """Whether there is data for a need: "train", "calibration", "search" or "certificate"."""
        train, search = self._train is not None, Split.SEARCH in self._parts
        brought = {
            "train": train,
            "calibration": train or search or self._calibration is not None,
            "search": search,
            "certificate": Split.CERTIFICATE in self._parts,
        }
        return brought[need]

    def train_batches(self) -> Iterator[Batch]:
        """Read the training data once. Raises WorkloadError if there is none."""
        if self._train is None:
            raise WorkloadError(f"{self.name} has no training data; give Workload(..., train=...)")
        return self._train.batches()

    def calibration_batches(self) -> Iterator[Batch]:
        """Read data for calibration: the calibration source, else training, else search data; never the certificate."""
        source = self._calibration or self._train or self._parts.get(Split.SEARCH)
        if source is None:
            raise WorkloadError(
                f"{self.name} has no data to calibrate on; give Workload(..., calibration=...) or train="
            )
        return source.batches()

    def search_batches(self) -> Iterator[Batch] | None:
        """Read the search split; None where there is none, or where calibration reads it already."""
        if self._calibration is None and self._train is None:
            return None
        source = self._parts.get(Split.SEARCH)
        return None if source is None else source.batches()

    def evaluate(
        self,
        predict: Callable[..., Any],
        split: Split | str = Split.SEARCH,
        metrics: Sequence[Metric] | None = None,
    ) -> tuple[Samples, ...]:
        """Score a module, a session or any callable on one split, in one pass for all metrics.

        A module runs in evaluation mode, without gradients, and is left as it was; other callables get the batches as
        the source gives them. Raises WorkloadError for NaN or infinite outputs and for scores outside their range.
        """
        part = self._part(split)
        chosen = (self.metric,) if metrics is None else tuple(_checked_metric(metric) for metric in metrics)
        where = f"{self.name}: {part.source.name}"
        return evaluate(predict, part.batches(), chosen, self.select, where, self._forced_device, part.groups)

    def size(self, split: Split | str) -> int:
        """Number of samples in a split."""
        return len(self._part(split))

    def fingerprint(self, split: Split | str) -> str:
        """Hash what the samples of a split and their targets are, whatever their order, as 64 hexadecimal digits."""
        return self._part(split).fingerprint()

    def model_fingerprint(self) -> str:
        """Hash the class, parameters and buffers of the model, as 64 hexadecimal digits."""
        state = {name: value for name, value in self.model.state_dict().items() if isinstance(value, torch.Tensor)}
        kind = type(self.model)
        return fingerprint([f"{kind.__module__}.{kind.__qualname__}", fingerprint_tensors(state)])

    def _check_example(self) -> None:
        where = f"{self.name}: example inputs"
        with ready(self.model, self._forced_device) as run:
            outputs = run(Batch(self.example.args, self.example.kwargs), where)
        check_finite(outputs, where)

    def _source(
        self, value: Any, name: str, *, shuffle: bool = False, scored: bool = False, learnt: bool = False
    ) -> Source | None:
        """Open a source, and check that its first batch has the form of the example.

        scored: that the metric can score it. learnt: that the loss can be taken, in the mode of training if it is
        training data.
        """
        if value is None:
            return None
        source = Source.of(value, name, self.unpack, shuffle)
        batch = source.first()
        if _form(batch.args, batch.kwargs) != _form(self.example.args, self.example.kwargs):
            raise WorkloadError(
                f"{self.name}: example inputs {self.example} and the first batch of {name} "
                f"{tree.describe((batch.args, dict(batch.kwargs)))} differ in keywords, rank or number format; "
                "give example inputs as the batches give them (with a batch dimension), or unpack="
            )
        if scored:
            with ready(self.model, self._forced_device) as run:
                score(run, batch, (self.metric,), self.select, f"{self.name}: {name}, batch 0")
        if learnt and self.loss is not None:
            where = f"{self.name}: {name}, batch 0"
            try_loss(self.model, batch, self.loss, self.select, where, self._forced_device, name == "train")
        return source

    def _read(self, evaluation: Source | None, certificate: Source | None, groups: Any) -> dict[Split, Part]:
        """Read the held-out data twice, and split it."""
        opened = {
            split: source
            for split, source in ((Split.SEARCH, evaluation), (Split.CERTIFICATE, certificate))
            if source is not None
        }
        identities = {split: stable_identity(source) for split, source in opened.items()}
        clusters = _clusters(groups, {split: len(identity) for split, identity in identities.items()})
        if evaluation is not None and certificate is None:
            split = Split.SEARCH
            search, judged = split_in_two(evaluation, identities[split], clusters[split], self.split_seed)
            return {Split.SEARCH: search, Split.CERTIFICATE: judged}
        return {split: Part.whole(source, identities[split], clusters[split]) for split, source in opened.items()}

    def _check_leaks(self) -> tuple[int, int]:
        """Make sure that no sample is in two places; give the number of training samples and batches."""
        search, judged = (self._parts.get(split) for split in (Split.SEARCH, Split.CERTIFICATE))
        if search is not None and judged is not None and search.source is not judged.source:
            check_disjoint(judged.source, {search.source.name: search.inputs})
        if self._calibration is not None and judged is not None:
            check_disjoint(self._calibration, {judged.source.name: judged.inputs})
        if self._train is None:
            return 0, 0
        held_out: dict[str, list[bytes]] = {}
        for part in self._parts.values():
            held_out.setdefault(part.source.name, []).extend(part.inputs)
        return check_disjoint(self._train, held_out)

    def _part(self, split: Split | str) -> Part:
        split = choose(Split, split, "split", WorkloadError)
        if split not in self._parts:
            remedy = "evaluation=" if split is Split.SEARCH else "evaluation= or certificate="
            raise WorkloadError(f"{self.name} has no {split} data; give Workload(..., {remedy}...)")
        return self._parts[split]


def _form(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Say what batches and example must have in common: places or keywords of tensors, their ranks and dtypes."""
    named = [*((str(i), value) for i, value in enumerate(args)), *sorted(kwargs.items())]
    return tuple(
        (name, [(t.ndim, t.dtype) for t in tree.tensors(value)]) for name, value in named if tree.tensors(value)
    )


def _clusters(groups: Any, sizes: Mapping[Split, int]) -> dict[Split, NDArray[Any] | None]:
    """Deal the cluster ids out to the sources they belong to."""
    if groups is None:
        return dict.fromkeys(sizes)
    ids = np.asarray(groups)
    if ids.ndim != 1 or len(ids) != sum(sizes.values()):
        raise WorkloadError(
            f"groups has shape {list(ids.shape)}, but there are {sum(sizes.values())} samples of evaluation and "
            "certificate; give one cluster id for each of them, in their order"
        )
    parts = np.split(ids, np.cumsum(list(sizes.values()))[:-1])
    return dict(zip(sizes, parts, strict=True))


def _checked_metric(metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    raise WorkloadError(f"metric={metric!r} is no Metric; give one such as penjing.accuracy() or penjing.metrics.f1()")


def _checked_device(device: torch.device | str | None) -> torch.device | None:
    try:
        return None if device is None else torch.device(device)
    except RuntimeError as problem:
        raise WorkloadError(f"device={device!r} is unknown: {problem}") from problem
