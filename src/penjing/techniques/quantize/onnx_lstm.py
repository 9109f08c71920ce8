"""How `penjing::dynamic_lstm` is written in ONNX: for each layer one DynamicQuantizeLSTM, which is ONNX Runtime's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_TYPES = {"T": ["tensor(float)"], "T1": ["tensor(int32)"], "T2": ["tensor(int8)"]}
_INPUTS = {"X": "T", "W": "T2", "R": "T2", "B": "T", "sequence_lens": "T1", "initial_h": "T", "initial_c": "T"} | {
    "P": "T",
    "W_scale": "T",
    "W_zero_point": "T2",
    "R_scale": "T",
    "R_zero_point": "T2",
}
_OPTIONAL = frozenset({"B", "sequence_lens", "P"})


def dynamic_lstm(
    x: Any,
    weights: Sequence[Any],
    scales: Sequence[Any],
    biases: Sequence[Any],
    states: Sequence[Any],
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    """Translate a call; the kernel takes [steps, batch, inputs] and gives [steps, directions, batch, hidden]."""
    op, lstm = _operators()
    directions, layers = 2 if bidirectional else 1, len(weights) // 2
    ends = []
    x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
    for i in range(layers):
        (w, r), (w_scale, r_scale) = (each[2 * i : 2 * i + 2] for each in (weights, scales))
        rows = [op.Constant(value_ints=[n * directions]) for n in (i, i + 1)]
        here = [state if layers == 1 else op.Slice(state, *rows, op.Constant(value_ints=[0])) for state in states]
        zero = _zeros(op, [int(n) for n in w_scale.shape])
        y, *end = lstm(
            *(x, w, r, biases[i] if biases else None, None, *here, None, w_scale, zero, r_scale, zero),
            hidden_size=int(r.shape[1]),
            direction="bidirectional" if bidirectional else "forward",
        )
        ends.append(end)
        x = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
    last = ends[0] if layers == 1 else [op.Concat(*each, axis=0) for each in zip(*ends, strict=True)]
    return (op.Transpose(x, perm=[1, 0, 2]) if batch_first else x, *last)


def _zeros(op: Any, shape: Sequence[int]) -> Any:
    """Zero points of int8 weights."""
    import onnx_ir

    return op.Constant(value=onnx_ir.tensor(np.zeros(shape, np.int8)))


def _operators() -> tuple[Any, Any]:
    """ONNX's operators, and the LSTM, of which the exporter must be told inputs, outputs and attributes."""
    from onnx.defs import OpSchema
    from onnxscript import opset20
    from onnxscript.values import Op, Opset

    options = OpSchema.FormalParameterOption
    schema = OpSchema(
        "DynamicQuantizeLSTM",
        "com.microsoft",
        1,
        inputs=[
            OpSchema.FormalParameter(name, kind, param_option=options.Optional if name in _OPTIONAL else options.Single)
            for name, kind in _INPUTS.items()
        ],
        outputs=[OpSchema.FormalParameter(name, "T") for name in ("Y", "Y_h", "Y_c")],
        type_constraints=[(name, types, "") for name, types in _TYPES.items()],
        attributes=[
            OpSchema.Attribute("hidden_size", OpSchema.AttrType.INT),
            OpSchema.Attribute("direction", OpSchema.AttrType.STRING),
        ],
    )
    return opset20, Op(Opset("com.microsoft", 1), schema.name, schema)
