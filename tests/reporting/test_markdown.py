"""Markdown: every table whole, every text escaped."""

import re

from penjing.reporting import ReportData
from penjing.reporting.markdown import escape, render_markdown, table
from penjing.reporting.words import verdict_words


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


def test_tables_are_well_formed(any_report: ReportData) -> None:
    blocks = [block.splitlines() for block in render_markdown(any_report).split("\n\n") if block.startswith("|")]
    assert blocks
    for block in blocks:
        assert len({cells(line) for line in block}) == 1, block
        assert set(block[1]) == set("| -")
        assert all(line.startswith("| ") and line.endswith(" |") for line in block)


def test_it_tells_the_verdict_first(reports: dict[str, ReportData]) -> None:
    for name, mark in (("pass", "✓ Pass"), ("undecided", "? Undecided"), ("fail", "✗ Fail"), ("empty", "- Not judged")):
        title, verdict = render_markdown(reports[name]).split("\n\n")[:2]
        assert title.startswith("# ResNet-20")
        assert verdict == f"**{mark}.** {escape(verdict_words(reports[name].verdict))}"


def test_the_outcome_is_said_once_and_the_scope_has_its_name(reports: dict[str, ReportData]) -> None:
    text = render_markdown(reports["undecided"])
    assert "**? Undecided.** The drop lies between" in text
    assert text.count("Undecided") == 1
    assert "| Scope | Not other retraining seeds. |" in render_markdown(reports["pass"])


def test_hostile_names_are_escaped(hostile: ReportData) -> None:
    text = render_markdown(hostile)
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)\[", text)
    assert "\n## heading" not in text
    assert "\x1b" not in text


def test_figures_and_reasons_are_there(report: ReportData) -> None:
    text = render_markdown(report).replace("\u00a0", " ")
    for part in (
        "11.7 ms (11.6 to 11.8 ms; p95 12.4 ms)",
        "3.00× faster (2.96 to 3.04×)",
        "- (not counted for quantised graphs)",
        "| 16 → 12 | 144 → 81 | 112,896 → 63,504 |",
        "| Quantize | fc stays fp32: its output error was 9.1 % of its range | yes | - |",
        "held: 3.90 ms (3.86 to 3.95 ms)",
        "fc.weight, dimension 0",
        "penjing optimize workload.py",
    ):
        assert part in text


def test_names_with_underscores_stay_readable() -> None:
    assert escape("layer1_conv_2") == "layer1_conv_2"
    assert escape("_emphasis_") == "\\_emphasis\\_"


def test_an_empty_table_is_a_dash() -> None:
    assert table(("a",), []) == "- (none in this run)"
