"""Names of ONNX, which may hold anything, as names that torch and Python take."""

import keyword
import re
from collections.abc import Iterable

from torch import fx, nn

_TAKEN = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph()))) | {"self", "penjing"}


def identifier(name: str, fallback: str = "value") -> str:
    """A name for an argument: the same where Python takes it.

    >>> identifier("pixel_values"), identifier("input.1"), identifier("class")
    ('pixel_values', 'input_1', 'class_')
    """
    word = re.sub(r"\W", "_", name) or fallback
    word = f"_{word}" if word[0].isdigit() else word
    return f"{word}_" if keyword.iskeyword(word) or word == "self" else word


def path(name: str) -> str:
    """A name for a tensor or layer: dots lead to modules, as in a state_dict; other signs become lines.

    >>> path("layer1.0.conv.weight"), path("onnx::Conv_193"), path("/layer1/conv/Conv")
    ('layer1.0.conv.weight', 'onnx__Conv_193', 'layer1_conv_Conv')
    """
    parts = [re.sub(r"\W", "_", part.strip("/:")) for part in name.strip(".").split(".")]
    parts = [f"{part}_" if keyword.iskeyword(part) else part for part in parts if part] or ["value"]
    if parts[0] in _TAKEN:
        parts[0] = f"{parts[0]}_"
    parts[1:] = [f"{part}_" if hasattr(nn.Module, part) else part for part in parts[1:]]
    return ".".join(parts)


class Names:
    """Names that are given once; no name is a tensor and a module at once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._leaves = set(taken)
        self._branches: set[str] = set()

    def free(self, name: str) -> bool:
        """Whether a dotted name can be given."""
        parts = name.split(".")
        above = {".".join(parts[:i]) for i in range(1, len(parts))}
        return name not in self._leaves | self._branches and not above & self._leaves

    def give(self, name: str) -> str:
        """The name, or the first free one with a number behind."""
        if {name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)} & self._leaves:
            name = name.replace(".", "_")  # what should hold it is a tensor or a layer
        found, i = name, 1
        while not self.free(found):
            i += 1
            found = f"{name}_{i}"
        parts = found.split(".")
        self._branches |= {".".join(parts[:i]) for i in range(1, len(parts))}
        self._leaves.add(found)
        return found
