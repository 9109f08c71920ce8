"""The user's own class is cut: its numbers follow its tensors, and everything that is not a size stays as it was."""

import copy
import functools
import sys
import types
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, prune

from penjing.errors import ArtifactError, ShapeError
from penjing.structure import (
    Coupling,
    Surgery,
    attribute_uses,
    attributes_after,
    capture,
    couple,
    cut,
    cut_in_place,
    prove,
    restore,
    share,
    torn_by,
)
from penjing.structure.uses import sizes_after


class Heads(nn.Module):
    """Attention as libraries write it: its sizes are attributes, and the same number means several of them."""

    def __init__(self, spelling: str = "view", width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.spelling = spelling
        self.num_heads, self.head_dim, self.hidden, self.inner = heads, width // heads, width, width
        self.sizes, self.shape = [width, width, width], (heads, width // heads)
        self.scale = self.head_dim**-0.5
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def _split(self, x: Tensor) -> list[Tensor]:
        n, t, _ = x.shape
        match self.spelling:
            case "view":
                return [part.view(n, t, self.num_heads, self.head_dim) for part in self.qkv(x).chunk(3, -1)]
            case "packed":
                return list(self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).unbind(2))
            case "split by one number":
                return [part.view(*x.shape[:-1], -1, self.head_dim) for part in self.qkv(x).split(self.inner, dim=2)]
            case "split by a list":
                return [part.unflatten(-1, self.shape) for part in torch.split(self.qkv(x), self.sizes, -1)]
            case "slices":
                y = self.qkv(x)
                parts = y[..., : self.inner], y[:, :, self.inner : 2 * self.inner], y[..., 2 * self.inner :]
                return [part.view(n, t, self.num_heads, -1) for part in parts]
        raise ValueError(self.spelling)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self._split(x))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:-1], self.inner))


class Block(nn.Module):
    """Two attention layers of different sizes in a row, and numbers that no forward uses."""

    def __init__(self, spelling: str = "view") -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.layers = nn.ModuleList(Heads(spelling) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)
        self.layers_count = 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = x + layer(self.norm(x))
        return self.head(x.mean(1))


def smaller(model: nn.Module, coupling: Coupling, removed: dict[str, list[int]]) -> tuple[nn.Module, Surgery]:
    surgery = cut(coupling, removed).surgery
    uses = attribute_uses(model, coupling.captured)
    surgery = replace(surgery, attributes=attributes_after(model, uses, coupling, removed))
    return cut_in_place(share(model), surgery), surgery


@pytest.mark.parametrize("spelling", ["view", "packed", "split by one number", "split by a list"])
def test_whole_heads_leave_a_class_that_holds_their_number(spelling: str) -> None:
    model = Block(spelling).eval()
    coupling = couple(model, torch.randn(2, 7, 5))
    removed = {"layers.0.qkv": [1], "layers.1.qkv": [0, 3]}
    done, _ = smaller(model, coupling, removed)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what
    first, second = done.layers
    assert (first.inner, second.inner) == (12, 8)
    if spelling in ("view", "packed"):
        assert (first.num_heads, second.num_heads) == (3, 2)
    if spelling == "split by a list":
        assert (first.sizes, first.shape) == ([12, 12, 12], (3, 4))
    assert first.scale == 0.5
    assert first.hidden == 16, "no call receives it"
    assert done.layers_count == 4
    assert model.layers[0].num_heads == 4
    assert type(done) is Block


def test_the_width_of_heads_is_told_from_their_number() -> None:
    """Four heads of width four: only the calls tell one four from the other."""
    model = Block("packed").eval()
    coupling = couple(model, torch.randn(2, 7, 5))
    names = [group.name for group in coupling.groups if group.name.startswith("layers.0.qkv")]
    removed = {names[1]: [2]}
    done, surgery = smaller(model, coupling, removed)
    assert surgery.attributes == {"layers.0.head_dim": 3, "layers.0.inner": 12}
    assert prove(coupling, done, removed).passed


