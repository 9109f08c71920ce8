"""The README's code runs as it is written, in order, on a small model and data."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import penjing.measuring.target
from penjing.workload import ResNet

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENJING_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(penjing.measuring.target, "GOOD", 1.0)  # a dozen networks tell enough
    torch.manual_seed(0)
    labels = torch.arange(384) % 4
    images = torch.randn(384, 1, 8, 8) + labels[:, None, None, None]

    def loader(start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(images[start:stop].split(32), labels[start:stop].split(32), strict=True))

    def network() -> ResNet:
        return ResNet((1, 1), (16, 32), classes=4).eval()

    names: dict[str, Any] = {
        "model": network(),
        "fresh_model": network(),
        "images": images,
        "train_loader": loader(0, 128),
        "search_loader": loader(128, 256),
        "test_loader": loader(256, 384),
    }
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    assert len(blocks) == 8
    for block in blocks:
        exec(
            block.replace('budget="30m"', 'budget="20s"')
            .replace("epochs=5", "epochs=1")
            .replace("epochs=2", "epochs=1"),
            names,
        )
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert names["outcome"].model(images[:2]).shape == (2, 4)
