"""Session options and batch, searched by measuring: coordinate descent in which only a clear win moves.

Every choice is timed in turns with the best so far (`paired_ratio`) and replaces it only where the whole 95 % interval
of the ratio lies above 1. What wins has been picked among many, so it is measured once more against the original; if it
does not hold, the original stays. Choices that change what the model computes are refused.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penjing.errors import PenjingError, RunError, RuntimeUnavailable
from penjing.measuring.paired import Ratio, paired_ratio
from penjing.runtimes import Artifact, difference, find_runtime
from penjing.storage import atomic_folder, write_manifest
from penjing.types import Status
from penjing.workload import ExampleInputs

TOLERANCE = 1e-4
PASSES = 2
"""Another pass finds options that pay only beside others."""

Options = Mapping[str, Any]
Compare = Callable[[Artifact, ExampleInputs, Artifact, ExampleInputs], Ratio]


@dataclass(frozen=True)
class Trial:
    """One setting beside the best before it: its options and batch, samples per second as a ratio, what became of it.

    ratio: None where it could not be run or computes something else; `why` then says so.
    """

    options: Options
    batch: int
    ratio: Ratio | None
    kept: bool
    why: str

    def __str__(self) -> str:
        said = str(self.ratio) if self.ratio else self.why
        return f"{'kept' if self.kept else 'left'}: {_words(self.options)}, batch {self.batch}: {said}"


@dataclass(frozen=True)
class Tuned:
    """What came out: options and batch, samples per second over the original's, and every trial in order.

    ratio: measured anew after the search, None where nothing was better. changed: whether anything is.
    """

    options: Options
    batch: int
    ratio: Ratio | None
    trials: tuple[Trial, ...]

    @property
    def changed(self) -> bool:
        """Whether a setting other than the original's is given."""
        return self.ratio is not None

    def to_data(self) -> dict[str, Any]:
        """Give the outcome as JSON values."""
        return asdict(self) | {"trials": [asdict(trial) for trial in self.trials]}

    def __str__(self) -> str:
        if self.ratio is None:
            return f"nothing of {len(self.trials)} settings is clearly faster: {_words(self.options)} stays"
        return f"{_words(self.options)}, batch {self.batch}: {self.ratio} the original's samples per second"


def tune(
    artifact: Artifact,
    example_inputs: Any,
    *,
    choices: Mapping[str, Sequence[Any]] | None = None,
    batches: Sequence[int] = (),
    seconds: float = 1.0,
    progress: Callable[[int, int, str], None] | None = None,
    compare: Compare | None = None,
) -> Tuned:
    """Search session options, then the batch, for the most samples per second on this machine.

    choices: option -> values; None: those that the runtime names. batches: batch sizes to try beside the example's.
    seconds: for each side of a comparison. compare: what measures two settings, `paired_ratio` by default.

    Raises RuntimeUnavailable for an option that the runtime does not know, RunError where there is nothing to try.
    """
    example = ExampleInputs.of(example_inputs)
    choices = dict(choices_of(artifact) if choices is None else choices)
    if not any(choices.values()) and not batches:
        raise RunError(f"runtime {artifact.runtime!r} names nothing to tune; give choices= or batches=")
    if unknown := sorted(set(choices) - set(artifact.options)):
        known = ", ".join(artifact.options)
        raise RuntimeUnavailable(f"{artifact.runtime} has no option {unknown[0]!r} to tune; it has {known}")
    with tempfile.TemporaryDirectory(dir=artifact.path.parent) as folder:
        search = _Search(artifact, example, Path(folder), compare or _measured(seconds))
        total = PASSES * sum(map(len, choices.values())) + len(batches) + 1
        for done, (options, batch) in enumerate(search.settings(choices, batches)):
            if progress:
                progress(done, total, f"{_words(options)}, batch {batch}")
            search.consider(options, batch)
        tuned = search.outcome()
        if progress:
            progress(total, total, "")
    return tuned


