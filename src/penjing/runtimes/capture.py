"""A module with any call as a program from flat tensors to flat tensors, captured by torch.export."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from penjing.errors import CaptureError, PenjingError, WorkloadError
from penjing.runtimes.base import Program
from penjing.runtimes.nesting import Node, flatten, leaf_names
from penjing.runtimes.quiet import quiet
from penjing.runtimes.signature import Input, Signature

if TYPE_CHECKING:
    from penjing.onnx_import import Metadata

FreeDims = dict[int, Any]  # dimension -> what torch.export calls it: Dim("n"), Dim.DYNAMIC, ...


class Flat(nn.Module):
    """The model behind a call that takes and returns only tensors: the one form that every exporter understands."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._signature = signature

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return self.outputs(leaves)[0]

    def outputs(self, leaves: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], Node]:
        """Give the output tensors and the description of the structure they came in."""
        tensors, node = flatten(self._signature.call(self.model, leaves), "the model's output")
        return tuple(torch.as_tensor(tensor) for tensor in tensors), node


def capture(
    flat: Flat,
    signature: Signature,
    leaves: Sequence[Tensor],
    free: Sequence[FreeDims],
    returns: Node,
    *,
    one_batch: bool,
) -> Program:
    """Trace the model at these inputs.

    one_batch: dimension 0 is the batch wherever it is free, also of inputs that the model never brings together.
    Raises CaptureError that says which sizes the model fixes, or quotes torch.export's reason.
    """
    try:
        exported = _trace(flat, leaves, free)
    except PenjingError:
        raise
    except Exception as error:  # tracing runs the model's own code: anything may come out of it
        name = type(flat.model).__name__
        raise CaptureError(
            _fixed_sizes(flat, signature.names, leaves, free)
            or f"torch.export cannot capture {name}: {_reason(error)}; if the model fixes a size that should be free, "
            "pass dynamic_shapes={} to fix every size at the example's"
        ) from error
    shapes = _input_shapes(exported, signature.names, free, one_batch)
    inputs = tuple(
        Input(name, str(leaf.dtype).removeprefix("torch."), shape)
        for name, leaf, shape in zip(signature.names, leaves, shapes, strict=True)
    )
    source, outputs = _source(flat.model), tuple(leaf_names(returns, "output"))
    if source is not None and len(source.outputs) == len(outputs):
        outputs = tuple(output.name for output in source.outputs)
    return Program(exported, inputs, outputs, source)


def _source(model: nn.Module) -> "Metadata | None":
    """What the file says about itself that a model was read from; also where it has been cut since."""
    found = getattr(model, "metadata", None)
    if found is None:
        return None
    from penjing.onnx_import import Metadata  # onnx is loaded by those alone who bring a file

    return found if isinstance(found, Metadata) else None


def _trace(flat: Flat, leaves: Sequence[Tensor], free: Sequence[FreeDims]) -> ExportedProgram:
    inputs = tuple(leaf.detach() for leaf in leaves)  # torch.export marks its inputs, and a failed attempt leaves marks
    with quiet():
        return torch.export.export(flat, inputs, dynamic_shapes=(tuple(free),), strict=False)


def _fixed_sizes(flat: Flat, names: Sequence[str], leaves: Sequence[Tensor], free: Sequence[FreeDims]) -> str | None:
    """Say which of the sizes that should be free the model fixes, and what to do; None if that is not what is wrong.

    Where torch.export may decide (Dim.AUTO), it takes such sizes for constants.
    """
    try:
        exported = _trace(flat, leaves, [dict.fromkeys(dims, Dim.AUTO) for dims in free])
    except Exception:  # the trouble is another one, and the first attempt has told it
        return None
    shapes = _input_shapes(exported, names, free, one_batch=False)
    asked = [(i, dim) for i, dims in enumerate(free) for dim in dims]
    fixed = [(i, dim) for i, dim in asked if isinstance(shapes[i][dim], int)]
    sizes = {shapes[i][dim] for i, dim in fixed}
    model = type(flat.model).__name__
    if not fixed:
        return None
    if fixed == asked and all(dim == 0 for _, dim in fixed) and len(sizes) == 1:
        size = sizes.pop()
        return (
            f"{model} fixes its batch at {size}: its forward computes with that number; write it for any batch, or "
            f"pass dynamic_shapes={{}} to export it for batches of {size} alone"
        )
    what = ", ".join(f"dimension {dim} of {names[i]!r} at {shapes[i][dim]}" for i, dim in fixed)
    return (
        f"{model} fixes {what}: its forward computes with that number; leave it out of dynamic_shapes, or pass "
        "dynamic_shapes={} to fix every size at the example's"
    )


