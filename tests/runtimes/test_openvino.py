"""OpenVino: the conformance kit, and what is its own."""

from penjing.testing.runtimes import RuntimeCase


class TestOpenVino(RuntimeCase):
    runtime = "openvino"
    option = ("threads", 2)
