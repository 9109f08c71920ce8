"""What the benchmarks of quantisation share: rivals make files, each in a process of its own; the files are compared.

Whoever quantises, the file is an artifact of Penjing, so that all are loaded, called and timed alike. Rivals of one
case see the same calibration data. A peer's tool starts from the float file that Penjing exports.
"""

import argparse
import ctypes
import fnmatch
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import penjing as pj
from penjing.measuring.paired import paired_ratio
from penjing.runtimes import Artifact
from penjing.storage import atomic_folder, write_manifest
from penjing.verdict.bootstrap import studentised_limits
from penjing.workload import ExampleInputs

Floats = NDArray[np.float64]
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Target:
    """Where a model runs: the name of the row's variant, the runtime, its options, and what its file may differ by."""

    name: str
    runtime: str
    options: Mapping[str, Any]
    tolerance: float | None = None


ORT = Target("ONNX Runtime", "onnxruntime", {})
OPENVINO = Target("OpenVINO, rest fp32", "openvino", {"precision": "fp32"})
OPENVINO_BF16 = Target("OpenVINO, rest bf16", "openvino", {"precision": "bf16"})
# For models whose kernels differ from the simulation by more than export allows unasked; nobody asks that of a peer.
LOOSE = tuple(replace(target, tolerance=0.5) for target in (ORT, OPENVINO, OPENVINO_BF16))


@dataclass(frozen=True)
class Case:
    """What every rival starts from: a model, an example of its inputs, and calibration data, one sample a batch.

    dynamic_shapes: sizes that are free, as penjing.export takes it.
    """

    model: nn.Module
    example: Batch
    calibration: Sequence[Batch]
    dynamic_shapes: Any = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the float weights."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def export(self, model: nn.Module, folder: Path, target: Target) -> Artifact:
        """Write the model, or one made of it, for a target."""
        return pj.export(
            model,
            self.example,
            folder,
            target.runtime,
            dynamic_shapes=self.dynamic_shapes,
            options=target.options,
            tolerance=target.tolerance,
        )


class Meter:
    """What quantising takes: seconds on the clock, seconds of the processor, bytes at the peak beyond those before."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block; what the process held before is not counted."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        before, start, busy = resident("VmRSS"), time.perf_counter(), time.process_time()
        yield
        self.found = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - busy,
            "peak_bytes": resident("VmHWM") - before,
        }


def resident(field: str) -> int:
    """Give a line of /proc/self/status, in bytes: VmRSS is what is held now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


@dataclass(frozen=True)
class Rival:
    """One way to make a model smaller, and the targets it is written for.

    kind: "float", "peer", "weights" (a peer that makes only the weights smaller) or "penjing".
    make(case, meter) -> write(target, folder); the meter runs while it quantises.
    """

    kind: str
    make: Callable[[Case, Meter], Callable[[Target, Path], object]]
    targets: tuple[Target, ...] = (ORT,)


def floating(*targets: Target) -> Rival:
    """The model as it is."""
    return Rival("float", lambda case, _: lambda target, folder: case.export(case.model, folder, target), targets)


def penjing(step: pj.Quantize, *targets: Target, batch: int = 1) -> Rival:
    """Quantise as the step says; batch: how many samples calibrate at a time, which changes nothing but the time."""

    def make(case: Case, meter: Meter) -> Callable[[Target, Path], object]:
        columns = (
            [torch.cat(column).split(batch) for column in zip(*case.calibration, strict=True)] if batch > 1 else []
        )
        batches = list(zip(*columns, strict=True)) if columns else list(case.calibration)
        workload = pj.Workload(
            case.model,
            case.example,
            calibration=batches,
            unpack=lambda batch: (batch, {}, None),
            dynamic_shapes=case.dynamic_shapes,
        )
        with meter.running():
            outcome = pj.apply(workload, step)
        return lambda target, folder: case.export(outcome.model, folder, target)

    return Rival("penjing", make, targets)


def peer(
    runtime: str, quantise: Callable[[Case, Artifact, Path, Meter], None], *targets: Target, kind: str = "peer"
) -> Rival:
    """Have another tool quantise: quantise(case, float artifact, folder, meter) writes the runtime's files there.

    It does so once; targets differ in the options that the same files are run with.
    """

    def make(case: Case, meter: Meter) -> Callable[[Target, Path], object]:
        first: list[Artifact] = []

        def write(target: Target, folder: Path) -> None:
            if first:
                source = first[0]
                with atomic_folder(folder) as inner:
                    for name in source.manifest.files:
                        shutil.copy(source.path / name, inner / name)
                    options = {**source.options, **target.options}
                    write_manifest(inner, source.manifest.model_copy(update={"files": {}, "options": options}))
                return
            with tempfile.TemporaryDirectory() as temporary:
                dense = case.export(case.model, Path(temporary) / "float", target)
                with atomic_folder(folder) as inner:
                    quantise(case, dense, inner, meter)
                    write_manifest(inner, dense.manifest.model_copy(update={"files": {}}))
            first.append(Artifact.open(folder))

        return write

    return Rival(kind, make, targets)


