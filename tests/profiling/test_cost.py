from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from penjing.profiling import FORMULAS, Call, Cost, cost, register_formula
from penjing.profiling.formulas import FREE, find_formula, free
from penjing.structure import capture, couple, cut
from penjing.workload import ExampleInputs, ResNet


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        return self.function(*args)


class Attention(nn.Module):
    """Self-attention of 2 heads from its parts, with a causal mask and fewer keys than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.view(*part.shape[:2], 2, 6).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return functional.scaled_dot_product_attention(q, k[:, :, :3], v[:, :, :3])


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 20, batch_first=True), 2, enable_nested_tensor=False)


x4 = torch.zeros(2, 4, 9, 7)
CASES: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = [
    ("conv1d", nn.Conv1d(4, 6, 3, stride=2), (torch.zeros(2, 4, 11),)),
    ("conv2d", nn.Conv2d(4, 6, (3, 2), padding=1, dilation=2), (x4,)),
    ("conv2d same", nn.Conv2d(4, 6, 3, padding="same"), (x4,)),
    ("conv2d groups", nn.Conv2d(4, 8, 3, groups=2), (x4,)),
    ("conv2d depthwise", nn.Conv2d(4, 8, 3, groups=4), (x4,)),
    ("conv3d", nn.Conv3d(2, 3, 2), (torch.zeros(2, 2, 4, 5, 6),)),
    ("conv_transpose1d", nn.ConvTranspose1d(4, 6, 3, stride=2), (torch.zeros(2, 4, 5),)),
    ("conv_transpose2d", nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (x4,)),
    ("conv_transpose2d groups", nn.ConvTranspose2d(4, 6, 3, groups=2), (x4,)),
    ("conv_transpose3d", nn.ConvTranspose3d(2, 3, 2), (torch.zeros(2, 2, 4, 5, 6),)),
    ("linear", nn.Linear(5, 3), (torch.zeros(2, 4, 5),)),
    ("matmul broadcast", Function(torch.matmul), (torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 5, 6))),
    ("mm", Function(lambda a, b: torch.mm(a, b.T)), (torch.zeros(2, 3), torch.zeros(2, 3))),
    ("bmm", Function(torch.bmm), (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))),
    ("addmm", Function(torch.addmm), (torch.zeros(2, 5), torch.zeros(2, 3), torch.zeros(3, 5))),
    ("baddbmm", Function(torch.baddbmm), (torch.zeros(2, 3, 5), torch.zeros(2, 3, 4), torch.zeros(2, 4, 5))),
    ("einsum", Function(lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b)), (torch.zeros(2, 3, 4, 5),) * 2),
    (
        "einsum implicit",
        Function(lambda a, b: torch.einsum("bij,bjk", a, b)),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)),
    ),
    (
        "einsum ellipsis",
        Function(lambda a, b: torch.einsum("...ij,jk->...ik", a, b)),
        (torch.zeros(2, 3, 4), torch.zeros(4, 5)),
    ),
    ("attention", Attention(), (torch.zeros(2, 5, 12),)),
    ("multi-head attention", nn.MultiheadAttention(12, 3, batch_first=True), (torch.zeros(2, 5, 12),) * 3),
    ("transformer", encoder(), (torch.zeros(2, 5, 12),)),
    ("resnet", ResNet((1, 2), (4, 8)), (torch.zeros(2, 1, 8, 8),)),
]


@pytest.mark.parametrize(("model", "inputs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_macs_are_half_the_flops_that_torch_counts(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    captured = capture(model.eval(), ExampleInputs(inputs))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        captured.module(*captured.flatten(captured.example.args, {}))
    found = cost(captured)
    assert found.uncounted == ()
    assert found.macs > 0
    assert 2 * found.macs == counter.get_total_flops()


@pytest.mark.parametrize(
    ("kind", "gates", "layers", "bidirectional"),
    [(nn.LSTM, 4, 1, False), (nn.LSTM, 4, 2, True), (nn.GRU, 3, 1, True), (nn.GRU, 3, 2, False), (nn.RNN, 1, 2, True)],
)
def test_recurrent_layers_have_a_closed_form(kind: Any, gates: int, layers: int, bidirectional: bool) -> None:
    n, t, i, h, d = 2, 5, 7, 3, 1 + bidirectional
    model = kind(i, h, layers, bidirectional=bidirectional, batch_first=True)
    per_token = d * gates * h * (i + h) + (layers - 1) * d * gates * h * (d * h + h)
    found = cost(capture(model, torch.zeros(n, t, i)))
    assert found.total == Cost(n * t * per_token, n * t * layers * d * 2 * gates * h)
    assert found.uncounted == ()


def test_a_projected_lstm() -> None:
    found = cost(capture(nn.LSTM(7, 6, proj_size=2, batch_first=True), torch.zeros(2, 5, 7)))
    assert found.macs == 2 * 5 * (4 * 6 * 7 + 4 * 6 * 2 + 2 * 6)


def test_recurrent_cells() -> None:
    assert cost(capture(nn.LSTMCell(7, 3), torch.zeros(2, 7))).macs == 2 * 12 * (7 + 3)
    assert cost(capture(nn.GRUCell(7, 3), torch.zeros(2, 7))).macs == 2 * 9 * (7 + 3)


def test_einsum_of_three_operands_contracts_from_the_left() -> None:
    model = Function(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
    found = cost(
        capture(model, (torch.zeros(2, 3), torch.zeros(3, 4), torch.zeros(4, 5)), dynamic_shapes=((None,) * 3,))
    )
    assert found.macs == 2 * 3 * 4 + 2 * 4 * 5


def test_matrix_times_vector() -> None:
    captured = capture(Function(torch.matmul), (torch.zeros(2, 4, 5), torch.zeros(5)))
    assert cost(captured).macs == 2 * 4 * 5


def test_bilinear_is_its_definition() -> None:
    assert cost(capture(nn.Bilinear(3, 4, 5), (torch.zeros(2, 3), torch.zeros(2, 4)))).macs == 2 * 5 * (3 * 4 + 4)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, 96),
        (lambda x: x.clone().add_(1).relu_(), 192),
        (lambda x: x.softmax(1), 96),
        (lambda x: functional.layer_norm(x, (4, 4)), 96),
        (lambda x: x.mean((2, 3)), 96),
        (lambda x: functional.max_pool2d(x, 2), 96),
        (lambda x: functional.avg_pool2d(x, (2, 1), stride=1), 2 * 3 * 3 * 4 * 2),
        (lambda x: functional.adaptive_avg_pool2d(x, 1), 96),
        (lambda x: functional.interpolate(x, scale_factor=2.0), 384),
        (lambda x: x.flatten(1).view(-1, 3, 4, 4).permute(0, 2, 3, 1).contiguous(), 0),
        (lambda x: torch.cat([x[:, :1], x.flip(2)], 1), 0),
    ],
)
def test_elementwise_operations_are_counted_apart(function: Callable[[Tensor], Tensor], expected: int) -> None:
    found = cost(capture(Function(function), torch.zeros(2, 3, 4, 4)))
    assert found.total == Cost(0, expected)
    assert found.uncounted == ()


def test_an_embedding_computes_nothing() -> None:
    found = cost(capture(nn.Embedding(10, 4), torch.zeros(2, 3, dtype=torch.long)))
    assert found.total == Cost()
    assert found.uncounted == ()


def test_what_has_no_formula_is_listed_never_zero_in_silence() -> None:
    found = cost(capture(Function(lambda x: torch.fft.rfft(torch.fft.rfft(x).real).real + 1), torch.zeros(2, 8)))
    (row,) = found.uncounted
    assert (row.operator, row.count) == ("aten::fft_rfft", 2)
    assert len(set(row.nodes)) == 2
    assert "register_formula" in row.why
    assert set(row.nodes).isdisjoint(found.by_node())


def test_a_formula_can_be_added() -> None:
    try:
        register_formula("aten::fft_rfft", lambda call: Cost(macs=call.output[-1]))
        found = cost(capture(Function(lambda x: torch.fft.rfft(x).real), torch.zeros(2, 8)))
    finally:
        del FORMULAS["aten::fft_rfft"]
    assert found.macs == 5
    assert found.uncounted == ()
    with pytest.raises(ValueError, match="'fft' has no namespace"):
        register_formula("fft", lambda call: Cost())


def test_a_shape_that_depends_on_values_is_listed() -> None:
    """Those of the example are known; others may tell of none."""
    captured = capture(Function(lambda x: x[x > 0].exp()), torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]))
    assert captured.shapes["exp"] == (4,)
    assert cost(captured).by_node()["exp"].elementwise == 4
    found = cost(captured, {**captured.shapes, "index": None, "exp": None})
    assert any("depends on values" in row.why for row in found.uncounted)


def test_sums_by_operator_module_and_node_agree() -> None:
    found = cost(capture(ResNet((1, 1), (4, 8)), torch.zeros(2, 1, 8, 8)))
    for parts in (found.by_operator(), found.by_module(), found.by_node()):
        assert sum(parts.values(), Cost()) == found.total
    assert found.by_module()["fc"].macs == 2 * 8 * 10
    assert found.by_operator()["aten::linear"].macs == 2 * 8 * 10


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, whose `groups` argument goes stale in a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, groups=8)
        self.point = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.depth(self.expand(x)))


@pytest.mark.parametrize("model", [ResNet((1, 1), (4, 8), channels=3), Separable()])
def test_the_cost_of_a_cut_is_known_before_it_is_made(model: nn.Module) -> None:
    coupling = couple(model.eval(), torch.zeros(2, 3, 8, 8))
    removed = {group.name: [0] for group in coupling.groups if group.prunable and group.exact and group.size > 1}
    assert removed
    before, foretold = cost(coupling.captured), cost(coupling.captured, coupling.shapes_after(removed))
    made = cost(capture(cut(coupling, removed).module, torch.zeros(2, 3, 8, 8)))
    assert foretold.macs == made.macs
    assert foretold.macs < before.macs


def test_every_formula_names_an_operator_that_exists() -> None:
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}
    missing = [name for name in (*FORMULAS, *FREE) if name.startswith("aten::") and name not in known]
    assert [name for name in missing if f"{name}_" not in known] == []


def test_no_operator_is_both_free_and_counted() -> None:
    assert FREE.isdisjoint(FORMULAS)
    assert find_formula(torch.ops.aten.view.default) is free


def test_call_reads_arguments_by_name() -> None:
    captured = capture(nn.Linear(5, 3), torch.zeros(2, 5))
    node = next(node for node in captured.module.graph.nodes if node.op == "call_function")
    call = Call(node, captured.shapes)
    assert (call.operator, call.shape("weight"), call.first, call.output) == ("aten::linear", (3, 5), (2, 5), (2, 3))
