"""Run a captured model and keep what its operators read of the units of groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from penjing.structure import Captured
from penjing.techniques.prune.ends import End


class Watch(nn.Module):
    """The captured model, called like the original, which keeps what its operators read at the given ends."""

    def __init__(self, captured: Captured, ends: Sequence[End]) -> None:
        super().__init__()
        self._captured = captured
        self.read: dict[int, Tensor] = {}
        at: dict[str, dict[str, list[int]]] = {}
        for i, end in enumerate(ends):
            at.setdefault(end.reader, {}).setdefault(end.source, []).append(i)
        reader = self

        class Run(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                for source in n.all_input_nodes if n.name in at else ():
                    for i in at[n.name].get(source.name, ()):
                        # A view of its own for this reader: its gradient leaves out what others make of the value.
                        reader.read[i] = reader.read.get(at[n.name][source.name][0], _leaf(self.env[source]))
                return super().run_node(n)

            def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
                mine = {source: reader.read[where[0]] for source, where in at.get(n.name, {}).items()}
                args, kwargs = super().fetch_args_kwargs_from_env(n)
                if not mine:
                    return args, kwargs

                def load(source: fx.Node) -> Any:
                    return mine.get(source.name, self.env[source])

                return fx.node.map_arg(n.args, load), fx.node.map_arg(n.kwargs, load)

        self._run = Run(captured.module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self._run.run(*self._captured.flatten(args, kwargs), enable_io_processing=False)
        return self._captured.signature.unflatten(outputs)


def _leaf(value: Tensor) -> Tensor:
    """A view to differentiate by, also where nothing before it is trained."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_(torch.is_grad_enabled())


def by_unit(values: Tensor, end: End, size: int) -> Tensor:
    """Sum values [..., indices] of a dimension by the unit that owns each index: [..., size]."""
    owned = torch.from_numpy(np.flatnonzero(end.units >= 0))
    units = torch.from_numpy(end.units)[owned]
    return values.new_zeros(*values.shape[:-1], size).index_add_(-1, units, values[..., owned])
