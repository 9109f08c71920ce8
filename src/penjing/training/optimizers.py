"""From a `Finetune` step to a torch optimizer."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from penjing.errors import WorkloadError
from penjing.recipe import Finetune

PEAK_LR = {"sgd": 0.01, "adamw": 1e-3}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def peak_lr(step: Finetune) -> float:
    """Give the peak learning rate: the one asked for, or the default of the optimizer.

    >>> peak_lr(Finetune()), peak_lr(Finetune(optimizer="adamw")), peak_lr(Finetune(lr=0.5))
    (0.01, 0.001, 0.5)
    """
    return PEAK_LR[step.optimizer] if step.lr is None else step.lr


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters into those that decay and those that do not.

    Biases and the gains of norms do not decay: shrinking them limits the function without making it smoother (He et al.
    2019, "Bag of Tricks", arXiv:1812.01187, section 3.1). A vector is taken for one of them, whatever module holds it,
    so that a graph module, which has no norm modules, is split in the same way. Tied parameters appear once.

    >>> decays, stays = decay_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm((4, 3))))
    >>> [tuple(p.shape) for p in decays], [tuple(p.shape) for p in stays]
    ([(3, 2)], [(3,), (4, 3), (4, 3)])
    """
    of_norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and id(parameter) not in of_norms and not name.endswith("bias")
            (decays if plain else stays).append(parameter)
    return decays, stays


def build_optimizer(model: nn.Module, step: Finetune) -> Optimizer:
    """Build SGD with Nesterov momentum 0.9, or AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).

    Raises WorkloadError when no parameter is trainable.
    """
    decays, stays = decay_groups(model)
    if not decays and not stays:
        raise WorkloadError(
            f"{type(model).__name__} has no trainable parameter; call model.requires_grad_(True) before Finetune"
        )
    groups = [{"params": decays, "weight_decay": step.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if step.optimizer == "adamw":
        return AdamW(groups, lr=peak_lr(step))
    return SGD(groups, lr=peak_lr(step), momentum=0.9, nesterov=True)
