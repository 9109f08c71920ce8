"""The page: whole, closed to the outside, escaped, readable."""

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from penjing.reporting import Candidate, ReportData
from penjing.reporting.html import render_html
from penjing.reporting.words import safe, verdict_words

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page, checks that every element is closed in order, and keeps what it saw."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.style = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> comes twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["style"]:
            self.style += data
        else:
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def strings(value: Any, kept: tuple[str, ...] = ("unit", "better", "created", "outcome", "role")) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in kept:
                yield from strings(part, kept)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part, kept)
    elif isinstance(value, str) and value.strip():
        yield value


def test_every_text_of_the_data_is_on_the_page(any_report: ReportData) -> None:
    text = Page(render_html(any_report)).text.casefold()
    data = any_report.model_dump(mode="json")
    data["verdict"]["sentence"] = verdict_words(any_report.verdict)
    missing = [s for s in strings(data) if " ".join(safe(s).split()).casefold() not in text]
    assert missing == []


def test_every_number_is_on_the_page(report: ReportData) -> None:
    text = Page(render_html(report)).text.replace("\u00a0", " ")
    expected = (
        "92.18 %", "91.64 to 92.69 %", "11.7 ms", "p95 12.4 ms", "3.86 to 3.95 ms", "3.00× faster", "2.96 to 3.04×",
        "1.10 MB", "131 kB", "31.23 M", "272.2 k", "n = 5,000", "10,000", "563", "0.05", "0.31 points",
        "one-sided limits 0.04 points and 0.58 points", "allowed: 1.00 points", "0.37 points", "1,806,336", "5.00 %",
        "1 step fell back.", "2026-11-24 22:05 UTC",
    )  # fmt: skip
    assert [number for number in expected if number not in text] == []


def test_nothing_is_fetched_and_nothing_runs(any_report: ReportData) -> None:
    page = Page(render_html(any_report))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {
        "script",
        "img",
        "iframe",
        "link",
        "object",
        "embed",
        "form",
        "base",
        "video",
        "audio",
        "use",
        "image",
    }
    for _, attributes in page.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset", "action")
        ]
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_no_address_of_the_outside(report: ReportData) -> None:
    assert not re.search(r"(https?:)?//\w", render_html(report))


def test_the_policy_allows_the_style_sheet_alone(any_report: ReportData) -> None:
    page = Page(render_html(any_report))
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_hostile_names_stay_text(hostile: ReportData) -> None:
    page = render_html(hostile)
    for attack in ("<script", "<img", "</text><text>", "\x00", "\x1b", "\u202e"):
        assert attack not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}{% raw %}" in page
    benign = {tag for tag, _ in Page(page).elements}
    assert benign <= {tag for tag, _ in Page(render_html(hostile.model_copy(update={"title": "x"}))).elements}


@pytest.mark.parametrize(
    ("name", "outcome", "title"),
    [
        ("pass", "Pass", "What was gained"),
        ("undecided", "Undecided", "The best so far, which is not certified"),
        ("fail", "Fail", "The best effort, which is not certified"),
        ("empty", "Not judged", "Where the run stands"),
        ("bare", "Not judged", "Where the run stands"),
    ],
)
def test_the_verdict_comes_first_and_is_said_in_words(
    reports: dict[str, ReportData], name: str, outcome: str, title: str
) -> None:
    page = Page(render_html(reports[name]))
    text, sentence = page.text, verdict_words(reports[name].verdict)
    body = text[text.index("Skip to the verdict") :]
    assert body.index(outcome) < body.index(sentence) < body.index(title) < body.index("Before and after")
    assert f"{outcome}: " not in body
    assert [attributes.get("id") for attributes in page.all("h1")] == ["verdict"]


def test_a_run_without_candidates_says_so(reports: dict[str, ReportData]) -> None:
    text = Page(render_html(reports["bare"])).text
    for sentence in (
        "Nothing was measured in this run.",
        "No model was tried in this run (latency: batch 32, 1 thread).",
        "No layer was recorded in this run.",
        "No step was applied in this run.",
        "Nothing was frozen.",
        "No command was recorded.",
    ):
        assert sentence in text
    empty = Page(render_html(reports["empty"])).text
    assert "no candidate was made" in empty
    assert "92.18" in empty


def test_tables_have_captions_and_scopes(any_report: ReportData) -> None:
    page = Page(render_html(any_report))
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert all(th.get("scope") in ("col", "row", "colgroup") for th in page.all("th"))


def test_links_lead_somewhere_and_ids_are_unique(any_report: ReportData) -> None:
    page = Page(render_html(any_report))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.all("a")}
    targets |= {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert targets <= set(ids)


def test_it_speaks_to_readers_of_all_kinds(report: ReportData) -> None:
    page = Page(render_html(report))
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("a")[0] == {"class": "skip", "href": "#verdict"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    for rule in ("prefers-color-scheme: dark", "@media print", "@media (max-width"):
        assert rule in page.style


def _luminance(color: str) -> float:
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_contrast_is_at_least_aa(scheme: str) -> None:
    css = files("penjing.reporting").joinpath("templates/report.css").read_text(encoding="utf-8")
    blocks = {name: dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for name, block in zip(
        ("light", "dark", "print"), re.findall(r":root \{(.*?)\}", css, re.DOTALL), strict=True)}  # fmt: skip
    colors = blocks["light"] | blocks[scheme]
    pairs = [(ink, ground) for ink in ("ink", "soft", "accent", "limit") for ground in ("paper", "card")]
    pairs += [("limit", "forbidden"), ("ink", "forbidden")]
    for outcome in ("pass", "fail", "undecided", "none"):
        pairs += [(ink, f"{outcome}-tint") for ink in (outcome, "ink", "soft")]
        pairs += [(outcome, "paper")]
    for ink, ground in pairs:
        lighter, darker = sorted((_luminance(colors[ink]), _luminance(colors[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)


def test_a_page_of_five_hundred_candidates_stays_small(report: ReportData) -> None:
    one: Candidate = report.front.candidates[2]
    front = report.front.model_copy(update={"candidates": (one,) * 500})
    assert len(render_html(report.model_copy(update={"front": front})).encode()) < 1_500_000
