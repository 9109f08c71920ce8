"""ExecuTorch: the conformance kit, and what is its own."""

from penjing.testing.runtimes import RuntimeCase


class TestExecuTorch(RuntimeCase):
    runtime = "executorch"
    option = ("threads", 2)
