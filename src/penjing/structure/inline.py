"""Bodies of higher-order operators that change nothing here are put in their place, so that the analysis sees them."""

from torch import fx
from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled


def inline_wrappers(module: fx.GraphModule) -> None:
    """Replace `autocast(enabled=False)` and gradient modes by their bodies, in place and at any depth.

    An autocast that is enabled changes what is computed, and stays.
    """
    for node in list(module.graph.nodes):
        body = _body(module, node)
        if body is not None:
            inline_wrappers(body)
            _inline(module, node, body)


def _body(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    if node.op != "call_function":
        return None
    off = node.target is wrap_with_autocast and node.args[2] is False
    if not off and node.target is not wrap_with_set_grad_enabled:
        return None
    reference = next(argument for argument in node.args if isinstance(argument, fx.Node))
    body = module.get_submodule(str(reference.target))
    return body if isinstance(body, fx.GraphModule) else None


def _inline(module: fx.GraphModule, call: fx.Node, body: fx.GraphModule) -> None:
    graph = module.graph
    sources = [argument for argument in call.args if isinstance(argument, fx.Node)]
    path, inputs = str(sources[0].target), iter(call.args[call.args.index(sources[0]) + 1 :])
    placed: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                placed[node] = next(inputs)  # type: ignore[assignment]
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], placed.__getitem__)
            else:
                placed[node] = graph.node_copy(node, placed.__getitem__)
                if node.op == "get_attr":
                    placed[node].target = f"{path}.{node.target}"
    for user in list(call.users):
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(call)
    if not sources[0].users:
        graph.erase_node(sources[0])
