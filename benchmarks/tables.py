"""Write docs/benchmarks.md from the result files, so that no figure in the documentation is typed by hand.

python -m benchmarks.tables
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

Written by `python -m benchmarks.tables` from `benchmarks/results/*.json`, each made by the command that it names. One
pinned thread unless said otherwise. Ratios are paired, measured in turns in one run, with 95 % intervals; absolute
times of a shared machine vary by tens of percent and are marked where they are noisy.
"""


def ratio(value: dict[str, float]) -> str:
    return f"{value['value']:.2f}x [{value['low']:.2f}, {value['high']:.2f}]"


def points(lost: dict[str, float]) -> str:
    return f"{lost['value']:.2f} [{lost['low']:.2f}, {lost['high']:.2f}]"


def head(corner: str, columns: Sequence[Any]) -> list[str]:
    """The first two lines of a grid."""
    return [f"| {corner} | {' | '.join(map(str, columns))} |", "|---|" + "---|" * len(columns)]


def latency(data: dict[str, Any]) -> str:
    noisy = " (noisy)" if data["noise"] else ""
    return f"{data['median_ms']:.3g} [{data['low_ms']:.3g}, {data['high_ms']:.3g}]{noisy}"


def import_time(data: dict[str, Any]) -> list[str]:
    rows = [
        f"| `{name}` | {row['wall_s']['median']:.2f} | {row['added_wall_s']['median']:.2f} "
        f"[{row['added_wall_s']['quartile_low']:.2f}, {row['added_wall_s']['quartile_high']:.2f}] |"
        for name, row in data["rows"].items()
    ]
    head = ["| fresh process | seconds | added to `import torch`, median [quartiles] |", "|---|---|---|"]
    return [f"{data['rounds']} rounds in turns; target: at most {data['target_s']} s.", "", *head, *rows]


def profile_speed(data: dict[str, Any]) -> list[str]:
    capture, profile = data["capture_s"], data["profile_s"]
    return [
        f"A ResNet-50 of {data['params'] / 1e6:.1f}M parameters and {data['macs'] / 1e9:.2f} GMACs: capture "
        f"{capture['median']:.2f} s, profile {profile['median']:.2f} s (largest {profile['max']:.2f} s; target at most "
        f"{data['target_profile_s']:g} s)."
    ]


def resnet20_peer(data: dict[str, Any]) -> list[str]:
    seeds = sorted({row["seed"] for row in data["rows"]})
    head = "| network | MACs to go % | before recovery % | accuracy % | MACs left % | Penjing faster, batch 1 | 32 |"
    lines = [
        f"Dense networks of {data['dense_epochs']} epochs, seed {', '.join(map(str, seeds))}; {data['epochs']} epochs "
        "of recovery for each network, the dense control too. Accuracy of the exported file on 10,000 test images "
        "(standard error about 0.26 points); before recovery on 5,000 others.",
        "",
        head,
        "|---|---|---|---|---|---|---|",
    ]
    ours = {(row["seed"], row["removed"]): row for row in data["rows"] if row["method"] == "penjing"}
    for row in data["rows"]:
        mine = ours.get((row["seed"], row["removed"]))
        times = mine["times_faster"] if mine is not None and mine is not row else {}
        faster = [times.get(f"{row['method']}, batch {size}") for size in (1, 32)]
        cells = [ratio(value) if value else "" for value in faster]
        lines.append(
            f"| {row['method']}, seed {row['seed']} | {row['removed']} | "
            f"{100 * row['search_accuracy_before_recovery']:.2f} | {100 * row['accuracy']:.2f} | "
            f"{100 * row['macs_left']:.1f} | {cells[0]} | {cells[1]} |"
        )
    return lines


