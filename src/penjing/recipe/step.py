"""The base of every step, and checks of fields that steps share."""

from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from penjing.errors import RecipeError
from penjing.recipe.regularize import Regularize


@dataclass(frozen=True)
class Step:
    """Base of every step."""

    key: ClassVar[str] = ""

    def settings(self) -> dict[str, Any]:
        """Give the fields that differ from their default, as plain values."""
        return _settings(self)

    def explain(self) -> str:
        """Say in one line what the step asks for."""
        shown = ", ".join(f"{name}={value}" for name, value in self.settings().items())
        return f"{self.key}({shown})"


def _settings(data: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for f in fields(data):
        value = getattr(data, f.name)
        if value != (f.default if f.default_factory is MISSING else f.default_factory()):
            out[f.name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Regularize):
        return _settings(value)
    if isinstance(value, tuple):
        return [_plain(item) if isinstance(item, Regularize) else item for item in value]
    return str(value) if isinstance(value, str) else value


def check_fraction(step: str, name: str, value: float) -> None:
    """Raise RecipeError for a share outside [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise RecipeError(f"{step}: {name}={value!r} must lie in [0, 1); 0.5 removes half")


def check_share(step: str, name: str, value: float) -> None:
    """Raise RecipeError for a share outside (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise RecipeError(f"{step}: {name}={value!r} must lie in (0, 1]; 0.5 keeps half")


def check_at_least(step: str, name: str, value: float, low: float) -> None:
    """Raise RecipeError for a number below `low`."""
    if value < low:
        raise RecipeError(f"{step}: {name}={value!r} must be at least {low}")


def check_one_of(step: str, name: str, value: str, known: Collection[str]) -> None:
    """Raise RecipeError, listing the known words, for any other."""
    if value not in known:
        raise RecipeError(f"{step}: {name}={value!r} is unknown; use one of {', '.join(known)}")
