"""The report as Markdown tables, for a terminal or a pull request."""

import re
from collections.abc import Iterable, Sequence

from penjing.reporting import words
from penjing.reporting.data import Candidate, Figure, Judgement, Layer, ReportData, Row, Unit
from penjing.reporting.front import ROLES

SIGNS = {"Pass": "✓", "Fail": "✗", "Undecided": "?", "Not judged": "-"}
HELD = {True: "held", False: "broken", None: "not known"}

_MARKUP = re.compile(r"([\\`*{}\[\]<>#|~!&]|(?<!\w)_|_(?!\w))")


def render_markdown(data: ReportData) -> str:
    """Write the report; every table is whole, every text is escaped."""
    verdict, front, outcome = data.verdict, data.front, words.OUTCOMES[data.verdict.outcome]
    facts = (*data.commands, *data.machine, *data.versions, *data.hashes)
    parts = [
        f"# {escape(data.title)}",
        f"**{SIGNS[outcome]} {outcome}.** {escape(words.verdict_words(verdict))}",
        escape(words.headline(data)),
        f"Contract: {escape(data.contract)}",
        escape(words.power_words(data.power)),
        "## Before and after",
        table(("Figure", "Before", "After", "Change", "How it was made"), map(_row, data.rows)),
        f"## {escape(front.metric)} against latency ({escape(front.latency)})",
        table(
            ("Model", "Role", "Metric", "n", "Latency", "Size", "Status", "Note", "Recipe"),
            (_candidate(candidate, front.unit) for candidate in front.candidates),
        ),
        "## Layer by layer",
        table(("Layer", "Kind", "Width", "Parameters", "MACs", "Format", "Note"), map(_layer, data.layers)),
        "## What was done",
        table(
            ("Step", "What happened", "Fell back", "Proof"),
            ((row.step, row.what, "yes" if row.fell_back else "no", row.proof or words.DASH) for row in data.steps),
        ),
        "## What was left alone, and why",
        table(("Part", "Reason"), ((part.what, part.why) for part in data.frozen)),
        "## How the verdict was reached",
        table(("What", "Value"), _evidence(verdict)),
        "## Reproduce",
        table(("What", "Value"), ((fact.name, fact.value) for fact in facts)),
        f"Written by Penjing, {words.moment(data.created)}. All figures: report.json (schema {data.schema_version}).",
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    r"""Put a text on one line and take its power as Markdown or HTML.

    >>> escape("<b>a|b</b> layer1.conv_1")
    '\\<b\\>a\\|b\\</b\\> layer1.conv_1'
    """
    return _MARKUP.sub(r"\\\1", words.one_line(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Write a table, or a dash when there is nothing to tell.

    >>> print(table(("a", "b"), [("1", "x | y")]))
    | a | b |
    | --- | --- |
    | 1 | x \| y |
    """
    filled = [[escape(cell) for cell in row] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *filled]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if filled else f"{words.DASH} (none in this run)"


def _row(row: Row) -> tuple[str, ...]:
    change = _join(words.change(row), words.change_details(row))
    return row.name, _cell(row.before, row.unit), _cell(row.after, row.unit), change, row.method


def _candidate(candidate: Candidate, unit: Unit) -> tuple[str, ...]:
    figures = _cell(candidate.latency_ms, Unit.MILLISECONDS), _cell(candidate.size_bytes, Unit.BYTES)
    ending = candidate.status, candidate.note or words.DASH, candidate.recipe or words.DASH
    metric = _cell(candidate.metric, unit)
    return candidate.label, ROLES[candidate.role], metric, words.whole(candidate.n), *figures, *ending


def _layer(layer: Layer) -> tuple[str, ...]:
    pairs = (
        (layer.width_before, layer.width_after),
        (layer.params_before, layer.params_after),
        (layer.macs_before, layer.macs_after),
    )
    changes = (" → ".join(words.DASH if n is None else words.whole(n) for n in pair) for pair in pairs)
    return layer.name, layer.kind, *changes, layer.format, layer.note or words.DASH


def _evidence(verdict: Judgement) -> list[tuple[str, str]]:
    rows = [
        ("Metric", verdict.metric),
        ("Drop", words.drop_words(verdict)),
        ("Certificate samples", words.counted(verdict.n)),
        ("Samples that would decide", words.counted(verdict.n_needed)),
        ("Discordant samples", words.counted(verdict.discordant)),
        ("Level alpha, one-sided", words.number(verdict.alpha, 2)),
        ("Method", verdict.method),
        ("Looks at this certificate", words.whole(verdict.looks)),
    ]
    rows += [(limit.what, f"{HELD[limit.held]}: {_cell(limit.found, limit.unit)}") for limit in verdict.limits]
    return rows + [("Scope", assumption) for assumption in verdict.assumptions]


def _cell(figure: Figure, unit: Unit) -> str:
    return _join(words.shown(figure, unit), words.details(figure, unit))


def _join(text: str, details: Sequence[str]) -> str:
    return f"{text} ({'; '.join(details)})" if details else text