def resnet20_fashion(data: dict[str, Any]) -> list[str]:
    rows = ["| model | accuracy % | drop, points [limits] | verdict at 1 point | batch 1, ms | batch 32, ms | bytes |"]
    rows.append("|---|---|---|---|---|---|---|")
    ratios = ["| Penjing's model is faster than | batch 1 | batch 32 |", "|---|---|---|"]
    for name, row in data["rows"].items():
        verdict = row["verdict"]
        drop, low, high = (100 * verdict[key] for key in ("drop", "drop_lower", "drop_upper"))
        rows.append(
            f"| {name} | {100 * row['accuracy']:.2f} | {drop:.2f} [{low:.2f}, {high:.2f}] | {verdict['outcome']} | "
            f"{latency(row['latency']['1'])} | {latency(row['latency']['32'])} | {row['size_bytes']:,} |"
        )
        if faster := row.get("penjing_is_faster_by"):
            ratios.append(f"| {name} | {ratio(faster['1'])} | {ratio(faster['32'])} |")
    recipe = "; ".join(f"{key} {settings}" for step in data["recipe"] for key, settings in step.items())
    return [
        f"Certificate: all 10,000 test images. One seed; the original had {data['original_epochs']} epochs. "
        f"Recipe that ships: {recipe}. The control is the dense model, trained on for as many epochs and quantised.",
        "",
        *rows,
        "",
        *ratios,
    ]


def quantize_peer(data: dict[str, Any]) -> list[str]:
    rows = ["| model | output SQNR, dB | bytes |", "|---|---|---|"]
    for name, row in data["rows"].items():
        sqnr = "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        rows.append(f"| {name} | {sqnr} | {row['size_bytes']:,} |")
    return [f"Model: {data['model']}.", "", *rows]


def percent(value: dict[str, float], digits: int = 1) -> str:
    """A share in percent, with its interval."""
    return " ".join(
        (f"{100 * value['value']:.{digits}f}", f"[{100 * value['low']:.{digits}f}, {100 * value['high']:.{digits}f}]")
    )


def cost(row: dict[str, Any]) -> str:
    """Seconds of the processor and the peak of memory of quantising, as cells."""
    return f"{row['cpu_seconds']:.0f} | {row['peak_memory']:.0f}" if "cpu_seconds" in row else "- | -"


def closed(data: dict[str, Any], what: str) -> list[str]:
    """How much of what the best peer lacks each row of Penjing closes."""
    if data["best_peer"] is None:
        return []
    best, pairs = data["best_peer"], data["pairs"]
    return [
        f"The best peer in {what} is {best}. Beside it, on the same samples:",
        "",
        f"| row | better by, points of {what} | share of the peer's gap to 100 % closed, % |",
        "|---|---|---|",
        *(
            f"| {name} | {percent(row['difference'][best])} | {percent(row['closed'], 0)} |"
            for name, row in pairs.items()
        ),
    ]


def beside(
    rows: dict[str, Any], columns: Sequence[str], cells: Callable[[dict[str, Any]], list[str] | None]
) -> Iterator[str]:
    """A table of models beside their peers; cells: what stands in the columns, None for the reference."""
    yield f"| model | {' | '.join(columns)} | bytes | processor seconds | peak memory |"
    yield "|---" * (len(columns) + 4) + "|"
    for name, row in rows.items():
        if "error" in row:
            yield f"| {name} | not possible: {row['error']} |" + " |" * (len(columns) + 2)
            continue
        found = cells(row) or ["reference", *["-"] * (len(columns) - 1)]
        yield f"| {name} | {' | '.join(found)} | {row['size_bytes']:,} | {cost(row)} |"


def quantize_efficientnet(data: dict[str, Any]) -> list[str]:
    columns = ["same first class, %", "SQNR of the logits, dB", "KL, nats", "faster than float32, batch 1"]

    def cells(row: dict[str, Any]) -> list[str] | None:
        if "agreement" not in row:
            return None
        figures = [percent(row["agreement"]), f"{row['sqnr_db']:.1f}", f"{row['divergence_nats']:.4f}"]
        return [*figures, ratio(row["faster"]) if "faster" in row else "-"]

    return [
        f"Trained weights; {data['crops']:,} crops of {data['photographs']} photographs, calibrated on "
        f"{data['calibration']} crops of others. Intervals draw whole photographs. Memory is the peak of quantising, "
        "as a multiple of the float weights; a name ends with the runtime, and the format of what is not int8.",
        "",
        *beside(data["rows"], columns, cells),
        "",
        *closed(data, "agreement"),
    ]


