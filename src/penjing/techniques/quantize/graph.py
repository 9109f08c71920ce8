"""Small tools on a captured graph: read and put tensors, and rewrite it into the few forms that the plan knows."""

import copy
from collections.abc import Callable
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx, nn

from penjing.structure.capture import fetch
from penjing.structure.rules import owner_of
from penjing.techniques.quantize import ops

aten = torch.ops.aten

GLOBAL_AVERAGE_POOL = torch.ops.penjing.global_average_pool.default
LINEAR = aten.linear.default
CONVOLUTIONS = frozenset(
    {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
    | {aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}
)
LAYERS = CONVOLUTIONS | {LINEAR}
RELUS = frozenset({aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default})


def tensor_of(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """Give the parameter or buffer that a get_attr node reads."""
    value = fetch(module, str(node.target))
    assert isinstance(value, Tensor)
    return value


def module_of(module: fx.GraphModule, weight: fx.Node, reader: fx.Node) -> str:
    """Name the module whose weight a node reads, "features.0" for "features.0.weight".

    A parameter of the model itself is named by its own name.
    The graph reads a weight that modules share under the name of one of them; of these, the one that calls is meant.
    """
    path, _, leaf = str(weight.target).rpartition(".")
    path = path.partition(".parametrizations.")[0]
    caller = owner_of(reader)
    if caller != path and getattr(_submodule(module, caller), leaf, None) is tensor_of(module, weight):
        return caller
    return path or leaf


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)  # type: ignore[assignment]
    return module


def layer_name(module: fx.GraphModule, layer: fx.Node) -> str:
    """Name the module that a convolution or linear belongs to: the owner of its weight, or of what that comes from."""
    weight: Any = layer.args[1]
    while weight.op != "get_attr" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    return module_of(module, weight, layer) if weight.op == "get_attr" else owner_of(layer) or "the model"


def weight_readers(module: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """Operators that read the parameters of each module, as they are or after a computation on constants alone."""
    sources: dict[fx.Node, list[fx.Node]] = {}  # what is constant -> the parameters that it comes from
    readers: dict[str, list[fx.Node]] = {}
    for node in module.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr":
            is_parameter = isinstance(fetch(module, str(node.target)), nn.Parameter)
            sources[node] = [node] if is_parameter else []
        elif node.op == "call_function" and node.target not in LAYERS and all(x in sources for x in inputs):
            sources[node] = [source for x in inputs for source in sources[x]]
        elif node.op == "call_function":
            weights = (source for x in inputs for source in sources.get(x, ()))
            for name in dict.fromkeys(module_of(module, weight, node) for weight in weights):
                readers.setdefault(name, []).append(node)
    return readers


def put(module: fx.GraphModule, path: str, value: Tensor) -> fx.Node:
    """Store a tensor under `path`, or the next free name after it, and read it in the graph at the current point.

    A tensor that trains becomes a parameter, any other a buffer.
    """
    parent_path, _, leaf = path.rpartition(".")
    parent: nn.Module = module
    for name in parent_path.split(".") if parent_path else ():
        if not hasattr(parent, name):
            parent.add_module(name, nn.Module())
        parent = getattr(parent, name)
    names = chain([leaf], (f"{leaf}_{i}" for i in count(1)))
    free = next(name for name in names if not hasattr(parent, name))
    if isinstance(value, nn.Parameter):
        parent.register_parameter(free, value)
    else:
        parent.register_buffer(free, value)
    node = module.graph.get_attr(f"{parent_path}.{free}" if parent_path else free)
    node.meta["val"] = value
    return node


def varying(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that depend on an input; all else is computed once, when the model is written."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or any(x in found for x in node.all_input_nodes):
            found[node] = None
    return list(found)


def shape_of(node: fx.Node) -> tuple[int | torch.SymInt, ...]:
    """Shape of a node's output at capture; free dimensions are symbols."""
    return tuple(node.meta["val"].shape)


def only_user(node: fx.Node) -> fx.Node | None:
    """Give the one node that reads this one, None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def output_channel(layer: fx.Node, ndim: int) -> int:
    """The dimension of a layer's output that its weight's first one runs along."""
    return ndim - 1 if layer.target is LINEAR else 1


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Give the same graph once more, over the same tensors."""
    return fx.GraphModule(module, copy.deepcopy(module.graph), class_name=module.__class__.__name__)


def without_unread(module: fx.GraphModule) -> fx.GraphModule:
    """Give a module of the same graph that holds only the tensors which the graph still reads."""
    module.graph.eliminate_dead_code()
    module.graph.lint()
    return fx.GraphModule(module, module.graph, class_name=module.__class__.__name__)


def rewrite(module: fx.GraphModule, constant: fx.Node, value: Tensor) -> None:
    """Read another tensor where a graph reads this one; its node keeps the name."""
    with module.graph.inserting_before(constant):
        new = put(module, str(constant.target), nn.Parameter(value, requires_grad=False))
    constant.replace_all_uses_with(new)
    module.graph.erase_node(constant)
    new.name = constant.name


def is_relu(node: fx.Node | None) -> bool:
    """Whether a node cuts off at zero from below, so that a range that starts at zero says the same."""
    if node is None or node.target not in RELUS:
        return False
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        default = -1.0 if node.target is aten.hardtanh.default else None
        low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", default)
        return isinstance(low, int | float) and low == 0
    return True


def functionalize(module: fx.GraphModule) -> None:
    """Replace in-place operators (relu_, add_) by their plain forms; what read the changed tensor reads the result."""
    nodes = list(module.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        plain = _plain_form(node.target)
        if plain is not None:
            node.target = plain
            changed = node.args[0]
            changed.replace_all_uses_with(node, lambda user, node=node: order[user] > order[node])
    module.recompile()


def _plain_form(target: Any) -> Callable[..., Any] | None:
    if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
        return None
    packet = getattr(torch.ops.aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    plain: Callable[..., Any] | None = getattr(packet, target._overloadname, None)
    return plain


def pool_globally(module: fx.GraphModule) -> None:
    """Name averages over all positions by one operator: adaptive_avg_pool to size 1, and mean over the spatial axes."""
    graph = module.graph
    for node in list(graph.nodes):
        if not _averages_everything(node):
            continue
        with graph.inserting_after(node):
            pooled = graph.call_function(GLOBAL_AVERAGE_POOL, (node.args[0],))
        pooled.meta = dict(node.meta)
        last = pooled
        if node.meta["val"].ndim == 2:
            pooled.meta["val"] = ops.global_average_pool(node.args[0].meta["val"])
            with graph.inserting_after(pooled):
                last = graph.call_function(aten.flatten.using_ints, (pooled, 1))
            last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    module.recompile()


def _averages_everything(node: fx.Node) -> bool:
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    value = node.args[0].meta.get("val")
    if not isinstance(value, Tensor) or value.ndim not in (3, 4, 5):
        return False
    if node.target in (
        aten.adaptive_avg_pool1d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_avg_pool3d.default,
    ):
        sizes = node.args[1]
        return all(size == 1 for size in (sizes if isinstance(sizes, list | tuple) else [sizes])) and value.ndim > 2
    if node.target is aten.mean.dim and value.ndim == 4 and isinstance(node.args[1], list | tuple):
        return sorted(int(d) % 4 for d in node.args[1]) == [2, 3]  # type: ignore[arg-type]
    return False


def as_linears(module: fx.GraphModule) -> None:
    """Write products with a stored matrix as linears: addmm(b, x, W) as linear(x, W^T, b), mm and matmul likewise."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.addmm.default, aten.mm.default, aten.matmul.default) or node.kwargs:
            continue
        bias, x, weight = (None, *node.args) if len(node.args) == 2 else node.args
        if not (isinstance(weight, fx.Node) and weight.op == "get_attr" and isinstance(x, fx.Node)):
            continue
        matrix = tensor_of(module, weight)
        bias_fits = bias is None or bias.meta["val"].shape == matrix.shape[1:]
        if matrix.ndim != 2 or not matrix.is_floating_point() or not bias_fits or x.meta["val"].ndim < 2:
            continue
        with torch.no_grad(), graph.inserting_before(node):
            transposed = put(module, str(weight.target), nn.Parameter(matrix.T.contiguous(), requires_grad=False))
        node.target, node.args = LINEAR, (x, transposed) if bias is None else (x, transposed, bias)
    graph.eliminate_dead_code()
    module.recompile()


def flatten_linears(module: fx.GraphModule, names: frozenset[str]) -> None:
    """Run linears on [..., in] as linears on [rows, in], which have an int8 kernel, and give a missing bias zeros.

    A rectifier that follows stays next to its linear, before the shape is restored.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.name not in names or node.target is not LINEAR:
            continue
        x, weight = node.args[:2]
        outputs, inputs = (int(n) for n in weight.meta["val"].shape)
        if len(node.args) < 3 or node.args[2] is None:
            with graph.inserting_before(node):
                node.args = (
                    x,
                    weight,
                    put(module, f"{weight.target.rpartition('.')[0]}.bias".lstrip("."), torch.zeros(outputs)),
                )
        if len(shape_of(x)) == 2:
            continue
        after = only_user(node)
        last = after if after is not None and is_relu(after) else node
        with graph.inserting_before(node):
            rows = graph.call_function(aten.reshape.default, (x, [-1, inputs]))
        rows.meta["val"] = x.meta["val"].reshape(-1, inputs)
        node.args = (rows, *node.args[1:])
        sizes = shape_of(x)[:-1]
        free = [i for i, n in enumerate(sizes) if not isinstance(n, int)]
        with graph.inserting_after(last):
            back = graph.call_function(aten.reshape.default, (last, []))
        with graph.inserting_before(back):
            dims: list[Any] = [
                n if isinstance(n, int) else -1 if len(free) == 1 else graph.call_function(aten.sym_size.int, (x, i))
                for i, n in enumerate(sizes)
            ]
        back.meta = dict(last.meta)
        last.replace_all_uses_with(back)
        back.args = (last, [*dims, outputs])  # set last, since the line above made it read itself
        for narrowed in {node, last}:
            narrowed.meta = {**narrowed.meta, "val": back.meta["val"].reshape(-1, outputs)}
    module.recompile()
