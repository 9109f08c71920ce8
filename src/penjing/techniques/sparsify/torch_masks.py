"""Models that torch.nn.utils.prune has pruned: weight = weight_orig * weight_mask, recomputed by a hook."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import prune


def _pruned(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                yield path, module, hook._tensor_name


def read_torch_masks(model: nn.Module) -> dict[str, Tensor]:
    """Read the masks of torch.nn.utils.prune as {parameter name: boolean mask of the weights that live}.

    >>> layer = prune.l1_unstructured(nn.Linear(2, 1), "bias", amount=1)
    >>> read_torch_masks(nn.Sequential(layer))
    {'0.bias': tensor([False])}
    """
    return {
        f"{path}.{name}" if path else name: getattr(module, f"{name}_mask").bool()
        for path, module, name in _pruned(model)
    }


def take_torch_masks(model: nn.Module) -> dict[str, Tensor]:
    """Read the masks and make them permanent in place, so that each weight is a plain parameter again, with its zeros.

    >>> model = nn.Sequential(prune.l1_unstructured(nn.Linear(2, 1), "bias", amount=1))
    >>> masks = take_torch_masks(model)
    >>> sorted(name for name, _ in model.named_parameters()), bool(model[0].bias == 0)
    (['0.bias', '0.weight'], True)
    """
    masks = read_torch_masks(model)
    for _, module, name in list(_pruned(model)):
        prune.remove(module, name)
    return masks


def copy_pruned(model: nn.Module) -> nn.Module:
    """Copy a model deeply even where a tensor has a gradient history, which copy.deepcopy refuses.

    Such is the `weight` that torch.nn.utils.prune, weight_norm and spectral_norm compute before each forward; the copy
    gets its value alone.
    """
    computed = (value for part in model.modules() for value in vars(part).values() if isinstance(value, Tensor))
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})
