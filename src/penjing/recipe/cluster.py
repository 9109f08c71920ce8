"""The step that lets weights share values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from penjing.errors import RecipeError
from penjing.recipe.step import Step, check_at_least
from penjing.types import Granularity, Importance, Pooling, Start, choose


@dataclass(frozen=True)
class Cluster(Step):
    """Let weights share a few values: k-means puts each tensor on a palette of 2^bits centroids.

    Han et al. 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
    Coding" (arXiv:1510.00149).

    bits: 1 to 8 for every convolution and linear weight. A mapping of patterns to bits, {"fc*": 2, "*": 4}, means all
    parameters of two dimensions and more, embeddings and recurrent ones included: the first match wins, and what no
    pattern matches stays as it is.

    granularity: what has a palette of its own: the whole "tensor", each index of its first "axis" (the outputs of a
    layer, the inputs of a transposed convolution), or each "group" of `group_size` weights of such a row.

    start: where k-means starts: "kmeans++", "density" (quantiles), "linear", "random", or "exact", the optimum itself.
    importance: what an error in a weight counts: "none" for all alike, "fisher" (the mean square of its gradient, on
    training data) or "inputs" (the mean square of what it multiplies, on calibration data).

    preserve_sparsity: where a tensor has zeros, they keep a centroid of their own that stays zero. What masks of a
    Sparsify step have closed stays zero in any case.

    gradient: in the training that follows, centroids move and the assignment stays: each takes the "mean" or the "sum"
    of its weights' gradients. The sum is its true derivative, and wants a far smaller learning rate.

    >>> Cluster(3, start="linear").explain()
    'cluster(bits=3, start=linear)'
    """

    key: ClassVar[str] = "cluster"

    bits: int | Mapping[str, int] = 4
    granularity: Granularity | str = Granularity.TENSOR
    group_size: int = 64
    start: Start | str = Start.KMEANS_PLUS_PLUS
    importance: Importance | str = Importance.NONE
    preserve_sparsity: bool = True
    gradient: Pooling | str = Pooling.MEAN

    def __post_init__(self) -> None:
        for name, vocabulary in (
            ("granularity", Granularity),
            ("start", Start),
            ("importance", Importance),
            ("gradient", Pooling),
        ):
            object.__setattr__(self, name, choose(vocabulary, getattr(self, name), f"Cluster: {name}", RecipeError))
        check_at_least("Cluster", "group_size", self.group_size, 2)
        if isinstance(self.bits, Mapping):
            object.__setattr__(self, "bits", dict(self.bits))
        for pattern, bits in self.bits.items() if isinstance(self.bits, Mapping) else [("", self.bits)]:
            if type(bits) is not int or not 1 <= bits <= 8:
                name = f"bits[{pattern!r}]" if pattern else "bits"
                raise RecipeError(f"Cluster: {name}={bits!r} must be a whole number from 1 to 8; 4 gives 16 centroids")
