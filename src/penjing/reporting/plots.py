"""The pictures of a report as SVG text: accuracy against latency, the drop against its limit, widths of layers.

Pure functions from data to text. Colours and fonts come from the page's style sheet by class name, so that one picture
serves light, dark and print; shapes differ as well as colours.
"""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from penjing.reporting import svg
from penjing.reporting.axes import Box, Scale, decimals, nice_ticks, path_boxes, place_labels, text_width
from penjing.reporting.data import Candidate, Figure, Front, Judgement, Layer, Role, Unit
from penjing.reporting.words import MINUS, amount, details, difference, one_line, shown, whole
from penjing.types import Direction

ROLES = {Role.BASELINE: "original", Role.CONTROL: "control", Role.CANDIDATE: "tried", Role.CHOSEN: "chosen"}


def front_picture(front: Front, width: int = 720, height: int = 400) -> str:
    """Draw the metric over the latency, with error bars; empty when no candidate has both figures.

    Marked are the original, the chosen candidate, the contract's floor and the line of the best trade-offs. What lies
    far below the floor is drawn as a triangle at the edge, so that one failure does not flatten the rest.
    """
    drawn = [
        (i, c) for i, c in enumerate(front.candidates) if c.metric.value is not None and c.latency_ms.value is not None
    ]
    if not drawn:
        return ""
    factor = 100.0 if front.unit is Unit.SHARE else 1.0
    low, high = _window(front, [c for _, c in drawn])
    slow = max(_high(c.latency_ms) for _, c in drawn)
    x_ticks = nice_ticks(0, max(slow, front.latency_limit_ms or 0.0) * 1.02, most=5 if width < svg.NARROW_BELOW else 8)
    y_ticks = nice_ticks(low * factor, high * factor, most=7)
    y_names = [_tick(t, y_ticks) for t in y_ticks]
    plot = Box(
        14 + max(text_width(t, svg.FONT) for t in y_names),
        44 if front.latency_limit_ms else 28,
        width - 16,
        height - 46,
    )
    x = Scale(x_ticks[0], x_ticks[-1], plot.left, plot.right)
    y = Scale(y_ticks[0], y_ticks[-1], plot.bottom, plot.top)
    picture = svg.picture(width, height, f"{front.metric} over latency of {len(drawn)} models", role="group")

    for tick, name in zip(y_ticks, y_names, strict=True):
        svg.line(picture, plot.left, y(tick), plot.right, y(tick), "grid")
        svg.text(picture, plot.left - 8, y(tick) + 4, name, "tick", anchor="end")
    for tick in x_ticks:
        svg.line(picture, x(tick), plot.bottom, x(tick), plot.bottom + 5, "axis")
        svg.text(picture, x(tick), plot.bottom + 19, _tick(tick, x_ticks), "tick", anchor="middle")
    svg.line(picture, plot.left, plot.bottom, plot.right, plot.bottom, "axis")
    percent = ", %" if front.unit is Unit.SHARE else ""
    svg.text(picture, 4, 14, _short(front.metric, 40, width) + percent, "axis-name")
    svg.text(
        picture, plot.right, height - 6, _short(f"latency, ms ({front.latency})", 70, width), "axis-name", anchor="end"
    )

    taken = _contract_lines(picture, front, x, y, factor, plot)
    places = {i: (x(c.latency_ms.value or 0.0), y((c.metric.value or 0.0) * factor)) for i, c in drawn}
    best = pareto([(c.latency_ms.value or 0.0, c.metric.value or 0.0) for _, c in drawn], front.better)
    ends = [places[drawn[k][0]] for k in best]
    ElementTree.SubElement(picture, "polyline", {"class": "front", "points": " ".join(f"{a},{b}" for a, b in ends)})

    by_rank = sorted(drawn, key=lambda pair: list(ROLES).index(pair[1].role))  # the chosen one last, on top
    inside = {i for i, c in drawn if low <= (c.metric.value or 0.0) <= high}
    for i, candidate in by_rank:
        _error_bars(picture, candidate, places[i], x, y, factor)
    for i, candidate in by_rank:
        link = ElementTree.SubElement(picture, "a", {"href": f"#candidate-{i + 1}", "class": f"point {candidate.role}"})
        ElementTree.SubElement(link, "title").text = _describe(candidate, front.unit)
        _mark(link, *places[i], candidate.role if i in inside else None)
    worth = {drawn[k][0] for k in best} | {i for i, c in drawn if c.role is not Role.CANDIDATE}
    named = [(i, c) for i, c in reversed(by_rank) if i in worth or len(drawn) <= 12]
    taken += [Box(a - 7, b - 7, a + 7, b + 7) for a, b in places.values()]
    crossable = [_bar_box(c.metric, places[i], y, factor) for i, c in drawn] + path_boxes(ends)
    if front.latency_limit_ms is not None:
        crossable.append(Box(x(front.latency_limit_ms) - 1, plot.top, x(front.latency_limit_ms) + 1, plot.bottom))
    points = [(*places[i], _short(c.label, 26, width)) for i, c in named]
    for label in place_labels(points, plot, taken, crossable, svg.FONT):
        svg.text(picture, label.x, label.y, label.text, "label")
    return svg.dump(picture)


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
    name = _short(f"drop of {verdict.metric}", 60, width) + (f", {unit}" if unit else "")
    svg.text(picture, width / 2, height - 4, name, "axis-name", anchor="middle")
    edge = x(verdict.max_drop * factor)
    svg.rectangle(picture, 24, 20, edge - 24, axis - 20, "allowed")
    svg.rectangle(picture, edge, 20, width - 24 - edge, axis - 20, "forbidden")
    svg.line(picture, 24, axis, width - 24, axis, "axis")
    for tick in ticks:
        svg.line(picture, x(tick), axis, x(tick), axis + 5, "axis")
        svg.text(picture, x(tick), axis + 19, _tick(tick, ticks), "tick", anchor="middle")
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


