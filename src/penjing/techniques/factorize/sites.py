"""The layers of a graph that can be split, what their parts would cost, and what they see of the data."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from penjing.errors import WorkloadError
from penjing.structure import Captured
from penjing.structure.layers import Layer, is_read
from penjing.structure.rules import Shape, bind, is_shape, operator_name
from penjing.techniques.factorize.forms import Form, form_of
from penjing.techniques.lockstep import uses_of
from penjing.techniques.rows import draw_places, inputs_at, is_regression
from penjing.types import Budget, Kernels

_ROWS = 20_000  # of one layer, over all batches
_SPREAD = 1e-5  # of what float32 leaves of the squares of constant inputs


@dataclass(frozen=True)
class Site:
    """A layer that can be split.

    name: of its weight, without ".weight". weight: [outputs, inputs, *sizes]; of an embedding [words, dimensions].
    node: its call. source: what reads the weight. layer: the call as one, None for an embedding. inputs, outputs: the
    shapes of what it reads and gives.
    """

    name: str
    node: fx.Node
    source: fx.Node
    weight: Tensor
    layer: Layer | None
    form: Form
    inputs: Shape
    outputs: Shape

    @property
    def largest(self) -> int:
        """The largest rank of its weight."""
        return self.form.largest(self.weight.shape)

    def cost(self, of: Budget | str, rank: int | None = None) -> int:
        """Its parameters or MACs at a rank; None for the whole layer."""
        shapes = [tuple(self.weight.shape)] if rank is None else self.form.shapes(self.weight.shape, rank)
        if of == Budget.PARAMS:
            return sum(map(prod, shapes))
        if self.layer is None:  # looking a row up costs nothing
            return 0 if rank is None else prod(shapes[0]) * prod(self.outputs[:-1])
        n = self.weight.ndim - 2
        before, after = (shape[len(shape) - n :] for shape in (self.inputs, self.outputs))
        samples = prod(self.outputs) // self.weight.shape[0] // prod(after)
        places = [prod(after)] if rank is None else self.form.places(before, after, len(shapes))
        return samples * sum(prod(shape) * count for shape, count in zip(shapes, places, strict=True))


def find_sites(captured: Captured, kernels: Kernels) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    """Find the layers that can be split, and those that cannot since their weight is read, or named, elsewhere too."""
    tensors, uses = captured.tensors, uses_of(captured)
    names = Counter(map(id, tensors.values()))
    found = [site for node in captured.module.graph.nodes if (site := _site(node, captured, tensors, kernels))]

    def alone(site: Site) -> bool:
        key = id(tensors[str(site.source.target)])
        return uses[key] == names[key] == 1

    return tuple(filter(alone, found)), tuple(site for site in found if not alone(site))


def _site(node: fx.Node, captured: Captured, tensors: Mapping[str, Tensor], kernels: Kernels) -> Site | None:
    if node.op != "call_function":
        return None
    layer = Layer.of(node, tensors)
    call = bind(node) if operator_name(node.target) == "aten::embedding" else {}
    source, x = (layer.weight, layer.x) if layer else (call.get("weight"), call.get("indices"))
    if source is None or x is None or not is_read(source, tensors):
        return None
    tensor, inputs, outputs = tensors[str(source.target)], captured.shapes[x.name], captured.shapes[node.name]
    if not (tensor.is_floating_point() and is_shape(inputs) and is_shape(outputs)):
        return None
    if layer and not (
        is_regression(layer, tensor, torch.empty(outputs, device="meta"))
        and layer.settings.get("groups", 1) == 1
        and (layer.bias is None or tensors[str(layer.bias.target)].ndim == 1)
    ):
        return None
    weight = tensor.detach() if layer is None or layer.contracted == 1 else tensor.detach().T
    name = str(source.target)
    form = form_of(kernels, weight.shape)
    return Site(name.removesuffix(".weight"), node, source, weight, layer, form, inputs, outputs)


@dataclass(frozen=True)
class Seen:
    """What a layer reads of the data, its inputs x [inputs * sizes] at some places.

    mean: of x; zero where nothing takes an intercept. hessian: the sum of (x - mean) (x - mean)^T.
    """

    mean: Tensor
    hessian: Tensor


@torch.no_grad()
def see(
    captured: Captured, sites: Sequence[Site], takers: Collection[str], batches: Sequence[Sequence[Any]], seed: int
) -> dict[str, Seen]:
    """Run the model and look at what layers read, by their names; those that read the same everywhere are left out.

    takers: the nodes of which a bias can be changed. Raises WorkloadError where that is NaN or infinite.
    """
    layers = {site.node.name: (site, site.layer) for site in sites if site.layer}
    generator = torch.Generator().manual_seed(seed)
    count, total, gram = Counter[str](), dict[str, Tensor](), dict[str, Tensor]()

    class Run(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in layers:
                site, layer = layers[n.name]
                places = draw_places(layer, value, -(-_ROWS // len(batches)), generator)
                rows = inputs_at(layer, self.env[layer.x], self.env[layer.weight], places)
                rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
                count[site.name] += len(rows)
                total[site.name] = total.get(site.name, 0) + rows.sum(0)
                gram[site.name] = gram.get(site.name, 0) + rows.T @ rows
            return value

    for inputs in batches:
        Run(captured.module).run(*inputs, enable_io_processing=False)
    found = {}
    for site, _ in layers.values():
        mean = total[site.name] / count[site.name] * (site.node.name in takers)
        if not bool(gram[site.name].isfinite().all()):
            raise WorkloadError(
                f"Factorize: on the calibration data NaN or infinity passes {site.name}; look at these data, or leave "
                "it out with exclude="
            )
        hessian = gram[site.name] - count[site.name] * torch.outer(mean, mean)
        if hessian.trace() > _SPREAD * gram[site.name].trace():
            found[site.name] = Seen(mean, hessian)
    return found
