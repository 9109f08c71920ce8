"""A picture of ours as PNG: the shapes of svg.py whose colours are their own, drawn by matplotlib."""

import io
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree.ElementTree import Element

SCALE = 2.0  # pixels for each unit of the picture
_INCH = 72.0  # units of the picture: a point is one unit
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def draw_png(drawing: Element) -> bytes:
    """Give a picture as PNG, two pixels for each unit of its view box.

    It draws lines, polylines, rectangles and texts by their own attributes, and no style sheet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = (float(side) for side in drawing.get("viewBox", "").split()[2:])
    figure = Figure(figsize=(width / _INCH, height / _INCH), dpi=_INCH * SCALE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    size = float(drawing.get("font-size", "12"))
    for shape in drawing:
        if shape.tag in _SHAPES:
            _SHAPES[shape.tag](axes, shape.attrib, shape.text or "", size)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png")
    return out.getvalue()


def _line(axes: Any, at: Mapping[str, str], words: str, size: float) -> None:
    ends = [float(at[name]) for name in ("x1", "x2", "y1", "y2")]
    axes.plot(ends[:2], ends[2:], color=at["stroke"], linewidth=1)


def _polyline(axes: Any, at: Mapping[str, str], words: str, size: float) -> None:
    x, y = zip(*(map(float, corner.split(",")) for corner in at["points"].split()), strict=True)
    axes.plot(x, y, color=at["stroke"], linewidth=float(at["stroke-width"]))


def _rectangle(axes: Any, at: Mapping[str, str], words: str, size: float) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = (float(at[name]) for name in ("x", "y", "width", "height"))
    axes.add_patch(Rectangle((x, y), width, height, facecolor=at["fill"], linewidth=0, zorder=1))


def _text(axes: Any, at: Mapping[str, str], words: str, size: float) -> None:
    place = {"ha": _ANCHORS[at["text-anchor"]], "va": "baseline", "parse_math": False}
    axes.text(float(at["x"]), float(at["y"]), words, fontsize=size * 0.9, color=at["fill"], **place)


_SHAPES: Mapping[str, Callable[[Any, Mapping[str, str], str, float], None]] = {
    "line": _line,
    "polyline": _polyline,
    "rect": _rectangle,
    "text": _text,
}
