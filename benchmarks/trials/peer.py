"""One model through Torch-Pruning: magnitude, 30 % of the channels, its defaults, without the layers of the outputs.

Nothing is told to it by hand (heads, parameters outside layers): neither was anything told to Penjing.
"""

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.trials.processes import Tell, one_line
from benchmarks.trials.trial import count
from benchmarks.trials.weights import randomise
from benchmarks.zoo import Entry
from penjing.workload import ExampleInputs

RATIO = 0.3


def try_peer(entry: Entry, tell: Tell) -> None:
    """Tell whether the peer pruned something, and whether the model still runs."""
    import torch_pruning

    start = time.process_time()
    model, inputs = entry.make()
    randomise(model)
    example = ExampleInputs.of(inputs)
    before = count(model)
    tell(stage="build")
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model,
            dict(example.kwargs) if example.kwargs else tuple(example.args),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=last_layers(model, example),
        )
        tell(stage="step")
        pruner.step()
        left = count(model) / before
        tell(stage="run", left=left)
        with torch.no_grad():
            model(*example.args, **example.kwargs)
    except Exception as problem:  # how it ends is the result
        tell(useful=False, what=one_line(problem))
        return
    tell(useful=left < 1, left=left, stage="done", seconds=time.process_time() - start)


def last_layers(model: nn.Module, example: ExampleInputs) -> list[nn.Module]:
    """The layers whose outputs are the model's, or else the last one that ran."""
    ran: list[tuple[nn.Module, Tensor]] = []  # the tensors are held, lest a later one takes the memory of an earlier

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            ran.append((module, output))

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        outputs = model(*example.args, **example.kwargs)
    for hook in hooks:
        hook.remove()
    given = {leaf.data_ptr() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)}
    return [module for module, output in ran if output.data_ptr() in given] or [module for module, _ in ran[-1:]]