def ort_static(**settings: Any) -> Rival:
    """onnxruntime.quantization.quantize_static after its pre-processing: QDQ, U8S8; the settings are those it takes."""

    def quantise(case: Case, dense: Artifact, folder: Path, meter: Meter) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        names = [each["name"] for each in dense.manifest.inputs]

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = ({n: t.numpy() for n, t in zip(names, b, strict=True)} for b in case.calibration)

            def get_next(self) -> Any:
                return next(self.batches, None)

        (model,) = dense.path.glob("*.onnx")
        with tempfile.TemporaryDirectory() as temporary, meter.running():
            prepared = str(Path(temporary) / "prepared.onnx")
            quant_pre_process(str(model), prepared)
            quantize_static(
                prepared,
                str(folder / model.name),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **settings,
            )

    return peer("onnxruntime", quantise, ORT)


def ort_dynamic(**settings: Any) -> Rival:
    """onnxruntime.quantization.quantize_dynamic after its pre-processing: int8 weights, ranges taken at each call."""

    def quantise(case: Case, dense: Artifact, folder: Path, meter: Meter) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process

        (model,) = dense.path.glob("*.onnx")
        with tempfile.TemporaryDirectory() as temporary, meter.running():
            prepared = str(Path(temporary) / "prepared.onnx")
            quant_pre_process(str(model), prepared, skip_symbolic_shape=True)  # which fails on a transformer's sizes
            quantize_dynamic(prepared, str(folder / model.name), weight_type=QuantType.QInt8, **settings)

    return peer("onnxruntime", quantise, ORT)


def nncf_int8(*targets: Target, **settings: Any) -> Rival:
    """nncf.quantize of the OpenVINO model on all of the calibration data; the settings are those it takes."""

    def quantise(case: Case, dense: Artifact, folder: Path, meter: Meter) -> None:
        import nncf
        import openvino

        enumerations = {"model_type": nncf.ModelType, "preset": nncf.QuantizationPreset}
        chosen = {name: enumerations.get(name, lambda same: same)(value) for name, value in settings.items()}
        names = [each["name"] for each in dense.manifest.inputs]
        model = openvino.Core().read_model(dense.path / "model.xml")
        data = nncf.Dataset(case.calibration, lambda batch: {n: t.numpy() for n, t in zip(names, batch, strict=True)})
        with meter.running():
            found = nncf.quantize(model, data, subset_size=len(case.calibration), **chosen)
            openvino.save_model(found, folder / "model.xml", compress_to_fp16=False)

    return peer("openvino", quantise, *targets)


def nncf_weights(*targets: Target) -> Rival:
    """nncf.compress_weights at its default: int8 weights, float arithmetic."""

    def quantise(_: Case, dense: Artifact, folder: Path, meter: Meter) -> None:
        import nncf
        import openvino

        model = openvino.Core().read_model(dense.path / "model.xml")
        with meter.running():
            openvino.save_model(nncf.compress_weights(model), folder / "model.xml", compress_to_fp16=False)

    return peer("openvino", quantise, *targets, kind="weights")


def make_here(rival: Rival, case: Case, folder: Path) -> None:
    """Make a rival's files in this process, folder/0, folder/1, ... by target, and what it took: folder/cost.json."""
    meter = Meter()
    torch.set_num_threads(1)
    write = rival.make(case, meter)
    problems = {}
    for i, target in enumerate(rival.targets):
        try:
            write(target, folder / str(i))
        except Exception as error:  # a row that says why is a result
            problems[str(i)] = f"{type(error).__name__}: {error}".replace(str(folder / str(i)), target.name)
    cost = {**meter.found, "weight_bytes": case.weight_bytes, "problems": problems}
    (folder / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def make(module: str, name: str, folder: Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Have `python -m module --make name --folder folder` make a rival's files on one thread; give what it took.

    A failure is {"error": the last line that the process wrote}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", module, "--make", name, "--folder", str(folder), *arguments]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        command, env={**os.environ, **one}, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads((folder / "cost.json").read_text("utf-8"))
    return found


def make_all(
    module: str, rivals: Mapping[str, Rival], where: Path, arguments: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any], Artifact | None]]:
    """Make the files of all rivals, one after the other; give the title, the row begun, and the artifact of each.

    Where there is no file, the row says why.
    """
    for i, (name, rival) in enumerate(rivals.items()):
        folder = where / str(i)
        cost = make(module, name, folder, arguments)
        for j, target in enumerate(rival.targets):
            title = f"{name}, {target.name}"
            if problem := cost.get("error") or cost["problems"].get(str(j)):
                row, artifact = {"kind": rival.kind, "error": problem}, None
            else:
                artifact = Artifact.open(folder / str(j))
                row = {"kind": rival.kind, "size_bytes": artifact.size_bytes, **costs(cost)}
            print(f"{title}: {row}", flush=True)
            yield title, row, artifact


