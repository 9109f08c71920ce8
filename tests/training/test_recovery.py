"""What a training may be told: rates by layer, schedules, averages of weights, new statistics of batch norms."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from spirals import Spirals, network
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Finetune
from penjing.recipe.training_steps import SCHEDULES
from penjing.structure import capture
from penjing.structure.graph_model import GraphModel
from penjing.training import Hook, LoopState, finetune
from penjing.training.averaging import decay_at, update_average
from penjing.training.checkpoint import copy_of, tensors_of
from penjing.training.layers import depth_factors
from penjing.training.norms import reestimate
from penjing.training.optimizers import build_optimizer, peak_lrs
from penjing.training.schedules import decay_of, step_factor
from penjing.workload import Batch


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_the_peak_and_fall(name: str) -> None:
    step = Finetune(schedule=name, warmup=0.2)
    factors = [step_factor(i, 100, step) for i in range(100)]
    assert factors[:20] == pytest.approx([(i + 0.5) / 20 for i in range(20)])
    assert all(a >= b > 0 for a, b in pairwise(factors[20:]))
    assert factors[20] == pytest.approx(1, abs=0.01)


def test_schedules_are_those_of_torch() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    multi = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 80])
    mine = decay_of(Finetune(schedule="multi_step", milestones=(0.3, 0.8)))
    for i in range(100):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(mine(i / 100))
        optimizer.step(), multi.step()
    linear = decay_of(Finetune(schedule="linear"))
    assert [linear(t) for t in (0, 0.25, 1)] == [1, 0.75, 0]


def test_rates_by_pattern_and_depth() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    assert set(peak_lrs(model, Finetune(lr=0.5)).values()) == {0.5}
    step = Finetune(lr={"1.bias": 0.3, "1*": 0.2}, layer_decay=0.5, weight_decay=0.1)
    assert peak_lrs(model, step) == {"0.weight": 0.005, "0.bias": 0.005, "1.weight": 0.2, "1.bias": 0.3}
    groups = build_optimizer(model, step).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.005, 0.1), (0.005, 0.0), (0.2, 0.1), (0.3, 0.0)]
    with pytest.raises(RecipeError, match=r"lr names 'head\*', which matches no trainable parameter; known: 0.weight"):
        peak_lrs(model, Finetune(lr={"head*": 1.0}))


def test_layers_of_a_transformer_are_its_embeddings_its_list_and_its_head() -> None:
    names = [
        *("bert.embeddings.word.weight", "bert.embeddings.norm.weight"),
        *(f"bert.encoder.layer.{i}.{part}.weight" for i in range(2) for part in ("query", "out")),
        *("bert.pooler.weight", "classifier.weight", "scale"),
    ]
    found = depth_factors(names, 0.5)
    assert list(found.values()) == [2.0**-d for d in (5, 5, 4, 4, 3, 3, 2, 1, 0)]


def test_a_rate_of_zero_freezes_and_the_schedule_scales_each_rate() -> None:
    model, workload = network(), Spirals()
    before, seen = copy_of(tensors_of(model)), []

    class Watch(Hook):
        def before_step(self, state: LoopState) -> None:
            seen.append([group["lr"] for group in state.optimizer.param_groups])

    workload.values = [0.0, 1.0]
    step = Finetune(1, lr={"0*": 0.0, "*": 0.1}, schedule="linear", warmup=0.0, distill=False, precision="fp32")
    finetune(model, workload, step, hooks=[Watch()])  # type: ignore[arg-type]
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[4].weight, before["4.weight"])
    assert all(rates == pytest.approx([0, 0, lr, lr]) for rates, lr in zip(seen, _lines(6), strict=True))


def _lines(n: int) -> list[float]:
    return [0.1 * (1 - (i + 0.5) / n) for i in range(n)]


def test_the_average_is_the_recursion_and_keeps_zeros() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = copy_of(tensors_of(model))
    expected, mean = model[0].weight.detach().clone(), torch.zeros(2)
    for n in range(1, 9):
        with torch.no_grad():
            model[0].weight.normal_()
            model[0].weight[0, 0] = 0
            model(torch.randn(8, 2))
        update_average(average, model, n, decay=0.6)
        d = min(0.6, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model[0].weight.detach()
        mean = d * mean + (1 - d) * model[1].running_mean
    expected[0, 0] = 0
    torch.testing.assert_close(average["0.weight"], expected)
    torch.testing.assert_close(average["1.running_mean"], mean)
    assert average["1.num_batches_tracked"] == 8
    assert decay_at(0, 0.999) == 0.1


@pytest.mark.parametrize(("metrics", "averaged"), [([0.1, 0.5, 0.7], True), ([0.1, 0.7, 0.5], False)])
def test_the_better_of_weights_and_average_is_kept(metrics: list[float], averaged: bool) -> None:
    model, workload = network(), Spirals()
    last: dict[str, Tensor] = {}

    class Watch(Hook):
        def after_step(self, state: LoopState) -> None:
            last.update(copy_of(tensors_of(state.model)))

    workload.values = metrics
    step = Finetune(1, lr=0.1, ema=0.9, distill=False, precision="fp32")
    log = finetune(model, workload, step, hooks=[Watch()])  # type: ignore[arg-type]
    assert (log.best.metric, log.best.averaged) == (0.7, averaged)
    assert torch.equal(model[0].weight, last["0.weight"]) is not averaged
    assert ("averaged weights" in log.summary()) is averaged


def test_an_average_goes_on_where_it_was(tmp_path: Path) -> None:
    class Kill(Hook):
        def after_epoch(self, state: LoopState) -> None:
            if state.epoch == 1:
                raise KeyboardInterrupt

    def run(folder: Path | None, *hooks: Hook) -> nn.Sequential:
        model, workload = network(), Spirals()
        workload.values = [0.0, 0.1, 0.2, 0.3, 0.4] if hooks or folder is None else [0.3, 0.4]
        step = Finetune(2, lr=0.1, ema=0.9, distill=False, precision="fp32")
        finetune(model, workload, step, hooks=hooks, resume_dir=folder)  # type: ignore[arg-type]
        return model

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Kill())
    assert torch.equal(run(tmp_path)[0].weight, run(None)[0].weight)


def norms_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=0.3), nn.Dropout(0.5), nn.ReLU(), nn.BatchNorm1d(5, momentum=None)
    )


@pytest.mark.parametrize("graph", [False, True])
def test_statistics_of_equal_batches_are_those_of_all_samples(graph: bool) -> None:
    model: Any = norms_network()
    if graph:
        model = GraphModel.of(capture(model.eval(), torch.zeros(2, 3)))
    x = torch.randn(64, 3) + 2
    modes = [module.training for module in model.modules()]
    reestimate(model, [Batch((part,), {}) for part in (*x.split(16), x[:1])])

    assert [module.training for module in model.modules()] == modes
    found = dict(model.named_buffers())
    plain = norms_network().eval()
    h = plain[0](x)
    torch.testing.assert_close(found["1.running_mean"], h.mean(0))
    # the squares within batches are unbiased, those between their means are not
    variance = torch.stack([part.var(0) for part in h.split(16)]).mean(0) + torch.stack(
        [part.mean(0) for part in h.split(16)]
    ).var(0, correction=0)
    torch.testing.assert_close(found["1.running_var"], variance, rtol=1e-4, atol=1e-5)
    train = nn.functional.batch_norm
    h2 = torch.cat([torch.relu(train(p, None, None, training=True)) for p in h.split(16)])
    torch.testing.assert_close(found["4.running_mean"], h2.mean(0), rtol=1e-4, atol=1e-5)


def test_a_norm_that_no_batch_reaches_stays() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.aside = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.aside.running_mean.fill_(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Aside()
    reestimate(model, [Batch((torch.randn(4, 2) + 5,), {})])
    assert model.used.running_mean.min() > 3
    assert (model.aside.running_mean == 3).all()


@pytest.mark.parametrize(("after", "kept"), [(0.8, True), (0.9, True), (0.6, False)])
def test_new_statistics_are_kept_unless_the_metric_falls(after: float, kept: bool) -> None:
    model, workload = network(), Spirals()
    workload.values = [0.1, 0.8, after]
    step = Finetune(1, reestimate_norms=True, distill=False, precision="fp32")
    log = finetune(model, workload, step)  # type: ignore[arg-type]
    expected = network()
    workload.values = [0.1, 0.8]
    finetune(expected, workload, Finetune(1, distill=False, precision="fp32"))  # type: ignore[arg-type]
    assert torch.equal(model[0].weight, expected[0].weight)
    assert torch.equal(model[1].running_mean, expected[1].running_mean) is not kept
    assert log.norms is not None
    assert (log.norms.metric, log.norms.kept) == (after, kept)
    assert f"new statistics of batch norms: {after:g}, {'kept' if kept else 'put back'}" in log.summary()


def test_a_metric_that_is_not_finite_puts_the_statistics_back() -> None:
    model, workload = network(), Spirals()
    before = model[1].running_mean.clone()
    workload.values = [0.9, 0.1, float("nan")]
    with pytest.raises(WorkloadError, match="nan with new statistics of batch norms"):
        finetune(model, workload, Finetune(1, reestimate_norms=True, distill=False))  # type: ignore[arg-type]
    assert torch.equal(model[1].running_mean, before)


def test_apply_logs_what_was_put_back_or_is_not_there() -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 4)
    batches = list(zip(x.split(16), (x[:, 0] > 0).long().split(16), strict=True))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    workload = pj.Workload(model, x[:2], train=batches[:4], evaluation=batches[4:], loss=nn.functional.cross_entropy)
    outcome = pj.apply(workload, pj.Finetune(1, reestimate_norms=True, precision="fp32"))
    assert [row.what for row in outcome.fallbacks] == [
        "the model has no batch norm with running statistics to take anew"
    ]
