"""A captured program captured once more: in another number format, or with a limit to its free sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from penjing.runtimes.base import Program
from penjing.runtimes.capture import uses_quantized_operators
from penjing.runtimes.quiet import quiet

Change = Callable[[fx.GraphModule], nn.Module]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def recapture(
    program: Program,
    change: Change = lambda module: module,
    largest: Mapping[str, int] | None = None,
) -> ExportedProgram:
    """Trace a program again after a change of its module, its free sizes free as before.

    largest: the most that a free size may be, by its name in `program.inputs`; sizes that are not named have no limit.
    """
    module = plain_module(program.exported)
    leaves, _ = program.exported.example_inputs
    changed = _Leaves(change(module))
    with quiet(), torch.no_grad():
        return torch.export.export(
            changed, tuple(leaves), dynamic_shapes=(free_sizes(program, largest or {}),), strict=False
        )


def free_sizes(program: Program, largest: Mapping[str, int]) -> tuple[dict[int, Any] | None, ...]:
    """Say which sizes of each input are free, as torch.export takes it; None for an input that has none."""
    return tuple(
        {
            dim: Dim.AUTO(max=largest[size]) if size in largest else Dim.AUTO
            for dim, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        or None
        for spec in program.inputs
    )


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


def decomposed(program: Program, *, xnnpack: bool) -> Change:
    """Make the change that writes quantisation in the operators of PT2E, where the program holds any."""

    def change(module: fx.GraphModule) -> nn.Module:
        if not uses_quantized_operators(program.exported):
            return module
        from penjing.techniques.quantize.decomposed import decompose

        return decompose(module, xnnpack=xnnpack)

    return change


def in_precision(precision: str) -> Callable[[nn.Module], nn.Module]:
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
