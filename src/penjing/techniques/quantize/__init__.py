"""Store and compute in eight bits: one graph that torch simulates and ONNX Runtime runs with integer kernels."""

from penjing.techniques.quantize.layers import int8_layers
from penjing.techniques.quantize.observers import OBSERVERS, Histogram, Observer
from penjing.techniques.quantize.onnx import translations
from penjing.techniques.quantize.params import QuantParams, activation_params
from penjing.techniques.quantize.technique import needs, run
from penjing.techniques.quantize.weights import weight_params

__all__ = [
    "OBSERVERS",
    "Histogram",
    "Observer",
    "QuantParams",
    "activation_params",
    "int8_layers",
    "needs",
    "run",
    "translations",
    "weight_params",
]