def quantize_minilm(data: dict[str, Any]) -> list[str]:
    lengths = next((list(row["faster"]) for row in data["rows"].values() if "faster" in row), [])
    columns = ["same nearest sentence, %", "recall of the nearest ten, %", "cosine, mean and least"]

    def cells(row: dict[str, Any]) -> list[str] | None:
        if "recall" not in row:
            return None
        cosine = f"{row['cosine']['mean']:.4f}, {row['cosine']['min']:.3f}"
        faster = [ratio(row["faster"][n]) if "faster" in row else "-" for n in lengths]
        return [percent(row["nearest"]), percent(row["recall"]), cosine, *faster]

    return [
        f"Trained weights; {data['sentences']:,} definitions of WordNet, none padded; tools that calibrate do "
        f"so on {data['calibration']} sentences of another kind. Intervals draw sentences.",
        "",
        *beside(data["rows"], [*columns, *(f"faster than float32, {n} tokens" for n in lengths)], cells),
        "",
        *closed(data["recall"], "recall"),
    ]


def k_sparse(data: dict[str, Any]) -> list[str]:
    parts: dict[str, Callable[[dict[str, Any]], list[str]]] = {
        "resnet20": _sparse_resnet20,
        "minilm": lambda rows: _sparse_minilm(rows, data),
        "layers": _sparse_layers,
        "large": _sparse_large,
    }
    return [
        line for name, lines in parts.items() if name in data["parts"] for line in (*lines(data["parts"][name]), "")
    ]


def _sparse_resnet20(rows: dict[str, Any]) -> list[str]:
    return [
        "Whole models, no training and no label. ResNet-20 on Fashion-MNIST, the file in ONNX Runtime on 10,000 test "
        "images:",
        "",
        "| weights | accuracy, % | processor seconds |",
        "|---|---|---|",
        *(f"| {name} | {100 * r['accuracy']:.2f} | {r['cpu_seconds']:.0f} |" for name, r in rows.items()),
    ]


def _sparse_minilm(rows: dict[str, Any], data: dict[str, Any]) -> list[str]:
    return [
        f"MiniLM, its linear layers, calibrated on {data['calibration']} sentences of another kind; "
        f"{data['sentences']:,} sentences beside the dense encoder:",
        "",
        "| weights | same nearest sentence, % | cosine, mean and least | processor seconds |",
        "|---|---|---|---|",
        *(
            f"| {name} | {100 * r['nearest']:.1f} | {r['cosine']['mean']:.4f}, {r['cosine']['min']:.3f} | "
            f"{r['cpu_seconds']:.0f} |"
            for name, r in rows.items()
        ),
    ]


