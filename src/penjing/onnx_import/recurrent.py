"""Recurrent layers: the weights of ONNX in the order of torch, and outputs in the order of ONNX.

W [directions, gates * hidden, input]    LSTM: i o f c -> i f g o    GRU: z r h -> r z n
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from penjing.onnx_import.node import Node

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


class _Recurrent:
    """What an ONNX layer gives of the outputs of torch's."""

    hidden_size: int
    bidirectional: bool

    def laid_out(self, y: Tensor) -> Tensor:
        """[time, batch, directions * hidden] as [time, directions, batch, hidden]."""
        return y.reshape(*y.shape[:2], 1 + self.bidirectional, self.hidden_size).transpose(1, 2)


class Lstm(_Recurrent, nn.LSTM):
    """An LSTM that takes x [time, batch, input], h and c, and gives y [time, directions, batch, hidden], h and c."""

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        given = h if c is None else c
        if given is None:
            y, (last, cell) = super().forward(x)
        else:
            zero = torch.zeros_like(given)
            y, (last, cell) = super().forward(x, (zero if h is None else h, zero if c is None else c))
        return self.laid_out(y), last, cell


class Gru(_Recurrent, nn.GRU):
    """A GRU that takes x [time, batch, input] and h, and gives y [time, directions, batch, hidden] and h."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, last = super().forward(x, h)
        return self.laid_out(y), last


class Rnn(_Recurrent, nn.RNN):
    """A plain recurrent layer, as the GRU above."""

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, last = super().forward(x, h)
        return self.laid_out(y), last


_CLASSES: dict[str, Any] = {"LSTM": Lstm, "GRU": Gru, "RNN": Rnn}


def plain(node: Node) -> bool:
    """Whether torch has a layer for a node: default activations, no clip, no peepholes, time first, no lengths."""
    activations = tuple(node.get("activations", ()))
    defaults = _DEFAULTS[node.op]
    both = node.get("direction", "forward") == "bidirectional"
    return (
        activations in ((), defaults * (1 + both))
        and not any(name in node.attributes for name in ("clip", "activation_alpha", "activation_beta"))
        and node.get("direction", "forward") in ("forward", "bidirectional")
        and not node.get("layout", 0)
        and not node.get("input_forget", 0)
        and (node.op != "GRU" or bool(node.get("linear_before_reset", 0)))
        and not any(node.inputs[4:5])
        and not any(node.inputs[7:8])
    )


def recurrent_layer(node: Node, w: Tensor, r: Tensor, b: Tensor | None) -> nn.Module:
    """The layer with the weights of a node: W [directions, gates * hidden, input], R, and both biases in B."""
    directions, hidden = len(w), r.shape[-1]
    layer: nn.Module = _CLASSES[node.op](w.shape[-1], hidden, bidirectional=directions == 2, bias=b is not None)
    order = _GATES[node.op]
    values: Mapping[str, Tensor] = {"weight_ih": w, "weight_hh": r}
    if b is not None:
        ih, hh = b.chunk(2, 1)
        values = {**values, "bias_ih": ih, "bias_hh": hh}
    for name, value in values.items():
        for direction, suffix in enumerate(("", "_reverse")[:directions]):
            gates = value[direction].chunk(len(order))
            ordered = torch.cat([gates[i] for i in order])
            setattr(layer, f"{name}_l0{suffix}", nn.Parameter(ordered))
    return layer
