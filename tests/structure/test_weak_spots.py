"""Where a cut could go wrong unnoticed: memory that is shared, shapes that are computed, layouts that are fixed."""

import torch
from torch import Tensor, nn

from penjing.structure import Coupling, couple, cut, prove


def proven(model: nn.Module, *example: Tensor, inexact: bool = True) -> Coupling:
    """Cut every third unit of every group, and believe it only after the proof; cut once more, and again."""
    torch.manual_seed(0)
    coupling = couple(model.eval(), example)
    current, captured = coupling, coupling.captured
    for _ in range(2):
        removed = {g.name: range(0, g.size - 1, 3) for g in current.groups if g.prunable and (inexact or g.exact)}
        done = cut(current, removed)
        proof = prove(current, done, removed)
        assert proof.passed, f"{proof.what}\n{captured.module.graph}\n{current.table()}"
        current = couple(done.captured)
    return coupling


def freed(coupling: Coupling) -> set[str]:
    """The dimensions of parameters of which units may go."""
    return {f"{m.parameter}[{m.dim}]" for group in coupling.groups if group.prunable for m in group.members}


class Rotary(nn.Module):
    """Complex rotation of the last part of each head, a strided piece of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(6, 2 * (8 + 4)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).view(*x.shape[:2], 2, 12)
        plain, turned = q.split([8, 4], -1)
        turn = torch.polar(torch.ones(x.shape[1], 1, 2), torch.arange(x.shape[1]).view(-1, 1, 1) / torch.arange(1, 3))
        turned = torch.view_as_real(torch.view_as_complex(turned.reshape(*turned.shape[:-1], -1, 2)) * turn).flatten(-2)
        return self.out(torch.cat([plain, turned], -1).flatten(2))


def test_a_complex_view_of_a_strided_piece_runs_at_odd_widths() -> None:
    assert "q.weight[0]" in freed(proven(Rotary(), torch.randn(2, 7, 6)))