class Halved(nn.Module):
    """Sizes computed from an attribute on the way: half of it, thrice it, one more and one less."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.both, self.triple = 12, nn.Linear(5, 24), nn.Linear(12, 36)
        self.last, self.head = nn.Linear(12, 13), nn.Linear(13, 2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.both(x).split(self.width * 2 // 2, dim=-1)
        q, k, v = self.triple(left * right.sigmoid()).view(len(x), -1, 3 * self.width // 3).unbind(1)
        y = self.last(q * k + v)
        return self.head(F.pad(y[:, : self.width + 1 - 1], (0, self.width - 11)))


def test_arithmetic_with_an_attribute_is_followed_back() -> None:
    model = Halved().eval()
    coupling = couple(model, torch.randn(2, 5))
    uses = attribute_uses(model, coupling.captured)
    found = {use.undo for use in uses if use.attribute.name == "width"}
    assert {(("*", 2), ("/", 2)), (("*", 3), ("/", 3)), (("+", 1), ("-", 1)), (("+", 11),)} >= found
    assert len(found) >= 3
    group = next(group.name for group in coupling.groups if "both" in group.name)
    removed = {group: [0, 5]}
    assert sizes_after(uses, coupling, coupling.removal(removed))


def test_a_split_in_halves_of_an_attribute_stays_in_place() -> None:
    """As in the cross stage of timm: the attribute is the whole, the call gets half of it."""

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.expand, self.a, self.b = 16, nn.Linear(4, 16), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.expand(x).split(self.whole // 2, dim=1)
            return self.a(left.relu()) * self.b(right.relu())

    model = Cross().eval()
    coupling = couple(model, torch.randn(2, 4))
    removed = {group.name: [1, 6] for group in coupling.groups}
    done, surgery = smaller(model, coupling, removed)
    assert surgery.attributes == {"whole": 12}
    assert prove(coupling, done, removed).passed


def test_shapes_that_einops_remembers_are_worked_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """einops keeps shapes by value: the two layers would share what it remembers of the first run."""
    einops = types.ModuleType("einops.einops")
    einops._reconstruct_from_shape = functools.lru_cache(lambda shape, heads: (*shape[:-1], heads, shape[-1] // heads))
    monkeypatch.setitem(sys.modules, "einops.einops", einops)
    remembers = einops._reconstruct_from_shape

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.up, self.down = 4, nn.Linear(6, 16), nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            y = y.reshape(einops._reconstruct_from_shape(tuple(map(int, y.shape)), self.heads))
            return self.down(y.softmax(-1).flatten(-2))

    model = nn.Sequential(Layer(), Layer()).eval()
    example = torch.randn(2, 6)
    model(example)
    coupling = couple(capture(model, example, {"input": None}))
    uses = attribute_uses(model, coupling.captured)
    assert [str(use.attribute) for use in uses if use.attribute.name == "heads"] == ["0.heads", "1.heads"]
    assert einops._reconstruct_from_shape is remembers


def test_a_number_that_would_have_to_be_two_is_left_alone() -> None:
    class Torn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.a, self.b, self.c = 6, nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x).view(-1, 1, self.width), self.b(x).view(-1, 1, self.width)
            return self.c(a[:, 0]) + b.sum(-1)

    model = Torn().eval()
    coupling = couple(model, torch.randn(2, 4))
    done, surgery = smaller(model, coupling, {"a": [0, 1]})
    assert not surgery.attributes
    assert torn_by(attribute_uses(model, coupling.captured), coupling, {"a": [0, 1]}) == {"width": (4, 6)}
    assert not prove(coupling, done, {"a": [0, 1]}).passed


def test_watching_a_forward_leaves_no_mark() -> None:
    model = Block("split by a list").train()
    coupling = couple(model, torch.randn(2, 7, 5))
    before = {name: dict(vars(part)) for name, part in model.named_modules()}
    assert attribute_uses(model, coupling.captured)
    for name, part in model.named_modules():
        assert vars(part).keys() == before[name].keys()
        assert [key for key, value in before[name].items() if vars(part)[key] is not value] == []
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_watching_leaves_buffers_and_counters_alone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.fc = 0, nn.Linear(3, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.seen += 1
            return self.fc(x)

    model = Counting()
    captured = capture(nn.Linear(3, 3), torch.zeros(2, 3))
    attribute_uses(model, captured)
    assert (model.calls, float(model.seen)) == (0, 0.0)


def test_a_forward_that_fails_leaves_no_mark() -> None:
    model = Block().eval()
    coupling = couple(model, torch.randn(2, 7, 5))
    model.head = nn.Linear(3, 4)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        attribute_uses(model, coupling.captured)
    assert type(model.layers[0].num_heads) is int
    assert not model.layers[0]._forward_hooks


class Net(nn.Module):
    """Convolutions with all that hangs on a module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 2)
        self.register_buffer("scale", torch.rand(8, 1, 1) + 0.5)
        self.register_buffer("shift", torch.rand(8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x))) * self.scale + self.shift
        return self.head(F.relu(self.b(x)).mean((2, 3)))


