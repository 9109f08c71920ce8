"""What is moved between activations and weights leaves the function as it is, and makes room where it is short."""

import pytest
import torch
from torch import Tensor, fx, nn

from penjing.structure import capture
from penjing.techniques.quantize.balance import BALANCES, equalize, smooth
from penjing.techniques.quantize.calibrate import Reference, observe
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.observers import min_max
from penjing.techniques.quantize.plan import Plan, make_plan
from penjing.techniques.quantize.technique import prepare


class Block(nn.Module):
    """A norm that linears alone read, another that a sum reads too; two channels lie far out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.last, self.head = nn.LayerNorm(16), nn.Linear(16, 4)
        with torch.no_grad():
            self.norm.weight[3], self.last.weight[5] = 60.0, 80.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.down(nn.functional.gelu(self.up(self.norm(x)))))
        return self.head(y) + y[..., :4]  # type: ignore[no-any-return]


def case(model: nn.Module, x: Tensor, scheme: str = "int8") -> tuple[fx.GraphModule, Plan, list[tuple[Tensor]]]:
    torch.manual_seed(1)
    captured = capture(model.eval(), x)
    plan, _ = prepare(captured.module, scheme)
    return captured.module, plan, [(torch.randn_like(x),) for _ in range(4)]


def decibel(reference: fx.GraphModule, module: fx.GraphModule, plan: Plan, seen: list[tuple[Tensor]]) -> float:
    ranges = {name: min_max(each) for name, each in observe(module, set(plan.stored.values()), seen).items()}
    return Reference(reference, seen).decibel(insert(module, plan, ranges))


@pytest.mark.parametrize("name", sorted(BALANCES))
@pytest.mark.parametrize("scheme", ["int8", "w4"])
def test_the_function_stays(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    for model, x in (
        (Block(), torch.randn(8, 5, 16)),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1)),
            torch.randn(2, 3, 9, 9),
        ),
    ):
        module, plan, seen = case(model, x, scheme)
        balanced, count = BALANCES[name](module, plan, seen)
        assert Reference(module, seen).decibel(balanced) > 90
        assert count >= 0


def test_smoothing_makes_room_for_channels_far_out() -> None:
    torch.manual_seed(0)
    module, plan, seen = case(Block(), torch.randn(8, 5, 16))
    smoothed, count = smooth(module, plan, seen)
    assert count >= 2
    after = decibel(module, smoothed, make_plan(smoothed.graph, plan.formats), seen)
    assert after > decibel(module, module, plan, seen) + 3
    added = [node for node in smoothed.graph.nodes if node.target is torch.ops.aten.mul.Tensor]
    assert 1 <= len(added) < count + 1, "the norm that only linears read takes the division in"


def test_equalisation_makes_rows_and_columns_alike() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        model[0].weight[2] *= 100
        model[0].bias[2] *= 100
        model[2].weight[2] /= 100
    module, plan, seen = case(model, torch.randn(2, 3, 9, 9), "int8-tensor")
    equalized, count = equalize(module, plan, seen)
    assert count == 2
    weights = [value for name, value in equalized.named_parameters() if value.ndim == 4]
    first = next(w for w in weights if w.shape == (8, 3, 3, 3))
    ends = first.abs().flatten(1).amax(1)
    assert ends.max() / ends.min() < 10
    assert decibel(module, equalized, plan, seen) > decibel(module, module, plan, seen) + 6


def test_a_bounded_rectifier_is_not_equalised_through() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1))
    module, plan, seen = case(model, torch.randn(2, 3, 9, 9))
    assert equalize(module, plan, seen)[1] == 0
