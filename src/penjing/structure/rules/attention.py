"""Scaled dot product attention as one operator."""

import math
from collections.abc import Sequence

from torch import fx

from penjing.structure.atoms import Label
from penjing.structure.rules.registry import rule
from penjing.structure.rules.site import Labels, Ruling, Shape, Site


@rule(
    *("scaled_dot_product_attention", "_scaled_dot_product_attention_math"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu"),
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
)
def attention(site: Site) -> Ruling:
    """softmax(q k^T * scale + mask) v, shapes [..., heads, tokens, width]; the default scale is 1 / sqrt(width of q).

    The scale is written out before the width shrinks, for the smaller product is the same sum with fewer zeros.
    """
    query, key, value = (site[name] for name in ("query", "key", "value"))
    mask = site.arguments.get("attn_mask") or site.arguments.get("attn_bias")
    q, k, v = (site.labels(node) for node in (query, key, value))
    q_shape, k_shape = site.shape(query), site.shape(key)
    batch = _coupled(site, (q, k, v), q_shape, k_shape)
    if "flash" in site.operator:  # these kernels know one width
        site.equate(k[-1], v[-1])
    for label in (q[-2], k[-2]):
        site.freeze(label, "it is a position in a sequence")
    if mask is not None:
        scores: tuple[Label, ...] = (*batch, None, None)
        site.broadcast_labels([(site.labels(mask), site.shape(mask)), (scores, (*q_shape[:-1], k_shape[-2]))])
    rest = _statistics(site, tuple(batch))
    scale = 1 / math.sqrt(q_shape[-1]) if site["scale"] is None else site["scale"]
    return Ruling(((*batch, None, v[-1]), *rest), {"scale": scale}, site.contract(q[-1], query, key))


def _coupled(site: Site, labels: Sequence[Labels], q_shape: Shape, k_shape: Shape) -> list[Label]:
    """Equate widths, tokens and heads of query, key and value; returns the labels before the tokens."""
    q, k, v = labels
    site.equate(q[-1], k[-1])
    site.equate(k[-2], v[-2])
    batch = list(q[:-2])
    for axis in range(len(batch)):
        if q_shape[axis] == k_shape[axis]:
            batch[axis] = site.equate(site.equate(batch[axis], k[axis]), v[axis])
        else:  # grouped queries: each key serves q / k consecutive heads
            times = q_shape[axis] // k_shape[axis]
            served = site.equate(k[axis], v[axis])
            group, within = site.atoms.split(batch[axis], [k_shape[axis], times])
            group = site.equate(group, served)
            batch[axis] = site.atoms.merge([group, within], [k_shape[axis], times])
            site.freeze(within, "each key serves the same number of heads")
    return batch


def _statistics(site: Site, batch: Labels) -> list[Labels]:
    """The further outputs of the fused forms: sums or weights for each head and position, and states of generators."""
    fixed = site.fixed()[1:]
    return [(*batch, *labels[len(batch) :]) if len(labels) > len(batch) else labels for labels in fixed]


@rule("higher_order::flex_attention")
def flex_attention(site: Site) -> Ruling:
    """Attention whose scores pass a function of (score, batch, head, query, key), masked by one of the last four.

    Heads may go where neither function reads their number; the scale is an argument of its own.
    """
    query, key, value, score, mask = (site[str(i)] for i in range(5))
    q, k, v = (site.labels(node) for node in (query, key, value))
    batch = _coupled(site, (q, k, v), site.shape(query), site.shape(key))
    blocks = [node for node in mask if isinstance(node, fx.Node) and site.is_tensor(node)]
    others = [node for i in ("7", "8") for node in site[i] if isinstance(node, fx.Node)]
    by_head = _reads(score, 2) or _reads(mask[-1], 1) or any(site.shape(node)[1] > 1 for node in blocks)
    for label in (q[-2], k[-2], *batch[:1], *(batch[1:] if by_head or others else ())):
        site.freeze(label, "its number enters the scores")
    for node in (*blocks, *others):
        for label in site.labels(node) if site.is_tensor(node) else ():
            site.freeze(label, "it enters the scores")
    heads: tuple[Label, ...] = (None, None if by_head or others else batch[1])
    statistics = (*heads, None)
    outputs = ((*heads, None, v[-1]), *(statistics,) * (len(site.output_shapes) - 1))
    return Ruling(outputs, inexact=site.contract(q[-1], query, key))


def _reads(body: fx.Node, place: int) -> bool:
    """Whether a function of the model's code, a graph of its own, reads one of its arguments."""
    root = body.graph.owning_module
    assert root is not None
    function = root.get_submodule(str(body.target))
    assert isinstance(function, fx.GraphModule)
    return bool([node for node in function.graph.nodes if node.op == "placeholder"][place].users)
