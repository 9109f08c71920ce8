"""A captured program captured once more: in another number format, or with a limit to its free sizes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from penjing.runtimes.base import Program
from penjing.runtimes.quiet import quiet

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def recapture(
    program: Program,
    change: Callable[[fx.GraphModule], nn.Module] = lambda module: module,
    largest: Mapping[str, int] | None = None,
) -> ExportedProgram:
    """Trace a program again after a change of its module, its free sizes free as before.

    largest: the most that a free size may be, by its name in `program.inputs`; sizes that are not named have no limit.
    """
    module = plain_module(program.exported)
    leaves, _ = program.exported.example_inputs
    most = largest or {}
    free = [
        {
            dim: Dim.AUTO(max=most[size]) if size in most else Dim.AUTO
            for dim, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        for spec in program.inputs
    ]
    changed = _Leaves(change(module))
    with quiet(), torch.no_grad():
        return torch.export.export(changed, tuple(leaves), dynamic_shapes=(tuple(free),), strict=False)


def plain_module(exported: ExportedProgram) -> fx.GraphModule:
    """Give the program as a module without its guards, and without its notes on dtypes, which a change may break."""
    with quiet():
        module = exported.module(check_guards=False)
    drop_notes(module.graph)
    module.recompile()
    del module.train, module.eval  # torch's own, which refuse any mode: nothing here depends on it
    return module


def drop_notes(graph: fx.Graph) -> None:
    """Take out the notes that a tensor has the dtype which it had when it was traced."""
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)


def in_precision(precision: str) -> Callable[[fx.GraphModule], nn.Module]:
    """Make the change that runs a module's products in a half format, by autocast; what it returns stays float32."""
    return (lambda module: module) if precision == "fp32" else (lambda module: _Autocast(module, _DTYPES[precision]))


class _Leaves(nn.Module):
    """Any number of tensors in, a tuple out: the call that the runtimes know."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.inner(*leaves))


class _Autocast(nn.Module):
    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", self.dtype):
            outputs = self.inner(*leaves)
        return tuple(output.float() if output.dtype == self.dtype else output for output in outputs)
