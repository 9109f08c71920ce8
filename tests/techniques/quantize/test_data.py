"""Calibration data come in pieces of whole samples; a graph of fixed batch gets batches of that size alone."""

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.recipe import Quantize
from penjing.structure import capture
from penjing.techniques import apply
from penjing.techniques.quantize import data
from penjing.techniques.quantize.data import calibration
from penjing.techniques.quantize.pack import UNPACK
from penjing.techniques.quantize.quick import folded
from penjing.techniques.state import Context
from penjing.workload import Workload

Batch = tuple[Tensor, Tensor]


class Masked(nn.Module):
    """Tokens [n, length] that see each other where a mask [n, length] lets them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.linear = nn.Embedding(50, 16), nn.Linear(16, 16)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.linear(self.embedding(ids))
        far = (1 - mask[:, None, :].float()) * -1e4
        return self.linear((x @ x.mT + far).softmax(-1) @ x)  # type: ignore[no-any-return]


def batch(samples: int, length: int) -> Batch:
    ids = torch.randint(0, 50, (samples, length), generator=torch.Generator().manual_seed(samples))
    return ids, torch.ones_like(ids)


def workload(batches: list[Batch], *, fixed: bool) -> Workload:
    free = {1: torch.export.Dim.AUTO} if fixed else {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    return Workload(
        Masked().eval(),
        batch(8, 32),
        calibration=batches,
        unpack=lambda each: (each, {}, None),
        dynamic_shapes={"ids": free, "mask": free},
    )


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("last", [(2, 32), (1, 17), (8, 9), (19, 5)])
def test_the_last_batch_may_be_shorter_or_of_another_length(fixed: bool, last: tuple[int, int]) -> None:
    outcome = apply(workload([batch(8, 32), batch(8, 32), batch(*last)], fixed=fixed), Quantize())
    left_out = [row.what for row in outcome.log if "left out: the graph" in row.what and row.fell_back]
    assert left_out == (
        [f"{last[0] % 8} samples of the calibration data were left out: the graph takes batches of 8 alone"]
        if fixed and last[0] % 8
        else []
    )


def test_no_batch_of_the_size_that_the_graph_is_fixed_at_is_an_error() -> None:
    with pytest.raises(WorkloadError, match=r"takes batches of 8 samples alone, .* leave dimension 0 free"):
        apply(workload([batch(7, 32)], fixed=True), Quantize())


def test_samples_run_together_up_to_the_room_for_what_operators_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = nn.Linear(4, 8), [(torch.arange(40.0).reshape(10, 4) + 40 * i,) for i in range(4)]
    w = Workload(model, batches[0], calibration=batches)
    captured = capture(model, batches[0])
    monkeypatch.setattr(data, "PIECE", 3 * 8)
    found = calibration(Context(w, model), captured, needed=True)
    assert found is not None
    sizes = [len(x) for (x,) in found.seen]
    assert sizes == [3, 3, 3, 1] * 3
    assert torch.equal(torch.cat([x for (x,) in found.seen]), torch.cat([x for (x,) in batches[:3]]))
    assert torch.equal(torch.cat([x for (x,) in found.held_out]), batches[3][0])
    spread = torch.cat([x for (x,) in found.few])[:, 0].div(4).long().tolist()
    assert spread == [i * 30 // 16 for i in range(16)], "at equal distances"


def test_constants_are_computed_once_and_give_the_same() -> None:
    w = workload([batch(8, 32)] * 4, fixed=False)
    module = capture(apply(w, Quantize("w8")).model, batch(8, 32)).module
    fast = folded(module)
    ids, mask = batch(3, 32)
    wanted, got = (graph(torch.cat([ids] * 3)[:8], torch.cat([mask] * 3)[:8])[0] for graph in (module, fast))
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    unpacks = [sum(node.target is UNPACK for node in graph.graph.nodes) for graph in (module, fast)]
    assert unpacks[0] > 0 == unpacks[1]
