"""How long a structural cut takes, how it grows with the model, and how much memory it needs.

ResNet-50, BERT-base, ViT-B/16 and Llama-like decoders (bfloat16) of up to a billion parameters, each in a process of
its own with one thread: 30 % of every group goes. Times are CPU seconds of that process, so that other work on the
machine counts little. Memory is the peak of resident memory during the cut, as a multiple of the weights: 1 is what
the model itself holds. The proof and `apply(consume=True)`, which proves before anything is consumed, are measured as
well, the whole of it and its memory. Growth with the number of nodes is that of decoders of one width and more layers.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import penjing as pj
from benchmarks.common import record
from benchmarks.profile_speed import resnet50
from benchmarks.zoo.configured import transformers
from penjing.structure import Coupling, capture, couple, cut, prove

TARGETS = {"resnet50": 1.0, "bert_base": 1.0, "llama_1b": 6.0}
MEMORY_TARGET = 1.3
DEEP = (4, 8, 16, 32)  # layers of a decoder of one small width: only the graph grows
VOCABULARY = 32_000
# layers, hidden width, width of the gated part, query heads, key-value heads
DECODERS = {
    "llama_40m": (8, 512, 1408, 8, 4),
    "llama_150m": (12, 768, 2048, 12, 4),
    "llama_400m": (20, 1152, 3072, 18, 6),
    "llama_1b": (18, 2048, 5632, 32, 8),
}


def bert_base() -> tuple[nn.Module, Any]:
    """BERT of 110 million parameters, 128 tokens."""
    library = transformers()
    return library.BertForSequenceClassification(library.BertConfig()), {"input_ids": torch.ones(2, 128).long()}


def vit_base() -> tuple[nn.Module, Any]:
    """ViT-B/16 of 86 million parameters, 224 x 224 pixels."""
    library = transformers()
    return library.ViTForImageClassification(library.ViTConfig()), {"pixel_values": torch.zeros(2, 3, 224, 224)}


def decoder(name: str) -> tuple[nn.Module, Any]:
    """A Llama-like decoder in bfloat16, 64 tokens."""
    library = transformers()
    layers, hidden, inside, heads, kv_heads = DECODERS[name]
    config = library.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inside,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return library.LlamaForCausalLM(config), {"input_ids": torch.ones(2, 64).long()}
    finally:
        torch.set_default_dtype(default)


def deep(layers: int) -> tuple[nn.Module, Any]:
    """A narrow decoder with many layers."""
    library = transformers()
    config = library.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    return library.LlamaForCausalLM(config), {"input_ids": torch.ones(2, 8).long()}


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet50": lambda: (resnet50(), torch.zeros(2, 3, 224, 224)),
    "bert_base": bert_base,
    "vit_base": vit_base,
    **{name: lambda name=name: decoder(name) for name in DECODERS},  # type: ignore[misc]
    **{f"deep_{n}": lambda n=n: deep(n) for n in DEEP},  # type: ignore[misc]
}


@contextmanager
def timed(found: dict[str, float], what: str) -> Iterator[None]:
    """Add the CPU seconds of the block to `found[what]`."""
    start = time.process_time()
    yield
    found[what] = found.get(what, 0.0) + time.process_time() - start


def resident(field: str) -> int:
    """A line of /proc/self/status, in bytes: VmRSS is what is held now, VmHWM the peak since `watch` began."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def watch() -> int:
    """Begin to watch the peak of resident memory; give what is held now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed, the proof above all, goes back to the system first
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    return resident("VmRSS")


def choice(coupling: Coupling, ratio: float = 0.3) -> dict[str, np.ndarray[Any, Any]]:
    """Units at random, `ratio` of every group that may lose some."""
    generator = np.random.default_rng(0)
    return {
        group.name: generator.permutation(group.size)[: min(round(ratio * group.size), group.size - 1)]
        for group in coupling.groups
        if group.prunable
    }


def one(name: str) -> dict[str, Any]:
    """Every figure of one model."""
    torch.set_num_threads(1)
    warm = couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3))
    cut(warm, {"0": [1]})
    model, example = MODELS[name]()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    seconds: dict[str, float] = {}
    export = torch.export.export

    def timed_export(*args: Any, **kwargs: Any) -> Any:
        with timed(seconds, "export_s"):
            return export(*args, **kwargs)

    with timed(seconds, "capture_s"), mock.patch.object(torch.export, "export", timed_export):
        captured = capture(model, example)
    with timed(seconds, "couple_s"):
        coupling = couple(captured)
    removed = choice(coupling)
    params = sum(parameter.numel() for parameter in model.parameters())
    before = watch()
    with timed(seconds, "cut_s"):
        done = cut(coupling, removed)
    peak = resident("VmHWM")
    figures: dict[str, Any] = {
        "params": params,
        "params_left": sum(parameter.numel() for parameter in done.module.parameters()),
        "nodes": len(captured.module.graph.nodes),
        "groups": len(coupling.groups),
        "memory": 1 + (peak - before) / weights,
    }
    before = watch()
    with timed(seconds, "prove_s"):
        proof = prove(coupling, done, removed)
    figures["memory_proof"] = (resident("VmHWM") - before) / weights
    figures["proof"] = proof.describe()
    if not proof.passed:
        raise SystemExit(f"{name}: {proof.describe()}")
    del done
    before = watch()
    with timed(seconds, "cut_and_consume_s"):
        cut(coupling, removed, consume=True)
    figures["memory_consumed"] = 1 + (resident("VmHWM") - before) / weights
    del captured, coupling, model
    model, example = MODELS[name]()
    step = pj.PruneChannels(0.3, round_to=1, allow_inexact=True)
    before = watch()
    with timed(seconds, "apply_and_consume_s"):
        outcome = pj.apply(model, step, example, consume=True)
    figures["memory_apply_consumed"] = 1 + (resident("VmHWM") - before) / weights
    figures["applied"] = next(row.proof for row in outcome.log if row.proof)
    analysis = seconds["capture_s"] - seconds["export_s"] + seconds["couple_s"] + seconds["cut_s"]
    return figures | seconds | {"beside_export_s": analysis}


def exponent(x: list[float], y: list[float]) -> float:
    """The b of y = a x^b that fits best: 1 is linear growth."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", metavar="model", choices=MODELS, help="measure one model here and print its figures")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in MODELS:
        command = [sys.executable, "-m", "benchmarks.structure_speed", "--one", name]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(run.stdout.splitlines()[-1])
        parts = ("export_s", "capture_s", "couple_s", "cut_s", "prove_s", "beside_export_s")
        times = "  ".join(f"{part[:-2]} {found[name][part]:.2f}" for part in parts if part in found[name])
        held = ", ".join(f"{what} {found[name][what]:.2f}" for what in found[name] if what.startswith("memory"))
        print(f"{name:10} {found[name]['params'] / 1e6:6.0f}M  {times}  {held}", flush=True)
    decoders = [found[name] for name in DECODERS]
    params = [row["params"] for row in decoders]
    growth = {
        f"{part}_with_params": exponent(params, [row[f"{part}_s"] for row in decoders])
        for part in ("couple", "cut", "beside_export")
    }
    narrow = [found[f"deep_{n}"] for n in DEEP]
    nodes = [row["nodes"] for row in narrow]
    growth |= {
        f"{part}_with_nodes": exponent(nodes, [row[f"{part}_s"] for row in narrow])
        for part in ("couple", "cut", "beside_export")
    }
    met = {name: found[name]["beside_export_s"] <= limit for name, limit in TARGETS.items()}
    wide = [row for name, row in found.items() if not name.startswith("deep")]  # a graph weighs more than small weights
    met["memory_consumed"] = max(row["memory_consumed"] for row in wide) <= MEMORY_TARGET
    for what, reached in met.items():
        print(f"target of {what}: {'met' if reached else 'missed'}")
    print(f"growth: {growth}")
    data = {"targets_s": TARGETS, "memory_target": MEMORY_TARGET, "growth_exponents": growth, "met": met}
    record("structure_speed", data | {"models": found})


if __name__ == "__main__":
    main()
