"""A candidate of a cut in float64: not copied, not changed, and its tensors converted as they are read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from penjing.structure.graph_model import GraphModel, signature_of
from penjing.structure.precision import LONG, InDouble
from penjing.structure.probes import leaves
from penjing.structure.reference import InFloat64
from penjing.workload.inputs import ExampleInputs


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    return {**dict(parameters), **dict(buffers)}


def run_in_float64(
    module: nn.Module, added: Mapping[str, Tensor], examples: Sequence[ExampleInputs]
) -> list[Sequence[Tensor]]:
    """What a module gives in eval mode and float64, with something added to some of its tensors by name.

    Raises ValueError where what is to be added does not fit, and whatever the module's forward raises.
    """
    tensors = tensors_of(module)
    for name, value in added.items():
        if name not in tensors:
            raise ValueError(f"it has no {name}")
        if tensors[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}; the cut leaves {tuple(value.shape)}")
    if isinstance(module, GraphModel):
        calls = [signature_of(module).flatten(example.args, example.kwargs) for example in examples]
        with InDouble():
            return [leaves(outputs) for outputs in InFloat64(module, module.graph, added).run_all(calls)]
    by_id = {id(tensors[name]): value for name, value in added.items()}
    with unchanged(module):
        module.eval()
        return [_run_class(module, by_id, example) for example in examples]


def _run_class(module: nn.Module, added: Mapping[int, Tensor], example: ExampleInputs) -> Sequence[Tensor]:
    with InDouble(added) as double, _Reading(double):
        return leaves(module(*example.args, **example.kwargs))


class _Reading(TorchFunctionMode):
    """Functions are given long tensors, and told of long dtypes: some compare them before any operator is called."""

    _OF_SHAPE = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.stride, Tensor.is_floating_point)

    def __init__(self, double: InDouble) -> None:
        super().__init__()
        self._double = double

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "__get__":
            found = func(*args)
            return func(self._double.read(args[0])) if isinstance(found, Tensor) else self._double.read(found)
        if func in self._OF_SHAPE:
            return func(*args, **(kwargs or {}))
        return func(*self._double.read_all(args), **self._double.read_all(kwargs or {}))


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Give every submodule back its attributes, parameters and buffers, and the buffers their values.

    Weights that hooks compute, caches, modes and counters are such attributes.
    """
    slots: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in module.modules():
        slots += [(slot, dict(slot)) for slot in (vars(part), part._parameters, part._buffers, part._modules)]
    values = [(buffer, buffer.clone()) for buffer in module.buffers() if buffer.dtype not in LONG]
    try:
        yield
    finally:
        for slot, content in slots:
            slot.clear()
            slot.update(content)
        for buffer, value in values:
            buffer.copy_(value)
