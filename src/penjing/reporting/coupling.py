"""The picture of a coupling as one SVG file: a row for each weight, a rail for each group.

    name          dimension 0   dimension 1   rails
    0.weight      ████████████  ............  ●
    2.weight      ............  ████████████  ○

The bars show which indices of a weight a group owns; grey ones stay whole. A rail joins what must be cut together:
a dot where the group is dimension 0, a ring where it is dimension 1, both where it is both; it is dashed where cutting
is inexact.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from penjing.reporting import svg
from penjing.reporting.axes import text_width
from penjing.reporting.words import one_line

if TYPE_CHECKING:
    from penjing.structure import Coupling, Group, Member

ROW, BAR, GAP, TOP, RAIL = 20.0, 160.0, 48.0, 56.0, 16.0
LONGEST = 46  # characters of a name
MOST_RUNS = 96  # of one bar: finer stripes than these cannot be seen

STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff }
.name { fill: #1d2327 } .faint { fill: #6b7680 } .kept { fill: #e3e7ea } .rail { stroke-width: 2 }
.inexact { stroke-dasharray: 4 3 } .ring { fill: #fff; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  svg { background: #14181b } .name { fill: #e8ecef } .faint { fill: #94a0aa } .kept { fill: #2a3136 }
  .ring { fill: #14181b }
}
"""


@dataclass(frozen=True)
class Rail:
    """Where a group is drawn: its column, its colour, and for each row the dimensions that it owns there."""

    group: "Group"
    column: int
    colour: str
    rows: dict[int, tuple[int, ...]]


def coupling_picture(coupling: "Coupling") -> str:
    """Draw the groups of a model as SVG text that stands alone.

    >>> import torch
    >>> from penjing.structure import couple
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> coupling_picture(couple(model, torch.zeros(2, 3))).count('class="rail"')
    1
    """
    tensors = coupling.captured.tensors
    names = [name for name in coupling.labelling.parameters if tensors[name].ndim > 1 and _is_weight(tensors[name])]
    rails = tuple(lay_rails(coupling.groups, names))
    shown = [one_line(name, LONGEST) for name in names]
    left = max((text_width(name, svg.FONT) for name in shown), default=0.0) + 20
    bars = (left, left + BAR + GAP)
    start = bars[1] + BAR + GAP
    width = max(start + RAIL * max((rail.column for rail in rails), default=0) + 90, 560.0)
    height = TOP + ROW * len(names) + 34

    drawing = svg.picture(round(width), round(height), f"Coupling of {coupling.captured.name}")
    drawing.set("xmlns", "http://www.w3.org/2000/svg")
    drawing.set("width", f"{round(width)}")
    ElementTree.SubElement(drawing, "style").text = STYLE
    groups, kept = len(coupling.groups), len(coupling.frozen)
    svg.text(drawing, 10, 20, f"{coupling.captured.name}: {groups} groups, {kept} dimensions kept", "name")
    for x, title in zip(bars, ("dimension 0", "dimension 1"), strict=True):
        svg.text(drawing, x, TOP - 14, title, "faint")
    svg.text(drawing, start - RAIL / 2, TOP - 14, "cut together", "faint")
    for row, (name, title) in enumerate(zip(names, shown, strict=True)):
        svg.text(drawing, left - 10, _middle(row) + 4, title, "name", anchor="end")
        for dim, x in enumerate(bars):
            size = tensors[name].shape[dim]
            _bar(drawing, x, row, size, list(_lanes(rails, name, row, dim)))
            svg.text(drawing, x + BAR + 5, _middle(row) + 4, str(size), "faint")
    for rail in rails:
        _rail(drawing, start + RAIL * rail.column, rail)
    legend = "● dimension 0 · ○ dimension 1 · dashed rail: inexact · grey: kept whole"
    svg.text(drawing, 10, height - 12, legend, "faint")
    return svg.dump(drawing)


def lay_rails(groups: Iterable["Group"], names: Sequence[str]) -> Iterator[Rail]:
    """Give each group the first column that is free over the rows that it spans; colours differ between neighbours."""
    number = {name: row for row, name in enumerate(names)}
    busy: list[int] = []  # the last row taken, by column
    for i, group in enumerate(group for group in groups if any(m.parameter in number for m in group.members)):
        rows: dict[int, set[int]] = defaultdict(set)
        for member in group.members:
            if member.parameter in number and member.dim < 2:
                rows[number[member.parameter]].add(member.dim)
        if not rows:
            continue
        first, last = min(rows), max(rows)
        column = next((c for c, taken in enumerate(busy) if taken < first), len(busy))
        busy[column : column + 1] = [last]
        places = {row: tuple(sorted(dims)) for row, dims in rows.items()}
        yield Rail(group, column, f"hsl({round(i * 137.508) % 360} 45% 52%)", places)


def _is_weight(tensor: object) -> bool:
    return bool(getattr(tensor, "is_floating_point", lambda: False)())


def _middle(row: int) -> float:
    return TOP + ROW * row + ROW / 2


def _lanes(rails: Sequence[Rail], name: str, row: int, dim: int) -> Iterator[tuple[Rail, "Member"]]:
    """The groups that own indices of one dimension of a weight: several where they cross, as heads and their width."""
    for rail in rails:
        if dim in rail.rows.get(row, ()):
            for member in rail.group.members:
                if (member.parameter, member.dim) == (name, dim):
                    yield rail, member


def _bar(drawing: Element, x: float, row: int, size: int, lanes: Sequence[tuple[Rail, "Member"]]) -> None:
    top, height = _middle(row) - ROW / 2 + 3, ROW - 6
    svg.rectangle(drawing, x, top, BAR, height, "kept")
    for rail, member in lanes:
        for first, last in _runs(np.sort(member.index, axis=None)):
            at, across = x + BAR * first / size, BAR * (last + 1 - first) / size
            crossing = [other for other, theirs in lanes if np.isin(member.index, theirs.index).any()]
            lane = crossing.index(rail)
            svg.rectangle(drawing, at, top + height * lane / len(crossing), across, height / len(crossing), "own")
            part = drawing[-1]
            part.set("fill", rail.colour)
            _tip(part, rail.group)


def _runs(indices: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive indices as (first, last); one run where there are more than can be seen."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(indices.tolist()), key=lambda pair: pair[1] - pair[0])]
    found = [(run[0], run[-1]) for run in runs]
    return found if len(found) <= MOST_RUNS else [(found[0][0], found[-1][1])]


def _rail(drawing: Element, x: float, rail: Rail) -> None:
    kind = "rail" if rail.group.exact else "rail inexact"
    svg.line(drawing, x, _middle(min(rail.rows)), x, _middle(max(rail.rows)), kind)
    drawing[-1].set("stroke", rail.colour)
    _tip(drawing[-1], rail.group)
    for row, dims in rail.rows.items():
        for dim in dims:
            shift = 3.0 * (1 if dim else -1) if len(dims) > 1 else 0.0
            place = {"cx": f"{x + shift:.1f}", "cy": f"{_middle(row):.1f}", "r": "3.5"}
            dot = ElementTree.SubElement(drawing, "circle", place)
            dot.set("class", "ring" if dim else "dot")
            dot.set("stroke" if dim else "fill", rail.colour)
            _tip(dot, rail.group)


def _tip(shape: Element, group: "Group") -> None:
    """What a pointer over a shape shows."""
    kind = "exact" if group.exact else f"inexact: {group.reason}"
    state = kind if group.prunable else f"kept: {group.reason}"
    ElementTree.SubElement(shape, "title").text = f"{group.name}: {group.size} units, {state}"
