"""Eager: the conformance kit, and what is its own."""

from penjing.testing.runtimes import RuntimeCase


class TestEager(RuntimeCase):
    runtime = "torch"
    option = ("threads", 2)
