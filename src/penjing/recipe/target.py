"""What a plan may ask of the machine that will run the model, without knowing which runtime answers."""

from collections.abc import Mapping
from typing import Any, Protocol


class Target(Protocol):
    """A cost that a technique can minimise; the planner passes one in, so that techniques never import a runtime."""

    @property
    def name(self) -> str:
        """Name of the runtime, such as "onnxruntime"."""
        ...

    def width_multiple(self, operator: str) -> int:
        """Channel multiple that fills the kernel blocks of an operator ("conv2d", "linear"); 1 if unknown."""
        ...

    def latency_ms(self, shapes: Mapping[str, Any]) -> float:
        """Predicted latency, in milliseconds, of the graph whose nodes have these output shapes, as in `Captured`."""
        ...
