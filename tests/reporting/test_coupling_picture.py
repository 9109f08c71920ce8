"""The picture of a coupling: every weight a row, every group a rail, every crossing a lane."""

from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from penjing.reporting.coupling import STYLE, coupling_picture, lay_rails
from penjing.structure import couple

SVG = "{http://www.w3.org/2000/svg}"


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.second(torch.relu(self.first(x))))


def test_rails_share_a_column_only_where_they_do_not_meet() -> None:
    coupling = couple(Residual(), torch.zeros(2, 4))
    rails = list(lay_rails(coupling.groups, ["stem.weight", "first.weight", "second.weight", "head.weight"]))
    assert [(rail.column, rail.rows) for rail in rails] == [
        (0, {0: (0,), 1: (1,), 2: (0,), 3: (1,)}),
        (1, {1: (0,), 2: (1,)}),
    ]
    chain = couple(nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)]), torch.zeros(2, 4))
    assert [r.column for r in lay_rails(chain.groups, [f"{i}.weight" for i in range(4)])] == [0, 1, 0]


def test_every_member_of_a_weight_is_a_mark_of_its_group() -> None:
    drawing = ElementTree.fromstring(coupling_picture(couple(Residual(), torch.zeros(2, 4))))
    marks = [mark.get("class") for mark in drawing.iter(f"{SVG}circle")]
    assert (marks.count("dot"), marks.count("ring")) == (3, 3)
    assert len({line.get("stroke") for line in drawing.iter(f"{SVG}line")}) == 2
    assert "stem: 6 units, exact" in {tip.text for tip in drawing.iter(f"{SVG}title")}


def test_an_inexact_group_is_dashed_and_says_why() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    drawing = ElementTree.fromstring(coupling_picture(couple(model, torch.zeros(2, 4))))
    (rail,) = drawing.iter(f"{SVG}line")
    assert rail.get("class") == "rail inexact"
    assert "layer norm of 1" in rail[0].text
    assert "stroke-dasharray" in STYLE


def test_crossing_groups_lie_in_lanes() -> None:
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    drawing = ElementTree.fromstring(coupling_picture(couple(attention, torch.zeros(2, 3, 8))))
    heights = {bar.get("height") for bar in drawing.iter(f"{SVG}rect") if bar.get("class") == "own"}
    assert heights == {"14.0", "7.0"}, "heads cross the widths within them; the feed-forward width crosses nothing"


def test_a_model_without_groups_is_drawn_too() -> None:
    drawing = ElementTree.fromstring(coupling_picture(couple(nn.Linear(3, 2), torch.zeros(2, 3))))
    assert not list(drawing.iter(f"{SVG}line"))
    assert any("0 groups" in (text.text or "") for text in drawing.iter(f"{SVG}text"))
