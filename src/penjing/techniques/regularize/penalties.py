"""Penalties as functions of values, or of the energies of units: for each tensor or group [units], e_u = ||w_u||^2."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penjing.types import Penalty

_LEAST_VARIANCE = 1e-12  # below it units are alike, and nothing pulls them apart


def l1(values: Sequence[Tensor]) -> Tensor:
    r"""Sum of magnitudes, R = sum_i |w_i|, whose gradient is sign(w_i).

    Tibshirani 1996, "Regression Shrinkage and Selection via the Lasso"; of the gains of batch norms it is the sparsity
    term of Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming" (arXiv:1708.06519).

    >>> l1([torch.tensor([-2.0, 0.5]), torch.tensor([1.0])])
    tensor(3.5000)
    """
    return torch.stack([value.abs().sum() for value in values]).sum()


def group_lasso(energies: Sequence[Tensor]) -> Tensor:
    r"""Sum of the norms of units, R = sum_u ||w_u||_2, whose gradient is w / ||w_u||, and zero at zero.

    Yuan and Lin 2006, "Model Selection and Estimation in Regression with Grouped Variables"
    (doi:10.1111/j.1467-9868.2005.00532.x), without the root of the size, as in Wen et al. 2016, "Learning Structured
    Sparsity in Deep Neural Networks" (arXiv:1608.03665).

    >>> group_lasso([torch.tensor([25.0, 0.0, 4.0])])
    tensor(7.)
    """
    return torch.stack([_norms(energy).sum() for energy in energies]).sum()


def group_variance(energies: Sequence[Tensor]) -> Tensor:
    r"""Inverse variance of the norms of the units of each tensor or group, R = sum_g 1 / Var_u(||w_u||_2).

    It pulls the norms apart, so that some units go and others stay: Torfi et al. 2018, "Attention-Based Guided
    Structured Sparsity of Deep Neural Networks" (arXiv:1802.09902), as in Distiller's GroupVarianceRegularizer.

    >>> group_variance([torch.tensor([1.0, 9.0])])
    tensor(0.5000)
    """
    spread = [_norms(energy).var() for energy in energies if len(energy) > 1]
    return torch.stack([1 / variance.clamp_min(_LEAST_VARIANCE) for variance in spread]).sum()


def half_squares(energies: Sequence[Tensor]) -> Tensor:
    r"""Half the energy of the units that are to go, R = 1/2 sum_u ||w_u||_2^2, whose gradient is w.

    Its strength grows while the model trains: Wang et al. 2021, "Neural Pruning via Growing Regularization"
    (arXiv:2012.09243), there GReg-1.

    >>> half_squares([torch.tensor([4.0, 2.0])])
    tensor(3.)
    """
    return torch.stack([energy.sum() for energy in energies]).sum() / 2


def _norms(energy: Tensor) -> Tensor:
    """Roots whose gradient is zero at zero."""
    there = energy > 0
    return torch.where(there, torch.where(there, energy, 1.0).sqrt(), 0.0)


PENALTIES: dict[Penalty, Callable[[Sequence[Tensor]], Tensor]] = {
    Penalty.L1: l1,
    Penalty.BATCH_NORM: l1,
    Penalty.GROUP_LASSO: group_lasso,
    Penalty.GROUP_VARIANCE: group_variance,
    Penalty.GROWING: half_squares,
}
