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

    `parts` gives the proof of each part's cut, in the class that it has; it is empty where nothing of the part was cut,
    and `left_whole` says why. Passed means that what was cut is proven (what is not proven is never cut), that the
    backbone is among it where the model has one, and that the cut model gives outputs of the same structure and types
    as the original; how many boxes there are is its own affair.
    """
    try:
        found = [part.path for part in capture_submodules(model, example, problem)]
    except CaptureError:
        return {}
    step = pj.PruneChannels(ratio, score="random", round_to=1, allow_inexact=True, compensate=False)
    try:
        outcome = pj.apply(copy.deepcopy(model), step, example)
    except PenjingError as refused:
        return {"parts": dict.fromkeys(found, ""), "passed": False, "what": one_line(refused)}
    proofs = {row.what.partition(": ")[0]: row.proof for row in outcome.log if row.proof}
    problems = {
        "no part was cut": not proofs,
        "the backbone was left whole": hasattr(model, "backbone") and not any(map(_of_backbone, proofs)),
        "the cut model returns something else than the original": kinds(model, example)
        != kinds(outcome.model, example),
    }
    what = next((name for name, met in problems.items() if met), "")
    return {
        "parts": {path: proofs.get(path, "") for path in found},
        "left_whole": [row.what for row in outcome.log if "left whole" in row.what],
        "left": sum(p.numel() for p in outcome.model.parameters()) / sum(p.numel() for p in model.parameters()),
        "passed": not what,
        "what": what,
    }


def _of_backbone(path: str) -> bool:
    return path.partition(".")[0] == "backbone"


@torch.no_grad()
def kinds(model: nn.Module, example: ExampleInputs) -> Any:
    """The structure of what a model returns, with the dtype and the number of dimensions of each tensor."""
    returned = model.eval()(*example.args, **example.kwargs)
    return pytree.tree_map_only(torch.Tensor, lambda tensor: (str(tensor.dtype), tensor.ndim), returned)