def free_dimensions(dynamic_shapes: Any, signature: Signature, leaves: Sequence[Tensor]) -> list[FreeDims]:
    """Say which dimensions of which tensor stay free.

    dynamic_shapes: as torch.export takes it, by name or by position; None: dimension 0 of every tensor that has
    the batch size of the first one. Raises WorkloadError for a name that no input has.
    """
    if dynamic_shapes is None:
        batch = next((len(leaf) for leaf in leaves if leaf.ndim), None)
        return [{0: Dim.DYNAMIC} if leaf.ndim and len(leaf) == batch else {} for leaf in leaves]
    named = dynamic_shapes
    if not isinstance(named, Mapping):
        named = dict(zip(signature.positional, dynamic_shapes, strict=False))
    if unknown := [name for name in named if name not in signature.arguments]:
        known = ", ".join(signature.arguments)
        raise WorkloadError(f"dynamic_shapes names {unknown[0]!r}, which is not an input; the inputs are {known}")
    return [dims for name, node in signature.arguments.items() for dims in _spread(node, named.get(name), name)]


def at_least_two(leaves: Sequence[Tensor], free: Sequence[FreeDims]) -> list[Tensor]:
    """Repeat a single sample: torch.export takes a size of 1 for a constant."""
    return [
        torch.cat([leaf, leaf]) if 0 in dims and len(leaf) == 1 else leaf
        for leaf, dims in zip(leaves, free, strict=True)
    ]


def with_batch(leaves: Sequence[Tensor], free: Sequence[FreeDims], size: int) -> list[Tensor]:
    """Give the same inputs with another batch size, repeating the samples in turn."""
    return [
        leaf[torch.arange(size, device=leaf.device) % len(leaf)] if 0 in dims else leaf
        for leaf, dims in zip(leaves, free, strict=True)
    ]


def batch_sizes(program: Program, leaves: Sequence[Tensor], free: Sequence[FreeDims]) -> list[int | None]:
    """Batch sizes at which a program is checked: the example's, one more, and 1, where allowed; None: as is."""
    batches = {len(leaf) for leaf, dims in zip(leaves, free, strict=True) if 0 in dims}
    if len(batches) != 1:  # nothing is free, or dimension 0 means several things
        return [None]
    batch = batches.pop()
    ranges = list(program.exported.range_constraints.values())
    wanted = [batch, batch + 1, 1]
    # torch.export writes 2 for the lower end of a free size, whether or not 1 works.
    return [
        size for size in wanted if all(bounds.upper >= size and (bounds.lower <= max(size, 2)) for bounds in ranges)
    ]


FORMS = {
    "quantize_linear": "int8",
    "dynamic_linear": "int8-dynamic",
    "dynamic_lstm": "int8-dynamic",
    "unpack": "weights of few bits",
}
"""What the operators that quantisation puts in (the `penjing` namespace) ask of a runtime."""


def uses_quantized_operators(exported: ExportedProgram) -> bool:
    """Tell whether the program holds operators of the `penjing` namespace: those that quantisation puts in."""
    return any(getattr(node.target, "namespace", None) == "penjing" for node in exported.graph.nodes)


def quantized_forms(exported: ExportedProgram) -> set[str]:
    """Which forms of quantisation a program uses, of FORMS."""
    names = (str(getattr(node.target, "_opname", "")) for node in exported.graph.nodes)
    return {FORMS[name] for name in names if name in FORMS}


def _spread(node: Node, spec: Any, name: str) -> list[FreeDims]:
    """Walk a description and a specification of free sizes side by side."""
    ((kind, content),) = node.items()
    count = len(leaf_names(node, name))
    if spec is None or not count:
        return [{} for _ in range(count)]
    if kind == "tensor":
        dims = dict(spec) if isinstance(spec, Mapping) else dict(enumerate(spec))
        return [{dim: size for dim, size in dims.items() if size is not None}]
    if kind == "namedtuple":
        content = content["fields"]
    items = list(content.items()) if isinstance(content, Mapping) else list(enumerate(content))
    if not isinstance(spec, Mapping):
        spec = {key: part for (key, _), part in zip(items, spec, strict=False)}
    if unknown := [key for key in spec if key not in dict(items)]:
        raise WorkloadError(f"dynamic_shapes for {name!r} names {unknown[0]!r}, which the example input does not have")
    return [dims for key, item in items for dims in _spread(item, spec.get(key), f"{name}.{key}")]


def _input_shapes(
    exported: ExportedProgram, names: Sequence[str], free: Sequence[FreeDims], one_batch: bool
) -> list[tuple[int | str, ...]]:
    """Shapes of the inputs with names for the free sizes; two names are equal when the model needs the sizes to be."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    sizes: dict[str, str] = {}
    shapes: list[tuple[int | str, ...]] = []
    for key, name, dims in zip(exported.graph_signature.user_inputs, names, free, strict=True):
        shape: list[int | str] = []
        for dim, size in enumerate(values[str(key)].shape):
            constant = size if isinstance(size, int) else size.node.maybe_as_int()
            if constant is not None:
                shape.append(constant)
                continue
            given = getattr(dims.get(dim), "__name__", None)  # a Dim is a class; hints such as Dim.DYNAMIC have no name
            default = "batch" if one_batch and dim == 0 else f"{name}.{dim}"
            shape.append(sizes.setdefault(str(size), given or default))
        shapes.append(tuple(shape))
    return shapes


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "TORCH_LOGS" not in line]
    return " ".join(lines[:3])[:400] or type(error).__name__
