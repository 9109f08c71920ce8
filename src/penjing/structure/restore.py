"""A graph model as JSON beside its tensors, and back: data only, nothing in the file is ever executed as written.

    {"schema": 1, "format": "penjing-graph", "title": ..., "signature": ..., "parameters": {name: requires_grad},
     "tied": {name: name}, "nodes": [[name, op, target, args, kwargs], ...]}

A target is an operator of the torch registry, written `aten.conv2d.default`, or a function of the short list below.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from penjing.errors import ArtifactError
from penjing.storage import atomic_write, dump_json, load_json
from penjing.structure.graph_model import GraphModel, count_batch
from penjing.structure.in_place import cut_in_place
from penjing.structure.rules import RULES
from penjing.structure.signature import Signature
from penjing.structure.surgery import Surgery

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv")},
    **{
        f"operator.{name}": getattr(operator, name)
        for name in ("mod", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge")
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not")},
    "penjing.count_batch": count_batch,
}
_NAMES = {id(function): name for name, function in _FUNCTIONS.items()}
_FILES = ("aten::from_file",)  # the only operators that touch the disk
_OPS = ("placeholder", "get_attr", "call_function", "output")
_NAME, _PATH = re.compile(r"[A-Za-z_]\w*"), re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_CONSTANTS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def save_graph(model: nn.Module, path: str | Path) -> None:
    """Write the graph of a GraphModel; its tensors are its state_dict, which `penjing.storage.save_tensors` writes.

    Raises ArtifactError for a model that is no GraphModel, and for a graph with a part that cannot be written.
    """
    if not isinstance(model, GraphModel):
        raise ArtifactError(f"{type(model).__name__} is no graph; save it by its surgery and its state_dict")
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    data = {
        "schema": 1,
        "format": "penjing-graph",
        "title": model._title,
        "signature": _encode_signature(model._call_signature),
        "parameters": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "tied": tied,
        "nodes": [
            [node.name, node.op, _encode_target(node), _encode(node.args), _encode(node.kwargs)]
            for node in model.graph.nodes
        ],
    }
    atomic_write(Path(path), dump_json(data, what="the graph"))


def restore_graph(path: str | Path, tensors: Mapping[str, Tensor]) -> GraphModel:
    """Rebuild a graph model from what `save_graph` wrote and its state_dict.

    Raises ArtifactError for a file that is damaged or foreign, names an operator that is not registered here, or does
    not fit the tensors.
    """
    try:
        data = load_json(Path(path).read_text("utf-8"))
        if data["format"] != "penjing-graph" or data["schema"] != 1:
            raise ArtifactError(
                f"{path} is {data['format']!r} of schema {data['schema']!r}; this version reads schema 1"
            )
        graph = _decode_graph(data["nodes"])
        signature = _decode_signature(data["signature"])
        return GraphModel(graph, signature, _tensors(data, graph, tensors), str(data["title"])).eval()
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, NotImplementedError) as problem:
        raise ArtifactError(f"{path} is no graph that this version can read ({problem}); save it again") from problem


def restore(model: nn.Module, surgery: Surgery, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Cut a fresh instance of the original class in place and load the saved tensors into it.

    Raises ArtifactError when the tensors do not fit, ShapeError when the surgery does not.
    """
    model = cut_in_place(model, surgery)
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as problem:
        raise ArtifactError(f"the saved tensors do not fit {type(model).__name__}: {problem}") from problem
    return model


def _tensors(data: Mapping[str, Any], graph: fx.Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parameters, tied = data["parameters"], data["tied"]
    found: dict[str, Tensor] = {
        name: nn.Parameter(tensor, requires_grad=bool(parameters[name])) if name in parameters else tensor
        for name, tensor in tensors.items()
        if name not in tied
    }
    found |= {name: found[of] for name, of in tied.items()}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in found and not str(node.target).endswith("training"):
            raise ValueError(f"the tensor {node.target!r} is missing")
    for name in found:
        if not _PATH.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a tensor")
    return found


def _encode_target(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if id(node.target) not in _NAMES:
        raise ArtifactError(f"{node.name} calls {node.target}, which cannot be saved; cut the model in place instead")
    return _NAMES[id(node.target)]


def _decode_target(op: str, target: str) -> Any:
    if op != "call_function":
        if not _PATH.fullmatch(target):
            raise ValueError(f"{target!r} is no name")
        return target
    if target in _FUNCTIONS:
        return _FUNCTIONS[target]
    namespace, name, overload = target.split(".")
    found = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"{target!r} is no operator")
    if (namespace not in ("aten", "penjing") and found._schema.name not in RULES) or found._schema.name in _FILES:
        raise ValueError(f"{target!r} is not allowed in a graph; import the library that registers a rule for it")
    return found


def _encode(value: Any) -> Any:
    """Arguments as JSON: lists stay lists; everything that JSON lacks is an object with one key."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [_encode(item) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for kind, constant in _CONSTANTS.items():
        if isinstance(value, constant):
            return {kind: str(value).removeprefix("torch.")}
    return value


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {_name(key): _decode(item, nodes) for key, item in content}
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in content))
    if kind == "device":
        return torch.device(content)
    constant = getattr(torch, _name(content))
    if not isinstance(constant, _CONSTANTS[kind]):
        raise ValueError(f"{content!r} is no {kind}")
    return constant


def _decode_graph(rows: list[Any]) -> fx.Graph:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for name, op, target, args, kwargs in rows:
        if op not in _OPS:
            raise ValueError(f"{op!r} is no kind of node")
        arguments, keywords = _decode(args, nodes), _decode(kwargs, nodes)
        nodes[name] = graph.create_node(op, _decode_target(op, target), arguments, keywords, _name(name))
    return graph


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name")
    return value


def _encode_signature(signature: Signature) -> dict[str, Any]:
    try:
        trees = [pytree.treespec_dumps(tree) for tree in (signature.inputs, signature.outputs)]
    except NotImplementedError as problem:
        raise ArtifactError(f"the structure of the inputs or outputs cannot be saved: {problem}") from problem
    return {
        "names": list(signature.names),
        "inputs": trees[0],
        "outputs": trees[1],
        "constants": [_encode(constant) for constant in signature.constants],
    }


def _decode_signature(data: Mapping[str, Any]) -> Signature:
    inputs, outputs = (pytree.treespec_loads(data[key]) for key in ("inputs", "outputs"))
    return Signature(tuple(data["names"]), inputs, outputs, tuple(_decode(value, {}) for value in data["constants"]))
