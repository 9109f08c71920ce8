"""The picture of accuracy against latency as SVG text.

Colours and fonts come from the page's style sheet by class name; shapes differ as well as colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from penjing.reporting import svg
from penjing.reporting.axes import Box, Scale, nice_ticks, path_boxes, place_labels, text_width
from penjing.reporting.data import Candidate, Figure, Front, Role, Unit
from penjing.reporting.words import amount, details, one_line, shown
from penjing.types import Direction

ROLES = {Role.BASELINE: "original", Role.CONTROL: "control", Role.CANDIDATE: "tried", Role.CHOSEN: "chosen"}
CROWD = 40  # with more models than this, ordinary ones are drawn small and without error bars
NAMED = 12  # with more models than this, only the notable ones are named


@dataclass(frozen=True)
class _Point:
    """A model in the picture. notable: it plays a role, or no other beats it in both figures."""

    number: int
    candidate: Candidate
    x: float
    y: float
    inside: bool
    notable: bool


@dataclass(frozen=True)
class _Frame:
    """Where things go. factor: from the metric to the numbers on its axis."""

    front: Front
    width: int
    height: int
    factor: float
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    plot: Box

    @property
    def x(self) -> Scale:
        return Scale(self.x_ticks[0], self.x_ticks[-1], self.plot.left, self.plot.right)

    def y(self, metric: float) -> float:
        scale = Scale(self.y_ticks[0], self.y_ticks[-1], self.plot.bottom, self.plot.top)
        return scale(metric * self.factor)


def front_picture(front: Front, width: int = 720, height: int = 400) -> str:
    """Draw the metric over the latency, with error bars; empty when no candidate has both figures.

    Marked are the original, the chosen candidate, the contract's limits and the line of the best trade-offs. What lies
    far beyond the floor is drawn as a triangle at the edge, so that one failure does not flatten the rest.
    """
    drawn = [(i, *both) for i, c in enumerate(front.candidates, 1) if (both := _both(c)) is not None]
    if not drawn:
        return ""
    low, high = _window(front, drawn)
    frame = _frame(front, drawn, (low, high), width, height)
    best = pareto([(latency, metric) for _, _, latency, metric in drawn], front.better)
    points = [
        _Point(
            number,
            candidate,
            frame.x(latency),
            frame.y(metric),
            inside=low <= metric <= high,
            notable=k in best or candidate.role is not Role.CANDIDATE,
        )
        for k, (number, candidate, latency, metric) in enumerate(drawn)
    ]
    line = [(points[k].x, points[k].y) for k in best]
    points.sort(key=lambda point: (point.notable, list(ROLES).index(point.candidate.role)))  # the chosen one on top
    crowded = len(points) > CROWD

    picture = svg.picture(width, height, f"{front.metric} over latency of {len(points)} models", role="group")
    _draw_axes(picture, frame)
    _draw_limits(picture, frame)
    places = " ".join(f"{x},{y}" for x, y in line)
    ElementTree.SubElement(picture, "polyline", {"class": "front", "points": places})
    for point in points:
        if point.notable or not crowded:
            _draw_error_bars(picture, frame, point)
    for point in points:
        kind = "" if point.notable or not crowded else " crowd"
        place = {"href": f"#candidate-{point.number}", "class": f"point {point.candidate.role}{kind}"}
        link = ElementTree.SubElement(picture, "a", place)
        ElementTree.SubElement(link, "title").text = _describe(point.candidate, front.unit)
        _mark(link, point.x, point.y, point.candidate.role if point.inside else None, small=bool(kind))
    _draw_names(picture, frame, points, line)
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


def _both(candidate: Candidate) -> tuple[Candidate, float, float] | None:
    latency, metric = candidate.latency_ms.value, candidate.metric.value
    return None if latency is None or metric is None else (candidate, latency, metric)


def _window(front: Front, drawn: Sequence[tuple[int, Candidate, float, float]]) -> tuple[float, float]:
    """Give the part of the metric's axis that is shown: everything, but no further beyond the floor than two drops."""
    values = [metric for *_, metric in drawn]
    ends = [end for _, c, _, metric in drawn for end in _ends(c.metric, metric)]
    low, high = min(ends), max(ends)
    if front.floor is None:
        return low, high
    least = 1e-3 * abs(front.floor)
    if front.better is Direction.HIGHER:
        worst = front.floor - 2 * max(max(values) - front.floor, least)
        return max(min(low, front.floor), worst), max(high, front.floor)
    worst = front.floor + 2 * max(front.floor - min(values), least)
    return min(low, front.floor), min(max(high, front.floor), worst)


def _frame(
    front: Front,
    drawn: Sequence[tuple[int, Candidate, float, float]],
    window: tuple[float, float],
    width: int,
    height: int,
) -> _Frame:
    factor = 100.0 if front.unit is Unit.SHARE else 1.0
    slowest = max(_ends(candidate.latency_ms, latency)[1] for _, candidate, latency, _ in drawn)
    furthest = 1.02 * max(slowest, front.latency_limit_ms or 0.0)
    x_ticks = nice_ticks(0, furthest, most=5 if width < svg.NARROW_BELOW else 8)
    y_ticks = nice_ticks(window[0] * factor, window[1] * factor, most=7)
    left = 14 + max(text_width(svg.tick(tick, y_ticks), svg.FONT) for tick in y_ticks)
    top = 28 if front.latency_limit_ms is None else 44
    return _Frame(front, width, height, factor, x_ticks, y_ticks, Box(left, top, width - 16, height - 46))


