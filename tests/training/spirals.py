"""A stand-in for a workload, and a network for it, on which training takes milliseconds."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from penjing.types import Direction, Split
from penjing.workload import Batch


class Spirals:
    """A stand-in for a workload: two classes in the plane, told apart by a small network."""

    training_step: Any = None

    def __init__(
        self, n: int = 96, batch_size: int = 16, shuffle: bool = False, loss: Any = functional.cross_entropy
    ) -> None:
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 2, generator=g)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()
        self.loader = DataLoader(TensorDataset(self.x, self.y), batch_size, shuffle=shuffle)
        self.loss = loss
        self.train_steps, self.device = len(self.loader), torch.device("cpu")
        self.metric = SimpleNamespace(name="accuracy", direction=Direction.HIGHER)
        self.values: list[float] | None = None

    def select(self, outputs: Any) -> Any:
        return outputs

    def train_batches(self) -> Iterator[Batch]:
        for x, y in self.loader:
            yield Batch((x,), {}, y, raw=(x, y))

    def evaluate(self, predict: nn.Module, split: Split = Split.SEARCH) -> tuple[Any, ...]:
        assert split is Split.SEARCH
        if self.values is not None:
            return (SimpleNamespace(value=self.values.pop(0)),)
        was = predict.training
        with torch.no_grad():
            right = predict.eval()(self.x).argmax(1) == self.y
        predict.train(was)
        return (SimpleNamespace(value=right.double().mean().item()),)


def network(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 2))