Case = tuple[nn.Module, nn.Module, Surgery]


def cut_net(prepare: Callable[[nn.Module], object] = lambda net: None) -> Case:
    """A net, prepared, and what is left of it once its convolutions lost channels, proven."""
    torch.manual_seed(0)
    model = Net().eval()
    prepare(model)
    coupling = couple(model, torch.randn(2, 3, 8, 8))
    removed = {"a": [1, 4, 5], "b": [0]}
    removed = {group.name: removed[group.name.split(".")[0]] for group in coupling.groups}
    done, surgery = smaller(model, coupling, removed)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what
    return model, done, surgery


@pytest.fixture(scope="module")
def net() -> Case:
    return cut_net()


def test_a_shared_copy_costs_no_weights_and_leaves_the_original(net: Case) -> None:
    model, done, _ = net
    assert done.head.bias is model.head.bias
    assert done.a.weight is not model.a.weight
    assert model.a.weight.shape[0] == model.a.out_channels == 8
    assert done.a is not model.a


def test_class_names_and_sizes_stay_readable(net: Case) -> None:
    model, done, _ = net
    assert type(done) is Net
    assert list(done.state_dict()) == list(model.state_dict())
    assert (done.a.out_channels, done.norm.num_features, done.b.in_channels) == (5, 5, 5)
    assert (done.b.out_channels, done.head.in_features) == (5, 5)


def test_buffers_stay_persistent_or_not(net: Case) -> None:
    done = net[1]
    assert done.scale.shape == done.shift.shape == (5, 1, 1)
    assert "scale" in done.state_dict()
    assert "shift" not in done.state_dict()


