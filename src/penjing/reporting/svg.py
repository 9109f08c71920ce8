"""The few shapes that the pictures are drawn with, as one element tree: it escapes every text and stays well-formed."""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from penjing.reporting.axes import decimals, text_width
from penjing.reporting.words import MINUS, one_line

FONT = 12.0
NARROW_BELOW = 500


def picture(width: int, height: int, name: str, role: str = "img") -> Element:
    """Start a picture of this size; its class says for which pages it is meant."""
    size = "wide" if width >= NARROW_BELOW else "narrow"
    return Element(
        "svg", {"viewBox": f"0 0 {width} {height}", "class": f"plot {size}", "role": role, "aria-label": one_line(name)}
    )


def line(parent: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    """Draw a line."""
    ends = {name: f"{round(v, 2)}" for name, v in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    ElementTree.SubElement(parent, "line", {"class": kind, **ends})


def rectangle(parent: Element, x: float, y: float, width: float, height: float, kind: str) -> None:
    """Draw a rectangle; a negative size counts as zero."""
    sides = {"x": x, "y": y, "width": max(0.0, width), "height": max(0.0, height)}
    ElementTree.SubElement(parent, "rect", {"class": kind, **{name: f"{round(v, 2)}" for name, v in sides.items()}})


def text(parent: Element, x: float, y: float, words: str, kind: str, anchor: str = "start") -> None:
    """Write a text on one line."""
    place = {"x": f"{round(x, 2)}", "y": f"{round(y, 2)}", "text-anchor": anchor}
    ElementTree.SubElement(parent, "text", {"class": kind, **place}).text = one_line(words)


def text_inside(parent: Element, x: float, y: float, words: str, kind: str, right: float) -> None:
    """Centre a text on x, moved so that it stays within the picture."""
    half = text_width(words, FONT) / 2
    text(parent, min(max(x, half + 4), right - half - 4), y, words, kind, anchor="middle")


def dump(drawing: Element) -> str:
    """Give the picture as text."""
    return ElementTree.tostring(drawing, encoding="unicode")


def short(words: str, most: int, width: int) -> str:
    """Cut a text to `most` characters, fewer in a narrow picture."""
    return one_line(words, most if width >= NARROW_BELOW else most * 5 // 8)


def tick(value: float, ticks: Sequence[float]) -> str:
    """Write a tick with the digits that tell it from its neighbours."""
    return f"{value:,.{decimals(ticks)}f}".replace("-", MINUS)
