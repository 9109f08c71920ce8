import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import CaptureError
from penjing.profiling import cost, profile
from penjing.structure import capture, couple, cut
from penjing.workload import ResNet


class Tied(nn.Module):
    """A language model in small: the head is the embedding, one block runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.block = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.ones(3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(2):
            x = torch.relu(self.block(x))
        logits: Tensor = self.head(x)
        return logits * self.scale[0]


IDS = torch.zeros(2, 5, dtype=torch.long)


def test_totals_of_a_residual_network() -> None:
    model = ResNet((1, 1), (4, 8))
    found = profile(model, torch.zeros(2, 1, 8, 8))
    assert found.params == sum(p.numel() for p in model.parameters())
    assert found.size_bytes == sum(t.nbytes for t in model.state_dict().values())
    assert found.macs == cost(capture(model, torch.zeros(2, 1, 8, 8))).macs
    assert found.uncounted == ()
    for total in ("params", "macs", "elementwise", "size_bytes"):
        assert sum(getattr(layer, total) for layer in found.layers) == getattr(found, total)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    conv = next(layer for layer in found.layers if layer.name == "blocks.1.conv1")
    assert (conv.type, conv.params, conv.output_shape) == ("Conv2d", 4 * 8 * 9, (2, 8, 4, 4))
    assert conv.macs == 2 * 8 * 4 * 4 * 4 * 9


@pytest.mark.parametrize("batch", [1, 3])
def test_figures_are_those_of_the_example_batch(batch: int) -> None:
    found = profile(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), torch.zeros(batch, 6))
    assert found.macs == batch * 30
    assert found.peak_activation_bytes == batch * 4 * (6 + 5 + 5)
    assert found.layers[0].output_shape == (batch, 5)


def test_tied_parameters_count_once_and_shared_code_runs_twice() -> None:
    found = profile(Tied(), IDS)
    assert found.params == 11 * 4 + 4 * 4 + 4
    assert found.size_bytes == 4 * (found.params + 3)
    assert found.macs == 2 * 5 * (2 * 4 * 4 + 4 * 11)
    rows = {layer.name: layer for layer in found.layers}
    assert rows["block"].macs == 2 * 5 * 2 * 4 * 4
    assert (rows["embed"].params, rows["embed"].macs) == (44, 0)
    assert (rows["head"].params, rows["head"].macs) == (0, 2 * 5 * 44)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2).eval(), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(4)
    profile(model, torch.zeros(1, 1, 5, 5))
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(4)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_keyword_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b.mT

    assert profile(Two(), {"b": torch.zeros(2, 3, 4), "a": torch.zeros(2, 5, 4)}).macs == 2 * 5 * 4 * 3


def test_a_cut_graph_still_tells_its_layers_apart() -> None:
    coupling = couple(ResNet((1, 1), (4, 8)).eval(), torch.zeros(2, 1, 8, 8))
    removed = {group.name: [0, 1] for group in coupling.groups if group.prunable and group.exact}
    found = profile(cut(coupling, removed).module, torch.zeros(2, 1, 8, 8))
    rows = {layer.name: layer for layer in found.layers}
    assert rows["blocks.1.conv1"].macs == 2 * 6 * 4 * 4 * 2 * 9
    assert rows["fc"].macs == 2 * 6 * 10


def test_table_and_data_say_the_same() -> None:
    found = profile(Tied(), IDS)
    table = found.table()
    head, *rows = table.splitlines()
    assert head.split() == ["layer", "type", "output", "params", "MACs", "share", "bytes"]
    assert any(row.split()[:2] == ["block", "Linear"] for row in rows)
    total = next(row for row in rows if row.startswith("total"))
    assert f"{found.params:,}" in total
    assert f"{found.macs:,}" in total
    data = json.loads(json.dumps(found.to_data()))
    assert data["macs"] == found.macs
    assert [row["name"] for row in data["layers"]] == [layer.name for layer in found.layers]


def test_what_is_not_counted_stands_in_the_table() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(torch.fft.rfft(x).real)

    found = profile(Spectrum(), torch.zeros(2, 8))
    assert [row.operator for row in found.uncounted] == ["aten::fft_rfft"]
    assert "not counted: aten::fft_rfft, 1 times" in found.table()


def test_a_model_that_cannot_be_captured() -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="Choosing"):
        profile(Choosing(), torch.zeros(2, 3))
