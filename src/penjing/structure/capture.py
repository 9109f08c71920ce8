"""A model as a graph of ATen operators, by torch.export, with its tensors shared and its modes restored."""

import inspect
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError
from penjing.structure.inline import inline_wrappers
from penjing.structure.rules import Shape, Shapes, owner_of
from penjing.workload.inputs import ExampleInputs
from penjing.workload.modes import preserved

_RESERVED = ("graph", "code")


@dataclass(frozen=True)
class Signature:
    """How a call of the model becomes the flat inputs of the graph, and its flat outputs what the model returns.

    `names` are the positional arguments of the model's forward; `inputs` is the structure of the captured call with
    every argument under its name; `constants` holds the leaves that are no tensors, which are part of the graph.
    """

    names: tuple[str, ...]
    inputs: pytree.TreeSpec
    outputs: pytree.TreeSpec
    constants: tuple[Any, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Signature":
        return self

    @classmethod
    def of(cls, model: nn.Module, example: ExampleInputs, outputs: pytree.TreeSpec) -> "Signature":
        """The signature of a model called with an example."""
        names = positional_names(model)
        leaves, inputs = pytree.tree_flatten(by_name(names, example.args, example.kwargs))
        return cls(names, inputs, outputs, tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves))

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The flat inputs of the graph. TypeError for a call of another structure than the captured one."""
        call = by_name(self.names, args, kwargs)
        known = self.inputs.context if self.inputs.type is dict else []
        extra = [name for name in call if name not in known and call[name] is not None]
        missing = [name for name in known if name not in call]
        if extra or missing:
            what = f"missing {', '.join(missing)}" if missing else f"unexpected {', '.join(extra)}"
            raise TypeError(f"the graph was captured with the arguments {', '.join(known)}; {what}")
        leaves, inputs = pytree.tree_flatten({name: call[name] for name in known})
        if inputs != self.inputs:
            raise TypeError(f"the graph was captured with inputs of the structure {self.inputs}, not {inputs}")
        for leaf, constant in zip(leaves, self.constants, strict=True):
            if not isinstance(leaf, Tensor) and leaf != constant:
                raise TypeError(
                    f"the graph was captured with the value {constant!r}, which is part of it, not {leaf!r}"
                )
        return leaves

    def inspected(self) -> inspect.Signature:
        """What `inspect.signature` shows for a graph's forward: the captured arguments, by name."""
        if self.inputs.type is not dict:
            return inspect.Signature()
        kinds = inspect.Parameter
        numbered = [name for name in self.inputs.context if name.startswith("*")]
        rest = [kinds("args", kinds.VAR_POSITIONAL)] if numbered else []
        keywords = [name for name in self.inputs.context if name not in self.names and name not in numbered]
        return inspect.Signature(
            [
                *(kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in self.names if name in self.inputs.context),
                *rest,
                *(kinds(name, kinds.KEYWORD_ONLY) for name in keywords),
            ]
        )

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """What the model returns."""
        return pytree.tree_unflatten(list(outputs), self.outputs)


def positional_names(model: nn.Module) -> tuple[str, ...]:
    """The names of forward's positional arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def by_name(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call as one dictionary; positional arguments beyond the names are numbered.

    >>> by_name(("x", "mask"), (1, 2, 3), {"scale": 4})
    {'x': 1, 'mask': 2, '*2': 3, 'scale': 4}
    """
    named = {names[i] if i < len(names) else f"*{i}": value for i, value in enumerate(args)}
    return named | dict(kwargs)


