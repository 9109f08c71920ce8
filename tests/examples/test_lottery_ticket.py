"""The lottery ticket's example, in small."""

import importlib.util
from pathlib import Path

import penjing as pj

EXAMPLE = Path(__file__).parents[2] / "examples" / "lottery_ticket.py"


def test_it_runs_and_prunes() -> None:
    spec = importlib.util.spec_from_file_location("lottery_ticket", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = module.tickets(1, 0.75, pj.Finetune(epochs=3, lr=0.1, distill=False, precision="fp32"), seed=0)
    assert [row[0] for row in rows] == [1.0, 0.25]
    assert all(0.3 < accuracy <= 1 for row in rows for accuracy in row[1:])
    assert rows[1][1] != rows[1][2], "the same mask on other weights"
