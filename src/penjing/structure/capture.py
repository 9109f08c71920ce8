"""A model as a graph of ATen operators, by torch.export, with its tensors shared and its modes restored."""

import io
import keyword
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Distribution
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from penjing.errors import CaptureError, first_line
from penjing.structure.inline import inline_wrappers
from penjing.structure.rules import Shape, Shapes, owner_of
from penjing.structure.signature import Signature, by_name, positional_names
from penjing.workload.inputs import ExampleInputs
from penjing.workload.model import read_model
from penjing.workload.modes import preserved, preserved_randomness

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}
_RESERVED = ("graph", "code")
# What a graph and the module that runs it call things of their own: no tensor can be read under these names.
_TAKEN = frozenset(dir(fx.GraphModule({}, fx.Graph()))) | {"_call_signature", "_compile", "_run", "_title", "self"}


@dataclass(frozen=True)
class Captured:
    """A model as a graph in eval mode.

    `module` takes the flat inputs and gives the flat outputs; its parameters are the model's own and have their
    original names. `shapes` maps each node's name to its output shape (a tuple of shapes for several outputs, None for
    no tensor) at the batch size of `example`; `node_module` maps it to the qualified name of the module that called it.
    `fixed_batch` is the reason why only the example's batch size is possible, or None. `cumulative_norms` are the batch
    norms with momentum=None, whose running statistics are means over all batches. `dropped` are the types of outputs
    that a graph cannot give, such as the key-value cache of a decoder: it gives None in their place.
    """

    module: fx.GraphModule
    example: ExampleInputs
    shapes: Mapping[str, Shapes]
    node_module: Mapping[str, str]
    signature: Signature
    name: str
    fixed_batch: str | None = None
    cumulative_norms: frozenset[str] = frozenset()
    dropped: tuple[str, ...] = ()

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


def capture(model: nn.Module | str | Path, example: Any, dynamic_shapes: Any = None) -> Captured:
    """Capture a model with torch.export: undecomposed ATen operators, the batch free, no weight copied.

    `model` is a module, or the path of an .onnx file. `example` is anything that `ExampleInputs.of` reads. Without
    `dynamic_shapes` (as in torch.export.export) dimension 0 of every batched input is free; a model that insists on its
    batch size is captured with it, and `fixed_batch` says why.
    The model is traced in eval mode; its modes and the random state are restored.

    Raises CaptureError when the model cannot be captured.

    >>> captured = capture(nn.Linear(3, 2), torch.zeros(4, 3))
    >>> [node.name for node in captured.module.graph.nodes]
    ['weight', 'bias', 'input_1', 'linear', 'output']
    >>> captured.shapes["linear"]
    (4, 2)
    """
    model, example = read_model(model), ExampleInputs.of(example)
    for kind, inner in _WRAPPERS.items():
        if type(model).__name__ == kind:
            raise CaptureError(f"the model is wrapped in {kind}; pass its .{inner}, and wrap what comes back")
    for name in _RESERVED:
        if name in {**model._modules, **model._parameters, **model._buffers}:
            raise _reserved(model, name)
    if dynamic_shapes is not None:
        return _captured(model, example, _each_shape(model, example, dynamic_shapes))
    free = example.with_batch(2) if example.batch_size == 1 else example
    try:
        return _captured(model, free, _batch_free(free))
    except CaptureError as problem:
        if _depends_on_values(problem):
            raise
        captured = _captured(model, example, None)
        return replace(captured, fixed_batch=first_line(problem.__cause__ or problem).rstrip("."))


def _reserved(model: nn.Module, name: str) -> CaptureError:
    return CaptureError(
        f"{type(model).__name__}.{name} has a name that torch.fx reserves for itself at the root of a graph; rename "
        "it, or capture nn.Sequential(model), where it is no longer at the root"
    )


