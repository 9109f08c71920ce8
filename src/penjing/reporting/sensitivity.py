"""The picture of a sensitivity analysis: a line for each part over the share that is gone, and the grid as a heat map.

value |----____            rows   0.1  0.3  0.5
      |        ----__      conv1  ...  ...  ...     a cell is the redder, the more is lost
      +--------------->    conv2  ...  ...  ...
"""

import colorsys
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from penjing.reporting import svg
from penjing.reporting.axes import Box, Scale, nice_ticks, text_width
from penjing.reporting.words import number, one_line
from penjing.types import Part

if TYPE_CHECKING:
    from penjing.planning import Sensitivity

ROW, CELL, PLOT, TOP = 20.0, 58.0, 220.0, 44.0
LONGEST = 46  # characters of a name
INK, FAINT, GRID, PAPER = "#1d2327", "#6b7680", "#e3e7ea", "#ffffff"
WITHOUT = {
    Part.ELEMENT: "a share of the weights of one tensor",
    Part.CHANNEL: "a share of the units of one group",
    Part.BLOCK: "one block",
}
CALM, ALARM = (0xF4, 0xF6, 0xF7), (0xC0, 0x39, 0x2B)


def sensitivity_picture(found: "Sensitivity") -> Element:
    """Draw the grid as SVG elements that need no style sheet; lines are left out where a single share was tried."""
    names = [one_line(name, LONGEST) for name in found.names]
    left = max((text_width(name, svg.FONT) for name in names), default=0.0) + 44
    width = max(left + CELL * len(found.shares) + 20, 480.0)
    heat = TOP + (PLOT + 60 if len(found.shares) > 1 else 0)
    height = heat + ROW * (len(names) + 1) + 20
    drawing = svg.picture(round(width), round(height), f"Sensitivity of {len(names)} parts by {found.by}")
    drawing.set("xmlns", "http://www.w3.org/2000/svg")
    drawing.set("width", f"{round(width)}")
    drawing.set("font-family", "system-ui, sans-serif")
    drawing.set("font-size", f"{svg.FONT:g}")
    _rectangle(drawing, 0, 0, width, height, PAPER)
    _text(drawing, 10, 20, f"{found.by} without {WITHOUT[found.part]}; {number(found.baseline, 4)} as it is", INK)
    if len(found.shares) > 1:
        _lines(drawing, found, Box(60, TOP, width - 20, TOP + PLOT))
    _heat_map(drawing, found, names, left, heat)
    return drawing


def _lines(drawing: Element, found: "Sensitivity", box: Box) -> None:
    values = [found.baseline, *(point.value for point in found.points)]
    ticks = nice_ticks(min(values), max(values))
    x, y = Scale(0, max(found.shares), box.left, box.right), Scale(ticks[0], ticks[-1], box.bottom, box.top)
    for tick in ticks:
        _line(drawing, box.left, y(tick), box.right, y(tick), GRID)
        _text(drawing, box.left - 8, y(tick) + 4, svg.tick(tick, ticks), FAINT, "end")
    for share in found.shares:
        _text(drawing, x(share), box.bottom + 18, f"{share:g}", FAINT, "middle")
    _text(drawing, (box.left + box.right) / 2, box.bottom + 36, "share that is gone", FAINT, "middle")
    _line(drawing, box.left, y(found.baseline), box.right, y(found.baseline), FAINT)
    for i, name in enumerate(found.names):
        mine = sorted((point.amount, point.value) for point in found.points if point.name == name)
        corners = [(x(0), y(found.baseline)), *((x(amount), y(value)) for amount, value in mine)]
        path = {"points": " ".join(f"{a},{b}" for a, b in corners), "fill": "none", "stroke-width": "2"}
        line = ElementTree.SubElement(drawing, "polyline", {**path, "stroke": _colour(i, len(found.names))})
        ElementTree.SubElement(line, "title").text = one_line(name)


def _heat_map(drawing: Element, found: "Sensitivity", names: list[str], left: float, top: float) -> None:
    worst = max((found.loss(point) for point in found.points), default=0.0) or 1.0
    cells = {(point.name, point.amount): point for point in found.points}
    for column, share in enumerate(found.shares):
        _text(drawing, left + CELL * (column + 0.5), top + 14, f"{share:g}", FAINT, "middle")
    for row, (name, title) in enumerate(zip(found.names, names, strict=True)):
        y = top + ROW * (row + 1)
        _text(drawing, left - 26, y + 14, title, INK, "end")
        _rectangle(drawing, left - 20, y + 5, 12, 10, _colour(row, len(names)))
        for column, share in enumerate(found.shares):
            if point := cells.get((name, share)):
                lost = found.loss(point) / worst
                _rectangle(drawing, left + CELL * column, y + 1, CELL - 2, ROW - 2, _heat(lost))
                ink = PAPER if lost > 0.6 else INK
                _text(drawing, left + CELL * (column + 0.5) - 1, y + 14, number(point.value), ink, "middle")


def _colour(i: int, count: int) -> str:
    """From blue for the first part to orange for the last."""
    return _hex(colorsys.hls_to_rgb(0.62 - 0.54 * i / max(1, count - 1), 0.45, 0.6))


def _heat(lost: float) -> str:
    return _hex(tuple((a + lost * (b - a)) / 255 for a, b in zip(CALM, ALARM, strict=True)))


def _hex(colour: tuple[float, ...]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _line(drawing: Element, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
    svg.line(drawing, x1, y1, x2, y2, "line")
    drawing[-1].set("stroke", colour)


def _rectangle(drawing: Element, x: float, y: float, width: float, height: float, colour: str) -> None:
    svg.rectangle(drawing, x, y, width, height, "area")
    drawing[-1].set("fill", colour)


def _text(drawing: Element, x: float, y: float, words: str, colour: str, anchor: str = "start") -> None:
    svg.text(drawing, x, y, words, "text", anchor)
    drawing[-1].set("fill", colour)
