"""Prices that mean nothing are refused before anything is read or measured."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from penjing.cli.app import app
from penjing.errors import PenjingError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "5"], "without a price; add --price-per-hour"),
        (["--price-per-hour", "-1"], "price_per_hour is -1.0"),
        (["--price-per-hour", "1", "--rate", "0"], "rate is 0.0"),
    ],
)
def test_bad_prices(tmp_path: Path, options: list[str], message: str) -> None:
    arguments = ["bench", str(tmp_path / "workload.py"), str(tmp_path / "model"), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, PenjingError)
    assert message in str(result.exception)
