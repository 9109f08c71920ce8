"""A graph of ONNX as a module: its nodes one after the other, each by torch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import WorkloadError
from penjing.onnx_import.frozen import Frozen
from penjing.onnx_import.known import Known, tensor
from penjing.onnx_import.node import Node
from penjing.onnx_import.operators import known_outputs
from penjing.onnx_import.reading import Metadata


@dataclass(frozen=True)
class Step:
    """One node: the module `layer` computes it, else `compute` does; nothing reads the values `done` after it."""

    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[..., Sequence[Any]] | None = None
    layer: str = ""
    done: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Step":
        return self


@dataclass(frozen=True)
class Plan:
    """What a module runs: the steps in order, and under which name it holds the constants that they read.

    arguments: those of forward, by the names of the file. tensors: parameters and buffers. sizes: attributes that hold
    whole numbers, with their dtype. fixed: other numbers.
    """

    steps: tuple[Step, ...]
    arguments: Mapping[str, str]
    outputs: tuple[str, ...]
    tensors: Mapping[str, str]
    sizes: Mapping[str, tuple[str, torch.dtype]]
    fixed: Mapping[str, Known]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plan":
        return self


class OnnxModule(nn.Module):
    """A model read from an .onnx file. It trains, exports and is captured as any module.

    Its forward takes the inputs of the file by position or by name, and gives the output, or a dict of the outputs by
    their names where there are several. metadata is what the file says of itself; `frozen` lists the nodes that are
    computed outside torch, without a gradient.
    """

    def __init__(self, plan: Plan, metadata: Metadata, frozen: tuple[Frozen, ...]) -> None:
        super().__init__()
        self._plan = plan
        self.metadata = metadata
        self.frozen = frozen

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in the file."""
        return tuple(self._plan.arguments)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in the file."""
        return self._plan.outputs

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """The sizes that the file leaves free, as torch.export takes them: argument -> dimension -> Dim."""
        auto = torch.export.Dim.AUTO
        free = {}
        for kind in self.metadata.inputs:
            dims = enumerate(kind.shape or ())
            free[self._plan.arguments[kind.name]] = {i: auto for i, size in dims if not isinstance(size, int)}
        return free

    def _run(self, arguments: Mapping[str, Any]) -> Any:
        plan = self._plan
        values: dict[str, Any] = {name: arguments[argument] for name, argument in plan.arguments.items()}
        for step in plan.steps:
            inputs = [self._value(name, values) if name else None for name in step.inputs]
            for name, output in zip(step.outputs, self._computed(step, inputs), strict=False):
                values[name] = output
            for name in step.done:
                values.pop(name, None)
        outputs = {name: tensor(self._value(name, values)) for name in plan.outputs}
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        return {name.removeprefix("output."): value for name, value in outputs.items()}

    def _computed(self, step: Step, inputs: Sequence[Any]) -> Sequence[Any]:
        if step.layer:
            given = [None if value is None else tensor(value) for value in inputs]
            outputs = self.get_submodule(step.layer)(*given)
            return outputs if isinstance(outputs, tuple) else (outputs,)
        if inputs and not any(isinstance(value, Tensor) for value in inputs):
            found = known_outputs(step.node, inputs)
            if found is not None:
                return found
        assert step.compute is not None
        return step.compute(step.node, *inputs)

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        plan = self._plan
        if name in values:
            return values[name]
        if name in plan.tensors:
            owner, _, key = plan.tensors[name].rpartition(".")
            return getattr(self.get_submodule(owner), key)
        if name in plan.sizes:
            attribute, dtype = plan.sizes[name]
            return Known.of(getattr(self, attribute), dtype)
        return plan.fixed[name]

    def extra_repr(self) -> str:
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.metadata.opsets.items())
        return f"{len(self._plan.steps)} nodes of ONNX, opset {opsets}, {len(self.frozen)} of them frozen"


def class_for(title: str, arguments: Sequence[str]) -> type[OnnxModule]:
    """A class whose forward has the arguments of a graph, so that all who ask for its signature see them."""
    kinds = inspect.Parameter
    given = [kinds(name, kinds.POSITIONAL_OR_KEYWORD, annotation=Tensor) for name in arguments]
    signature = inspect.Signature([kinds("self", kinds.POSITIONAL_OR_KEYWORD), *given])

    def forward(self: OnnxModule, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(self, *args, **kwargs).arguments
        except TypeError as problem:
            raise WorkloadError(
                f"{title} takes the inputs {', '.join(arguments)}: {problem}; give each of them once"
            ) from problem
        return self._run(bound)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return type(title, (OnnxModule,), {"forward": forward, "__module__": __name__, "__doc__": OnnxModule.__doc__})
