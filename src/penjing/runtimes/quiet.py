"""Silence for third-party code that talks while it works."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the exporters' warnings and log messages below an error; what matters is in the errors raised."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logging.disable(max(before, logging.WARNING))
            yield
        finally:
            logging.disable(before)


@contextmanager
def mute() -> Iterator[None]:
    """Hide what native code writes to the error stream, which no logger sees, and be `quiet`."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with quiet():
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
