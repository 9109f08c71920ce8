"""A folded model is the original, in float64."""

import pytest
import torch
from torch import nn

from penjing.structure import capture
from penjing.techniques.quantize.fold import fold_batch_norms
from penjing.techniques.quantize.graph import aten, functionalize, pool_globally
from penjing.workload.samples import ResNet


def spread(model: nn.Module) -> nn.Module:
    """Give batch norms statistics that are far from the identity."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


MODELS = {
    "resnet": (lambda: ResNet((1, 1), (4, 6)), (3, 1, 8, 8), 6),
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), (3, 5), 1),
    "grouped, no affine": (
        lambda: nn.Sequential(nn.Conv1d(4, 8, 3, groups=2), nn.BatchNorm1d(8, affine=False)),
        (2, 4, 9),
        1,
    ),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), (2, 3, 6, 6), 0),
    "batch statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (2, 3, 6, 6),
        0,
    ),
    "channels elsewhere": (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(4)), (3, 4, 5), 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_folding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    build, shape, folds = MODELS[name]
    model = spread(build().double())
    x = torch.randn(shape, dtype=torch.float64)
    before = model(x)
    captured = capture(model, x)
    assert fold_batch_norms(captured.module) == folds
    assert torch.allclose(captured.module(x)[0], before, rtol=1e-12, atol=1e-12)
    assert torch.equal(model(x), before)  # the tensors of the model were not touched


def test_a_layer_that_runs_twice_is_folded_once_for_each_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.conv(self.a(self.conv(x))))  # type: ignore[no-any-return]

    model = spread(Twice().double())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    captured = capture(model, x)
    assert fold_batch_norms(captured.module) == 2
    assert torch.allclose(captured.module(x)[0], model(x), rtol=1e-12, atol=1e-12)


def test_in_place_operators_become_plain() -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            z = y + 1
            y.relu_()
            y += z
            return y * z

    x = torch.randn(3, 4)
    captured = capture(InPlace(), x)
    functionalize(captured.module)
    targets = [node.target for node in captured.module.graph.nodes]
    assert aten.relu_.default not in targets
    assert aten.relu.default in targets
    assert aten.add_.Tensor not in targets
    assert torch.equal(captured.module(x)[0], InPlace()(x))


def test_global_averages_get_one_name() -> None:
    class Averages(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            pool = nn.functional.adaptive_avg_pool2d
            return (
                pool(x, 1),
                pool(x, (1, 1)),
                x.mean((2, 3)),
                x.mean((-1, -2), keepdim=True),
                pool(x, 2),
                x.mean((1, 2)),
            )

    x = torch.randn(2, 3, 4, 4)
    captured = capture(Averages(), x)
    pool_globally(captured.module)
    targets = [node.target for node in captured.module.graph.nodes]
    assert targets.count(torch.ops.penjing.global_average_pool.default) == 4
    for ours, theirs in zip(captured.module(x), Averages()(x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
