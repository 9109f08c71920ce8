"""A model that torch.export cannot capture as a whole, such as a detector: its parts are cut, proven, and put back."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import penjing as pj
from benchmarks.trials.processes import one_line
from penjing.errors import CaptureError, PenjingError
from penjing.structure import capture_submodules
from penjing.workload import ExampleInputs


def try_parts(model: nn.Module, example: ExampleInputs, problem: CaptureError, ratio: float) -> dict[str, Any]:
    """Cut every part by `ratio` of its units, drawn at random; nothing where no part can be captured.

    `proven` counts the parts whose cut was proven in the class that they have. The cut model must give outputs of the
    same structure and types as the original; how many boxes there are is its own affair.
    """
    try:
        found = [part.path for part in capture_submodules(model, example, problem)]
    except CaptureError:
        return {}
    step = pj.PruneChannels(ratio, score="random", round_to=1, allow_inexact=True, compensate=False)
    try:
        outcome = pj.apply(copy.deepcopy(model), step, example)
    except PenjingError as refused:
        return {"parts": found, "passed": False, "what": one_line(refused)}
    proven = [row.proof for row in outcome.log if row.proof]
    left = [row.what for row in outcome.log if "left whole" in row.what]
    same = kinds(model, example) == kinds(outcome.model, example)
    return {
        "parts": found,
        "proven": len(proven),
        "left_whole": left,
        "left": sum(p.numel() for p in outcome.model.parameters()) / sum(p.numel() for p in model.parameters()),
        "passed": same and bool(proven) and all("failed" not in proof for proof in proven),
        "what": "" if same else "the cut model returns something else than the original",
    }


@torch.no_grad()
def kinds(model: nn.Module, example: ExampleInputs) -> Any:
    """The structure of what a model returns, with the dtype and the number of dimensions of each tensor."""
    returned = model.eval()(*example.args, **example.kwargs)
    return pytree.tree_map_only(torch.Tensor, lambda tensor: (str(tensor.dtype), tensor.ndim), returned)
