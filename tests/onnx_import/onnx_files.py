"""Small files of ONNX, written by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(path, nodes, inputs, outputs, weights=(), *, opset=17, domains=(), functions=(), **model):
    """Write a graph: inputs and outputs are name -> (type, shape), weights name -> array."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9, **model)
    onnx.save(made, path)
    return path


def floats(*shape):
    """The type of a float tensor."""
    return TensorProto.FLOAT, list(shape)
