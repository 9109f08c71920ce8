from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from penjing.profiling import peak_memory
from penjing.structure import capture, couple
from penjing.workload import ResNet

N = 4 * 100  # bytes of a tensor of 100 float32


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def residual(x: Tensor) -> Tensor:
    a = x.exp()
    b = a.sin().cos().tan()
    return a + b


def split(x: Tensor) -> Tensor:
    a, b = x.exp().chunk(2, 1)
    return a.sin() + b


CASES: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    # the input lives throughout; each line counts tensors of N bytes
    "one call": (lambda x: x.exp(), 2),
    "a chain holds input, source and target": (lambda x: x.exp().sin().cos().tan(), 3),
    "a residual holds its shortcut": (residual, 4),
    "views are free": (lambda x: x.exp().view(-1, 5, 10).mT[:, :3].unsqueeze(0), 2),
    "a view keeps its base": (lambda x: (x.exp()[:, :1], x.sin().cos())[1], 3),
    "a used view keeps the whole base": (lambda x: x.exp()[:, :1] + x.sin().cos().sum(), 4),
    "in-place calls are free": (lambda x: x.exp().sin_().cos_(), 2),
    "chunks share their base": (split, 1 + 1 + 0.5 + 0.5),
    "dropout in eval is the same tensor": (lambda x: torch.dropout(x.exp(), 0.5, False).sin(), 3),
    "outputs live to the end": (lambda x: (x.exp(), x.sin(), x.cos()), 4),
    "another dtype is another tensor": (lambda x: x.exp().to(torch.float64), 1 + 1 + 2),
    "a reduction is small": (lambda x: x.exp().sum(0), 2 + 0.5),
    "expand is a view": (lambda x: x.exp().unsqueeze(0).expand(7, -1, 50), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_peak_has_a_closed_form(case: str) -> None:
    function, tensors = CASES[case]
    assert peak_memory(capture(Function(function), torch.zeros(2, 50))).size_bytes == tensors * N


def test_the_peak_is_named_and_its_tensors_add_up() -> None:
    peak = peak_memory(capture(Function(residual), torch.zeros(2, 50)))
    assert sum(storage.size_bytes for storage in peak.live) == peak.size_bytes
    assert {storage.node for storage in peak.live} >= {"x", "exp", peak.node}


def test_unused_outputs_are_freed_at_once() -> None:
    lstm = nn.LSTM(10, 5, batch_first=True)
    x = torch.zeros(2, 3, 10)
    zeros, outputs, last = 2 * (2 * 5 * 4), 2 * 3 * 5 * 4, 2 * (2 * 5 * 4)
    assert peak_memory(capture(lstm, x)).size_bytes == x.nbytes + zeros + outputs + last


def test_parameters_are_no_activations() -> None:
    assert peak_memory(capture(nn.Linear(50, 1000), torch.zeros(2, 50))).size_bytes == N + 2 * 1000 * 4


def test_a_cut_saves_memory_before_it_is_made() -> None:
    coupling = couple(ResNet((1,), (8,)).eval(), torch.zeros(2, 1, 8, 8))
    removed = {group.name: range(group.size // 2) for group in coupling.groups if group.prunable and group.exact}
    whole = peak_memory(coupling.captured)
    after = peak_memory(
        coupling.captured, coupling.shapes_after({name: list(units) for name, units in removed.items()})
    )
    image = 2 * 1 * 8 * 8 * 4
    assert after.size_bytes - image == (whole.size_bytes - image) / 2


def test_a_shape_that_depends_on_values_is_listed() -> None:
    captured = capture(Function(lambda x: x[x > 0].exp()), torch.ones(2, 3))
    assert not peak_memory(captured).unknown, "the example has one"
    peak = peak_memory(captured, {**captured.shapes, "index": None, "exp": None})
    assert len(peak.unknown) > 0
