"""Runtimes: a model leaves as files that run without its class, and comes back as a session that is called like it.

`export` writes and checks, `load` opens. A runtime is one file and one call of `register_runtime`.
"""

from penjing.runtimes import eager as eager
from penjing.runtimes import executorch as executorch
from penjing.runtimes import inductor as inductor
from penjing.runtimes import onnxruntime as onnxruntime
from penjing.runtimes import openvino as openvino
from penjing.runtimes.agreement import difference
from penjing.runtimes.base import (
    RUNTIMES,
    Artifact,
    Program,
    Run,
    Runtime,
    Session,
    find_runtime,
    load,
    missing,
    register_runtime,
)
from penjing.runtimes.comparing import parity
from penjing.runtimes.exporting import export
from penjing.runtimes.nesting import Record
from penjing.runtimes.parity_report import Parity
from penjing.runtimes.signature import Input

__all__ = [
    "RUNTIMES",
    "Artifact",
    "Input",
    "Parity",
    "Program",
    "Record",
    "Run",
    "Runtime",
    "Session",
    "difference",
    "export",
    "find_runtime",
    "load",
    "missing",
    "parity",
    "register_runtime",
]
