"""The options of a runtime as data: what there is, what it may be, and what is worth trying."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penjing.errors import RuntimeUnavailable

PRECISIONS = ("fp32", "bf16", "fp16")
"""Number formats of the arithmetic; int8 is not one of them: it is in the model, put there by a Quantize step."""


@dataclass(frozen=True)
class Option:
    """One setting of a runtime.

    values: what it may be; empty for a whole number of at least 1, None for what the runtime checks itself.
    worth_trying: what a search goes through. in_file: whether `export` builds it into the files, so that they must be
    written anew for another value.
    """

    default: Any
    values: tuple[Any, ...] | None = ()
    worth_trying: tuple[Any, ...] = ()
    in_file: bool = False


def complete(runtime: str, given: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """Check the options given and add the defaults; raises RuntimeUnavailable that lists what there is.

    >>> complete("mine", {"threads": 2}, {"threads": Option(1), "precision": Option("fp32", PRECISIONS)})
    {'threads': 2, 'precision': 'fp32'}
    """
    if unknown := sorted(set(given) - set(known)):
        raise RuntimeUnavailable(f"{runtime} has no option {unknown[0]!r}; it knows {', '.join(known)}")
    options = {name: given.get(name, option.default) for name, option in known.items()}
    for name, value in options.items():
        values = known[name].values
        if values and value not in values:
            listed = ", ".join(map(str, values))
            raise RuntimeUnavailable(f"{runtime} option {name}={value!r} is unknown; use one of {listed}")
        if values == () and (type(value) is not int or value < 1):
            raise RuntimeUnavailable(f"{runtime} option {name}={value!r} must be a whole number of at least 1")
    return options
