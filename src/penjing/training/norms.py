"""Running statistics of batch norms, taken anew from training data: they need no labels and no gradients."""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from penjing.workload import Batch, device_of
from penjing.workload.modes import preserved

BATCHES = 200
_STATISTICS = ("running_mean", "running_var")


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The modules that hold running statistics, of the user's own class or of a graph."""
    return [m for m in model.modules() if all(isinstance(getattr(m, name, None), Tensor) for name in _STATISTICS)]


def reestimate(model: nn.Module, batches: Iterable[Batch]) -> None:
    r"""Set the running statistics to those of the population: mean = E[mu], var = E[mu^2 + s^2] - mean^2 over batches.

    Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576, section 3). mu and s^2 of a batch are read
    from the running statistics themselves: a forward pass leaves m mu of r = 0, where m is the momentum. Only batch
    norms are in training mode meanwhile. Batches of one sample are left out, and norms that no batch reaches stay.
    """
    norms = batch_norms(model)
    usable = (batch.to(device_of(model)) for batch in batches if batch.size > 1)
    first = next(usable, None)
    if first is None or not norms:
        return
    before = _statistics(norms)
    with preserved(model), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.training = True
        momenta = _momenta(_left(model, norms, first, of=0.0), _left(model, norms, first, of=1.0))
        sums, count = [torch.zeros_like(old, dtype=torch.float64) for old in before], 0
        for batch in chain([first], usable):
            for total, left, momentum in zip(sums, _left(model, norms, batch, of=0.0), momenta, strict=True):
                mean, variance = left.double() / momentum
                total += torch.stack([mean, mean.square() + variance])
            count += 1
        for norm, old, total, momentum in zip(norms, before, sums, momenta, strict=True):
            mean, square = total / count
            found = torch.stack([mean, square - mean.square()]) if momentum > 0 else old
            for name, value in zip(_STATISTICS, found, strict=True):
                getattr(norm, name).copy_(value)


def _statistics(norms: Sequence[nn.Module]) -> list[Tensor]:
    """Mean and variance of each norm, as one copy of shape [2, channels]."""
    return [torch.stack([getattr(norm, name) for name in _STATISTICS]) for norm in norms]


def _left(model: nn.Module, norms: Sequence[nn.Module], batch: Batch, of: float) -> list[Tensor]:
    """What one forward pass leaves of running statistics that are all `of`, and of a counter at zero."""
    for norm in norms:
        for name in _STATISTICS:
            getattr(norm, name).fill_(of)
        if isinstance(counter := getattr(norm, "num_batches_tracked", None), Tensor):
            counter.zero_()
    model(*batch.args, **batch.kwargs)
    return _statistics(norms)


def _momenta(of_zero: Sequence[Tensor], of_one: Sequence[Tensor]) -> list[float]:
    """The momentum of each norm, by (1 - m) r + m s at r = 0 and r = 1; from its smallest statistic, the least rounded.

    >>> _momenta([torch.tensor([[0.2], [0.1]])], [torch.tensor([[1.0], [0.9]])])
    [0.2...]
    """
    smallest = [int(left.abs().argmin()) for left in of_zero]
    return [
        float(1 - (one.flatten()[i] - zero.flatten()[i]))
        for zero, one, i in zip(of_zero, of_one, smallest, strict=True)
    ]
