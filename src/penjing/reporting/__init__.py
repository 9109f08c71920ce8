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
from penjing.reporting.write import read_report, write_report

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
    "read_report",
    "write_report",
]