def _draw_axes(picture: Element, frame: _Frame) -> None:
    plot, front = frame.plot, frame.front
    for tick in frame.y_ticks:
        level = frame.y(tick / frame.factor)
        svg.line(picture, plot.left, level, plot.right, level, "grid")
        svg.text(picture, plot.left - 8, level + 4, svg.tick(tick, frame.y_ticks), "tick", anchor="end")
    for tick in frame.x_ticks:
        svg.line(picture, frame.x(tick), plot.bottom, frame.x(tick), plot.bottom + 5, "axis")
        svg.text(picture, frame.x(tick), plot.bottom + 19, svg.tick(tick, frame.x_ticks), "tick", anchor="middle")
    svg.line(picture, plot.left, plot.bottom, plot.right, plot.bottom, "axis")
    percent = ", %" if front.unit is Unit.SHARE else ""
    svg.text(picture, 4, 14, svg.short(front.metric, 40, frame.width) + percent, "axis-name")
    latency = svg.short(f"latency, ms ({front.latency})", 70, frame.width)
    svg.text(picture, plot.right, frame.height - 6, latency, "axis-name", anchor="end")


def _draw_limits(picture: Element, frame: _Frame) -> None:
    plot, front = frame.plot, frame.front
    if front.floor is not None:
        level = frame.y(front.floor)
        top, bottom = (level, plot.bottom) if front.better is Direction.HIGHER else (plot.top, level)
        svg.rectangle(picture, plot.left, top, plot.right - plot.left, bottom - top, "forbidden")
        svg.line(picture, plot.left, level, plot.right, level, "limit")
    if front.latency_limit_ms is not None:
        edge = frame.x(front.latency_limit_ms)
        svg.line(picture, edge, plot.top, edge, plot.bottom, "limit")


def _draw_names(picture: Element, frame: _Frame, points: Sequence[_Point], line: Sequence[tuple[float, float]]) -> None:
    """Name the limits, then as many models as there is room for, the most notable first."""
    plot, front = frame.plot, frame.front
    taken: list[Box] = []
    crossable = path_boxes(line)
    if front.floor is not None:
        level = frame.y(front.floor)
        most_or_least = "least" if front.better is Direction.HIGHER else "most"
        text = f"contract: at {most_or_least} {amount(front.floor, front.unit)}"
        base = level + 16 if level + 22 < plot.bottom else level - 6
        svg.text(picture, plot.left + 6, base, text, "limit-name")
        taken.append(Box(plot.left, base - svg.FONT, plot.left + 8 + text_width(text, svg.FONT), base + 4))
        taken.append(Box(plot.left, level - 1, plot.right, level + 1))
    if front.latency_limit_ms is not None:
        edge = frame.x(front.latency_limit_ms)
        text = f"contract: at most {amount(front.latency_limit_ms, Unit.MILLISECONDS)}"
        svg.text_inside(picture, edge, plot.top - 4, text, "limit-name", plot.right)
        crossable.append(Box(edge - 1, plot.top, edge + 1, plot.bottom))
    for point in points:
        around = Box(point.x - 6, point.y - 6, point.x + 6, point.y + 6)
        (taken if point.notable or len(points) <= CROWD else crossable).append(around)
        low, high = _ends(point.candidate.metric, (point.candidate.metric.value or 0.0))
        crossable.append(
            Box(point.x - 1, min(frame.y(low), frame.y(high)), point.x + 1, max(frame.y(low), frame.y(high)))
        )
    named = [point for point in reversed(points) if point.notable or len(points) <= NAMED]
    wanted = [(point.x, point.y, svg.short(point.candidate.label, 26, frame.width)) for point in named]
    for label in place_labels(wanted, plot, taken, crossable, svg.FONT):
        svg.text(picture, label.x, label.y, label.text, "label")


def _draw_error_bars(picture: Element, frame: _Frame, point: _Point) -> None:
    latency, metric, kind = point.candidate.latency_ms, point.candidate.metric, f"error {point.candidate.role}"
    if latency.low is not None and latency.high is not None:
        svg.line(picture, frame.x(latency.low), point.y, frame.x(latency.high), point.y, kind)
    if metric.low is not None and metric.high is not None:
        svg.line(picture, point.x, frame.y(metric.low), point.x, frame.y(metric.high), kind)


def _mark(parent: Element, x: float, y: float, role: Role | None, small: bool = False) -> None:
    """Draw a role's shape; None stands for a point beyond the edge."""
    match role:
        case Role.BASELINE:
            svg.rectangle(parent, x - 5, y - 5, 10, 10, "mark")
        case Role.CONTROL:
            points = f"{x},{y - 7} {x + 7},{y} {x},{y + 7} {x - 7},{y}"
            ElementTree.SubElement(parent, "polygon", {"class": "mark", "points": points})
        case Role.CANDIDATE | Role.CHOSEN:
            rings = [("ring", 10.0), ("mark", 6.0)] if role is Role.CHOSEN else [("mark", 3.0 if small else 4.5)]
            for kind, radius in rings:
                ElementTree.SubElement(parent, "circle", {"class": kind, "cx": f"{x}", "cy": f"{y}", "r": f"{radius}"})
        case None:
            points = f"{x - 5},{y - 8} {x + 5},{y - 8} {x},{y - 1}"
            ElementTree.SubElement(parent, "polygon", {"class": "mark", "points": points})


def _describe(candidate: Candidate, unit: Unit) -> str:
    metric, latency = shown(candidate.metric, unit), shown(candidate.latency_ms, Unit.MILLISECONDS)
    spread = "; ".join(details(candidate.latency_ms, Unit.MILLISECONDS))
    return f"{one_line(candidate.label)}: {metric}, {latency}" + (f" ({one_line(spread)})" if spread else "")


def _ends(figure: Figure, value: float) -> tuple[float, float]:
    low, high = figure.low, figure.high
    return (value, value) if low is None or high is None else (min(low, value), max(high, value))
