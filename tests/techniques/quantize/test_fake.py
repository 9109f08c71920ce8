"""Rounding that trains: the numbers are those of the grid, the gradients those of the papers."""

import pytest
import torch
from torch import Tensor

from penjing.techniques.quantize import ops
from penjing.techniques.quantize.fake import RULES, dorefa, fake_dynamic, fixed, following, lsq, lsq_plus, pact

ZERO = torch.tensor(0.0)


def values(count: int = 200) -> Tensor:
    return 3 * torch.randn(count, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RULES)
def test_activations_are_rounded_as_the_stored_form_rounds_them(name: str) -> None:
    x, scale, zero = values(), torch.tensor(0.037), torch.tensor(41, dtype=torch.uint8)
    expected = ops.dequantize_linear(ops.quantize_linear(x, scale, zero, 0), scale, zero, 0)
    with torch.no_grad():
        assert torch.equal(RULES[name].activation(x, scale.clone(), zero.float(), 0, 255), expected)


@pytest.mark.parametrize("name", RULES)
def test_weights_on_the_grid_stay_where_they_are(name: str) -> None:
    rule, scale = RULES[name], torch.tensor([0.5, 0.125])
    weight = torch.tensor([[-3.5, 0.0, 1.5], [0.875, 0.25, -0.125]])
    zero = torch.zeros(2)
    latent = weight if rule.start is None else rule.start(weight, scale, zero, -7, 7)
    assert torch.allclose(rule.weight(latent, scale, zero, -7, 7), weight, atol=1e-6)


def test_lsq_learns_the_scale_by_the_equations_of_the_paper() -> None:
    x, s, low, high = values(), torch.tensor(0.7, requires_grad=True), -4, 3
    lsq(x, s, ZERO, low, high).sum().backward()
    ratio = (x / 0.7).double()
    expected = torch.where(ratio <= low, float(low), torch.where(ratio >= high, float(high), ratio.round() - ratio))
    assert s.grad is not None
    scaled = float(expected.sum()) / (x[0].numel() * high) ** 0.5
    assert float(s.grad) == pytest.approx(scaled, rel=1e-4)


def test_the_straight_through_gradient_stops_at_the_ends_of_the_grid() -> None:
    x = torch.tensor([-9.0, -1.0, 0.3, 9.0], requires_grad=True)
    fixed(x, torch.tensor(0.5), ZERO, -7, 7).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


def test_lsq_plus_moves_the_zero_point_where_values_are_clipped() -> None:
    x, zero = torch.tensor([-9.0, 1.0, 200.0]), torch.tensor(2.0, requires_grad=True)
    lsq_plus(x, torch.tensor(0.5), zero, 0, 255).sum().backward()
    assert zero.grad is not None
    assert float(zero.grad) == pytest.approx(-2 * 0.5 / 255**0.5, rel=1e-5)  # two clipped values, each moved by -s


def test_pact_learns_alone_where_to_clip() -> None:
    x, scale = torch.tensor([-1.0, 1.0, 8.0, 9.0]), torch.tensor(0.5, requires_grad=True)
    y = pact(x, scale, ZERO, 0, 15)
    assert y.tolist() == [0.0, 1.0, 7.5, 7.5]
    y.sum().backward()
    assert scale.grad is not None
    assert float(scale.grad) == 2 * 15  # two values beyond alpha = 15 s


def test_dorefa_squashes_weights() -> None:
    x, scale = torch.tensor([0.5, -3.0], requires_grad=True), torch.tensor(1.0)
    y = dorefa(x, scale, ZERO, -7, 7)
    y.sum().backward()
    tanh = torch.tanh(x.detach() / 7)
    assert torch.equal(y.detach(), torch.round(7 * tanh / torch.tanh(torch.tensor(1.0))))
    assert x.grad is not None
    assert torch.allclose(x.grad, (1 - tanh**2) / torch.tanh(torch.tensor(1.0)))


def test_ranges_follow_moving_averages_while_gradients_are_computed_and_stay_without() -> None:
    scale, zero = torch.tensor(1.0), torch.tensor(0.0)
    x = torch.tensor([0.0, 100.0])
    with torch.no_grad():
        following(x, scale, zero, 0, 255)
    assert scale == 1.0
    following(x, scale, zero, 0, 255)
    assert float(scale) == pytest.approx((0.99 * 255 + 0.01 * 100) / 255)


def test_an_input_that_is_rounded_as_it_comes_is_that_of_the_operator() -> None:
    x, weight = values(24).reshape(4, 6), torch.randint(-127, 127, (6, 3), dtype=torch.int8)
    scale = torch.tensor([0.01, 0.02, 0.03])
    expected = ops.dynamic_linear(x, weight, scale, None)
    assert torch.allclose(fake_dynamic(x) @ (weight.float() * scale), expected, rtol=1e-5, atol=1e-5)


def test_few_bits_of_an_activation_are_clipped_to_their_steps() -> None:
    x, scale, zero = values(), torch.tensor(0.25), torch.tensor(3, dtype=torch.uint8)
    stored = ops.quantize_linear(ops.clip_steps(x, scale, zero, 4), scale, zero, 0)
    assert (int(stored.min()), int(stored.max())) == (0, 15)
    with torch.no_grad():
        trained = fixed(x, scale, zero.float(), 0, 15)
    assert torch.equal(ops.dequantize_linear(stored, scale, zero, 0), trained)