def legend_mark(role: Role) -> str:
    """Draw the mark of a role alone, for a legend."""
    picture = Element("svg", {"viewBox": "0 0 24 24", "width": "18", "height": "18", "aria-hidden": "true"})
    _mark(ElementTree.SubElement(picture, "g", {"class": f"point {role}"}), 12, 12, role)
    return svg.dump(picture)


def pareto(points: Sequence[tuple[float, float]], better: Direction) -> list[int]:
    """Find the points (latency, metric) that no other beats in both, from fast to slow.

    >>> pareto([(3.0, 0.91), (2.0, 0.90), (4.0, 0.905)], Direction.HIGHER)
    [1, 0]
    """
    sign = 1 if better is Direction.HIGHER else -1
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if not kept or sign * points[i][1] > sign * points[kept[-1]][1]:
            kept.append(i)
    return kept


def _window(front: Front, candidates: Sequence[Candidate]) -> tuple[float, float]:
    """Give the part of the metric's axis that is shown: everything, but no further beyond the floor than two drops."""
    lows, highs = [_low(c.metric) for c in candidates], [_high(c.metric) for c in candidates]
    low, high = min(lows), max(highs)
    if front.floor is None:
        return low, high
    values = [c.metric.value for c in candidates if c.metric.value is not None]
    if front.better is Direction.HIGHER:
        worst = front.floor - 2 * max(max(values) - front.floor, 1e-3 * abs(front.floor))
        return (min(low, front.floor) if low >= worst else worst), max(high, front.floor)
    worst = front.floor + 2 * max(front.floor - min(values), 1e-3 * abs(front.floor))
    return min(low, front.floor), (max(high, front.floor) if high <= worst else worst)


