"""The picture of a sensitivity analysis says what its grid says, as SVG and as pixels."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from penjing.planning import Point, Sensitivity
from penjing.reporting.raster import SCALE, draw_png
from penjing.reporting.sensitivity import ALARM, CALM, sensitivity_picture
from penjing.reporting.svg import dump
from penjing.types import Measure, Part

POINTS = tuple(
    Point(name, amount, 0.9 - loss)
    for name, losses in (("conv<1>", (0.0, 0.1, 0.2)), ("conv2", (0.1, 0.4, 0.8)))
    for amount, loss in zip((0.1, 0.5, 0.9), losses, strict=True)
)
GRID = Sensitivity(Part.ELEMENT, Measure.METRIC, 0.9, True, POINTS)


def test_each_part_is_a_line_from_the_whole_model_on() -> None:
    drawing = sensitivity_picture(GRID)
    first, second = drawing.iter("polyline")
    assert first.get("stroke") != second.get("stroke")
    ways = [
        [tuple(map(float, corner.split(","))) for corner in line.get("points", "").split()] for line in (first, second)
    ]
    assert ways[0][0] == ways[1][0], "both begin at the baseline"
    assert [x for x, _ in ways[0]] == pytest.approx([60, 60 + 400 / 9, 60 + 2000 / 9, 460], abs=0.01)
    heights = np.array([y for way in ways for _, y in way[1:]])
    lost = np.array([GRID.loss(point) for point in POINTS])
    assert np.allclose(np.polyfit(lost, heights, 1)[0] * lost + ways[0][0][1], heights, atol=0.01), "linear in the loss"


def test_cells_are_red_by_what_is_lost() -> None:
    drawing = sensitivity_picture(GRID)
    cells = [shape.get("fill") for shape in drawing.iter("rect") if shape.get("width") == "56.0"]
    assert len(cells) == 6
    assert cells[0] == "#" + bytes(CALM).hex()
    assert cells[5] == "#" + bytes(ALARM).hex()
    words = [text.text for text in drawing.iter("text")]
    assert {"conv<1>", "conv2", "0.100", "metric without a share of the weights of one tensor; 0.9000 as it is"} <= {
        *words
    }


def test_blocks_have_one_share_and_no_lines() -> None:
    blocks = Sensitivity(Part.BLOCK, Measure.SQNR, 120.0, True, (Point("a", 1.0, 3.0), Point("b", 1.0, 20.0)))
    drawing = sensitivity_picture(blocks)
    assert not list(drawing.iter("polyline"))
    first, second = (shape.get("fill") for shape in drawing.iter("rect") if shape.get("width") == "56.0")
    assert first == "#" + bytes(ALARM).hex()
    assert second != first


def test_the_text_is_well_formed_and_the_pixels_are_its_shapes() -> None:
    drawing = sensitivity_picture(GRID)
    assert ElementTree.fromstring(dump(drawing)).get("viewBox") == drawing.get("viewBox")
    pixels = imread(io.BytesIO(draw_png(drawing)), format="png")
    width, height = map(float, drawing.get("viewBox", "").split()[2:])
    assert pixels.shape[:2] == (height * SCALE, width * SCALE)
    worst = next(r for r in drawing.iter("rect") if r.get("fill") == "#" + bytes(ALARM).hex())
    x, y = (round(SCALE * (float(worst.get(name, "")) + 3)) for name in ("x", "y"))
    assert np.allclose(255 * pixels[y, x, :3], ALARM, atol=1)
    blue = next(iter(drawing.iter("polyline")))
    at = [round(SCALE * float(part)) for part in blue.get("points", "").split()[1].split(",")]
    colour = bytes.fromhex(blue.get("stroke", "")[1:])
    near = 255 * pixels[at[1] - 3 : at[1] + 4, at[0] - 3 : at[0] + 4, :3]
    assert (np.abs(near - list(colour)).max(-1) < 2).any()
