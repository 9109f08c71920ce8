"""From a step that trains to a torch optimizer, and its learning rates."""

from collections import defaultdict
from collections.abc import Mapping

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from penjing.errors import WorkloadError
from penjing.recipe.training_steps import Training
from penjing.training.layers import by_pattern, depth_factors

PEAK_LR = {"sgd": 0.01, "adamw": 1e-3}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def default_lr(step: Training) -> float:
    """Give the peak learning rate of what no pattern names: the one asked for, or that of the optimizer.

    >>> default_lr(Training()), default_lr(Training(optimizer="adamw")), default_lr(Training(lr=0.5))
    (0.01, 0.001, 0.5)
    """
    return step.lr if isinstance(step.lr, float | int) else PEAK_LR[step.optimizer]


def peak_lrs(model: nn.Module, step: Training) -> dict[str, float]:
    """Give the peak learning rate of each trainable parameter, by name.

    >>> peak_lrs(nn.Linear(2, 1), Training()), peak_lrs(nn.Linear(2, 1), Training(lr={"bias": 0.5}, optimizer="adamw"))
    ({'weight': 0.01, 'bias': 0.01}, {'weight': 0.001, 'bias': 0.5})
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    rates = step.lr if isinstance(step.lr, Mapping) else {}
    found = by_pattern(names, rates, default_lr(step))
    factors = depth_factors(names, step.layer_decay)
    return {name: lr * factors[name] for name, lr in found.items()}


def decays(model: nn.Module) -> dict[str, bool]:
    """Whether each trainable parameter decays, by name.

    Biases and the gains of norms do not: shrinking them limits the function without making it smoother (He et al. 2019,
    "Bag of Tricks", arXiv:1812.01187, section 3.1). A vector is taken for one of them, whatever module holds it, so
    that a graph module, which has no norm modules, is treated in the same way. Tied parameters appear once.

    >>> decays(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm((4, 3))))
    {'0.weight': True, '0.bias': False, '1.weight': False, '1.bias': False}
    """
    of_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    return {
        name: parameter.ndim > 1 and id(parameter) not in of_norms and not name.endswith("bias")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def build_optimizer(model: nn.Module, step: Training, beside: nn.Module | None = None) -> Optimizer:
    """Build SGD with Nesterov momentum 0.9, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Parameters that decay and learn alike are one group, whose peak learning rate is its `initial_lr`. beside: what is
    trained with the model, at the default rate. Raises WorkloadError when no parameter of the model is trainable.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    peaks = peak_lrs(model, step)
    for name, decay in decays(model).items():
        groups[decay, peaks[name]].append(model.get_parameter(name))
    if not groups:
        raise WorkloadError(
            f"{type(model).__name__} has no trainable parameter; call model.requires_grad_(True) before it is trained"
        )
    if beside is not None:
        groups[True, default_lr(step)] += beside.parameters()
    settings = [
        {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": step.weight_decay if decay else 0.0}
        for (decay, lr), parameters in groups.items()
        if parameters
    ]
    return AdamW(settings) if step.optimizer == "adamw" else SGD(settings, momentum=0.9, nesterov=True)


def set_lr(optimizer: Optimizer, factor: float) -> float:
    """Set each group to its share of its peak; give the largest."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(max(group["lr"] for group in optimizer.param_groups))
