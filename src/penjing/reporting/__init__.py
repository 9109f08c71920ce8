"""The report of a run: one value, `ReportData`, written as HTML, Markdown and JSON, or shown in a terminal."""

from penjing.reporting.compose import compose, label
from penjing.reporting.console import print_summary
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
from penjing.reporting.pricing import Pricing
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
    "Pricing",
    "ReportData",
    "Role",
    "Row",
    "Unit",
    "compose",
    "label",
    "print_summary",
    "read_report",
    "write_report",
]
