"""The submodules of a model that can be captured, where the model as a whole cannot.

A detector chooses boxes by their scores, so its forward depends on values and is no graph. Its backbone and its heads
are graphs. Each such part is a model in its own right: its inputs and outputs are kept, so that the code around it
never notices what goes inside it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import CaptureError
from penjing.structure.capture import Captured, capture
from penjing.workload.inputs import ExampleInputs
from penjing.workload.modes import preserved


@dataclass(frozen=True)
class Part:
    """A submodule as a graph, by its qualified name; the model itself has the empty name.

    `shared` names the parameters and buffers, relative to the part, that are used outside of it too: they must stay.
    """

    path: str
    captured: Captured
    shared: frozenset[str] = frozenset()


def capture_parts(model: nn.Module, example: Any) -> tuple[Part, ...]:
    """The whole model where torch.export can capture it, else the largest of its submodules that it can.

    A submodule is captured with the arguments of its first call in one forward of the model. Parts never overlap.

    Raises CaptureError, the one of the model, where nothing of it can be captured.

    >>> class Detector(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.backbone = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    ...     def forward(self, x):
    ...         y = self.backbone(x)
    ...         return y[y[:, 0] > 0] if y.sum() > 0 else y
    >>> [part.path for part in capture_parts(Detector(), torch.ones(2, 4))]
    ['backbone']
    """
    example = ExampleInputs.of(example)
    try:
        return (Part("", capture(model, example)),)
    except CaptureError as problem:
        return capture_submodules(model, example, problem)


def capture_submodules(model: nn.Module, example: ExampleInputs, problem: CaptureError) -> tuple[Part, ...]:
    """The largest submodules that torch.export can capture; raises `problem`, the whole's, where there is none."""
    parts = tuple(_below(model, "", record_calls(model, example), _owners(model)))
    if not parts:
        raise problem
    return parts


def record_calls(model: nn.Module, example: ExampleInputs) -> dict[str, ExampleInputs]:
    """The arguments of the first call of every submodule in one forward, by qualified name.

    Calls that pass no tensor, or anything that is no container of plain values, are left out.
    """
    calls: dict[str, ExampleInputs] = {}

    def record(path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = ExampleInputs(args, dict(kwargs))
        if path not in calls and call.tensors:
            calls[path] = call

    handles = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs, path=path: record(path, args, kwargs),
            with_kwargs=True,
        )
        for path, module in model.named_modules()
        if path and not isinstance(module, torch.jit.ScriptModule)  # it takes no hooks
    ]
    try:
        with preserved(model), torch.no_grad():
            model.eval()
            model(*example.args, **example.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _below(
    module: nn.Module, path: str, calls: Mapping[str, ExampleInputs], owners: Mapping[int, set[str]]
) -> Iterator[Part]:
    """Capture the children, or what is below those that cannot be captured."""
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if below in calls and any(True for _ in child.parameters()):
            try:
                captured = capture(child, calls[below])
            except CaptureError:
                pass
            else:
                yield Part(below, captured, _shared(child, below, owners))
                continue
        yield from _below(child, below, calls, owners)


def _owners(model: nn.Module) -> dict[int, set[str]]:
    """The modules that hold each tensor, by its identity."""
    owners: dict[int, set[str]] = defaultdict(set)
    for path, module in model.named_modules(remove_duplicate=False):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                owners[id(tensor)].add(path)
    return owners


def _shared(part: nn.Module, path: str, owners: Mapping[int, set[str]]) -> frozenset[str]:
    def outside(tensor: Tensor) -> bool:
        return any(owner != path and not owner.startswith(f"{path}.") for owner in owners[id(tensor)])

    named = [*part.named_parameters(remove_duplicate=False), *part.named_buffers(remove_duplicate=False)]
    return frozenset(name for name, tensor in named if outside(tensor))
