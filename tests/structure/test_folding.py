"""Constants of removed channels move into the layers behind them, as computed by hand and by another route."""

import copy
from collections.abc import Callable

import pytest
import torch
from structure_zoo import ZOO, FusedAttention, GatedMlp
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from penjing.structure import couple, cut, cut_in_place, prove
from penjing.structure.folding import Folding, fold


def randomised(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A model in float64 with large, positive biases, in eval mode, and with the running statistics of an example."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.2 + torch.rand(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if "var" in name else 0.0))
        model.double()
        for _ in range(100 if example is not None else 0):
            model.train()(example)
    return model.eval()


def folded(
    model: nn.Module, example: Tensor, removed: dict[str, list[int]], *, in_place: bool = True
) -> tuple[Folding, nn.Module]:
    """Fold, prove and install, by both routes."""
    coupling = couple(model, example)
    folding = fold(coupling, removed)
    done = cut(coupling, removed)
    before = copy.deepcopy(model.state_dict())
    modules = [done.module, *([cut_in_place(copy.deepcopy(model), done.surgery)] if in_place else [])]
    x = torch.rand(5, *example.shape[1:], dtype=torch.float64)
    for module in modules:
        assert prove(coupling, module, removed, folding=folding).passed
        folding.install(module)
        torch.testing.assert_close(module(x), modules[0](x))
        assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return folding, done.module


def replaced(model: nn.Module, layer: str, channels: list[int], values: Tensor) -> Callable[[Tensor], Tensor]:
    """The original, in which a hook sets channels of what a layer reads to constants."""

    def constants(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        x = args[0].clone()
        axis = -1 if isinstance(module, nn.Linear) else 1
        shape = [1] * x.ndim
        shape[axis] = len(channels)
        x.index_copy_(
            axis, torch.tensor(channels), values.reshape(shape).expand_as(x.index_select(axis, torch.tensor(channels)))
        )
        return x

    other = copy.deepcopy(model)
    other.get_submodule(layer).register_forward_pre_hook(constants)
    return other


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh()])
def test_a_bias_through_an_activation(activation: nn.Module) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)))
    removed = [1, 4]
    folding, smaller = folded(model, torch.randn(2, 4, dtype=torch.float64), {"0": removed})
    x = torch.randn(7, 4, dtype=torch.float64)
    constants = activation(model[0].bias[removed])
    torch.testing.assert_close(smaller(x), replaced(model, "2", removed, constants)(x))
    torch.testing.assert_close(folding.shifts["2.bias"], model[2].weight[:, removed] @ constants)


def test_a_sigmoid_of_nothing_is_a_half() -> None:
    """A constant can come from no bias at all."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Sigmoid(), nn.Linear(6, 3)).double()
    folding, _ = folded(model, torch.randn(2, 4, dtype=torch.float64), {"0": [0, 1]})
    torch.testing.assert_close(folding.shifts["2.bias"], model[2].weight[:, [0, 1]].sum(1) / 2)


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1), (3, "same")])
def test_a_batch_norm_through_a_relu(kernel: int, padding: int | str) -> None:
    """The channel gives relu(beta); a convolution that pads is folded as if it gave that beyond the border too."""
    model = randomised(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, kernel, padding=padding),
        )
    )
    removed = [0, 5]
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    folding, smaller = folded(model, x[:2], {"0": removed})
    constants = F.relu(model[1].bias[removed])
    torch.testing.assert_close(folding.shifts["3.bias"], model[3].weight[:, removed].sum((2, 3)) @ constants)
    expected = replaced(model, "3", removed, constants)(x)
    inner = slice(1, -1) if padding else slice(None)
    torch.testing.assert_close(smaller(x)[:, :, inner, inner], expected[:, :, inner, inner])
    if padding:
        assert not torch.allclose(smaller(x), expected)


def test_a_layer_without_bias_shifts_the_mean_of_the_norm_behind_it() -> None:
    model = randomised(
        nn.Sequential(
            nn.Conv2d(3, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1, bias=False),
            nn.BatchNorm2d(4),
        )
    )
    removed = [2, 3]
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    folding, smaller = folded(model, x, {"0": removed})
    constants = F.relu(model[1].bias[removed])
    assert set(folding.shifts) == {"4.running_mean"}
    torch.testing.assert_close(smaller(x), replaced(model, "3", removed, constants)(x))


def test_a_pre_activation_net_folds_at_every_reader() -> None:
    """Channels of a residual stream are read by each block's norm and by the head."""

    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.conv(F.relu(self.norm(x))))

    model = randomised(PreActivation())
    folding, _ = folded(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), {"stem": [1, 6]})
    assert set(folding.shifts) == {"conv.bias", "head.bias"}
    behind = model.stem.bias[[1, 6]] + model.conv.bias[[1, 6]]
    torch.testing.assert_close(folding.shifts["head.bias"], model.head.weight[:, [1, 6], 0, 0] @ behind)
    inside = F.relu(model.norm.bias[[1, 6]])
    expected = (model.conv.weight[:, [1, 6], 0, 0] @ inside).index_fill(0, torch.tensor([1, 6]), 0)
    kept = [i for i in range(8) if i not in (1, 6)]
    torch.testing.assert_close(folding.shifts["conv.bias"], expected[kept])