def test_what_is_not_trained_stays_so(net: Case) -> None:
    model = copy.deepcopy(net[0])
    model.a.requires_grad_(False)
    done = cut_in_place(model, net[2])
    assert not done.a.weight.requires_grad
    assert done.b.weight.requires_grad
    assert all(isinstance(parameter, nn.Parameter) for parameter in done.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    done = cut_in_place(copy.deepcopy(model), cut(couple(model, torch.zeros(2, 4, dtype=dtype)), {"0": [1]}).surgery)
    assert {parameter.dtype for parameter in done.parameters()} == {dtype}


def test_the_device_stays() -> None:
    model = nn.Linear(4, 8).to("meta")
    done = cut_in_place(model, Surgery({"weight": {0: np.arange(3)}, "bias": {0: np.arange(3)}}))
    assert done.weight.device.type == done.bias.device.type == "meta"
    assert done.weight.shape == (3, 4)


def test_hooks_of_every_kind_still_run(net: Case) -> None:
    calls: list[str] = []

    def prepare(net: nn.Module) -> None:
        net.a.register_forward_pre_hook(lambda module, args: calls.append("before forward"))
        net.a.register_forward_hook(lambda module, args, output: calls.append("after forward"))
        net.a.register_full_backward_pre_hook(lambda module, grad: calls.append("before backward"))
        net.a.register_full_backward_hook(lambda module, grad, output: calls.append("after backward"))
        net.register_state_dict_post_hook(lambda module, state, prefix, metadata: calls.append("state dict"))
        net.register_load_state_dict_post_hook(lambda module, keys: calls.append("load state dict"))

    model = copy.deepcopy(net[0])
    prepare(model)
    done = cut_in_place(share(model), net[2])
    done(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    done.load_state_dict(done.state_dict())
    assert calls == [
        "before forward",
        "after forward",
        "before backward",
        "after backward",
        "state dict",
        "load state dict",
    ]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_projected_lstm_stays_in_place(bidirectional: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 4)
            self.rnn = nn.LSTM(4, 8, 2, proj_size=5, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(10 if bidirectional else 5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    model = Net().eval()
    coupling = couple(model, torch.randn(2, 6, 3))
    removed = {group.name: [0] for group in coupling.groups if group.prunable}
    done, _ = smaller(model, coupling, removed)
    assert (done.rnn.input_size, done.rnn.hidden_size, done.rnn.proj_size) == (3, 7, 4)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_a_cell_in_a_loop_stays_in_place(cell: type[nn.Module]) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = cell(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = c = x.new_zeros(len(x), self.cell.hidden_size)
            for step in x.unbind(1):
                h, c = self.cell(step, (h, c)) if cell is nn.LSTMCell else (self.cell(step, h),) * 2
            return self.head(h)

    model = Loop().eval()
    coupling = couple(model, torch.randn(2, 3, 4))
    removed = {group.name: [2, 3] for group in coupling.groups if group.prunable}
    assert removed
    done, _ = smaller(model, coupling, removed)
    assert done.cell.hidden_size == done.head.in_features == 6
    assert prove(coupling, done, removed).passed


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 8)
            self.c.weight = self.a.weight
            self.d = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(self.c(self.b(self.a(x).relu())).relu())

    model = Tied().eval()
    coupling = couple(model, torch.randn(2, 6))
    removed = {next(group.name for group in coupling.groups if group.size == 8): [0, 3]}
    done, _ = smaller(model, coupling, removed)
    assert prove(coupling, done, removed).passed
    assert done.a.weight is done.c.weight
    assert done.a.weight.shape == (6, 6)


@pytest.mark.parametrize("what", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrisation_stays(what: Callable[[nn.Module], nn.Module]) -> None:
    _, done, _ = cut_net(lambda net: what(net.head))
    assert nn.utils.parametrize.is_parametrized(done.head, "weight")
    assert done.head.weight.shape == (2, 5)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("what", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_a_hook_computes_stays_computed(what: Callable[[nn.Module], nn.Module], groups: int) -> None:
    layer = what(nn.Conv1d(8, 8, 3, padding=1, groups=groups))
    model = nn.Sequential(nn.Conv1d(4, 8, 1), nn.ReLU(), layer, nn.ReLU(), nn.Conv1d(8, 3, 1)).eval()
    coupling = couple(model, torch.randn(2, 4, 6))
    removed = {group.name: [1, 4] for group in coupling.groups if group.prunable}
    assert removed
    done, _ = smaller(model, coupling, removed)
    proof = prove(coupling, done, removed)
    assert proof.passed, proof.what
    inner = done[2]
    assert inner.weight.shape == (inner.out_channels, inner.in_channels // inner.groups, 3)
    assert len(inner._forward_pre_hooks) == 1


def test_a_mask_of_torch_stays() -> None:
    _, done, _ = cut_net(lambda net: prune.l1_unstructured(net.b, "weight", 0.5))
    assert prune.is_pruned(done.b)
    assert done.b.weight_mask.shape == done.b.weight.shape == (5, 5, 3, 3)


def test_the_cut_model_trains(net: Case) -> None:
    done = copy.deepcopy(net[1]).train()
    before = done.a.weight.detach().clone()
    optimizer = torch.optim.SGD(done.parameters(), lr=0.1)
    done(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, done.a.weight)
    assert int(done.norm.num_batches_tracked) == 1


def test_a_fresh_instance_is_cut_alike() -> None:
    model = Block().eval()
    coupling = couple(model, torch.randn(2, 7, 5))
    done, surgery = smaller(model, coupling, {"layers.0.qkv": [1], "layers.1.qkv": [0, 3]})
    again = restore(Block(), Surgery.from_json(surgery.to_json()), done.state_dict()).eval()
    x = torch.randn(3, 7, 5)
    assert torch.equal(again(x), done(x))
    assert again.layers[1].num_heads == 2


def test_a_surgery_composes_and_reads_files_without_attributes() -> None:
    first, second = Surgery({}, {"a.heads": 3, "b.heads": 4}), Surgery({}, {"a.heads": 2, "a.shape": (-1, 4)})
    assert first.then(second).attributes == {"a.heads": 2, "b.heads": 4, "a.shape": (-1, 4)}
    assert Surgery.from_json(second.to_json()) == second
    assert Surgery.from_json('{"schema": 1, "parameters": {}}') == Surgery({})


@pytest.mark.parametrize("value", ['"3"', "2.5", "-1", "true", "[1, null]", "[-2, 4]", "{}"])
def test_an_attribute_that_is_no_size_is_refused(value: str) -> None:
    with pytest.raises(ArtifactError, match=r"heads must be a whole number"):
        Surgery.from_json('{"schema": 1, "parameters": {}, "attributes": {"heads": ' + value + "}}")


@pytest.mark.parametrize(
    "name", ["layers.0.missing", "layers.7.num_heads", "layers.0.scale", "layers.0.forward", "head"]
)
def test_an_attribute_of_another_model_is_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=f"Block holds no number {name}"):
        cut_in_place(Block(), Surgery({}, {name: 3}))
