"""ONNX in: a file without source becomes a module of torch that trains.

reading -> constants -> layers | operators | frozen -> module
"""

from penjing.onnx_import.frozen import Frozen
from penjing.onnx_import.importing import import_onnx
from penjing.onnx_import.module import OnnxModule
from penjing.onnx_import.reading import Metadata

__all__ = ["Frozen", "Metadata", "OnnxModule", "import_onnx"]
