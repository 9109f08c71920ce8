"""Low rank without training: errors of layers with and without data, and whole models in ONNX Runtime.

    python -m benchmarks.factorize

ResNet-20 on Fashion-MNIST (trained for 14 epochs, kept in .cache) and a sentence encoder (all-MiniLM-L6-v2), the models
and calibration data of benchmarks/k_sparse.py. Layers: the error of the outputs at an eighth of the largest rank,
relative to their energy about the mean (which a bias takes), on data that nothing was fitted to. Models: ResNet-20's
accuracy on the 10,000 test images, and which sentences keep their nearest neighbour; latency is a ratio to the float32
file, in turns, on one thread.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import penjing as pj
from benchmarks import sentences
from benchmarks.common import record
from benchmarks.k_sparse import minilm, resnet20
from benchmarks.quantize_minilm import InTorch, embeddings, nearest, sized, tokens
from penjing.structure import Captured, capture
from penjing.techniques.factorize.kernels import composed
from penjing.techniques.factorize.sites import find_sites, see
from penjing.techniques.lockstep import takers_of
from penjing.techniques.sparsify.solve import damped, relative_error
from penjing.types import Kernels, Split
from penjing.workload import Batch

SHARE = 8  # of the largest rank, one part in so many
SAMPLES = 128  # on either side of the layers' errors
SENTENCES = 500
RESNET = {
    f"{kernels}, {method}": pj.Factorize(ratio=0.3, of="macs", kernels=kernels, method=method, round_to=4)
    for kernels in Kernels
    for method in ("svd", "whitened")
}
MINILM = {method: pj.Factorize(ratio=0.2, of="macs", method=method, round_to=16) for method in ("svd", "whitened")}


def some(batches: Iterator[Batch], captured: Captured) -> list[Any]:
    """The inputs of so many samples."""
    found, left = [], SAMPLES
    for batch in batches:
        found.append(captured.flatten(batch.args, batch.kwargs))
        left -= batch.size
        if left <= 0:
            break
    return found


@torch.no_grad()
def layers(w: pj.Workload, held_out: Iterator[Batch], kernels: Kernels) -> Iterator[dict[str, Any]]:
    """One row for each layer: what its outputs lose on data held out, with and without data to fit to."""
    captured = capture(w.model, w.example, w.dynamic_shapes)
    sites, _ = find_sites(captured, kernels)
    sites = tuple(site for site in sites if site.layer is not None and site.largest >= 2 * SHARE)
    takers = takers_of(captured, {site.node.name: site.layer for site in sites if site.layer})
    fitted, judged = (
        see(captured, sites, takers, some(batches, captured), 0) for batches in (w.calibration_batches(), held_out)
    )
    for site in sites:
        hessian = damped(fitted[site.name].hessian.double()).matrix
        errors = {}
        for method, metric in (("svd", torch.eye(len(hessian)).double()), ("whitened", hessian)):
            near = composed(site.form.factor(site.weight, metric, site.largest // SHARE))
            weight = site.weight.double().flatten(1)
            errors[method] = relative_error(weight, near.flatten(1), judged[site.name].hessian.double())
        yield {"layer": site.name, "kernels": str(kernels), "rank": site.largest // SHARE, "errors": errors}


def resnet_models(w: pj.Workload, folder: Path) -> Iterator[dict[str, Any]]:
    """Accuracy of each step's file, and how much faster it is."""
    dense = pj.export(w.model, w.example, folder / "resnet")
    (samples,) = w.evaluate(dense.load(), Split.CERTIFICATE)
    yield {"model": "ResNet-20", "step": "float32", "accuracy": samples.value}
    for i, (title, step) in enumerate(RESNET.items()):
        file = pj.export(pj.apply(w, step).model, w.example, folder / f"resnet-{i}")
        (samples,) = w.evaluate(file.load(), Split.CERTIFICATE)
        faster = {str(n): ratio(file, dense, w.example.with_batch(n)) for n in (1, 32)}
        yield {"model": "ResNet-20", "step": title, "accuracy": samples.value, "faster": faster}


def minilm_models(w: pj.Workload, folder: Path) -> Iterator[dict[str, Any]]:
    """Which sentences keep their nearest neighbour, and how much faster each file is."""
    inputs = tokens(sentences.evaluation(SENTENCES))
    reference = embeddings(InTorch(w.model), inputs)
    expected = nearest(reference, 1)
    dense = pj.export(w.model, w.example, folder / "minilm", dynamic_shapes=w.dynamic_shapes)
    for i, (title, step) in enumerate(MINILM.items()):
        model = pj.apply(w, step).model
        vectors = embeddings(InTorch(model), inputs)
        file = pj.export(model, w.example, folder / f"minilm-{i}", dynamic_shapes=w.dynamic_shapes)
        yield {
            "model": "MiniLM",
            "step": title,
            "nearest": float((nearest(vectors, 1) == expected).mean()),
            "cosine": float((vectors * reference).sum(axis=1).mean()),
            "faster": {str(n): ratio(file, dense, sized(n)) for n in (32, 128)},
        }


def ratio(file: pj.Artifact, dense: pj.Artifact, example: Any) -> dict[str, float]:
    found = pj.measure(file, example, against=dense, seconds=1.0).ratio
    assert found is not None
    return {"value": found.value, "low": found.low, "high": found.high}


def told(rows: Iterator[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    found = []
    for row in rows:
        print(row, flush=True)
        found.append(row)
    return found


def main() -> None:
    images, encoder = resnet20(), minilm()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = [*told(resnet_models(images, folder)), *told(minilm_models(encoder, folder))]
    search = images.search_batches()
    assert search is not None
    held_out = list(search)
    found = [row for kernels in Kernels for row in told(layers(images, iter(held_out), kernels))]
    rows = {"ResNet-20": found}
    words = (Batch(each, {}, None) for each in tokens(sentences.evaluation(SAMPLES)))
    rows["MiniLM"] = list(told(layers(encoder, words, Kernels.CHANNEL)))
    record("factorize", {"share": SHARE, "sentences": SENTENCES, "layers": rows, "models": models})


if __name__ == "__main__":
    main()
