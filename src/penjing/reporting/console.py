"""The report in a terminal: the verdict, before and after, and the models that were tried.

Texts go to rich as `Text`, never as markup, so that a name such as "[red]" stays a name. Tables fit 80 columns.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from penjing.reporting import words
from penjing.reporting.data import Candidate, Figure, ReportData, Role, Row, Unit
from penjing.types import Decision

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

STYLES = {Decision.PASS: "green", Decision.FAIL: "red", Decision.UNDECIDED: "yellow", None: "cyan"}
SIGNS = {Decision.PASS: "✓", Decision.FAIL: "✗", Decision.UNDECIDED: "?", None: "-"}
MOST = 12


def print_summary(data: ReportData, console: "Console") -> None:
    """Print the verdict, before and after, and up to 12 models: the chosen, the original, then from fast to slow."""
    from rich.panel import Panel
    from rich.text import Text

    outcome = data.verdict.outcome
    body = Text(f"{words.one_line(words.verdict_words(data.verdict))}\n\n{words.headline(data)}\n")
    body.append(f"Contract: {words.one_line(data.contract)}\n{words.power_words(data.power)}", style="dim")
    title = Text(f"{SIGNS[outcome]} {words.OUTCOMES[outcome]}: {words.one_line(data.title, most=48)}")
    console.print(Panel(body, title=title, title_align="left", border_style=STYLES[outcome], padding=(1, 2)))
    if data.rows:
        console.print(_table("Before and after", ("", "before", "after", "change"), map(_row, data.rows)))
    shown = sorted(data.front.candidates, key=_rank)[:MOST]
    if shown:
        metric = words.one_line(data.front.metric, most=24)
        columns = ("model", metric, "latency", "size")
        title_words = f"Tried, {words.one_line(data.front.latency, most=48)}"
        console.print(_table(title_words, columns, (_candidate(c, data.front.unit) for c in shown)))
    left_out = len(data.front.candidates) - len(shown)
    if left_out:
        console.print(Text(f"{left_out} more in the report.", style="dim"))
    fallen = [row for row in data.steps if row.fell_back]
    for row in fallen:
        console.print(Text(f"fell back: {words.one_line(row.step)}: {words.one_line(row.what)}", style="yellow"))


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence["Text"]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _row(row: Row) -> list["Text"]:
    from rich.text import Text

    name = Text(words.one_line(row.name, most=40), style="bold")
    change = _lines(words.change(row), words.change_details(row))
    return [name, _figure(row.before, row.unit), _figure(row.after, row.unit), change]


def _candidate(candidate: Candidate, unit: Unit) -> list["Text"]:
    from rich.text import Text

    style = {Role.CHOSEN: "bold green", Role.BASELINE: "bold"}.get(candidate.role, "")
    sign = "→ " if candidate.role is Role.CHOSEN else "  "
    name = Text(sign + words.one_line(candidate.label, most=40), style=style)
    name.append(f"\n  {candidate.status}", style="dim")
    return [
        name,
        _figure(candidate.metric, unit),
        _figure(candidate.latency_ms, Unit.MILLISECONDS),
        _figure(candidate.size_bytes, Unit.BYTES),
    ]


def _figure(figure: Figure, unit: Unit) -> "Text":
    return _lines(words.shown(figure, unit), words.details(figure, unit)[:1])


def _lines(first: str, details: Sequence[str]) -> "Text":
    from rich.text import Text

    text = Text(first)
    for detail in details:
        text.append(f"\n{words.one_line(detail, most=40)}", style="dim")
    return text


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    """Order the models: the chosen one, the original, then from fast to slow; those without a latency last."""
    latency = candidate.latency_ms.value
    ordinary = candidate.role not in (Role.CHOSEN, Role.BASELINE)
    return candidate.role is not Role.CHOSEN, ordinary, float("inf") if latency is None else latency