def _sparse_layers(found: dict[str, Any]) -> list[str]:
    layers = found["whole"]
    methods = list(dict.fromkeys(method for row in layers for method in row["errors"]))
    lines = [
        "Single layers: error ||XW - XW'||^2 as a share of ||XW||^2 for SparseGPT, as a multiple of SparseGPT's for "
        "the others; the bound is what no answer can go below.",
        "",
        f"| layer | weights left | sparsegpt, % | {' | '.join(m for m in methods if m != 'sparsegpt')} | bound |",
        "|---" * (len(methods) + 3) + "|",
    ]
    for row in layers:
        base = row["errors"]["sparsegpt"]
        cells = [f"{row['errors'][m] / base:.3f}" if m in row["errors"] else "-" for m in methods if m != "sparsegpt"]
        bound = "-" if row["bound"] is None else f"{row['bound'] / base:.3f}"
        shape = "x".join(map(str, row["shape"]))
        lines.append(
            f"| {row['layer']}, {shape} | {row['density']:.0%} | {100 * base:.3g} | {' | '.join(cells)} | {bound} |"
        )
    densities = sorted({row["density"] for row in layers}, reverse=True)
    lines += ["", "Small layers (14 of the inputs of each), error as a multiple of the optimum, mean and largest:", ""]
    lines += ["| weights left | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for density in densities:
        rows = [row["times_the_optimum"] for row in found["small"] if row["density"] == density]
        cells = [f"{sum(r[m] for r in rows) / len(rows):.3f}, {max(r[m] for r in rows):.3f}" for m in methods]
        lines.append(f"| {density:.0%} | {' | '.join(cells)} |")
    return lines


def _sparse_large(large: dict[str, Any]) -> list[str]:
    return [
        f"A random layer of {large['inputs']:,} inputs and outputs at 50 % with {large['samples']:,} rows: "
        f"{large['cpu_seconds']:.0f} seconds of the processor on {large['threads']} threads "
        f"({large['wall_seconds']:.0f} s on a shared machine), memory grows by {large['memory_layers']:.1f} times the "
        f"layer, error {large['error'] / large['sparsegpt_error']:.2f} times SparseGPT's.",
    ]


def quantize_silero(data: dict[str, Any]) -> list[str]:
    columns = ["largest error of the probability", "rms", "same decision, %", "faster than float32, a frame"]

    def cells(row: dict[str, Any]) -> list[str] | None:
        if "rms_error" not in row:
            return None
        errors = [f"{row['largest_error']:.3f}", f"{row['rms_error']:.4f}"]
        return [*errors, percent(row["agreement"]), ratio(row["faster"])]

    return [
        f"Trained weights; {data['frames']:,} frames of {data['streams']} synthetic streams, {data['speech']:.0%} of "
        "them speech to the float model. Each row feeds its own states back. Intervals draw whole streams.",
        "",
        *beside(data["rows"], columns, cells),
    ]


def quantize_resnet20(data: dict[str, Any]) -> list[str]:
    rows = [
        "| model | accuracy, % | lost, points | faster than float32, batch 1 | bytes | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in data["rows"].items():
        if "lost_points" not in row:
            rows.append(f"| {name} | {100 * row['accuracy']:.2f} | reference | - | {row['size_bytes']:,} | - |")
            continue
        rows.append(
            f"| {name} | {100 * row['accuracy']:.2f} | {points(row['lost_points'])} | "
            f"{ratio(row['faster'])} | {row['size_bytes']:,} | {row['seconds']:.1f} |"
        )
    return [
        f"No training; the files in ONNX Runtime on {data['images']:,} test images, paired with float32.",
        "",
        *rows,
    ]


def retrained_resnet20(data: dict[str, Any]) -> list[str]:
    rows = ["| recipe | seed | dense, % | accuracy, % | lost, points | seconds |", "|---|---|---|---|---|---|"]
    for row in data["rows"]:
        rows.append(
            f"| {row['recipe']} | {row['seed']} | {100 * row['dense_accuracy']:.2f} | {100 * row['accuracy']:.2f} | "
            f"{points(row['lost_points'])} | {row['seconds']:.0f} |"
        )
    return [
        f"{data['epochs']:g} epoch(s) of training for each recipe that trains, peak learning rate {data['lr']:g}; the "
        f"files in ONNX Runtime on {data['images']:,} test images, paired with float32.",
        "",
        *rows,
    ]


def widths(data: dict[str, Any]) -> list[str]:
    rows = ["| outside | inside | MMACs | fp32, batch 1 | fp32, batch 32 | int8, batch 1 | int8, batch 32 |"]
    rows.append("|---|---|---|---|---|---|---|")
    for row in data["rows"]:
        outside, inside = ("/".join(map(str, row[key])) for key in ("outside", "inside"))
        cells = " | ".join(ratio(row[kind][n]["faster_than_dense"]) for kind in ("fp32", "int8") for n in ("1", "32"))
        rows.append(f"| {outside} | {inside} | {row['macs'] / 1e6:.1f} | {cells} |")
    return [
        "How much faster than the dense network of the same format (16/32/64), by width of the residual stream "
        f"(outside) and within the blocks (inside); random weights, {data['seconds']} s for each figure.",
        "",
        *rows,
    ]


def structure_speed(data: dict[str, Any]) -> list[str]:
    lines = [
        "CPU seconds, one thread. Memory is a multiple of the weights: the peak during a cut, the same with "
        "consume=True, what a proof takes beside the model, and the peak of a whole `apply(consume=True)`, proofs "
        "included, which keeps what it has freed for a while.",
        "",
        "| model | parameters | nodes | torch.export | couple | cut | prove | cut: memory | consumed | proof | apply |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    narrow = {name: row for name, row in data["models"].items() if name.startswith("deep")}
    for name, row in data["models"].items():
        if name not in narrow:
            memory = (row["memory"], row["memory_consumed"], row["memory_proof"], row["memory_apply_consumed"])
            lines.append(
                f"| {name} | {row['params'] / 1e6:.0f}M | {row['nodes']:,} | {row['export_s']:.2f} | "
                f"{row['couple_s']:.2f} | {row['cut_s']:.2f} | {row['prove_s']:.1f} | "
                + " | ".join(f"{value:.2f}" for value in memory)
                + " |"
            )
    growth = data["growth_exponents"]
    lines += [
        "",
        "Decoders of one narrow width: only the graph grows. Seconds grow with nodes to the power of "
        f"{growth['couple_with_nodes']:.2f} (couple) and {growth['cut_with_nodes']:.2f} (cut), and, over the decoders "
        f"above, with parameters to the power of {growth['couple_with_params']:.2f} and "
        f"{growth['cut_with_params']:.2f}.",
        "",
        "| model | nodes | torch.export | couple | cut | prove |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['nodes']:,} | {row['export_s']:.2f} | {row['couple_s']:.3f} | {row['cut_s']:.3f} | "
        f"{row['prove_s']:.2f} |"
        for name, row in narrow.items()
    ]
    return lines


def depth(data: dict[str, Any]) -> list[str]:
    counts = sorted({row["count"] for row in data["rows"]})
    lines = [
        f"ResNet-20 on Fashion-MNIST, not trained again. All blocks: {100 * data['accuracy']:.2f} % on 5,000 held-out "
        "images; random: the mean of its seeds.",
        "",
        *head("blocks dropped by", counts),
    ]
    for score in dict.fromkeys(row["score"] for row in data["rows"]):
        cells = []
        for count in counts:
            found = [r["accuracy"] for r in data["rows"] if (r["score"], r["count"]) == (score, count)]
            cells.append(f"{100 * sum(found) / len(found):.2f} %")
        lines.append(f"| {score} | {' | '.join(cells)} |")
    for size in sorted({row["batch"] for row in data["latency"]}):
        times = [
            ratio({"value": row["faster_by"], "low": row["low"], "high": row["high"]})
            for row in data["latency"]
            if row["batch"] == size
        ]
        lines.append(f"| faster, fp32 file, batch {size} | {' | '.join(times)} |")
    return lines


def factorize(data: dict[str, Any]) -> list[str]:
    lines = [
        "Without training. Accuracy: of 10,000 test images; nearest: sentences of "
        f"{data['sentences']:,} that keep their nearest neighbour. ResNet-20 loses 30 % of its MACs, the encoder 20 %.",
        "",
        "| model | step | accuracy or nearest | faster, small | faster, large |",
        "|---|---|---|---|---|",
    ]
    for row in data["models"]:
        kept = row["accuracy"] if "accuracy" in row else row["nearest"]
        times = " | ".join(map(ratio, row["faster"].values())) if "faster" in row else "1 | 1"
        lines.append(f"| {row['model']} | {row['step']} | {100 * kept:.2f} % | {times} |")
    lines += [
        "",
        "Small and large are batches of 1 and 32 images, or 32 and 128 tokens. Single layers at "
        f"1/{data['share']} of the largest rank: what their outputs lose of their energy on data held out, the "
        "mean over layers.",
        "",
        "| model | kernels | layers | by the weight | by the outputs on data | nearer with data |",
        "|---|---|---|---|---|---|",
    ]
    for model, rows in data["layers"].items():
        for kernels in dict.fromkeys(row["kernels"] for row in rows):
            errors = [row["errors"] for row in rows if row["kernels"] == kernels]
            plain, white = (
                100 * sum(error[method] for error in errors) / len(errors) for method in ("svd", "whitened")
            )
            better = sum(error["whitened"] < error["svd"] for error in errors)
            lines.append(f"| {model} | {kernels} | {len(errors)} | {plain:.1f} % | {white:.1f} % | {better} |")
    return lines


def cluster(data: dict[str, Any]) -> list[str]:
    bits = sorted({row["bits"] for row in data["rows"]})
    lines = [
        f"ResNet-20 on Fashion-MNIST: {100 * data['accuracy']:.2f} % on 5,000 held-out images, {data['bytes']:,} bytes "
        "saved plain. Each cell: accuracy, and how many times smaller its tensors are, saved compact.",
        "",
        *head("bits", bits),
    ]
    for how in dict.fromkeys(row["how"] for row in data["rows"]):
        found = {row["bits"]: row for row in data["rows"] if row["how"] == how}
        cells = [
            f"{100 * found[b]['accuracy']:.2f} %, {data['bytes'] / found[b]['bytes']:.1f}x" if b in found else ""
            for b in bits
        ]
        lines.append(f"| {how} | {' | '.join(cells)} |")
    return lines


def demo(data: dict[str, Any]) -> list[str]:
    faster = ", ".join(f"{ratio(value)} at batch {n}" for n, value in data["faster_by"].items())
    return [
        f"{data['verdict']['sentence']} Faster by {faster}; {data['smaller_by']:.2f}x smaller on disk; "
        f"{data['wall_s']:.0f} s from nothing to the verdict."
    ]


def coverage(data: dict[str, Any]) -> list[str]:
    peer, proven = data["peer"]["useful"], data["passed"]
    return [
        f"{data['models']} architectures; of the {data['exportable']} that torch.export captures, {proven} are cut, "
        f"proven and trained for a step; Torch-Pruning prunes {peer['count']} of {peer['of']}. "
        "See [the page of all models](coverage.md)."
    ]


def capability(data: dict[str, Any]) -> list[str]:
    runtimes = sorted({row["runtime"] for row in data["rows"]})
    found = {(row["runtime"], row["pattern"]): row for row in data["rows"] if row["factor"] is not None}
    lines = [f"| pattern | by count | {' | '.join(runtimes)} |", "|---|---|" + "---|" * len(runtimes)]
    for pattern, ideal in {row["pattern"]: row["ideal"] for row in data["rows"]}.items():
        rows = [found.get((runtime, pattern)) for runtime in runtimes]
        cells = [f"{row['factor']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row else "-" for row in rows]
        lines.append(f"| {pattern} | {ideal:.2f} | {' | '.join(cells)} |")
    return [
        "How many times faster than the usual float32 network in the same runtime; by count is what its "
        f"multiply-accumulates (or bytes) promise. It took {data['seconds']:.0f} s.",
        "",
        *lines,
    ]


def latency_model(data: dict[str, Any]) -> list[str]:
    rows = ["| runtime | network | whole, ms | versions, share of its time | held out by width | by architecture |"]
    rows.append("|---|---|---|---|---|---|")
    for runtime, networks in data["networks"].items():
        for name, row in networks.items():
            low, high = row["faster_or_slower"]
            width, other = (row[f"held_out_by_{what}"] for what in ("width", "architecture"))
            rows.append(
                f"| {runtime} | {name} | {row['whole_ms']:.3g} | {row['versions']}, {low:.2f} to {high:.2f} | "
                f"{width['median']:.1%}, p90 {width['p90']:.1%} | {other['median']:.1%}, p90 {other['p90']:.1%} |"
            )
        width, other = (data["pooled"][runtime][f"held_out_by_{what}"] for what in ("width", "architecture"))
        rows.append(
            f"| {runtime} | all | | | {width['median']:.1%}, p90 {width['p90']:.1%} | "
            f"{other['median']:.1%}, p90 {other['p90']:.1%} |"
        )
    return [
        "Error of the predicted latency, median and 90th percentile, of versions of each network at random widths: "
        "predicted by the other versions of the same network, and by the versions of all other networks with one "
        "measurement of this one.",
        "",
        *rows,
    ]


def latency_budget(data: dict[str, Any]) -> list[str]:
    batches = list(data["rows"][0]["faster_than_any_width"])
    head = " | ".join(f"batch {batch}" for batch in batches)
    rows = [f"| MACs to go | widths | MACs left % | accuracy % | {head} |", "|---|---|---|---|" + "---|" * len(batches)]
    for row in data["rows"]:
        cells = " | ".join(ratio(row["faster_than_any_width"][batch]) for batch in batches)
        rows.append(
            f"| {row['removed']:.0%} | {row['widths']} | {100 * row['macs_left']:.1f} | {100 * row['accuracy']:.2f} | "
            f"{cells} |"
        )
    return [
        "How much faster than the network cut at any width, for the same share of MACs, in ONNX Runtime fp32; "
        f"{data['recovery_epochs']} epoch(s) of recovery for each, accuracy of the file on 10,000 test images. The "
        f"latency model saw {data['networks_measured']} networks at batch {data['measured_at_batch']}; its median "
        f"error is {data['model_median_error']:.1%}.",
        "",
        *rows,
    ]


def deploy_resnet20(data: dict[str, Any]) -> list[str]:
    first = data["rows"][0]
    rows = ["| runtime and format | ms | faster than ONNX Runtime fp32 | drop on the search split, points | verdict |"]
    rows.append("|---|---|---|---|---|")
    for row in data["rows"]:
        if row["latency"] is None:
            rows.append(f"| {row['name']} | - | {row['why'].partition(';')[0]} | - | - |")
            continue
        faster = "reference" if row is first else ratio(row["latency"]["ratio"])
        verdict = row["verdict"]["outcome"] if row["verdict"] else ""
        drop = "" if row["drop"] is None else f"{100 * row['drop']:.2f}"
        rows.append(f"| {row['name']} | {latency(row['latency'])} | {faster} | {drop} | {verdict} |")
    has = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in data["instructions"].items())
    return [
        f"The trained network as it is, batch {data['batch']}; judged at {100 * data['max_drop']:g} points on 10,000 "
        f"test images, from slow to fast. The processor has: {has}.",
        "",
        *rows,
    ]


def self_ratio(data: dict[str, Any]) -> list[str]:
    target = data["target"]
    head = "| batch | machine | trials | interval covers 1 | says noisy | neither | half width, median % | load |"
    rows = [
        f"| {row['batch']} | {row['condition']} | {row['count']} | {row['covered']} | {row['said_noisy']} | "
        f"{row['wrong']} | {100 * row['median_half_width']:.2f} | {row['load'][0]:.1f} to {row['load'][1]:.1f} |"
        for row in data["rows"]
    ]
    return [
        f"Target: the interval covers 1 in {target['covered']} of {target['trials']} trials, with half its width at "
        f"most {100 * target['half_width']:g} %, or the answer is noisy. {data['seconds']:g} s for each of a pair. "
        "Busy: a second process spins on another core. The machine was shared: load is its average over a minute.",
        "",
        head,
        "|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def parity(data: dict[str, Any]) -> list[str]:
    rows = []
    for row in data["rows"]:
        if "why" in row:
            rows.append(f"| {row['network']} | {row['runtime']} | {row['why']} |" + " |" * 7)
            continue
        worst = [f"{100 * row[key]:.3f}" if row[key] is not None else "" for key in ("alone", "explained")]
        worst += [f"{100 * row[key]:.1f}" if row[key] is not None else "" for key in ("within", "floor")]
        points = "" if row["points"] is None else f"{row['points']:.2f}"
        rows.append(
            f"| {row['network']} | {row['runtime']} | {row['boundaries']} | {row['fused']} | {' | '.join(worst)} | "
            f"{row['rms']:.1e} | {points} | {row['first_difference'] or ''} |"
        )
    return [
        "The simulation in torch and the deployed int8 file, at each place where integers are stored: the share of "
        f"the elements within one step, in %, at the worst place ({100 * data['share']:g} is asked for). By itself: "
        "both sides are given the same. Explained: the simulation, too, does not round where the runtime fused the "
        "rounding away. End to end: each side goes on from its own. Floor: the simulation beside itself in float64.",
        "",
        "| network | runtime | boundaries shown | fused away | by itself | explained | end to end | floor | "
        "rms of the output | metric, points | first difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def weight_forms(data: dict[str, Any]) -> list[str]:
    counts = list(next(iter(data["forms"].values())))
    lines = [f"| form | {' | '.join('1 row' if n == '1' else f'{n} rows' for n in counts)} |"]
    lines.append("|---|" + "---|" * len(counts))
    lines += [f"| {name} | {' | '.join(ratio(row[n]) for n in counts)} |" for name, row in data["forms"].items()]
    return [
        f"How many times faster than float32 a linear of {data['inputs']} to {data['outputs']} is, in ONNX Runtime "
        f"{data['onnxruntime']}. Blocks are of 32 inputs. The first row is the float linear beside itself.",
        "",
        *lines,
    ]


def dynamic_lstm(data: dict[str, Any]) -> list[str]:
    lines = ["| inputs to hidden | steps | faster than float32 | off its simulation, rms | off float32, rms |"]
    lines.append("|---|---|---|---|---|")
    lines += [
        f"| {row['inputs']} to {row['hidden']} | {row['steps']} | {ratio(row['faster'])} | "
        f"{row['from_simulation']:.1e} | {row['from_float']:.1e} |"
        for row in data["rows"]
    ]
    return ['`Quantize("int8-dynamic")` of one LSTM in ONNX Runtime; rms of the outputs\' own.', "", *lines]


def products(data: dict[str, Any]) -> list[str]:
    rows = ["| attention | runtime | faster than float32 | than with int8 linears alone | error, % | of those |"]
    rows.append("|---|---|---|---|---|---|")
    for row in data["rows"]:
        faster = " | ".join(ratio(row["faster"][name]) for name in ("float32", "linears in int8"))
        lost = [100 * row["error"][name] for name in ("products in int8 too", "linears in int8")]
        rows.append(
            f"| {row['width']} wide, {row['heads']} heads, {row['tokens']} tokens | {row['runtime']} | {faster} | "
            f"{lost[0]:.2f} | {lost[1]:.2f} |"
        )
    return [
        "One layer of attention in int8, its products too, one sample. Error: of the outputs, of their norm.",
        "",
        *rows,
    ]


def verdict_size(_: dict[str, Any]) -> list[str]:
    return ["See [the design of the verdict](design/002-verdict.md)."]


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "resnet20_fashion": ("ResNet-20 on Fashion-MNIST", resnet20_fashion),
    "resnet20_peer": ("ResNet-20 beside Torch-Pruning", resnet20_peer),
    "deploy_resnet20": ("The same ResNet-20 in other runtimes and formats", deploy_resnet20),
    "latency_budget": ("Widths chosen by measurement", latency_budget),
    "capability": ("What each technique is worth in each runtime", capability),
    "latency_model": ("The latency model", latency_model),
    "structure_speed": ("Analysis and cut", structure_speed),
    "depth": ("Blocks left out", depth),
    "factorize": ("Low rank", factorize),
    "cluster": ("Weights on palettes", cluster),
    "demo": ("The demo", demo),
    "self_ratio": ("A file against itself", self_ratio),
    "widths": ("What widths cost", widths),
    "quantize_peer": ("Static int8 beside ONNX Runtime's own tool", quantize_peer),
    "quantize_efficientnet": ("EfficientNet-Lite0 in int8 beside its peers", quantize_efficientnet),
    "quantize_minilm": ("A sentence encoder in int8 beside its peers", quantize_minilm),
    "retrained_resnet20": ("ResNet-20, sparse or in few bits, trained on", retrained_resnet20),
    "quantize_resnet20": ("ResNet-20 in eight and four bits without training", quantize_resnet20),
    "k_sparse": ("The k-sparse problem, and sparsity without training", k_sparse),
    "quantize_silero": ("A recurrent detector of speech in int8 beside its peers", quantize_silero),
    "weight_forms": ("Forms of a quantised linear", weight_forms),
    "dynamic_lstm": ("An LSTM in int8-dynamic", dynamic_lstm),
    "products": ("Products of two activations in int8", products),
    "parity": ("Simulation and runtime", parity),
    "import_time": ("Import time", import_time),
    "profile_speed": ("Profile", profile_speed),
    "verdict_size": ("Size of the verdict", verdict_size),
    "coverage": ("Coverage of the structural cut", coverage),
}


def main() -> None:
    lines = [HEAD]
    for name, (title, section) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        data = json.loads(path.read_text("utf-8"))
        machine = data.get("machine", {})
        here = f"{machine.get('cpu', '')}, {machine.get('cores', '')} cores" if "cpu" in machine else ""
        made = ", ".join(filter(None, [f"`{data['command']}`", data.get("day"), here])) + "."
        note = [data["note"], ""] if "note" in data else []
        lines += [f"## {title}", "", made, "", *note, *section(data), ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