def test_a_bias_of_values_passes_attention() -> None:
    """The weights of a softmax sum to one: a whole head leaves its values' bias."""
    model = randomised(FusedAttention())
    folding, _ = folded(model, torch.randn(2, 5, 6, dtype=torch.float64), {"q": [1]}, in_place=False)
    lost = model.v.bias[4:].repeat(2)  # two query heads are served by each value head
    torch.testing.assert_close(folding.shifts["out.bias"], model.out.weight[:, 8:] @ lost)


def test_a_gate_times_a_value() -> None:
    model = randomised(GatedMlp())
    folding, _ = folded(model, torch.randn(3, 6, dtype=torch.float64), {"up": [2]})
    constant = F.silu(model.up.bias[2]) * model.up.bias[10]
    torch.testing.assert_close(folding.shifts["down.bias"], model.down.weight[:, 2] * constant)


class Twice(nn.Module):
    """One layer applied to two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(F.relu(self.a(x))) + 2 * self.shared(F.relu(self.b(x)))


def test_a_shared_layer_is_folded_only_where_its_uses_agree() -> None:
    model = randomised(Twice())
    assert fold(couple(model, torch.randn(2, 4).double()), {"a": [1]}).moved == 0
    with torch.no_grad():
        model.a.bias.copy_(model.b.bias)
    folding, _ = folded(model, torch.randn(2, 4, dtype=torch.float64), {"a": [1]})
    torch.testing.assert_close(folding.shifts["shared.bias"], model.shared.weight[:, 1] * F.relu(model.a.bias[1]))


def test_what_varies_is_not_folded() -> None:
    """A gate of the whole input makes a channel's rest vary from sample to sample."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate, self.b = nn.Linear(4, 6), nn.Linear(4, 1), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * self.gate(x))

    model = randomised(Gated())
    assert fold(couple(model, torch.randn(2, 4).double()), {"a": [1]}) == Folding()


def test_without_biases_there_is_nothing_to_run() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.SiLU(), nn.Linear(6, 3))
    assert fold(couple(model, torch.randn(2, 4)), {"0": [1]}) == Folding()


def test_a_wrong_shift_is_seen_and_a_shift_is_not_installed_twice() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    coupling = couple(model, torch.randn(2, 4, dtype=torch.float64))
    removed = {"0": [1, 4]}
    folding, done = fold(coupling, removed), cut(coupling, removed)
    wrong = Folding(folding.constants, {"2.bias": folding.shifts["2.bias"] * (1 + 1e-6)})
    assert not prove(coupling, done, removed, folding=wrong).passed
    assert not prove(coupling, done, removed, folding=Folding(folding.constants)).passed
    assert prove(coupling, done, removed).passed
    folding.install(done.module)
    assert not prove(coupling, done, removed, folding=folding).passed


def test_installing_rounds_once_and_keeps_what_is_shared() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).bfloat16()
    nn.init.constant_(model[0].bias, 1.5)
    coupling = couple(model, torch.randn(2, 4, dtype=torch.bfloat16))
    removed = {"0": [0, 1, 2]}
    folding, done = fold(coupling, removed), cut(coupling, removed)
    assert done.module.get_parameter("2.bias") is model[2].bias
    assert prove(coupling, done, removed, folding=folding).passed
    folding.install(done.module, done.captured.module)
    expected = (model[2].bias.double() + folding.shifts["2.bias"]).bfloat16()
    assert torch.equal(done.module.get_parameter("2.bias"), expected)
    assert done.module.get_parameter("2.bias") is done.captured.tensors["2.bias"]
    assert not torch.equal(model[2].bias, expected)


@pytest.mark.parametrize("name", ["densenet", "mobilenet", "shufflenet", "fused attention"])
def test_folding_is_nearer_to_the_original_than_zero(name: str) -> None:
    """With large biases the error of the outputs is smaller by more than a fifth; it can be a quarter of it."""
    torch.manual_seed(0)
    model, example = ZOO[name]()
    x = torch.randn(64, *example.shape[1:], dtype=torch.float64)
    model = randomised(model, x)
    coupling = couple(model, x[:2])
    removed = {group.name: list(range(0, group.size, 3))[: group.size - 1] for group in coupling.groups if group.exact}
    folding, done = fold(coupling, removed), cut(coupling, removed)
    assert prove(coupling, done, removed, folding=folding).passed
    zero = (done.module(x) - model(x)).norm()
    folding.install(done.module)
    assert (done.module(x) - model(x)).norm() < 0.8 * zero
