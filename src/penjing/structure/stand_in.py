"""Blocks bypassed in the user's own class: the module that computes one gives way to a `Bypass`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.errors import ShapeError
from penjing.structure.blocks import Block, common_path
from penjing.structure.capture import Captured
from penjing.workload.inputs import ExampleInputs
from penjing.workload.modes import preserved, preserved_randomness

Form: TypeAlias = int | None
"""What a module returns: None for a tensor, n for a tuple of n items of which the first is the tensor."""


class Bypass(nn.Module):
    """Stands where a block was and gives its first tensor back, alone or as the first item of a tuple of `items`.

    >>> Bypass()(torch.ones(2)), Bypass(2)(torch.ones(2), None, flag=True)
    (tensor([1., 1.]), (tensor([1., 1.]), None))
    """

    def __init__(self, items: Form = None) -> None:
        super().__init__()
        self.items = items

    @classmethod
    def of(cls, module: nn.Module, items: Form) -> "Bypass":
        """The stand-in of a module, with its plain attributes, for the code around it may read them."""
        found = cls(items)
        for name, value in vars(module).items():
            if not name.startswith("_") and isinstance(value, bool | int | float | str):
                setattr(found, name, value)
        found.items = items
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first = first_tensor((*args, *kwargs.values()))
        return first if self.items is None else (first, *[None] * (self.items - 1))

    def extra_repr(self) -> str:
        return "" if self.items is None else f"items={self.items}"


def first_tensor(values: Iterable[Any]) -> Tensor | None:
    """The first of some values that is a tensor."""
    return next((value for value in values if isinstance(value, Tensor)), None)


def put_bypasses(model: nn.Module, forms: Mapping[str, Form]) -> dict[str, nn.Module]:
    """Put a `Bypass` in the place of each named module; give the modules that stood there.

    Containers keep their other items under the same names. Raises ShapeError for a module that the model lacks.
    """
    modules = dict(model.named_modules())
    for path in forms:
        if path not in modules or not path:
            raise ShapeError(
                f"{type(model).__name__} has no module {path!r}; apply the surgery to the model that it was made for"
            )
    before = {path: modules[path] for path in forms}
    put_modules(model, {path: Bypass.of(module, forms[path]) for path, module in before.items()})
    return before


def put_modules(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in the places of others."""
    for path, module in modules.items():
        owner, _, name = path.rpartition(".")
        module.train(model.get_submodule(path).training)
        model.get_submodule(owner)._modules[name] = module


def stand_ins(model: nn.Module, captured: Captured, blocks: Sequence[Block]) -> dict[str, Form] | None:
    """The modules of the user's class that can be bypassed instead of blocks of its graph, and what they return.

    A module stands for a block when it is called once, its first tensor is the skip, it gives a tensor of that shape
    first that is not the branch alone, and its weights are those that go with the block. Where several do, one that
    gives the block's output is taken, else the outermost, as where an activation follows the sum. None where a block
    has no such module. Whether the model with these bypassed is right is for the proof to say.
    """
    possible = {block: list(_modules_of(model, block)) for block in blocks}
    ends = {block: {end for residual in block.residuals for end in residual.ends} for block in blocks}
    with preserved_randomness(), torch.no_grad():
        example = _random_like(captured.example)
        calls = _watched_calls(model, example, {path for paths in possible.values() for path in paths})
        names = {name for block in blocks for name in (block.skip, block.output, *ends[block])}
        values = _watched_values(captured, example, names)
    chosen: dict[str, Form] = {}
    for block, paths in possible.items():
        once = {path: call for path in paths for call in calls[path] if call is not None and len(calls[path]) == 1}
        fitting = [path for path, call in once.items() if _same(call.first, values[block.skip])]
        fitting = [path for path in fitting if not any(_same(once[path].result, values[end]) for end in ends[block])]
        if not fitting:
            return None
        exact = [path for path in fitting if _same(once[path].result, values[block.output])]
        path = (exact or fitting)[-1]
        chosen[path] = once[path].form
    return chosen


@dataclass(frozen=True)
class _Call:
    """The first tensor of one call of a module, the first tensor that it gave, and the form of what it gave."""

    first: Tensor
    result: Tensor
    form: Form


def _modules_of(model: nn.Module, block: Block) -> Iterator[str]:
    """The modules that hold all weights of a block and no others, from the innermost outwards."""
    modules = dict(model.named_modules())
    paths: list[Sequence[str]] = [name.split(".")[:-1] for name in block.parameters]
    shared: Sequence[str] = reduce(common_path, paths) if paths else ()
    path = list(shared)
    while path:
        name = ".".join(path)
        held = {f"{name}.{weight}" for weight, _ in modules[name].named_parameters()} if name in modules else None
        if held != set(block.parameters):
            return
        yield name
        path.pop()


def _random_like(example: ExampleInputs) -> ExampleInputs:
    """Inputs of the same form with random numbers in them: an example of zeros tells no two tensors apart."""
    generator = torch.Generator().manual_seed(0)

    def of(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else tensor

    args, kwargs = pytree.tree_map_only(Tensor, of, (example.args, dict(example.kwargs)))
    return ExampleInputs(args, kwargs)


def _watched_calls(model: nn.Module, example: ExampleInputs, paths: Collection[str]) -> dict[str, list[_Call | None]]:
    """Run a model and note the calls of some modules; None for a call without such tensors."""
    calls: dict[str, list[_Call | None]] = {path: [] for path in paths}
    modules = dict(model.named_modules())

    came: dict[str, Tensor | None] = {}  # noted before the call, which may write into it

    def before(path: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = first_tensor((*args, *kwargs.values()))
            came[path] = None if first is None else first.clone()

        return note

    def after(path: str) -> Callable[..., None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            first = came[path]
            given, form = (result[0], len(result)) if type(result) is tuple and result else (result, None)
            fits = first is not None and isinstance(given, Tensor) and given.shape == first.shape
            calls[path].append(_Call(first, given.clone(), form) if first is not None and fits else None)

        return note

    hooks = [modules[path].register_forward_pre_hook(before(path), with_kwargs=True) for path in paths]
    hooks += [modules[path].register_forward_hook(after(path), with_kwargs=True) for path in paths]
    try:
        with preserved(model):
            model.eval()
            model(*example.args, **example.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _watched_values(captured: Captured, example: ExampleInputs, names: Collection[str]) -> dict[str, Tensor]:
    """Run a graph and note the values of some nodes."""
    values: dict[str, Tensor] = {}

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in names:
                values[n.name] = result.clone()
            return result

    Watcher(captured.module).run(*captured.flatten(example.args, example.kwargs))
    return values


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two values are the same up to rounding."""
    return a.shape == b.shape and torch.allclose(a, b.to(a.dtype), rtol=1e-3, atol=1e-5)
