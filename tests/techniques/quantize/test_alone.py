"""The noise of one layer is that of the model in which only this layer is quantised."""

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.techniques.quantize.alone import Handover, noise_alone


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(*size) for size in ((6, 8), (8, 8), (8, 8), (8, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = x + self.b(x).relu()
        return self.head(torch.softmax(self.c(x), -1))


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    held = torch.randn(24, 6)
    evaluation = [(held, torch.zeros(24, dtype=torch.long))]
    certificate = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.long))]
    return pj.Workload(
        Net().eval(),
        torch.randn(5, 6),
        calibration=[torch.randn(40, 6)],
        evaluation=evaluation,
        certificate=certificate,
    )


@pytest.mark.parametrize("layer", ["a", "c", "head"])
def test_it_is_measured_with_the_rest_in_float(workload: pj.Workload, layer: str) -> None:
    noise = noise_alone(workload, {"int8": "int8"}).noise[layer]["int8"]
    step = pj.Quantize("int8", "mse", {name: "float" for name in ("a", "b", "c", "head") if name != layer})
    model = pj.apply(workload, step).model
    held = torch.cat([batch.args[0] for batch in workload.search_batches() or ()])
    with torch.no_grad():
        y, z = workload.model(held).double(), model(held).double()
    assert noise == pytest.approx(float((y - z).square().sum() / y.square().sum()), rel=1e-4)


def test_fewer_bits_make_more_noise(workload: pj.Workload) -> None:
    found = noise_alone(workload, {"eight": "int8", "four": "w4a8"}).noise
    assert list(found) == ["a", "b", "c", "head"]
    assert all(each["four"] > each["eight"] > 0 for each in found.values())


def test_layers_hand_over_what_can_stay_in_int8_between_them(workload: pj.Workload) -> None:
    found = noise_alone(workload, {"int8": "int8"}).handovers
    assert found == (Handover("a", "b", 40), Handover("a", "c", 40), Handover("b", "c", 40))  # a softmax is float
