"""Products of two activations in int8: the same number in torch and in the runtimes, and what stays in float."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from penjing.errors import RecipeError
from penjing.recipe import Quantize, Recipe
from penjing.runtimes import parity
from penjing.structure import capture
from penjing.techniques import Outcome, apply
from penjing.techniques.quantize.graph import aten
from penjing.techniques.quantize.products import ATTENTION, activation_products, open_attention, operand_params
from penjing.workload import ExampleInputs, Workload

WIDTH = 16


class Attention(nn.Module):
    """One layer of attention, with its first linear for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])  # type: ignore[no-any-return]


class Scores(nn.Module):
    """A product by batch, which is rectified, and one that a linear reads."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.bmm(self.linear(x), x.mT).relu() @ x)  # type: ignore[no-any-return]


class Calls(nn.Module):
    """What a function makes of three tensors."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def quantized(model: nn.Module, **settings: object) -> tuple[Outcome, Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(16, 5, WIDTH, generator=generator) for _ in range(3)]
    step = Quantize(**{"method": "minmax", "products": True, **settings})  # type: ignore[arg-type]
    return apply(Workload(model, data[0][:4], calibration=data[1:]), step), data[0]


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [Attention, Scores])
def test_runtimes_compute_the_simulation(model: type[nn.Module], runtime: str) -> None:
    pytest.importorskip(runtime)
    torch.manual_seed(0)
    network = model().eval()
    outcome, x = quantized(network)
    found = parity(outcome, x, runtime)
    assert found.passed, str(found)
    assert all(boundary.alone >= 0.999 for boundary in found.boundaries)
    products = [row for row in found.layers if row.operator in ("matmul", "bmm")]
    assert len(products) == 2
    assert not any(row.broken for row in products)
    if runtime == "onnxruntime":
        assert {row.kernel for row in products} <= {"QLinearMatMul", "MatMulIntegerToFloat"}
    with torch.no_grad():
        real = network(x)
        off = float((outcome.model(x) - real).norm() / real.norm())
    assert 0 < off < 0.1


def test_products_stay_in_float_unless_they_are_asked_for() -> None:
    outcome, _ = quantized(Attention().eval(), products=False)
    assert any("scaled_dot_product_attention" in row.what and row.fell_back for row in outcome.log)
    asked, _ = quantized(Attention().eval())
    assert any(row.what == "2 products of two activations run in int8" for row in asked.log)
    (floats,) = (row.what for row in asked.log if "operators without weights" in row.what)
    assert "softmax" in floats
    assert "matmul" not in floats


def test_all_stages_of_a_method_take_products() -> None:
    torch.manual_seed(0)
    outcome, x = quantized(Attention().eval(), method="auto")
    assert any("bias correction" in row.what for row in outcome.log)
    assert parity(outcome, x).passed


def test_a_model_without_products_says_so() -> None:
    outcome, _ = quantized(nn.Sequential(nn.Linear(WIDTH, 4)).eval())
    assert any("has no product of two activations" in row.what and row.fell_back for row in outcome.log)


MASK = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) > 0.2
ATTENTIONS: dict[str, Callable[..., Tensor]] = {
    "plain": scaled_dot_product_attention,
    "scale": lambda q, k, v: scaled_dot_product_attention(q, k, v, scale=0.3),
    "causal": lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
    "boolean mask": lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=MASK),
    "added mask": lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=MASK.float()),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_its_products(name: str) -> None:
    torch.manual_seed(0)
    inputs = tuple(torch.randn(3, 2, length, width) for length, width in ((5, 8), (7, 8), (7, 6)))
    captured = capture(Calls(ATTENTIONS[name]).eval(), ExampleInputs(inputs, {}), None)
    open_attention(captured.module)
    assert len(activation_products(captured.module.graph)) == 2
    assert ATTENTION not in {node.target for node in captured.module.graph.nodes}
    more = tuple(torch.cat([x, x]) for x in inputs)
    torch.testing.assert_close(captured.module(*more)[0], ATTENTIONS[name](*more), rtol=1e-5, atol=1e-6)


def test_what_is_no_product_of_two_float_matrices_is_left() -> None:
    constant = torch.randn(2, 8, 8)

    def call(x: Tensor) -> Tensor:
        y = x @ constant  # of a constant
        y = y @ y[0, 0]  # with a vector
        counts = torch.ones_like(x, dtype=torch.int64)
        return y.sum() + (counts @ counts).float() @ x

    captured = capture(Calls(call).eval(), ExampleInputs.of(torch.randn(2, 8, 8)), None)
    found = [node for node in captured.module.graph.nodes if node.name in activation_products(captured.module.graph)]
    assert [node.target for node in found] == [aten.matmul.default]
    assert found[0].args[1].op == "placeholder"


@pytest.mark.parametrize(
    ("low", "high", "scale", "dtype"),
    [
        (-1.27, 0.5, 0.01, torch.int8),
        (-0.5, 2.54, 0.02, torch.int8),
        (0.1, 2.55, 0.01, torch.uint8),
        (0.0, 0.0, 1.0, torch.uint8),
        (-1e-45, 0.0, 1.0, torch.int8),
    ],
)
def test_operands_lie_around_zero(low: float, high: float, scale: float, dtype: torch.dtype) -> None:
    params = operand_params(low, high)
    assert (float(params.scale), int(params.zero_point)) == (pytest.approx(scale), 0)
    assert params.zero_point.dtype == dtype


def test_products_need_ranges_and_survive_yaml() -> None:
    with pytest.raises(RecipeError, match=r"products=True needs ranges.*scheme='w8'.*use 'int8'"):
        Quantize("w8", products=True)
    recipe = Recipe([Quantize(products=True)])
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
