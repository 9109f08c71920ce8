"""The loop on real workloads: images, keyword models that compute their own loss, memory layouts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from penjing.errors import WorkloadError
from penjing.recipe import Finetune
from penjing.training import Hook, LoopState, finetune
from penjing.workload import ResNet, Workload


def images(n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Bars: class 0 horizontal, class 1 vertical, in noise."""
    g = torch.Generator().manual_seed(seed)
    x, y = 0.5 * torch.randn(n, 1, 8, 8, generator=g), torch.arange(n) % 2
    for i in range(n):
        bar = x[i, 0, i % 8] if y[i] == 0 else x[i, 0, :, i % 8]
        bar += 2.0
    return [(x[i : i + 16], y[i : i + 16]) for i in range(0, n, 16)]


def net(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet((1, 1), (4, 8), classes=2)


def bars(**settings: Any) -> Workload:
    model = net()
    return Workload(model, torch.zeros(2, 1, 8, 8), train=images(64, 1), evaluation=images(64, 2), **settings)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_a_convolutional_network_recovers(precision: str) -> None:
    workload = bars(loss=functional.cross_entropy)
    model = net(3)
    strides = [p.stride() for p in model.parameters()]
    log = finetune(model, workload, Finetune(epochs=8, lr=0.05, distill=False, precision=precision))
    assert log.best.metric >= 0.9
    assert workload.evaluate(model)[0].value == log.best.metric
    assert [p.stride() for p in model.parameters()] == strides
    assert log.channels_last or precision == "auto"


def test_channels_last_computes_the_same_training() -> None:
    class Contiguous(ResNet):
        """The same function, with a `view` that refuses channels last."""

        def forward(self, x: Tensor) -> Tensor:
            y = self.blocks(torch.relu(self.bn(self.conv(x))))
            logits: Tensor = self.fc(torch.flatten(self.pool(y.view(len(y), -1).view(y.shape)), 1))
            return logits

    workload = bars(loss=functional.cross_entropy)
    first, second = net(), Contiguous((1, 1), (4, 8), classes=2)
    second.load_state_dict(first.state_dict())
    step = Finetune(epochs=1, distill=False, precision="fp32")
    with_layout, without = finetune(first, workload, step), finetune(second, workload, step)
    assert (with_layout.channels_last, without.channels_last) == (True, False)
    assert with_layout.rows[1].loss == pytest.approx(without.rows[1].loss, rel=1e-4)


def test_resume_in_channels_last_is_bit_identical(tmp_path: Path) -> None:
    workload = bars()
    step = Finetune(epochs=2, lr=0.05, precision="bf16", clip_norm=0.1)
    models = [net(4) for _ in range(2)]
    one = finetune(models[0], workload, step, teacher=workload.model)

    class Stop(Hook):
        def after_epoch(self, state: LoopState) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(net(4), workload, step, teacher=workload.model, hooks=[Stop()], resume_dir=tmp_path)
    two = finetune(models[1], workload, step, teacher=workload.model, resume_dir=tmp_path)
    assert two.resumed_from == 1
    assert [row.loss for row in two.rows] == [row.loss for row in one.rows]
    for a, b in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Tagger(nn.Module):
    """A keyword model that returns a dict, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        hidden = self.embed(ids)
        return {"hidden": hidden, "logits": self.head(hidden).mean(1)}


def test_a_model_with_its_own_training_step_and_a_teacher() -> None:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (80, 6), generator=g)
    labels = (ids[:, 0] + ids[:, 1]) % 3
    data = [{"ids": ids[i : i + 16], "labels": labels[i : i + 16]} for i in range(0, 80, 16)]
    torch.manual_seed(0)
    teacher, student = Tagger(), Tagger()
    seen: list[set[str]] = []

    def training_step(model: nn.Module, batch: Any) -> Tensor:
        seen.append(set(batch))
        return functional.cross_entropy(model(batch["ids"])["logits"], batch["labels"])

    workload = Workload(teacher, {"ids": ids[:2]}, train=data[:3], evaluation=data[3:], training_step=training_step)
    log = finetune(
        student, workload, Finetune(epochs=5, optimizer="adamw", lr=0.01, distill_weight=0.5), teacher=teacher
    )
    assert log.objective == "0.5 loss + 0.5 distillation"
    losses = [row.loss for row in log.rows[1:]]
    assert losses[-1] is not None
    assert losses[0] is not None
    assert losses[-1] < losses[0]
    assert all(keys == {"ids", "labels"} for keys in seen)


def test_no_training_data() -> None:
    workload = Workload(net(), torch.zeros(2, 1, 8, 8), evaluation=images(64, 2), loss=functional.cross_entropy)
    with pytest.raises(WorkloadError, match="no training batch"):
        finetune(net(), workload, Finetune(distill=False))