@dataclass(frozen=True)
class Captured:
    """A model as a graph in eval mode.

    `module` takes the flat inputs and gives the flat outputs; its parameters are the model's own and have their
    original names. `shapes` maps each node's name to its output shape (a tuple of shapes for several outputs, None for
    no tensor) at the batch size of `example`; `node_module` maps it to the qualified name of the module that called it.
    `fixed_batch` is the reason why only the example's batch size is possible, or None. `cumulative_norms` are the batch
    norms with momentum=None, whose running statistics are means over all batches.
    """

    module: fx.GraphModule
    example: ExampleInputs
    shapes: Mapping[str, Shapes]
    node_module: Mapping[str, str]
    signature: Signature
    name: str
    fixed_batch: str | None = None
    cumulative_norms: frozenset[str] = frozenset()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every parameter, buffer and constant of the graph by its name; tied names give the same object."""
        found: dict[str, Tensor] = {}
        for node in self.module.graph.nodes:
            if node.op == "get_attr":
                value = fetch(self.module, str(node.target))
                if isinstance(value, Tensor):
                    found[str(node.target)] = value
        return found

    @property
    def subgraphs(self) -> dict[str, nn.Module]:
        """The bodies of higher-order operators, by the names under which the graph reads them."""
        found = {}
        for node in self.module.graph.nodes:
            if node.op in ("get_attr", "call_module"):
                value = fetch(self.module, str(node.target))
                if isinstance(value, nn.Module):
                    found[str(node.target)] = value
        return found

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, as in the state_dict of the model."""
        return tuple(name for name, tensor in self.tensors.items() if isinstance(tensor, nn.Parameter))

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers and constants."""
        return tuple(name for name, tensor in self.tensors.items() if not isinstance(tensor, nn.Parameter))

    @property
    def parameter_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that read a parameter, a tied one once."""
        seen: dict[int, str] = {}
        for node in self.module.graph.nodes:
            if node.op == "get_attr":
                value = fetch(self.module, str(node.target))
                if isinstance(value, nn.Parameter):
                    seen.setdefault(id(value), node.name)
        return tuple(seen.values())

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The inputs of `module` for a call of the model."""
        return self.signature.flatten(args, kwargs)

    def shapes_at(self, example: ExampleInputs) -> dict[str, Shapes]:
        """The same as `shapes` for other inputs, found without computing any value."""
        recorder = _ShapeRecorder(self.module)
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            inputs = [
                mode.from_tensor(leaf, static_shapes=True) if isinstance(leaf, Tensor) else leaf
                for leaf in self.flatten(example.args, example.kwargs)
            ]
            recorder.run(*inputs)
        return recorder.shapes


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, Shapes] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.shapes[n.name] = None if n.op == "output" else shapes_of(result)
        return result


def shapes_of(value: Any) -> Shapes:
    """The shape of a tensor, the shapes of a sequence that holds tensors, else None."""
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return tuple(_shape(item) for item in value)
    return _shape(value)


def _shape(value: Any) -> Shape | None:
    if not isinstance(value, Tensor):
        return None
    sizes = [_hint(size) for size in value.shape]
    return None if None in sizes else tuple(size for size in sizes if size is not None)


def _hint(size: int | torch.SymInt) -> int | None:
    if isinstance(size, int):
        return size
    return int(size.node.hint) if size.node.has_hint() else None


def fetch(root: nn.Module, name: str) -> Any:
    """The attribute of a module under a dotted name."""
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part)
    return value


def capture(model: nn.Module, example: Any, dynamic_shapes: Any = None) -> Captured:
    """Capture a model with torch.export: undecomposed ATen operators, the batch free, no weight copied.

    `example` is anything that `ExampleInputs.of` reads. Without `dynamic_shapes` (as in torch.export.export) dimension
    0 of every batched input is free; a model that insists on its batch size is captured with it, and `fixed_batch` says
    why.
    The model is traced in eval mode; its modes and the random state are restored.

    Raises CaptureError when the model cannot be captured.

    >>> captured = capture(nn.Linear(3, 2), torch.zeros(4, 3))
    >>> [node.name for node in captured.module.graph.nodes]
    ['weight', 'bias', 'input_1', 'linear', 'output']
    >>> captured.shapes["linear"]
    (4, 2)
    """
    example = ExampleInputs.of(example)
    for name in _RESERVED:
        if name in {**model._modules, **model._parameters, **model._buffers}:
            raise CaptureError(f"{type(model).__name__}.{name} has a name that torch.fx reserves for itself; rename it")
    if dynamic_shapes is not None:
        return _captured(model, example, _export(model, example, dynamic_shapes))
    free = example.with_batch(2) if example.batch_size == 1 else example
    try:
        return _captured(model, free, _export(model, free, _batch_free(model, free)))
    except CaptureError as problem:
        program = _export(model, example, None)
        return replace(_captured(model, example, program), fixed_batch=_first_line(problem.__cause__ or problem))


def _batch_free(model: nn.Module, example: ExampleInputs) -> Any:
    """Dimension 0 of each batched tensor is dynamic, in the structure that torch.export asks for."""
    size = example.batch_size

    def of(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size
        return {0: torch.export.Dim.DYNAMIC} if batched else None

    call = inspect.signature(model.forward).bind(*example.args, **example.kwargs).arguments
    return pytree.tree_map(of, dict(call))


def _export(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any) -> torch.export.ExportedProgram:
    with preserved(model), torch.no_grad(), _plain_operators():
        model.eval()
        # torch.export marks the tensors that it is given, and leaves its marks on them when it fails.
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.detach, (tuple(example.args), dict(example.kwargs)))
        try:
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
        except Exception as problem:  # torch.export raises whatever the model's own code raises
            raise CaptureError(_explain(model, problem)) from problem


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Trace torch's own transformer layers by their parts, not as one fused operator; hush a note on flat weights."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attribute")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _explain(model: nn.Module, problem: Exception) -> str:
    """Name the model, the line of its code, and the remedy."""
    file = inspect.getsourcefile(type(model)) or ""
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if frame.filename == file] or [f for f in frames if "/torch/" not in f.filename][
        1:
    ]
    where = f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""
    return (
        f"torch.export cannot capture {type(model).__name__}{where}: {_first_line(problem)}. Where the forward depends "
        "on the values of tensors (if x.sum() > 0, tensor.item(), NMS), capture the submodule before that point, or "
        "write the choice with torch.where or torch.cond"
    )


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(problem).__name__


def _captured(model: nn.Module, example: ExampleInputs, program: torch.export.ExportedProgram) -> Captured:
    exported = program.module(check_guards=False)
    inline_wrappers(exported)
    graph = exported.graph
    graph.set_codegen(fx.graph.CodeGen())
    module = fx.GraphModule(exported, graph, class_name=type(model).__name__)
    outputs = program.call_spec.out_spec
    assert outputs is not None
    return Captured(
        module=module,
        example=example,
        shapes={node.name: shapes_of(node.meta.get("val")) for node in graph.nodes},
        node_module={node.name: _module_of(node) for node in graph.nodes},
        signature=Signature.of(model, example, outputs),
        name=type(model).__name__,
        cumulative_norms=frozenset(
            name for name, module in model.named_modules() if isinstance(module, _NormBase) and module.momentum is None
        ),
    )


def _module_of(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[0] if node.op == "get_attr" else owner_of(node)