def _depends_on_values(problem: BaseException | None) -> bool:
    """Whether an error comes from a choice by the values of tensors, which no other shape would mend."""
    while problem is not None and not isinstance(problem, GuardOnDataDependentSymNode):
        problem = problem.__cause__ or problem.__context__
    return problem is not None


def _batch_free(example: ExampleInputs) -> list[Any]:
    """Dimension 0 of each batched tensor is dynamic."""

    def of(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == example.batch_size
        return {0: torch.export.Dim.DYNAMIC} if batched else None

    return [of(leaf) for leaf in pytree.tree_leaves((example.args, dict(example.kwargs)))]


def _each_shape(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any) -> list[Any]:
    """Dynamic shapes as torch.export.export takes them, leaf by leaf."""
    names = positional_names(model)
    call = by_name(names, example.args, example.kwargs)
    if isinstance(dynamic_shapes, Mapping):
        given = dict(dynamic_shapes)
    else:
        named, rest = tuple(dynamic_shapes[: len(names)]), tuple(dynamic_shapes[len(names) :])
        nested = len(rest) == 1 and isinstance(rest[0], tuple | list) and len(example.args) != len(names) + 1
        given = by_name(names, (*named, *(rest[0] if nested else rest)), {})  # torch.export takes *args as one
    try:
        return pytree.tree_structure(call).flatten_up_to(given) if given else [None] * len(pytree.tree_leaves(call))
    except ValueError as problem:
        raise CaptureError(
            f"dynamic_shapes has not the structure of the call, which has the arguments {', '.join(call)}: {problem}"
        ) from problem


@dataclass
class _Returned:
    """What the model returned when it was traced: the structure, and the types of what no graph can give."""

    structure: pytree.TreeSpec | None = None
    dropped: tuple[str, ...] = ()


class _Flat(nn.Module):
    """A model as a function of flat inputs that gives flat outputs.

    Keywords of any name, and outputs of any structure, are then none of torch.export's business.
    """

    def __init__(self, model: nn.Module, call: pytree.TreeSpec) -> None:
        super().__init__()
        self.model = model
        self._call = call
        self.returned = _Returned()  # an object that torch.export does not look into: it sets lists back afterwards

    def forward(self, *inputs: Any) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(list(inputs), self._call)
        outputs, self.returned.structure = pytree.tree_flatten(self.model(*args, **kwargs))
        self.returned.dropped = tuple(type(leaf).__name__ for leaf in outputs if not _is_plain(leaf))
        return [leaf if _is_plain(leaf) else None for leaf in outputs]


_PLAIN = (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, int, float, complex, str, type(None))


def _is_plain(leaf: Any) -> bool:
    return isinstance(leaf, _PLAIN)


def _captured(model: nn.Module, example: ExampleInputs, dynamic_shapes: Sequence[Any] | None) -> Captured:
    # torch.export marks the tensors that it is given, and leaves its marks on them when it fails.
    leaves, call = pytree.tree_flatten((tuple(example.args), dict(example.kwargs)))
    leaves = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    flat, shapes = _Flat(model, call), None if dynamic_shapes is None else (tuple(dynamic_shapes),)
    with preserved(model), torch.no_grad(), _plain_operators():
        flat.eval()
        try:
            with redirect_stderr(io.StringIO()):  # where it fails, torch.export prints all that it has traced so far
                program = torch.export.export(flat, tuple(leaves), dynamic_shapes=shapes, strict=False)
        except Exception as problem:  # torch.export raises whatever the model's own code raises
            raise CaptureError(_explain(model, problem)) from problem
    try:
        exported = program.module(check_guards=False)
    except SyntaxError as problem:  # torch.fx writes names into Python code as they are
        words = {word for name, _ in model.named_modules() for word in name.split(".")}
        words |= {name.rpartition(".")[2] for name in {**dict(model.named_parameters()), **dict(model.named_buffers())}}
        found = ", ".join(sorted(filter(keyword.iskeyword, words)))
        raise CaptureError(
            f"{type(model).__name__} has modules or tensors named {found}, words of Python that a graph cannot read; "
            "rename them"
        ) from problem
    inline_wrappers(exported)
    assert flat.returned.structure is not None
    signature = Signature.of(model, example, flat.returned.structure)
    graph, attributes = _unwrapped(exported, signature)
    for name in sorted({target.partition(".")[0] for target in attributes} & _TAKEN):
        raise _reserved(model, name)
    module = fx.GraphModule(attributes, graph, class_name=type(model).__name__)
    return Captured(
        module=module,
        example=example,
        shapes=_shapes(module, example, signature),
        node_module={node.name: _module_of(node) for node in graph.nodes},
        signature=signature,
        name=type(model).__name__,
        cumulative_norms=frozenset(
            name for name, module in model.named_modules() if isinstance(module, _NormBase) and module.momentum is None
        ),
        dropped=flat.returned.dropped,
    )


def _shapes(module: fx.GraphModule, example: ExampleInputs, signature: Signature) -> dict[str, Shapes]:
    """The shape of every node; where one depends on values, as how many tokens an expert gets, that of the example."""
    values = {node.name: node.meta.get("val") for node in module.graph.nodes}
    if all(_shape(leaf) is not None for leaf in pytree.tree_leaves(list(values.values())) if isinstance(leaf, Tensor)):
        return {name: shapes_of(value) for name, value in values.items()}
    recorder = _ShapeRecorder(module)
    with torch.no_grad(), preserved_randomness():
        recorder.run(*signature.flatten(example.args, example.kwargs))
    return recorder.shapes


def _unwrapped(exported: fx.GraphModule, signature: Signature) -> tuple[fx.Graph, dict[str, Any]]:
    """The graph with the names that the model itself gives to its tensors, modules and arguments; and its tensors."""
    prefix = "model."
    graph, attributes, nodes = fx.Graph(), dict[str, Any](), dict[fx.Node, fx.Node]()
    arguments = iter(signature.labels)
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            copy = graph.placeholder(next(arguments))
        elif node.op == "get_attr":
            target = str(node.target).removeprefix(prefix)
            attributes[target] = fetch(exported, str(node.target))
            copy = graph.get_attr(target)
        else:
            copy = graph.node_copy(node, nodes.__getitem__)
            # Strides are those of the trace; in training an attention kernel may leave others, which a view refuses.
            copy.target = torch.ops.aten.reshape.default if copy.target is torch.ops.aten.view.default else copy.target
        copy.meta = dict(node.meta)
        stack = node.meta.get("nn_module_stack") or {}
        copy.meta["nn_module_stack"] = {
            key: (path.removeprefix("model").removeprefix("."), kind) for key, (path, kind) in stack.items() if path
        }
        nodes[node] = copy
    return graph, attributes


def _module_of(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[0] if node.op == "get_attr" else owner_of(node)


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Trace torch's own transformer layers by their parts, not as one fused operator; hush a note on flat weights.

    Distributions are built without their checks, which are choices by the values of tensors.
    """
    fast, checked = torch.backends.mha.get_fastpath_enabled(), Distribution._validate_args
    torch.backends.mha.set_fastpath_enabled(False)
    Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attribute")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        Distribution.set_default_validate_args(checked)


def _explain(model: nn.Module, problem: Exception) -> str:
    """Name the model, the line of its code, and the remedy."""
    code = getattr(type(model).forward, "__code__", None)
    file = "" if code is None else code.co_filename
    frames = traceback.extract_tb(problem.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    own = own or [
        frame for frame in frames[1:] if frame.line and "/torch/" not in frame.filename and frame.filename != __file__
    ]
    where = f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""
    return (
        f"torch.export cannot capture {type(model).__name__}{where}: {first_line(problem).rstrip('.')}. Where the "
        "forward depends on the values of tensors (if x.sum() > 0, tensor.item(), NMS), capture the submodule before "
        "that point, or write the choice with torch.where or torch.cond"
    )
