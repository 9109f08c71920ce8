"""Two pictures as SVG text: the drop against its limit, and the widths of the layers.

Pure functions from data to text. Colours and fonts come from the page's style sheet by class name, so that one picture
serves light, dark and print; shapes differ as well as colours.
"""

from collections.abc import Sequence
from xml.etree import ElementTree

from penjing.reporting import svg
from penjing.reporting.axes import Box, Scale, nice_ticks, text_width
from penjing.reporting.data import Judgement, Layer, Unit
from penjing.reporting.words import difference, one_line, whole


def drop_picture(verdict: Judgement, width: int = 720) -> str:
    """Draw the drop with its one-sided limits on a line, beside what the contract allows; empty without an interval."""
    drop, factor = verdict.drop, 100.0 if verdict.unit is Unit.SHARE or verdict.relative else 1.0
    if drop.value is None or drop.low is None or drop.high is None:
        return ""
    ends = [factor * v for v in (drop.low, drop.high, drop.value, 0.0, verdict.max_drop)]
    margin = 0.1 * (max(ends) - min(ends))  # shows ground on the far side of the limit
    ticks = nice_ticks(min(ends), max(ends) + margin, most=5 if width < svg.NARROW_BELOW else 9)
    height, bar, axis = 114, 52, 68
    x = Scale(ticks[0], ticks[-1], 24, width - 24)
    allowed, found = (difference(v, verdict.unit, verdict.relative) for v in (verdict.max_drop, drop.value))
    picture = svg.picture(width, height, f"Drop {found}, allowed {allowed}")
    unit = "% of the reference" if verdict.relative else "points" if verdict.unit is Unit.SHARE else ""
    name = svg.short(f"drop of {verdict.metric}", 60, width) + (f", {unit}" if unit else "")
    svg.text(picture, width / 2, height - 4, name, "axis-name", anchor="middle")
    edge = x(verdict.max_drop * factor)
    svg.rectangle(picture, 24, 20, edge - 24, axis - 20, "allowed")
    svg.rectangle(picture, edge, 20, width - 24 - edge, axis - 20, "forbidden")
    svg.line(picture, 24, axis, width - 24, axis, "axis")
    for tick in ticks:
        svg.line(picture, x(tick), axis, x(tick), axis + 5, "axis")
        svg.text(picture, x(tick), axis + 19, svg.tick(tick, ticks), "tick", anchor="middle")
    svg.line(picture, edge, 18, edge, axis, "limit")
    svg.text_inside(picture, edge, 13, f"allowed {allowed}", "label", width)
    low, high = x(drop.low * factor), x(drop.high * factor)
    svg.line(picture, low, bar, high, bar, f"interval {verdict.outcome}")
    for end in (low, high):
        svg.line(picture, end, bar - 6, end, bar + 6, f"interval {verdict.outcome}")
    dot = {"class": f"dot {verdict.outcome}", "cx": f"{x(drop.value * factor)}", "cy": f"{bar}", "r": "5.5"}
    ElementTree.SubElement(picture, "circle", dot)
    svg.text_inside(picture, x(drop.value * factor), bar - 14, f"drop {found}", "label", width)
    return svg.dump(picture)


def layers_picture(layers: Sequence[Layer], width: int = 720, height: int = 220) -> str:
    """Draw the width of each layer, a light column before and a solid one after; empty when no layer has a width."""
    drawn = [(layer, layer.width_before) for layer in layers if layer.width_before is not None]
    if not drawn:
        return ""
    ticks = nice_ticks(0, max(1, *(max(before, layer.width_after or 0) for layer, before in drawn)), most=5)
    names = [whole(t) for t in ticks]
    plot = Box(14 + max(text_width(t, svg.FONT) for t in names), 24, width - 8, height - 24)
    y = Scale(ticks[0], ticks[-1], plot.bottom, plot.top)
    picture = svg.picture(width, height, f"Widths of {len(drawn)} layers before and after, first to last")
    for tick, name in zip(ticks, names, strict=True):
        svg.line(picture, plot.left, y(tick), plot.right, y(tick), "grid" if tick else "axis")
        svg.text(picture, plot.left - 8, y(tick) + 4, name, "tick", anchor="end")
    svg.text(picture, 4, 12, "channels or features", "axis-name")
    pitch = (plot.right - plot.left) / len(drawn)
    for i, (layer, before) in enumerate(drawn):
        column = ElementTree.SubElement(picture, "g")
        after = "unknown" if layer.width_after is None else whole(layer.width_after)
        ElementTree.SubElement(column, "title").text = f"{one_line(layer.name)}: {whole(before)} → {after}"
        left = plot.left + i * pitch
        svg.rectangle(column, left + 0.1 * pitch, y(before), 0.8 * pitch, plot.bottom - y(before), "before")
        if layer.width_after is not None:
            top = y(layer.width_after)
            svg.rectangle(column, left + 0.22 * pitch, top, 0.56 * pitch, plot.bottom - top, "after")
    svg.text(picture, plot.left, height - 6, "first layer", "axis-name")
    svg.text(picture, plot.right, height - 6, "last layer", "axis-name", anchor="end")
    return svg.dump(picture)
