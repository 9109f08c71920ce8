"""docs/parity.md is what docs/parity.yaml says, and each of its rows can be called and is tested, or says why not.

`python -m tests.test_parity_table` writes the table anew.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

import penjing as pj

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "parity.md"
ROWS: list[dict[str, str]] = yaml.safe_load((ROOT / "docs" / "parity.yaml").read_text("utf-8"))


def render() -> str:
    lines = [
        "# What the classic systems could do",
        "",
        "TFM: TensorFlow Model Optimization, with the TFLite converter. TPR: torch.nn.utils.prune. DIS: Distiller.",
        "Written from parity.yaml.",
        "",
        "| system | capability | call | test, or reason |",
        "|---|---|---|---|",
    ]
    for row in ROWS:
        call = f"`{row['call']}`" if "call" in row else "-"
        why = f"`{row['test']}`" if "test" in row else f"[limits](limits.md): {row['limit']}"
        lines.append(f"| {row['system']} | {row['capability']} | {call} | {why} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_what_the_data_say() -> None:
    assert TABLE.read_text("utf-8") == render()


@pytest.mark.parametrize("row", [row for row in ROWS if "call" in row], ids=lambda row: row["capability"])
def test_each_call_can_be_made_and_each_test_is_there(row: dict[str, str]) -> None:
    made: Any = eval(row["call"], {"pj": pj})
    assert made is not None
    file, _, name = row["test"].partition("::")
    assert f"def {name}" in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("row", [row for row in ROWS if "call" not in row], ids=lambda row: row["capability"])
def test_each_reason_is_a_limit(row: dict[str, str]) -> None:
    assert row["limit"] in (ROOT / "docs" / "limits.md").read_text("utf-8")


if __name__ == "__main__":
    TABLE.write_text(render(), "utf-8")
