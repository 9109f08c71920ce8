"""What the rows of the coverage benchmark say together, and the page of one line for each model."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.zoo import ZOO

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
LEFT = 0.65  # of the parameters, at cuts of 30 % of the units: what counts as a real cut

Row = Mapping[str, Any]
Verdict = Callable[[dict[str, Any]], str]


def summarise(rows: Mapping[str, dict[str, Any]], verdict: Verdict) -> dict[str, Any]:
    """The figures of a whole run."""
    exportable = {name: row for name, row in rows.items() if "error" not in row.get("export", {})}
    cuttable = [row for row in exportable.values() if row.get("cuts", {}).get("all 30")]
    verdicts = {name: verdict(row) for name, row in rows.items()}
    exact = [row["cuts"]["exact 30"] for row in cuttable]
    every = [row["cuts"]["all 30"] for row in cuttable]
    held = [row for row in rows.values() if row["held_out"] and row["first"] != "not exportable"]
    peers = [row["peer"] for row in rows.values() if row.get("peer")]
    times = [
        (row["couple"]["seconds"] + row["cuts"]["all 30"]["cut"].get("seconds", 0.0)) / row["export"]["seconds"]
        for row in cuttable
    ]
    why: Counter[str] = Counter()
    for row in cuttable:
        for reason, elements in row["couple"]["reasons"].items():
            why[reason] += elements / row["parameters"]
    return {
        "models": len(rows),
        "zoo": len(ZOO),
        "commits": sorted({row["commit"] for row in rows.values()}),
        "families": dict(Counter(row["family"] for row in rows.values())),
        "exportable": len(exportable),
        "not_exportable": {
            name: row["export"]["error"] for name, row in rows.items() if verdicts[name] == "not exportable"
        },
        "passed": sum(verdicts[name] == "passed" for name in exportable),
        "in_parts": share(
            [word == "passed" for name, word in verdicts.items() if name not in exportable and word != "not exportable"]
        ),
        "failed": {name: word for name, word in verdicts.items() if word not in ("passed", "not exportable")},
        "worst_difference": max((_proof(row) for row in cuttable if verdicts[row["name"]] == "passed"), default=None),
        "zeroed": share([cell["zeroed"]["passed"] for row in cuttable for cell in _cells(row) if "zeroed" in cell]),
        "left_at_most_0.65": share([cell["left"] <= LEFT for cell in every if "left" in cell], len(exportable)),
        "left_at_most_0.65_exact_only": share([c.get("left", 1.0) <= LEFT for c in exact], len(exportable)),
        "median_left": _median(cell["left"] for cell in every if "left" in cell),
        "median_left_exact_only": _median(cell.get("left", 1.0) for cell in exact),
        "in_place": share([bool(_in_place(row)) for row in cuttable], len(exportable)),
        "in_place_by": dict(Counter(_in_place(row) or "not" for row in cuttable)),
        "folded": share([_passed(row.get("further", {}), "folded") for row in cuttable], len(exportable)),
        "onnx": share([bool(row.get("onnx", {}).get("passed")) for row in cuttable], len(exportable)),
        "trains": share([_passed(row.get("further", {}), "trains") for row in cuttable], len(exportable)),
        "frozen_median": _median(row["couple"]["frozen"] for row in cuttable),
        "frozen_over_a_tenth": {
            row["name"]: round(row["couple"]["frozen"], 3) for row in cuttable if row["couple"]["frozen"] > 0.1
        },
        "frozen_reasons_mean_share": {reason: round(total / len(cuttable), 5) for reason, total in why.most_common(20)},
        "analysis_and_cut_over_export": {"median": _median(times), "max": max(times, default=None)},
        "held_out": share([row["first"] == "passed" for row in held]),
        "peer": {
            "useful": share([bool(peer.get("useful")) for peer in peers]),
            "why_not": dict(Counter(_why(peer) for peer in peers if not peer.get("useful")).most_common(12)),
        },
    }


def share(passed: list[bool], of: int | None = None) -> dict[str, Any]:
    """How many of how many.

    >>> share([True, False, True, True])
    {'count': 3, 'of': 4, 'share': 0.75}
    """
    total = len(passed) if of is None else of
    return {"count": sum(passed), "of": total, "share": round(sum(passed) / total, 4) if total else None}


def write_page(rows: Mapping[str, dict[str, Any]], verdict: Verdict) -> None:
    """Write docs/coverage.md."""
    figures = summarise(rows, verdict)
    PAGE.write_text("\n".join([*_head(figures), *_table(rows, verdict), ""]), encoding="utf-8")
    print(f"wrote {PAGE}")


def _head(figures: Mapping[str, Any]) -> list[str]:
    def of(name: str) -> str:
        value = figures[name]
        return f"{value['count']} of {value['of']}"

    peer = figures["peer"]["useful"]
    in_place = ", ".join(f"{n} {how}" for how, n in figures["in_place_by"].items() if how != "not")
    times = figures["analysis_and_cut_over_export"]
    lines = [
        "# Coverage of the structural cut",
        "",
        "Written by `python -m benchmarks.coverage`. Models have random weights of which none is constant; 30 % and "
        "60 % of the units of every group are drawn at random and cut, once of the exact groups alone and once of all. "
        "Heads and their widths are groups of their own, so that a weight that carries both loses more than 30 %. "
        "A group is exact when cutting it equals zeroing it; the residual stream of a transformer passes layer norms, "
        "which makes it inexact: with exact groups only, its width stays, and heads and hidden layers can go.",
        "",
        f"{figures['models']} of the {figures['zoo']} models of the zoo have been run, at the commits "
        f"{', '.join(figures['commits'])}; a model that failed was run again after a mend.",
        "",
        "| what | figure |",
        "|---|---|",
        f"| models; of these torch.export captures | {figures['models']}; {figures['exportable']} |",
        f"| captured models whose cuts all ran, were proven at 1e-9 in float64, and train | {figures['passed']} of "
        f"{figures['exportable']} |",
        "| models that choose by values, such as detectors: cut in parts (the backbone among them), each in its own "
        f"class and proven, and the whole runs; in none of the other rows | {of('in_parts')} |",
        f"| exact cuts equal to the model itself with zeroed slices, by a check of its own | {of('zeroed')} |",
        f"| parameters left at 30 % at most {LEFT}, all groups | {of('left_at_most_0.65')} |",
        f"| the same, exact groups only | {of('left_at_most_0.65_exact_only')} |",
        f"| cut in the user's own class, proven | {of('in_place')} ({in_place}) |",
        f"| proven with the constants of removed channels folded | {of('folded')} |",
        f"| equal in ONNX Runtime within 1e-5 | {of('onnx')} |",
        f"| analysis and cut beside torch.export, median; largest | {_ratio(times['median'])}; "
        f"{_ratio(times['max'])} |",
        f"| parameters that no cut can touch, median | {_percent(figures['frozen_median'])} |",
        f"| held out: passed at first sight | {of('held_out')} |",
        f"| Torch-Pruning, 30 %: ran after the step and pruned something | {peer['count']} of {peer['of']} |",
        "",
    ]
    for title, part in (("Not captured by torch.export", "not_exportable"), ("Failed", "failed")):
        if figures[part]:
            lines += [f"## {title}", ""]
            lines += [f"- {name}: {_plain(what)}" for name, what in figures[part].items()]
            lines += [""]
    return lines


HEADER = (
    "| model | parameters | operators | export s | analysis + cut s | left, exact | left, all | largest difference | "
    "in place | ONNX difference | out of reach | Torch-Pruning |"
)


def _table(rows: Mapping[str, dict[str, Any]], verdict: Verdict) -> list[str]:
    lines = ["## Models", "", HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    for name, row in sorted(rows.items()):
        peer = row.get("peer") or {}
        theirs = f"{peer['left']:.2f}" if peer.get("useful") else "no"
        title = f"{name} *" if row["held_out"] else name
        if parts := row.get("parts", {}).get("30"):
            proofs = parts.get("parts", {}).values()
            proven = f"{sum(map(bool, proofs))} of {len(proofs)} parts" if verdict(row) == "passed" else ""
            cells = [title, f"{row['parameters']:,}", "", "", "", "", f"{parts.get('left', 1.0):.2f}"]
            lines.append(
                "| " + " | ".join([*cells, proven or _plain(verdict(row))[:60], "its parts", "", "", theirs]) + " |"
            )
            continue
        if not row.get("cuts", {}).get("all 30"):
            lines.append(
                f"| {title} | {row.get('parameters', 0):,} | {verdict(row)[:60]} |" + " |" * 8 + f" {theirs} |"
            )
            continue
        every, exact, onnx = row["cuts"]["all 30"], row["cuts"]["exact 30"], row.get("onnx", {})
        proof = f"{_proof(row):.0e}" if verdict(row) == "passed" else _plain(verdict(row))[:60]
        cells = [
            title,
            f"{row['parameters']:,}",
            str(row["export"]["nodes"]),
            f"{row['export']['seconds']:.2f}",
            f"{row['couple']['seconds'] + every['cut'].get('seconds', 0.0):.2f}",
            f"{exact.get('left', 1.0):.2f}",
            f"{every.get('left', 1.0):.2f}",
            proof,
            _in_place(row) or "no",
            f"{onnx['difference']:.0e}" if onnx.get("passed") else f"no ({onnx.get('difference', 'fails')})",
            _percent(row["couple"]["frozen"]),
            theirs,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", "\\* held out: named before anyone had seen how it fares."]


def _cells(row: Row) -> list[Row]:
    return [
        cell for name, cell in row["cuts"].items() if cell and (name.startswith("exact") or cell != _twin(row, name))
    ]


def _twin(row: Row, name: str) -> Any:
    return row["cuts"].get(name.replace("all", "exact"))


def _in_place(row: Row) -> str:
    """Which units the user's own class could lose."""
    ways = {"in_place": "the same units", "in_place_gentler": "gentler units", "in_place_exact": "gentler exact units"}
    return next((how for name, how in ways.items() if _passed(row.get("further", {}), name)), "")


def _passed(cell: Row, check: str) -> bool:
    return bool(cell.get(check, {}).get("passed"))


def _proof(row: Row) -> float:
    return max((float(cell["proof"].get("difference", 0.0)) for cell in _cells(row) if "proof" in cell), default=0.0)


def _why(peer: Row) -> str:
    return str(peer.get("died") or f"{peer.get('stage')}: {peer.get('what', 'pruned nothing').partition(':')[0]}")


def _median(values: Any) -> float | None:
    values = list(values)
    return round(float(median(values)), 4) if values else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("<", "&lt;")
