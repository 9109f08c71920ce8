"""What scores are computed from: against gates and activations computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from penjing.errors import RecipeError
from penjing.structure import couple
from penjing.techniques.prune import Need
from penjing.techniques.prune.ends import ends_of
from penjing.techniques.prune.evidence import activities, gather, sensitivities
from penjing.workload import Workload


class Residual(nn.Module):
    """A stream of four units, written twice and read twice, and an inner layer of six."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b, self.head = (nn.Linear(*s) for s in ((3, 4), (4, 6), (6, 4), (4, 2)))

    def forward(self, x: Tensor, gate: Tensor | None = None, inner: Tensor | None = None) -> Tensor:
        gate, inner = torch.ones(4) if gate is None else gate, torch.ones(6) if inner is None else inner
        x = self.stem(x)
        return self.head((x + self.b(self.a(x * gate).relu() * inner)) * gate)


def data(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(n, 3, generator=generator), torch.randint(0, 2, (n,), generator=generator)
    return list(zip(inputs.split(8), labels.split(8), strict=True))


def workload(model: nn.Module, **given: object) -> Workload:
    given = {"train": data(24), "loss": nn.functional.cross_entropy} | given
    return Workload(model, torch.zeros(2, 3), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("trained", [True, False])
def test_sensitivities_are_the_derivatives_by_a_gate_on_all_that_is_read(trained: bool) -> None:
    """Sample by sample, by autograd of a model with the gates written into its code; frozen weights count as well."""
    model = Residual().eval().requires_grad_(trained)
    coupling = couple(model, torch.zeros(2, 3))
    stream, inner = coupling.groups
    found = sensitivities(coupling.captured, coupling.groups, ends_of(coupling, coupling.groups), workload(model))
    slopes: dict[str, list[Tensor]] = {stream.name: [], inner.name: []}
    for inputs, labels in data(24):
        for x, y in zip(inputs, labels, strict=True):
            gates = [torch.ones(4, requires_grad=True), torch.ones(6, requires_grad=True)]
            loss = nn.functional.cross_entropy(model(x[None], *gates), y[None])
            for name, slope in zip(slopes, torch.autograd.grad(loss, gates), strict=True):
                slopes[name].append(slope.double())
    for name, each in slopes.items():
        rows = torch.stack(each)
        assert torch.allclose(found[name].mean, rows.abs().mean(0), rtol=1e-4)
        assert torch.allclose(found[name].square, rows.square().mean(0), rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad == trained for p in model.parameters())


def test_positions_belong_to_their_sample() -> None:
    """A convolution and then positions flattened into the batch: the slopes of a sample are summed over both."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.mix, self.head = nn.Conv1d(1, 4, 1), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            y = self.conv(x[:, None]).transpose(1, 2).reshape(-1, 4)
            y = self.mix(y if gate is None else y * gate).tanh()
            return self.head(y.reshape(x.shape[0], -1, 3).mean(1))

    model = Windows().eval()
    coupling = couple(model, torch.zeros(2, 3))
    group = coupling.groups[0]
    assert group.size == 4
    found = sensitivities(coupling.captured, [group], ends_of(coupling, [group]), workload(model))[group.name]
    squares = []
    for inputs, labels in data(24):
        for x, y in zip(inputs, labels, strict=True):
            gate = torch.ones(4, requires_grad=True)
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(x[None], gate), y[None]), gate)
            squares.append(slope.double().square())
    assert torch.allclose(found.square, torch.stack(squares).mean(0), rtol=1e-4)


def test_activities_are_means_over_samples_and_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()
    coupling = couple(model, torch.zeros(2, 1, 4, 4))
    batches = [(torch.randn(4, 1, 4, 4),) for _ in range(2)]
    source = Workload(model, torch.zeros(2, 1, 4, 4), calibration=batches)
    found = activities(
        coupling.captured, coupling.groups, ends_of(coupling, coupling.groups), source.calibration_batches()
    )[coupling.groups[0].name]
    values = torch.cat([model[1](model[0](x)) for (x,) in batches]).detach().movedim(1, 0).flatten(1).double()
    assert torch.allclose(found.mean, values.mean(1)[None], rtol=1e-5)
    assert torch.allclose(found.active, (values > 0).double().mean(1)[None])


@pytest.mark.parametrize(
    ("need", "remedy"),
    [
        (Need.GRADIENTS, "score='s' needs a workload with train= and loss="),
        (Need.SENSITIVITIES, "score='s' needs a workload with train= and loss="),
        (Need.ACTIVATIONS, "score='s' needs a workload with calibration= data"),
    ],
)
def test_data_that_is_missing_is_named(need: Need, remedy: str) -> None:
    model = Residual().eval()
    coupling = couple(model, torch.zeros(2, 3))
    with pytest.raises(RecipeError, match=remedy):
        gather(need, "s", model, coupling, coupling.groups, None)


def test_samples_that_cannot_be_told_apart_are_refused() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x[:3].sum(0, keepdim=True)).relu()).expand(x.shape[0], 2)

    model = Mixed().eval()
    coupling = couple(model, torch.zeros(8, 3))
    with pytest.raises(RecipeError, match="samples of the activation relu cannot be told apart"):
        sensitivities(coupling.captured, coupling.groups, ends_of(coupling, coupling.groups), workload(model))
