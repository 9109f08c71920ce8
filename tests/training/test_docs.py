"""docs/training.md runs as it is written: its blocks in order, the last one under torchrun."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_parallel import TORCHRUN

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8"), re.S
)


def test_blocks_in_one_process() -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS[:-1]:
        exec(block, names)
    assert names["beside"].settled
    assert names["outcome"].model[0].out_channels == 8


@pytest.mark.slow
def test_the_script_of_several_processes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(BLOCKS[-1])
    subprocess.run([*TORCHRUN, "train.py"], check=True, cwd=tmp_path)
    assert (tmp_path / "smaller" / "manifest.json").is_file()
    assert (tmp_path / "steps" / "after-1").is_dir()
