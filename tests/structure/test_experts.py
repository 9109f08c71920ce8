"""Mixtures of experts: the hidden width of the experts can be cut, which rows go where cannot."""

import pytest
import torch
from torch import Tensor, nn

from penjing.structure import couple, cut, prove
from penjing.structure.rules import register_rule
from penjing.structure.rules.custom import grouped_product
from penjing.testing.rules import RuleCase, Whole

EXPERTS, WIDTH, HIDDEN = 3, 6, 10


@torch.library.custom_op("penjing_test::grouped_mm", mutates_args=())
def grouped_mm(rows: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """What libraries write for themselves where no fused kernel is at hand."""
    starts = [0, *offs.tolist()]
    return torch.cat([rows[a:b] @ w for a, b, w in zip(starts, starts[1:], weight, strict=False)])


@grouped_mm.register_fake
def _(rows: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[2])


register_rule("penjing_test::grouped_mm", grouped_product)


class Experts(nn.Module):
    """Each row goes to the expert that scores it highest; a gate multiplies the halves of the hidden width."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, WIDTH)
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x).relu()
        expert = self.router(x).argmax(-1)
        order = expert.argsort(stable=True)
        offs = torch.histc(expert.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0).int()
        gate, value = torch.ops.penjing_test.grouped_mm(x[order], self.up, offs).chunk(2, -1)
        mixed = torch.ops.penjing_test.grouped_mm(torch.sigmoid(gate) * value, self.down, offs)
        return self.head(torch.zeros_like(x).index_copy(0, order, mixed) + x)


def test_hidden_and_model_width_of_experts_are_cut_with_proof() -> None:
    torch.manual_seed(0)
    coupling = couple(Experts(), torch.randn(8, 4))
    sizes = {tuple(f"{m.parameter}[{m.dim}]" for m in group.members): group.size for group in coupling.groups}
    assert sizes[("up[2]", "down[1]")] == HIDDEN
    model_width = next(group for group in coupling.groups if group.size == WIDTH)
    assert {"up", "down", "router.weight", "head.weight", "inner.weight"} <= {m.parameter for m in model_width.members}
    assert any(
        "rows are assigned to experts by value" in row.reason for row in coupling.frozen if row.parameter == "up"
    )
    removed = {group.name: range(0, group.size, 3) for group in coupling.groups}
    proof = prove(coupling, cut(coupling, removed), removed)
    assert proof.passed, proof
    assert proof.exact


def test_the_rule_of_a_custom_operator_agrees_with_brute_force() -> None:
    case = RuleCase(
        torch.ops.penjing_test.grouped_mm.default,
        lambda d: (d.tensor(7, 5), d.tensor(3, 5, 4), Whole(torch.tensor([2, 2, 7]))),
        groups=2,
    )
    case.check()


def test_torch_grouped_product_is_cut_in_steps_that_its_kernel_takes() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(2, 8, 24))
            self.down = nn.Parameter(torch.randn(2, 24, 8))

        def forward(self, x: Tensor, offs: Tensor) -> Tensor:
            hidden = torch._grouped_mm(x.bfloat16(), self.up.bfloat16(), offs)
            return torch._grouped_mm(hidden.relu(), self.down.bfloat16(), offs)

    example = (torch.randn(6, 8), torch.tensor([2, 6], dtype=torch.int32))
    coupling = couple(Grouped(), example)
    (group,) = coupling.groups
    removed = {group.name: range(8)}
    assert [tuple(p.shape) for p in cut(coupling, removed).module.parameters()] == [(2, 8, 16), (2, 16, 8)]
    assert cut(coupling, removed).module(*example).isfinite().all()


def test_a_mixture_of_experts_of_transformers_is_cut() -> None:
    transformers = pytest.importorskip("transformers")
    try:
        mixtral = transformers.MixtralForCausalLM
    except ImportError as problem:  # it asks for a torchvision that fits torch
        pytest.skip(str(problem))
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        use_cache=False,
    )
    model = mixtral(config).eval()
    coupling = couple(model, {"input_ids": torch.randint(50, (2, 7))})
    hidden = [g for g in coupling.groups if any("down_proj" in m.parameter and m.dim == 2 for m in g.members)]
    assert [(group.size, group.exact) for group in hidden] == [(24, True)]
    removed = {hidden[0].name: range(0, 24, 2)}
    assert prove(coupling, cut(coupling, removed), removed).passed


class Counted(nn.Module):
    """Rows are sorted by expert and split by how many each expert gets: sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.router, self.head = nn.Linear(4, WIDTH), nn.Linear(WIDTH, EXPERTS), nn.Linear(WIDTH, 2)
        self.up = nn.ModuleList(nn.Linear(WIDTH, HIDDEN) for _ in range(EXPERTS))
        self.down = nn.ModuleList(nn.Linear(HIDDEN, WIDTH) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        chosen = self.router(x).argmax(-1)
        order = chosen.argsort(stable=True)
        counts = (chosen[:, None] == torch.arange(EXPERTS)).sum(0)
        parts = x[order].split(counts.tolist())
        made = [down(torch.relu(up(part))) for part, up, down in zip(parts, self.up, self.down, strict=True)]
        return self.head(x.index_add(0, order, torch.cat(made)))


def test_experts_that_get_as_many_rows_as_the_values_say_are_cut() -> None:
    torch.manual_seed(0)
    model = Counted()
    coupling = couple(model, torch.randn(12, 4))
    assert not coupling.unknown
    assert {"inner", *(f"up.{i}" for i in range(EXPERTS))} <= {group.name for group in coupling.groups}
    removed = {"inner": [0, 3], "up.0": [1, 2], "up.2": [5]}
    done = cut(coupling, removed)
    assert done.module.get_parameter("up.1.weight").shape == (HIDDEN, WIDTH - 2)
    assert prove(coupling, done, removed).passed
    assert done.module(torch.randn(7, 4)).shape == (7, 2)