def costs(cost: Mapping[str, Any]) -> dict[str, float]:
    """Give what quantising took, memory as a multiple of the float weights; nothing where nothing was quantised."""
    if "seconds" not in cost:
        return {}
    peak = cost["peak_bytes"] / cost["weight_bytes"]
    return {"seconds": cost["seconds"], "cpu_seconds": cost["cpu_seconds"], "peak_memory": peak}


def beside_peers(
    scores: Mapping[str, Floats], kinds: Mapping[str, str], clusters: NDArray[np.intp]
) -> tuple[str | None, dict[str, Any]]:
    """Give the best peer in int8, and each row of Penjing beside it and beside every other peer.

    scores: of each row, [n], 1 where a sample is answered as by the float model. The best peer is chosen on the same
    samples, which favours it.
    """
    peers = [name for name in scores if kinds[name] in ("peer", "weights")]
    best = max((name for name in peers if kinds[name] == "peer"), key=lambda name: scores[name].mean(), default=None)
    ones = np.ones(len(clusters))
    pairs = {
        name: {
            "closed": None if best is None else share_closed(score, scores[best], clusters),
            "difference": {other: clustered(score - scores[other], ones, clusters) for other in peers},
        }
        for name, score in scores.items()
        if kinds[name] == "penjing"
    }
    return best, pairs


def clustered(above: Floats, below: Floats, clusters: NDArray[np.intp]) -> dict[str, float]:
    """Give sum(above) / sum(below) with its 95 % interval, by a studentised bootstrap that draws whole clusters.

    above, below, clusters: [n] samples. Where below is one, it is the mean over samples that come in clusters.

    >>> clustered(np.array([1.0, 0.0, 1.0, 1.0]), np.ones(4), np.array([0, 0, 1, 1]))["value"]
    0.75
    """
    sums = [np.bincount(clusters, weights=each) for each in (above, below)]
    with np.errstate(invalid="ignore"):  # a resample of equal clusters has no spread, and is at the value
        low, high = studentised_limits(sums[0], sums[1], alpha=0.025, seed=0)
    return {"value": float(above.sum() / below.sum()), "low": low, "high": high}


def share(scores: Floats, clusters: NDArray[np.intp]) -> dict[str, float]:
    """Mean of scores in [0, 1] with its 95 % interval, which is cut to [0, 1]: the bootstrap knows no such ends."""
    found = clustered(scores, np.ones(len(scores)), clusters)
    return {name: min(max(value, 0.0), 1.0) for name, value in found.items()}


def share_closed(ours: Floats, best: Floats, clusters: NDArray[np.intp]) -> dict[str, float]:
    """Share of what the best peer lacks to 1 that is closed, sum(ours - best) / sum(1 - best), with its interval."""
    return clustered(ours - best, 1 - best, clusters)


def sqnr_db(expected: Floats, found: Floats) -> float:
    """Signal over noise, 10*log10(sum r^2 / sum (r - q)^2), of outputs [n, m] about their mean over samples, in dB."""
    signal = expected - expected.mean(axis=0)
    return float(10 * np.log10((signal**2).sum() / ((expected - found) ** 2).sum()))


def divergence(expected: Floats, found: Floats) -> float:
    """Mean of KL(p || q) in nats, of the softmaxes p and q of two sets of logits [n, classes].

    >>> divergence(np.array([[0.0, 0.0]]), np.array([[5.0, 5.0]]))
    0.0
    """
    from scipy.special import log_softmax

    p, q = log_softmax(expected, axis=1), log_softmax(found, axis=1)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def speed(artifact: Artifact, against: Artifact, example: Batch, seconds: float) -> dict[str, float]:
    """How many times faster than another, on one pinned thread, in turns."""
    inputs = ExampleInputs.of(example)
    found = paired_ratio((artifact, inputs), (against, inputs), seconds)
    return {"value": found.value, "low": found.low, "high": found.high}


def options(description: str | None, rivals: Mapping[str, Rival], seconds: float) -> argparse.ArgumentParser:
    """Begin the command line of a benchmark with what all of them take; seconds: the default of --seconds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="of timing, for each of a pair")
    parser.add_argument("--only", default="*", help="rivals whose name fits; float32 always")
    parser.add_argument("--make", choices=rivals, help="only make the files of this rival")
    parser.add_argument("--folder", type=Path, help="where --make puts them")
    return parser


def chosen(rivals: Mapping[str, Rival], pattern: str) -> dict[str, Rival]:
    """Give the rivals whose name fits, and the first, which the others are compared with."""
    first, *_ = rivals
    return {name: rival for name, rival in rivals.items() if name == first or fnmatch.fnmatch(name, pattern)}
