"""Geometry of a picture: ticks at round numbers, linear scales, and labels that do not overlap."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

MARGIN = 3.0  # free space before and after a label


def nice_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Cover [low, high] with at most `most` ticks at multiples of 1, 2 or 5 times a power of ten.

    The first tick lies at or below `low`, the last at or above `high`, and there are at least two. An interval too
    narrow for its position is widened first. Exact fractions keep 0.1 + 0.2 out of the labels. `most` is at least 3.

    >>> nice_ticks(3.9, 11.7)
    (2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
    >>> nice_ticks(0.905, 0.921, most=5)
    (0.905, 0.91, 0.915, 0.92, 0.925)
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"ticks from {low!r} to {high!r}: give finite ends in order")
    if most < 3:
        raise ValueError(f"most={most!r}: two ends and a middle need at least 3 ticks")
    furthest = max(abs(low), abs(high))
    least = 1e-8 * furthest if furthest > 1e-100 else 1e-8  # floats tell its ticks apart to seven digits
    if high - low < least:
        low, high = low - least, high + least
    bottom, top = Fraction(low), Fraction(high)
    exponent = math.floor(math.log10((high - low) / most)) - 1
    while True:
        for multiple in (1, 2, 5):
            step = multiple * Fraction(10) ** exponent
            first, last = math.floor(bottom / step), math.ceil(top / step)
            if last - first + 1 <= most:
                return tuple(float(i * step) for i in range(first, last + 1))
        exponent += 1


def decimals(ticks: Sequence[float]) -> int:
    """Count the decimals that tell the ticks apart.

    >>> decimals((0.5, 1.0)), decimals((10.0, 20.0)), decimals((0.25, 0.3))
    (1, 0, 2)
    """
    return next(
        (d for d in range(12) if all(math.isclose(t, round(t, d), rel_tol=1e-9, abs_tol=1e-13) for t in ticks)), 12
    )


@dataclass(frozen=True)
class Scale:
    """A linear map from values [low, high] to picture coordinates [start, end].

    >>> Scale(0, 10, 100, 200)(5)
    150.0
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: "Box") -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class Label:
    """A placed text: the left end of its baseline, and the rectangle that it fills."""

    text: str
    x: float
    y: float
    box: Box


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text on the safe side: 0.6 em for a letter, 1 em for a wide one."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in text)


def place_labels(
    points: Iterable[tuple[float, float, str]],
    bounds: Box,
    taken: Sequence[Box] = (),
    crossable: Sequence[Box] = (),
    size: float = 12,
    gap: float = 9,
) -> list[Label]:
    """Put each text beside its point, in the order given, where it meets no other; one that fits nowhere is left out.

    points: x, y and text. taken: rectangles that stay free. crossable: rectangles of which as few as possible are met.
    Tried are right, left, above and below, then the corners.
    """
    occupied, placed = list(taken), []
    for x, y, text in points:
        spots = [box for box in _spots(x, y, text_width(text, size), size, gap) if bounds.holds(box)]
        free = [box for box in spots if not any(box.overlaps(other) for other in occupied)]
        if free:
            box = min(free, key=lambda box: sum(box.overlaps(other) for other in crossable))
            occupied.append(box)
            placed.append(Label(text, round(box.left + MARGIN, 2), round(box.top + size, 2), box))
    return placed


def path_boxes(points: Sequence[tuple[float, float]], step: float = 6) -> list[Box]:
    """Cover the straight lines between points with small squares, for labels to avoid."""
    boxes = []
    for (x1, y1), (x2, y2) in pairwise(points):
        count = math.ceil(math.hypot(x2 - x1, y2 - y1) / step)
        for i in range(1, count):
            x, y = x1 + (x2 - x1) * i / count, y1 + (y2 - y1) * i / count
            boxes.append(Box(x - 1, y - 1, x + 1, y + 1))
    return boxes


def _spots(x: float, y: float, width: float, size: float, gap: float) -> list[Box]:
    middle, left, right = x - width / 2, x - gap - width, x + gap
    beside, below, above = y + 0.35 * size, y + gap + size, y - gap
    order = ((right, beside), (left, beside), (middle, above), (middle, below))
    corners = ((right, above), (left, above), (right, below), (left, below))
    return [Box(at - MARGIN, base - size, at + width + MARGIN, base + 0.35 * size) for at, base in order + corners]
