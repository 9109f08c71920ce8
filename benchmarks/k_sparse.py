"""The k-sparse problem: layers beside SparseGPT, exhaustive search and a bound; whole models without training.

    python -m benchmarks.k_sparse [--only resnet20 minilm layers large]

Layers: of ResNet-20 on Fashion-MNIST and of a sentence encoder (all-MiniLM-L6-v2), with the Hessian of their
calibration inputs, damped by 1 % for all methods alike, one budget for each layer. Small layers are 14 inputs of these,
where all supports can be looked at. Models: no training and no label; the encoder's neighbours as in
benchmarks/quantize_minilm.py, the network's accuracy as a file in ONNX Runtime on the 10,000 test images. The large
layer is random, in a fresh process on two threads. The trained ResNet-20 is kept in .cache.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import penjing as pj
from benchmarks import sentences
from benchmarks.common import RESULTS, record
from benchmarks.quantize_minilm import InTorch, States, embeddings, nearest, sized, tokens
from benchmarks.resnet20_fashion import EPOCHS
from penjing.structure import capture
from penjing.techniques.lockstep import draw_rows, in_step
from penjing.techniques.rows import as_matrix
from penjing.techniques.sparsify.post_training import Model
from penjing.techniques.sparsify.solve import METHODS, PerLayer, PerRow, damped, exhaustive, lower_bound, relative_error
from penjing.techniques.sparsify.solve.objective import losses
from penjing.types import Split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

DENSITIES = (0.5, 0.2)
RESNET = ("blocks.1.conv1.weight", "blocks.4.conv2.weight", "blocks.8.conv1.weight", "fc.weight")
MINILM = ("attention.self.query.weight", "attention.output.dense.weight", "intermediate.dense.weight")
OBS_MOST, BOUND_WIDEST = 3e10, 600  # multiplications; inputs
SMALL_INPUTS, SMALL_OUTPUTS = 14, 64
SENTENCES, CALIBRATION = 1000, 128
LARGE, LARGE_ROWS = 4096, 2048
RESNET_STEPS: dict[str, pj.Sparsify] = {
    "magnitude, 80 %": pj.Sparsify(0.8),
    "Wanda, 80 %": pj.Sparsify(0.8, score="wanda", scope="row"),
    "SparseGPT, 80 %": pj.Sparsify(0.8, method="sparsegpt", scope="local"),
    "penjing, 80 %": pj.Sparsify(0.8, method="auto"),
    "penjing, 90 %": pj.Sparsify(0.9, method="auto"),
}
MINILM_STEPS: dict[str, pj.Sparsify] = {
    "magnitude, 50 %": pj.Sparsify(0.5, scope="local"),
    "Wanda, 50 %": pj.Sparsify(0.5, score="wanda", scope="row"),
    "SparseGPT, 50 %": pj.Sparsify(0.5, method="sparsegpt", scope="local"),
    "penjing, 50 %": pj.Sparsify(0.5, method="auto", scope="local"),
    "penjing, 50 %, shared by errors": pj.Sparsify(0.5, method="auto"),
    "Wanda, 2:4": pj.Sparsify(pattern="2:4", score="wanda"),
    "SparseGPT, 2:4": pj.Sparsify(pattern="2:4", method="sparsegpt"),
    "penjing, 2:4": pj.Sparsify(pattern="2:4", method="auto"),
}


def problems(w: pj.Workload, names: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Named weights as matrices, each with the damped Hessian of its calibration inputs."""
    captured = capture(w.model, w.example, w.dynamic_shapes)
    batches = [captured.flatten(batch.args, batch.kwargs) for batch in w.calibration_batches()]
    model = Model.of(captured, batches, names, 0)
    with torch.no_grad():
        for step in in_step(captured, captured, batches, captured.tensors):
            if (layer := model.layers.get(step.node.name)) is not None:
                x = draw_rows(layer, step, 0).x.double()
                weight = as_matrix(layer, step.value(layer.weight)).double()
                yield str(layer.weight.target), weight, damped(x.T @ x / len(x)).matrix


def layer_rows(name: str, weight: Tensor, hessian: Tensor) -> Iterator[dict[str, Any]]:
    """One row for each density: the error of each method, and the bound."""
    wide = weight.shape[1]
    methods = {m: f for m, f in METHODS.items() if m != "obs" or weight.numel() * wide**2 <= OBS_MOST}
    whole = float(losses(weight, torch.zeros_like(weight), hessian).sum())
    for density in DENSITIES:
        budget, errors, seconds = PerLayer(density), {}, {}
        for method, solve in methods.items():
            start = time.process_time()
            errors[method] = relative_error(weight, solve(weight, hessian, budget), hessian)
            seconds[method] = time.process_time() - start
        bound = lower_bound(weight, hessian, budget) / whole if wide <= BOUND_WIDEST else None
        row = {"layer": name, "shape": list(weight.shape), "density": density, "errors": errors}
        yield {**row, "cpu_seconds": seconds, "bound": bound}


