"""The pictures: well-formed, complete, honest about what lies beyond the edge."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.reporting import Candidate, Figure, Front, ReportData, Role, Unit
from penjing.reporting.front import front_picture, legend_mark, pareto
from penjing.reporting.plots import drop_picture, layers_picture
from penjing.types import Direction, Status


def drawn(picture: str) -> Element:
    return ElementTree.fromstring(picture)


def texts(root: Element, kind: str) -> list[str]:
    return [text.text or "" for text in root.iter("text") if text.get("class") == kind]


def point(label: str, metric: float, latency: float, role: Role = Role.CANDIDATE) -> Candidate:
    return Candidate(
        label=label, recipe="", role=role, metric=Figure.of(metric), n=100, latency_ms=Figure.of(latency),
        size_bytes=Figure.of(1), status=Status.SEARCH_ESTIMATE,
    )  # fmt: skip


@pytest.mark.parametrize("width", [720, 344])
def test_pictures_are_well_formed_and_inside_their_frame(any_report: ReportData, width: int) -> None:
    pictures = [
        front_picture(any_report.front, width),
        drop_picture(any_report.verdict, width),
        layers_picture(any_report.layers, width),
    ]
    for picture in filter(None, pictures):
        root = drawn(picture)
        right, bottom = (float(v) for v in root.get("viewBox", "").split()[2:])
        for mark in root.iter():
            for name, most in (
                ("x", right),
                ("x1", right),
                ("x2", right),
                ("cx", right),
                ("y", bottom),
                ("y1", bottom),
            ):
                assert 0 <= float(mark.get(name, "0")) <= most, (name, mark.attrib)


def test_every_model_with_both_figures_is_a_point_with_its_figures(report: ReportData) -> None:
    root = drawn(front_picture(report.front))
    links = {link.get("href"): link for link in root.iter("a")}
    assert set(links) == {f"#candidate-{i}" for i in range(1, 9)}
    chosen = links["#candidate-6"]
    assert chosen.get("class") == "point chosen"
    title = chosen.find("title")
    assert title is not None
    assert (title.text or "").replace(
        "\u00a0", " "
    ) == "cut 40 %, int8: 92.02 %, 3.90 ms (3.84 to 3.98 ms; p95 4.25 ms)"


def test_chosen_and_original_are_named_and_the_contract_is_drawn(report: ReportData) -> None:
    for width in (720, 344):
        root = drawn(front_picture(report.front, width))
        names = texts(root, "label")
        assert any(name.startswith("cut 40 %, int8"[:10]) for name in names)
        assert "fp32 dense" in names
        assert [t.replace("\u00a0", " ") for t in texts(root, "limit-name")] == [
            "contract: at least 91.36 %",
            "contract: at most 5.00 ms",
        ]


def test_shapes_differ_by_role(report: ReportData) -> None:
    shapes = {
        role: [child.tag for child in drawn(legend_mark(role)).iter() if child.get("class") in ("mark", "ring")]
        for role in Role
    }
    assert shapes == {
        "baseline": ["rect"],
        "control": ["polygon"],
        "candidate": ["circle"],
        "chosen": ["circle", "circle"],
    }


def test_a_failure_far_below_the_floor_does_not_flatten_the_rest() -> None:
    models = (point("good", 0.92, 4, Role.BASELINE), point("close", 0.915, 3), point("broken", 0.1, 2))
    front = Front(
        metric="accuracy", unit=Unit.SHARE, better=Direction.HIGHER, latency="batch 1", floor=0.91, candidates=models
    )  # fmt: skip
    root = drawn(front_picture(front))
    assert min(float(t.replace("−", "-")) for t in texts(root, "tick") if "." in t or float(t) > 20) > 80
    broken = next(link for link in root.iter("a") if link.get("href") == "#candidate-3")
    assert [child.tag for child in broken] == ["title", "polygon"]
    everything = drawn(front_picture(front.model_copy(update={"floor": None})))
    broken = next(link for link in everything.iter("a") if link.get("href") == "#candidate-3")
    assert [child.tag for child in broken] == ["title", "circle"]


def test_where_lower_is_better_the_forbidden_ground_is_above() -> None:
    models = (point("fp32", 20.0, 4, Role.BASELINE), point("int8", 20.5, 3), point("w2", 900.0, 2))
    front = Front(
        metric="perplexity", unit=Unit.PLAIN, better=Direction.LOWER, latency="batch 1", floor=21.0, candidates=models
    )  # fmt: skip
    root = drawn(front_picture(front))
    ground = next(r for r in root.iter("rect") if r.get("class") == "forbidden")
    frame_top = min(float(line.get("y1", "0")) for line in root.iter("line") if line.get("class") == "grid")
    assert float(ground.get("y", "0")) == frame_top
    assert texts(root, "limit-name") == ["contract: at most 21.00"]
    assert max(float(t) for t in texts(root, "tick")) < 100


def test_the_drop_is_drawn_against_its_limit(reports: dict[str, ReportData]) -> None:
    for name, beyond in (("pass", False), ("fail", True)):
        root = drawn(drop_picture(reports[name].verdict))
        limit = next(float(line.get("x1", "0")) for line in root.iter("line") if line.get("class") == "limit")
        dot = next(root.iter("circle"))
        assert (float(dot.get("cx", "0")) > limit) is beyond
    assert drop_picture(reports["empty"].verdict) == ""


def test_layers_show_before_and_after(report: ReportData) -> None:
    root = drawn(layers_picture(report.layers))
    columns = [r.get("class") for r in root.iter("rect")]
    assert (columns.count("before"), columns.count("after")) == (21, 20)
    titles = [title.text for title in root.iter("title")]
    assert titles[:2] == ["conv1: 16 → 12", "bn1: 16 → unknown"]
    assert layers_picture(()) == ""


def test_nothing_to_draw_is_no_picture(reports: dict[str, ReportData]) -> None:
    assert front_picture(reports["bare"].front) == ""


def test_five_hundred_models_stay_small(report: ReportData) -> None:
    models = tuple(point(f"model {i}", 0.9 + i % 37 / 2000, 2 + i / 100) for i in range(500))
    picture = front_picture(report.front.model_copy(update={"candidates": models}))
    assert len(list(drawn(picture).iter("a"))) == 500
    assert len(picture) < 200_000


coordinates = st.floats(0.1, 100, allow_nan=False)


@given(st.lists(st.tuples(coordinates, coordinates), max_size=30))
def test_pareto_against_the_definition(points: list[tuple[float, float]]) -> None:
    def beaten(p: tuple[float, float]) -> bool:
        return any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)

    found = pareto(points, Direction.HIGHER)
    assert {points[i] for i in found} == {p for p in points if not beaten(p)}
    mirrored = pareto([(x, -y) for x, y in points], Direction.LOWER)
    assert mirrored == found
