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

import torch
from torch import Tensor, fx

from penjing.structure.rules import bind
from penjing.techniques.quantize.calibrate import Inputs
from penjing.techniques.quantize.graph import LAYERS, tensor_of
from penjing.techniques.quantize.importance import draw_places
from penjing.techniques.quantize.moments import Moments, moments, rows_of_a_piece
from penjing.techniques.quantize.quick import quick
from penjing.techniques.quantize.reconstruct import adaround, blocks
from penjing.techniques.quantize.rounding import best_rounding, mean_shift
from penjing.techniques.quantize.stored import Stored, stored
from penjing.techniques.quantize.walk import Walk

Rounding = Callable[[fx.GraphModule, fx.GraphModule, Sequence[Inputs]], fx.GraphModule]


@torch.no_grad()
def correct_biases(reference: fx.GraphModule, candidate: fx.GraphModule, pieces: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with corrected biases; layers without a bias stay as they are."""
    return _mended(reference, candidate, pieces, lambda weight, stored, fitted, judged: None)


@torch.no_grad()
def round_by_gptq(reference: fx.GraphModule, candidate: fx.GraphModule, pieces: Sequence[Inputs]) -> fx.GraphModule:
    """Give the quantised graph with weights rounded by GPTQ, and the biases that go with them."""
    return _mended(reference, candidate, pieces, _round)


def _round(weight: Tensor, stored: Stored, fitted: Moments, judged: Moments) -> None:
    stored.write(best_rounding(weight, stored.scale, stored.zero, stored.limits, stored.steps, fitted, judged))


ROUNDINGS: Mapping[str, Rounding] = {"gptq": round_by_gptq, "adaround": adaround, "blocks": blocks}


def _mended(
    reference: fx.GraphModule,
    candidate: fx.GraphModule,
    pieces: Sequence[Inputs],
    change: Callable[[Tensor, Stored, Moments, Moments], None],
) -> fx.GraphModule:
    """Run both graphs side by side, so that each layer is mended on the inputs that it gets."""
    mended = copy.deepcopy(candidate)
    fast = quick(mended)
    there, here = Walk(reference, pieces), Walk(fast, pieces)
    layers = {node.name: node for node in reference.graph.nodes if node.target in LAYERS}
    to_mend = {
        node: found for node in fast.graph.nodes if node.name in layers and (found := stored(fast, node)) is not None
    }
    rows = {node.name: rows_of_a_piece(layers[node.name], len(pieces)) for node in to_mend}
    places = draw_places(reference, rows, pieces)
    for node, found in to_mend.items():
        layer = layers[node.name]
        call, source = bind(layer), node.args[0]  # of a linear and of a convolution alike
        pairs = ((there.before(layer, i)[call["input"]], here.before(node, i)[source]) for i in range(len(pieces)))
        fitted, judged = moments(layer, pairs, places[node.name])
        weight = tensor_of(reference, call["weight"]).flatten(1)
        change(weight, found, fitted, judged)
        if found.bias is not None:
            found.move_bias(mean_shift(weight, found.real, (fitted + judged).means))
    return mended