def with_options(
    artifact: Artifact, options: Options, folder: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None
) -> Artifact:
    """Write the same files with other session options: hard links where the disk has them, and a manifest of its own.

    A verdict holds for the options it was reached with, so a copy with others is unjudged. extra: further facts for the
    manifest. Raises RuntimeUnavailable for impossible options.
    """
    complete = find_runtime(artifact.runtime).options({**artifact.options, **options})
    update: dict[str, Any] = {"options": complete, "extra": {**artifact.manifest.extra, **(extra or {})}}
    if complete != dict(artifact.options):
        update |= {"status": Status.UNJUDGED, "verdict": None}
    with atomic_folder(Path(folder)) as temporary:
        for name in artifact.manifest.files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            _link(artifact.path / name, temporary / name)
        write_manifest(temporary, artifact.manifest.model_copy(update=update))
    return Artifact.open(folder)


def choices_of(artifact: Artifact) -> Mapping[str, Sequence[Any]]:
    """Values worth trying here for each option that is not built into the files, numbers of threads among them.

    Precision is not among them: it changes what the model computes, which is for `penjing.deploy` to certify.
    """
    known = find_runtime(artifact.runtime).known
    named = {name: option.worth_trying for name, option in known.items() if not option.in_file and name != "precision"}
    if not known["threads"].in_file:
        cores = len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))
        named["threads"] = tuple(range(1, cores + 1))
    return {name: values for name, values in named.items() if values}


class _Search:
    """The best setting so far, and what was tried."""

    def __init__(self, artifact: Artifact, example: ExampleInputs, folder: Path, compare: Compare) -> None:
        self.original, self.example = artifact, example
        self.best, self.batch = artifact, example.batch_size
        self.folder, self.compare = folder, compare
        self.trials: list[Trial] = []
        self.expected = _outputs(artifact, example)

    def settings(self, choices: Mapping[str, Sequence[Any]], batches: Sequence[int]) -> Iterator[tuple[Options, int]]:
        """Give the settings to try, each beside the best of that moment."""
        seen = {_key(self.best.options)}
        for _ in range(PASSES):
            before = self.best
            for name, values in choices.items():
                for value in values:
                    options = {**self.best.options, name: value}
                    if _key(options) not in seen:
                        seen.add(_key(options))
                        yield options, self.batch
            if self.best is before:
                break
        for batch in batches:
            if batch != self.batch:
                yield self.best.options, batch

    def consider(self, options: Options, batch: int) -> None:
        """Try one setting; it becomes the best where it is clearly faster."""
        ratio, why = None, ""
        try:
            candidate = with_options(self.original, options, self.folder / str(len(self.trials)))
            differs = max(
                (difference(a, b) for a, b in zip(self.expected, _outputs(candidate, self.example), strict=True)),
                default=0.0,
            )
            if differs <= TOLERANCE:
                ratio = self._against(self.best, self.batch, candidate, batch)
                why = "" if ratio.low > 1 else "not clearly faster"
            else:
                why = f"its outputs differ by {differs:.2g} of their largest magnitude"
        except PenjingError as problem:
            why = str(problem)
        kept = ratio is not None and ratio.low > 1
        self.trials.append(Trial(dict(options), batch, ratio, kept, why))
        if kept:
            self.best, self.batch = candidate, batch

    def outcome(self) -> Tuned:
        """Measure the winner once more against the original, which stays unless it is beaten again."""
        trials = tuple(self.trials)
        if any(trial.kept for trial in trials):
            ratio = self._against(self.original, self.example.batch_size, self.best, self.batch)
            if ratio.low > 1:
                return Tuned(dict(self.best.options), self.batch, ratio, trials)
        return Tuned(dict(self.original.options), self.example.batch_size, None, trials)

    def _against(self, old: Artifact, old_batch: int, new: Artifact, new_batch: int) -> Ratio:
        """Give the ratio of samples per second."""
        ratio = self.compare(new, self.example.with_batch(new_batch), old, self.example.with_batch(old_batch))
        more = new_batch / old_batch
        return Ratio(ratio.value * more, ratio.low * more, ratio.high * more)


def _measured(seconds: float) -> Compare:
    return lambda new, inputs, old, old_inputs: paired_ratio((new, inputs), (old, old_inputs), seconds)


def _outputs(artifact: Artifact, example: ExampleInputs) -> list[Any]:
    session = artifact.load()
    return session.run(session.feeds(*example.args, **example.kwargs))


def _link(source: Path, target: Path) -> None:
    import shutil

    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


def _key(options: Options) -> str:
    return json.dumps(options, sort_keys=True, default=str)


def _words(options: Options) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