def small_rows(name: str, weight: Tensor, hessian: Tensor) -> Iterator[dict[str, Any]]:
    """The same for a few of the inputs, beside the optimum."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randperm(weight.shape[1], generator=generator)[:SMALL_INPUTS].sort().values
    weight, hessian = weight[:SMALL_OUTPUTS, inputs], hessian[inputs][:, inputs]
    for density in DENSITIES:
        budget = PerRow(density)
        best = relative_error(weight, exhaustive(weight, hessian, budget), hessian)
        found = {m: relative_error(weight, f(weight, hessian, budget), hessian) / best for m, f in METHODS.items()}
        yield {"layer": name, "density": density, "times_the_optimum": found}


def resnet_models() -> dict[str, Any]:
    """Accuracy of each recipe's file on the test images."""
    found, w = {}, resnet20()
    with tempfile.TemporaryDirectory() as folder:
        for i, (title, step) in enumerate([("dense", None), *RESNET_STEPS.items()]):
            start = time.process_time()
            model = w.model if step is None else pj.apply(w, step).model
            seconds = time.process_time() - start
            (samples,) = w.evaluate(pj.export(model, w.example, Path(folder) / str(i)).load(), Split.CERTIFICATE)
            found[title] = {"accuracy": samples.value, "cpu_seconds": seconds}
            print(title, found[title], file=sys.stderr, flush=True)
    return found


def minilm_models() -> dict[str, Any]:
    """Which sentences keep their nearest neighbour, and how near each stays to itself."""
    w, inputs = minilm(), tokens(sentences.evaluation(SENTENCES))
    reference = embeddings(InTorch(w.model), inputs)
    expected, found = nearest(reference, 1), {}
    for title, step in MINILM_STEPS.items():
        start = time.process_time()
        model = pj.apply(w, step).model
        seconds = time.process_time() - start
        vectors = embeddings(InTorch(model), inputs)
        cosine = (vectors * reference).sum(axis=1)
        found[title] = {
            "nearest": float((nearest(vectors, 1) == expected).mean()),
            "cosine": {"mean": float(cosine.mean()), "min": float(cosine.min())},
            "cpu_seconds": seconds,
        }
        print(title, found[title], file=sys.stderr, flush=True)
    return found


def large_layer() -> dict[str, Any]:
    """Seconds and memory of one large layer, from its inputs on, and its error beside SparseGPT's."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(LARGE_ROWS, LARGE // 8, generator=generator)
    x = factors @ torch.randn(LARGE // 8, LARGE, generator=generator) / 22
    x += torch.randn(LARGE_ROWS, LARGE, generator=generator)
    weight = torch.randn(LARGE, LARGE, generator=generator) / 64
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    gram = x.T @ x
    gram /= len(x)
    hessian = damped(gram).matrix
    del gram
    pruned = METHODS["auto"](weight, hessian, PerRow(0.5))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    theirs = METHODS["sparsegpt"](weight, hessian, PerRow(0.5))
    return {
        "inputs": LARGE,
        "samples": LARGE_ROWS,
        "threads": torch.get_num_threads(),
        "wall_seconds": seconds,
        "cpu_seconds": cpu,
        "memory_layers": grown / (weight.numel() * weight.element_size()),
        "error": relative_error(weight, pruned, hessian),
        "sparsegpt_error": relative_error(weight, theirs, hessian),
    }


def resnet20() -> pj.Workload:
    return workload(trained("resnet20", DATA, Path(".cache"), EPOCHS), DATA)


def minilm() -> pj.Workload:
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    calibration = tokens(sentences.calibration(CALIBRATION))
    model: nn.Module = States().eval()
    return pj.Workload(
        model,
        sized(32, batch=2),
        calibration=calibration,
        dynamic_shapes=shapes,
        unpack=lambda batch: (batch, {}, None),
    )


def layers() -> dict[str, Any]:
    """Single layers of both models, whole and with a few of their inputs."""
    encoder = [f"bert.encoder.layer.2.{name}" for name in MINILM]
    whole, small = [], []
    for model, w, chosen in (("ResNet-20", resnet20(), RESNET), ("MiniLM", minilm(), encoder)):
        for name, weight, hessian in problems(w, chosen):
            title = f"{model} {name.removesuffix('.weight')}"
            if weight.shape[1] >= SMALL_INPUTS:
                small += small_rows(title, weight, hessian)
            whole += layer_rows(title, weight, hessian)
            print(whole[-1], file=sys.stderr, flush=True)
    return {"whole": whole, "small": small}


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "resnet20": resnet_models,
    "minilm": minilm_models,
    "layers": layers,
    "large": large_layer,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), help="of the parts; others stay")
    parser.add_argument("--print", action="store_true", help="measure one part in this process, and print it")
    args = parser.parse_args(arguments)
    if args.print:
        torch.set_num_threads(2 if args.only == ["large"] else 1)
        print(json.dumps(PARTS[args.only[0]]()))
        return
    path = RESULTS / "k_sparse.json"
    parts: dict[str, Any] = json.loads(path.read_text("utf-8"))["parts"] if path.exists() else {}
    for name in args.only:
        command = [sys.executable, "-m", "benchmarks.k_sparse", "--print", "--only", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        parts[name] = json.loads(output.splitlines()[-1])
        record("k_sparse", {"calibration": CALIBRATION, "sentences": SENTENCES, "parts": parts})


if __name__ == "__main__":
    main()
