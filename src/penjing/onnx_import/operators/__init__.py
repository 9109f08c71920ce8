"""One row for each operator: a small function that computes it with torch. Each file fills the table of table.py."""

from penjing.onnx_import.operators import (  # noqa: F401 - each fills the table
    along,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantized,
    reduction,
    resize,
    shaping,
)
from penjing.onnx_import.operators.arithmetic import known_outputs
from penjing.onnx_import.operators.table import OPERATORS, Row, operator

__all__ = ["OPERATORS", "Row", "known_outputs", "operator"]
