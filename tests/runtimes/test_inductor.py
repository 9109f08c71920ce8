"""Inductor: the conformance kit, and what is its own."""

from penjing.testing.runtimes import RuntimeCase


class TestInductor(RuntimeCase):
    runtime = "inductor"
    option = ("threads", 2)
    same_bytes = False  # the compiler writes names of temporary files into what it makes
