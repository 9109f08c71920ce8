"""The report of a run: one value, `ReportData`, written as HTML, Markdown and JSON."""

from penjing.reporting.data import (
    Candidate,
    Fact,
    Figure,
    Front,
    FrozenPart,
    Judgement,
    Layer,
    Limit,
    Power,
    ReportData,
    Role,
    Row,
    Unit,
)

__all__ = [
    "Candidate",
    "Fact",
    "Figure",
    "Front",
    "FrozenPart",
    "Judgement",
    "Layer",
    "Limit",
    "Power",
    "ReportData",
    "Role",
    "Row",
    "Unit",
]
