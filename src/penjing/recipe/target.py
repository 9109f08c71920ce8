"""What a plan may ask of the machine that will run the model, without knowing which runtime answers."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from penjing.errors import RecipeError

Shapes = Mapping[str, Any]  # output shapes by node name, as in `Captured.shapes`


class Target(Protocol):
    """A latency that a technique can minimise; it is passed in, so that techniques never import a runtime."""

    @property
    def name(self) -> str:
        """Name of the runtime, such as "onnxruntime"."""
        ...

    def latency_of(self, graph: Any) -> Callable[[Shapes], float]:
        """Give the latency of a graph (torch.fx.Graph), in milliseconds, as a function of its nodes' output shapes."""
        ...

    def measured_ms(self, model: Any) -> float:
        """Export a model (nn.Module) and time it on the target's example, in milliseconds."""
        ...


MakeTarget = Callable[[Any, Any, Any], Target]  # of the model, its example inputs, and a Progress or None

_by_name: Callable[[str], MakeTarget] | None = None


def register_targets(make: Callable[[str], MakeTarget]) -> None:
    """Say how a runtime's name becomes a target: by whoever can measure, which a plan cannot.

    `make(name)` raises PenjingError for a name that is unknown or not installed, before any work.
    """
    global _by_name
    _by_name = make


def target_named(name: str) -> MakeTarget:
    """Give what makes a target of a runtime's name; raises RecipeError where nothing here can measure."""
    if _by_name is None:
        raise RecipeError(
            f"runtime={name!r} is a name, and nothing that measures was imported; use penjing.apply, or give a Target"
        )
    return _by_name(name)
