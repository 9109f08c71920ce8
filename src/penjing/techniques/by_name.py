"""Settings that a step gives by patterns of names."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import TypeVar

from penjing.errors import RecipeError

Setting = TypeVar("Setting")


def by_first_match(settings: Mapping[str, Setting], names: Sequence[str], what: str) -> list[tuple[Setting, list[str]]]:
    """Each setting with the names that it holds for: those that its pattern is the first to match.

    Raises RecipeError, which `what` begins, for a pattern that matches none of the names.

    >>> by_first_match({"fc*": 2, "*": 4}, ["conv.weight", "fc.weight"], "Cluster: bits")
    [(2, ['fc.weight']), (4, ['conv.weight'])]
    """
    left, found = list(names), []
    for pattern, setting in settings.items():
        chosen = [name for name in left if fnmatch(name, pattern)]
        if not any(fnmatch(name, pattern) for name in names):
            raise RecipeError(f"{what} names {pattern!r}, which matches no weight; known: {', '.join(names)}")
        left = [name for name in left if name not in chosen]
        found.append((setting, chosen))
    return [(setting, chosen) for setting, chosen in found if chosen]
