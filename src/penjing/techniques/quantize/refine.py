r"""Mend a quantised graph layer by layer, in its order: round weights anew and move biases, on the inputs that come.

Bias correction: rounding weights and inputs moves the mean of each output, and what follows adds such shifts up. The
bias takes them back,

    b_c <- b_c + E[y_c] - E[y'_c],

with y the float output of channel c and y' that of the quantised network so far, both before any rectifier. Nagel, van
Baalen, Blankevoort, Welling 2019 (arXiv:1906.04721), section 4.2, with calibration data in place of batch-norm
statistics (their appendix D).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import LAYERS, tensor_of
from penjing.techniques.quantize.importance import place_weights
from penjing.techniques.quantize.quick import quick
from penjing.techniques.quantize.reconstruct import adaround, blocks
from penjing.techniques.quantize.rounding import Drawn, best_rounding, mean_shift, samples
from penjing.techniques.quantize.stored import Stored, stored
from penjing.techniques.quantize.walk import Walk

Rounding = Callable[[fx.GraphModule, fx.GraphModule, Sequence[Inputs]], fx.GraphModule]


@torch.no_grad()
def correct_biases(reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with corrected biases; layers without a bias stay as they are."""
    return _mended(reference, candidate, batches, lambda weight, stored, drawn: None)


@torch.no_grad()
def round_by_gptq(reference: fx.GraphModule, candidate: fx.GraphModule, batches: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with weights rounded by GPTQ, and the biases that go with them."""
    return _mended(reference, candidate, batches, _round)


def _round(weight: Tensor, stored: Stored, drawn: Drawn) -> None:
    stored.write(best_rounding(weight, stored.scale, stored.zero, stored.limits, stored.steps, drawn))


ROUNDINGS: Mapping[str, Rounding] = {"gptq": round_by_gptq, "adaround": adaround, "blocks": blocks}


def _mended(
    reference: fx.GraphModule,
    candidate: fx.GraphModule,
    batches: Sequence[Inputs],
    change: Callable[[Tensor, Stored, Drawn], None],
) -> fx.GraphModule:
    """Run both graphs side by side on all batches together, so that each layer is mended on the inputs that it gets."""
    mended = copy.deepcopy(candidate)
    there, here = Walk(reference, batches), Walk(quick(mended), batches)
    names = {node.name for node in reference.graph.nodes if node.target in LAYERS}
    weights = place_weights(reference, names, batches)
    for node in mended.graph.nodes:
        found = stored(mended, node) if node.name in names else None
        if found is None:
            continue
        float_layer, layer = there.before(node.name), here.before(node.name)
        call = bind(float_layer)
        weight = tensor_of(reference, call["weight"]).flatten(1)
        source: Any = layer.args[0]  # of a linear and of a convolution alike
        drawn = samples(float_layer, there.values(call["input"]), here.values(source), weights[node.name])
        drawn = drawn.evened(weight)
        change(weight, found, drawn)
        if found.bias is not None:
            found.move_bias(mean_shift(weight, found.real, drawn.means()))
    return mended
