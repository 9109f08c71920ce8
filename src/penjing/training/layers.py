"""Learning rates layer by layer: by patterns of parameter names, and by how far a layer is from the outputs."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from penjing.errors import RecipeError


def by_pattern(names: Sequence[str], lr: Mapping[str, float], default: float) -> dict[str, float]:
    """The rate of each parameter: that of the first pattern which matches its name, else the default.

    Raises RecipeError for a pattern that matches no parameter.

    >>> by_pattern(["body.weight", "head.weight"], {"head*": 0.1}, default=0.01)
    {'body.weight': 0.01, 'head.weight': 0.1}
    """
    for pattern in lr:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:8])
            raise RecipeError(f"lr names {pattern!r}, which matches no trainable parameter; known: {some}, ...")
    return {name: next((lr[p] for p in lr if fnmatchcase(name, p)), default) for name in names}


def depth_factors(names: Sequence[str], decay: float) -> dict[str, float]:
    r"""The factor of each parameter, xi^(L - l) for layer l of L: the last layer learns fastest.

    Howard and Ruder 2018, "Universal Language Model Fine-tuning for Text Classification" (arXiv:1801.06146, section
    3.2); Clark et al. 2020, "ELECTRA" (arXiv:2003.10555, appendix A) for transformers. Layers follow each other as
    their first parameters do.

    >>> depth_factors(["embed.weight", "layers.0.weight", "layers.0.bias", "layers.1.weight", "head.weight"], 0.5)
    {'embed.weight': 0.125, 'layers.0.weight': 0.25, 'layers.0.bias': 0.25, 'layers.1.weight': 0.5, 'head.weight': 1.0}
    """
    lists = [found for name in names if (found := _item(name))]
    layers = {name: _item(name) or _outside(name, lists) for name in names}
    order = list(dict.fromkeys(layers.values()))
    return {name: decay ** (len(order) - 1 - order.index(layer)) for name, layer in layers.items()}


def _item(name: str) -> tuple[str, ...]:
    """The path of the item of a list that holds a parameter; empty where none does."""
    parts = name.split(".")
    return next((tuple(parts[: i + 1]) for i, part in enumerate(parts) if part.isdigit()), ())


def _outside(name: str, lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The path of the outermost module that holds a parameter and no list of layers, such as `bert.embeddings`."""
    *path, leaf = name.split(".")
    outer = (tuple(path[:n]) for n in range(1, len(path) + 1))
    return next((p for p in outer if not any(item[: len(p)] == p for item in lists)), (*path, leaf))