def _contract_lines(picture: Element, front: Front, x: Scale, y: Scale, factor: float, plot: Box) -> list[Box]:
    taken = []
    if front.floor is not None:
        level = y(front.floor * factor)
        higher = front.better is Direction.HIGHER
        top, bottom = (level, plot.bottom) if higher else (plot.top, level)
        svg.rectangle(picture, plot.left, top, plot.right - plot.left, bottom - top, "forbidden")
        svg.line(picture, plot.left, level, plot.right, level, "limit")
        text = f"contract: at {'least' if higher else 'most'} {amount(front.floor, front.unit)}"
        base = level + 16 if level + 22 < plot.bottom else level - 6
        svg.text(picture, plot.left + 6, base, text, "limit-name")
        taken += [
            Box(plot.left, base - svg.FONT, plot.left + 8 + text_width(text, svg.FONT), base + 4),
            Box(plot.left, level - 1, plot.right, level + 1),
        ]
    if front.latency_limit_ms is not None:
        edge = x(front.latency_limit_ms)
        svg.line(picture, edge, plot.top, edge, plot.bottom, "limit")
        text = f"contract: at most {amount(front.latency_limit_ms, Unit.MILLISECONDS)}"
        svg.text_inside(picture, edge, plot.top - 4, text, "limit-name", plot.right)
    return taken


def _error_bars(
    picture: Element, candidate: Candidate, place: tuple[float, float], x: Scale, y: Scale, factor: float
) -> None:
    kind = f"error {candidate.role}"
    if candidate.latency_ms.low is not None:
        svg.line(picture, x(candidate.latency_ms.low), place[1], x(_high(candidate.latency_ms)), place[1], kind)
    if candidate.metric.low is not None:
        low, high = y(candidate.metric.low * factor), y(_high(candidate.metric) * factor)
        svg.line(picture, place[0], low, place[0], high, kind)


def _bar_box(metric: Figure, place: tuple[float, float], y: Scale, factor: float) -> Box:
    ends = y(_low(metric) * factor), y(_high(metric) * factor)
    return Box(place[0] - 1, min(ends), place[0] + 1, max(ends))


def _mark(parent: Element, x: float, y: float, role: Role | None) -> None:
    """Draw a role's shape; None stands for a point beyond the edge."""
    match role:
        case Role.BASELINE:
            svg.rectangle(parent, x - 5, y - 5, 10, 10, "mark")
        case Role.CONTROL:
            points = f"{x},{y - 7} {x + 7},{y} {x},{y + 7} {x - 7},{y}"
            ElementTree.SubElement(parent, "polygon", {"class": "mark", "points": points})
        case Role.CANDIDATE | Role.CHOSEN:
            rings = [("ring", 10.0), ("mark", 6.0)] if role is Role.CHOSEN else [("mark", 4.5)]
            for kind, radius in rings:
                ElementTree.SubElement(parent, "circle", {"class": kind, "cx": f"{x}", "cy": f"{y}", "r": f"{radius}"})
        case None:
            points = f"{x - 5},{y - 8} {x + 5},{y - 8} {x},{y - 1}"
            ElementTree.SubElement(parent, "polygon", {"class": "mark", "points": points})


def _describe(candidate: Candidate, unit: Unit) -> str:
    metric, latency = shown(candidate.metric, unit), shown(candidate.latency_ms, Unit.MILLISECONDS)
    spread = "; ".join(details(candidate.latency_ms, Unit.MILLISECONDS))
    return f"{one_line(candidate.label)}: {metric}, {latency}" + (f" ({one_line(spread)})" if spread else "")


def _low(figure: Figure) -> float:
    return min(v for v in (figure.low, figure.value) if v is not None)


def _high(figure: Figure) -> float:
    return max(v for v in (figure.high, figure.value) if v is not None)


def _tick(value: float, ticks: Sequence[float]) -> str:
    return f"{value:,.{decimals(ticks)}f}".replace("-", MINUS)


def _short(text: str, most: int, width: int) -> str:
    return one_line(text, most if width >= svg.NARROW_BELOW else most * 5 // 8)
