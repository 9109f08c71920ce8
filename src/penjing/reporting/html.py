"""The report as one self-contained page: no script, no request, every text escaped.

The content security policy forbids everything but the page's own style sheet, which it names by hash; the pictures
are part of the page. Each picture is drawn twice, for wide and for narrow screens, and the style sheet shows one.
"""

import base64
import hashlib
from importlib.resources import files
from typing import Any

from penjing.reporting import words
from penjing.reporting.data import ReportData
from penjing.reporting.front import ROLES, front_picture, legend_mark
from penjing.reporting.plots import drop_picture, layers_picture
from penjing.types import Decision

WIDE, NARROW = 720, 344
RESULT_TITLES = {
    Decision.PASS: "What was gained",
    Decision.FAIL: "The best effort, which is not certified",
    Decision.UNDECIDED: "The best so far, which is not certified",
    None: "Where the run stands",
}
SECTIONS = (
    ("before-after", "Before and after"),
    ("front", "Trade-offs"),
    ("layers", "Layers"),
    ("steps", "Steps"),
    ("frozen", "Left alone"),
    ("evidence", "Verdict in detail"),
    ("reproduce", "Reproduce"),
)


def render_html(data: ReportData) -> str:
    """Write the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return words.safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def pictures(*drawn: str) -> list[Markup]:
        return [Markup(picture) for picture in drawn if picture]

    environment = Environment(
        loader=PackageLoader("penjing.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    css = files("penjing.reporting").joinpath("templates/report.css").read_text(encoding="utf-8")
    present = {candidate.role for candidate in data.front.candidates}
    return environment.get_template("report.html.j2").render(
        data=data,
        css=Markup(css),
        policy=content_policy(css),
        outcome=words.OUTCOMES[data.verdict.outcome],
        verdict_words=words.verdict_words(data.verdict),
        result_title=RESULT_TITLES[data.verdict.outcome],
        headline=words.headline(data),
        leading=words.leading_rows(data),
        power=words.power_words(data.power),
        drop=words.drop_words(data.verdict),
        drop_pictures=pictures(*(drop_picture(data.verdict, width) for width in (WIDE, NARROW))),
        front_pictures=pictures(front_picture(data.front, WIDE, 400), front_picture(data.front, NARROW, 340)),
        layer_pictures=pictures(layers_picture(data.layers, WIDE, 220), layers_picture(data.layers, NARROW, 190)),
        legend=[(name, Markup(legend_mark(role))) for role, name in ROLES.items() if role in present],
        roles=ROLES,
        sections=SECTIONS,
        changes=words.CHANGES,
        **{f.__name__: f for f in (words.shown, words.details, words.change, words.change_details)},
        **{f.__name__: f for f in (words.whole, words.counted, words.number, words.moment)},
    )


def content_policy(css: str) -> str:
    """Allow this style sheet by its hash and nothing else.

    >>> content_policy("p{}")
    "default-src 'none'; style-src 'sha256-gG2yISYereRM...='; base-uri 'none'; form-action 'none'"
    """
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
