"""The summary in a terminal."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from penjing.reporting import ReportData, Role, print_summary


def printed(data: ReportData, width: int = 80, color: bool = False) -> str:
    out = io.StringIO()
    print_summary(
        data, Console(file=out, width=width, force_terminal=color, color_system="standard" if color else None)
    )
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(any_report: ReportData, width: int) -> None:
    assert max(cell_len(line) for line in printed(any_report, width).splitlines()) <= width


def test_it_tells_what_matters(report: ReportData) -> None:
    text = printed(report, width=120).replace("\u00a0", " ")
    for part in (
        "✓ Pass: ResNet-20 on Fashion-MNIST",
        "3.00× faster (Latency, batch 32), 8.40× smaller (Size on disk), Accuracy 92.18 % → 91.87 %",
        "11.6 to 11.8 ms",
        "3.86 to 3.95 ms",
        "not counted for quantised graphs",
        "→ cut 40 %, int8",
        "certified",
        "fell back: Quantize: fc stays fp32",
    ):
        assert part in text


def test_the_verdict_is_said_in_words(reports: dict[str, ReportData]) -> None:
    for name, word in (("pass", "✓ Pass"), ("undecided", "? Undecided"), ("fail", "✗ Fail"), ("bare", "- Not judged")):
        text = printed(reports[name])
        assert word in text
        assert text.count(word.partition(" ")[2]) == 1
    assert "Before and after" not in printed(reports["bare"])


def test_markup_and_escapes_in_names_stay_text(report: ReportData) -> None:
    named = report.model_copy(update={"title": "[bold red]x[/] \x1b[31m"})
    text = printed(named, width=120, color=True)
    assert "[bold red]x[/] \ufffd[31m" in text


def test_many_models_are_cut_to_a_dozen_with_the_chosen_first(report: ReportData) -> None:
    chosen = next(c for c in report.front.candidates if c.role is Role.CHOSEN)
    slow = [report.front.candidates[2].model_copy(update={"label": f"model {i}"}) for i in range(30)]
    front = report.front.model_copy(update={"candidates": (*slow, chosen)})
    text = printed(report.model_copy(update={"front": front}))
    assert text.index("→ cut 40 %, int8") < text.index("model 0")
    assert "model 10" in text
    assert "model 11" not in text
    assert "19 more in the report." in text
