"""A captured graph as a real module: it trains, moves, copies, saves and exports like the model that it came from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from penjing.structure.capture import Captured
from penjing.structure.rules import operator_name
from penjing.structure.signature import Signature

# Operators that behave differently in training, and the argument that says so.
_MODES = {
    "aten::batch_norm": "training",
    "aten::instance_norm": "use_input_stats",
    **dict.fromkeys(("aten::dropout", "aten::dropout_", "aten::native_dropout"), "train"),
    **dict.fromkeys(("aten::feature_dropout", "aten::feature_dropout_"), "train"),
    **dict.fromkeys(("aten::alpha_dropout", "aten::feature_alpha_dropout"), "train"),
    **dict.fromkeys(("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu"), "train"),
    "aten::rrelu": "training",
}


def count_batch(counter: Tensor, training: bool, momentum: float | None) -> float:
    """Count one more batch of a batch norm in training; give the weight of its statistics in the running ones.

    With momentum None the running statistics are the mean over all batches, so that the weight is 1 / count.
    """
    if training:
        counter.add_(1)
    if momentum is not None:
        return momentum
    return 1.0 / float(counter) if training else 0.0


def signature_of(model: "GraphModel") -> Signature:
    """How a call of a graph becomes its flat inputs; no attribute, for those have the names that the user gave."""
    return model._call_signature


class GraphModel(nn.Module):
    """A graph of ATen operators with the parameter names, call signature and output structure of its original.

    Each operator that depends on the mode reads the `training` flag of the module that owned it: a batch norm can be
    put into eval mode alone, as in the original. Constants that the original's state_dict leaves out are buffers here,
    so that the state_dict together with the graph is the whole model.

    >>> import torch
    >>> from penjing.structure import capture
    >>> graph_model = GraphModel.of(capture(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), torch.zeros(2, 3)))
    >>> list(graph_model.state_dict()), graph_model.train()(torch.zeros(5, 3)).shape
    (['0.weight', '0.bias'], torch.Size([5, 2]))
    """

    def __init__(self, graph: fx.Graph, signature: Signature, tensors: Mapping[str, Any], title: str) -> None:
        super().__init__()
        for path, value in tensors.items():
            _assign(self, path, value)
        for node in graph.nodes:
            if node.op == "get_attr":
                _container(self, str(node.target).rpartition(".")[0])
        self._graph = graph
        self._call_signature = signature
        self._title = title
        self._compile()

    @classmethod
    def of(cls, captured: Captured, modes: nn.Module | None = None) -> "GraphModel":
        """The module of a captured graph, sharing its tensors; it starts in the modes of `modes`, else in eval mode."""
        from penjing.structure.surgery import copy_graph

        graph = copy_graph(captured.module.graph)
        _read_modes(graph, captured)
        model = cls(graph, captured.signature, {**captured.subgraphs, **captured.tensors}, captured.name)
        model.eval()
        if modes is not None:
            originals = dict(modes.named_modules())
            for path, module in model.named_modules():
                module.training = originals[path].training if path in originals else modes.training
        return model

    def _compile(self) -> None:
        """Turn the graph into a Python function with the signature of the original's forward."""
        source = self._graph.python_code("self")
        namespace = dict(source.globals)
        exec(compile(source.src, f"<graph of {self._title}>", "exec"), namespace)
        self.__dict__["_run"] = namespace["forward"]

    @property
    def forward(self) -> Callable[..., Any]:  # type: ignore[override]
        """Run the graph; the arguments are those of the original's forward that were captured.

        It is bound when it is asked for, so that a replica of data-parallel training runs its own tensors.
        """
        run: Callable[..., Sequence[Any]] = self.__dict__["_run"]
        signature = self._call_signature

        def call(*args: Any, **kwargs: Any) -> Any:
            return signature.unflatten(run(self, *signature.flatten(args, kwargs)))

        call.__signature__ = signature.inspected()  # type: ignore[attr-defined]
        return call

    @property
    def graph(self) -> fx.Graph:
        """The graph that runs; to change it, make another GraphModel."""
        return self._graph

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()

    def extra_repr(self) -> str:
        calls = sum(node.op == "call_function" for node in self._graph.nodes)
        return f"graph of {self._title}: {calls} operators"


def _read_modes(graph: fx.Graph, captured: Captured) -> None:
    """Replace the flags of mode-dependent operators by the `training` flag of the module that owns them."""
    flags: dict[str, fx.Node] = {}
    first = next(iter(graph.nodes))

    def flag(owner: str) -> fx.Node:
        if owner not in flags:
            with graph.inserting_before(first):
                flags[owner] = graph.get_attr(f"{owner}.training" if owner else "training")
        return flags[owner]

    counters = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        argument = _MODES.get(operator_name(node.target)) if node.op == "call_function" else None
        if argument is None:
            continue
        names = [schema.name for schema in node.target._schema.arguments]
        place = names.index(argument)
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument)
        if value is True:
            continue  # it is so in every mode: statistics of the batch without running ones, Monte Carlo dropout
        owner = captured.node_module.get(node.name, "")
        _set(node, place, argument, flag(owner))
        counter = counters.get(f"{owner}.num_batches_tracked" if owner else "num_batches_tracked")
        if argument == "training" and counter is not None:
            momentum = None if owner in captured.cumulative_norms else node.args[names.index("momentum")]
            with graph.inserting_before(node):
                weight = graph.call_function(count_batch, (counter, flag(owner), momentum))
            _set(node, names.index("momentum"), "momentum", weight)


def _set(node: fx.Node, place: int, name: str, value: fx.Node) -> None:
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)


def _container(root: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path, made of empty modules where there is none."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _assign(root: nn.Module, path: str, value: Any) -> None:
    owner, _, name = path.rpartition(".")
    module = _container(root, owner)
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    elif isinstance(value, Tensor):
        module.register_buffer(name, value)
    else:
        module.add_module(name, value)
