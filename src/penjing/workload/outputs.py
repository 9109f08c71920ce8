"""What a model gave back: the tensor to score, and whether it is finite."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from penjing.errors import WorkloadError
from penjing.workload import tree


def select_default(outputs: Any) -> Any:
    """Find the tensor to score: the only tensor, or what is called "logits" in a dict or on an object.

    Raises WorkloadError where there are several.

    >>> select_default({"logits": torch.ones(1), "hidden": torch.zeros(1)})
    tensor([1.])
    """
    if isinstance(outputs, Tensor | np.ndarray):
        return outputs
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if isinstance(getattr(outputs, "logits", None), Tensor | np.ndarray):
        return outputs.logits
    found = [leaf for leaf in tree.leaves(outputs) if isinstance(leaf, Tensor | np.ndarray)]
    if len(found) == 1:
        return found[0]
    raise WorkloadError(
        f"the model gave {tree.describe(outputs)}, with {len(found)} tensors and none called 'logits'; "
        "give select=, a function outputs -> the tensor to score"
    )


def check_finite(outputs: Any, where: str) -> None:
    """Make sure that no tensor holds NaN or infinite values. Raises WorkloadError that counts them."""
    for tensor in tree.tensors(tree.as_tensors(outputs)):
        if not (tensor.is_floating_point() or tensor.is_complex()) or torch.isfinite(tensor).all():
            continue
        nans = int(torch.isnan(tensor).sum())
        others = int((~torch.isfinite(tensor)).sum()) - nans
        what = f"of {tensor.numel()} output values {nans} are NaN and {others} infinite ({tree.describe(tensor)})"
        raise WorkloadError(f"{where}: {what}; check the weights, the scale of the inputs and the number format")
