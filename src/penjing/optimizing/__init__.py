"""The composition root: a loop over the line, and nothing more.

`apply` is that of techniques; it comes from here because measuring, which gives meaning to the name of a runtime in it,
is unknown to techniques.
"""

import penjing.measuring.target  # noqa: F401 - registers the runtimes as targets
from penjing.optimizing.deployment import Choice, Deployment, deploy
from penjing.optimizing.run import Run, optimize
from penjing.techniques import apply

__all__ = ["Choice", "Deployment", "Run", "apply", "deploy", "optimize"]
