"""A report on disk: report.json, report.md and report.html, each whole or absent."""

from pathlib import Path

from pydantic import ValidationError

from penjing.errors import ArtifactError
from penjing.reporting.data import ReportData
from penjing.reporting.html import render_html
from penjing.reporting.markdown import render_markdown
from penjing.storage import atomic_write

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


def write_report(folder: str | Path, data: ReportData) -> Path:
    """Write the three files and give the path of the page. Raises ArtifactError when the disk does not take them."""
    folder = Path(folder)
    pages = {JSON: data.model_dump_json(indent=2) + "\n", MARKDOWN: render_markdown(data), HTML: render_html(data)}
    for name, text in pages.items():
        atomic_write(folder / name, text)
    return folder / HTML


def read_report(path: str | Path) -> ReportData:
    """Read report.json, given by its path or its folder. Raises ArtifactError when it is missing or no report."""
    path = Path(path)
    path = path / JSON if path.is_dir() else path
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except OSError as problem:
        raise ArtifactError(
            f"{path} cannot be read ({problem.strerror}); give a {JSON}, or a folder with one"
        ) from problem
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ArtifactError(
            f"{path} is no report of schema 1: {where}: {first['msg']}; write it anew with penjing report"
        ) from problem
