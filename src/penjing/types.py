"""Closed vocabularies and small values that several rooms speak.

Strings are accepted at the front door and turned into these at once by `choose`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from penjing.errors import PenjingError


class Direction(StrEnum):
    """Whether a larger metric is better."""

    HIGHER = "higher"
    LOWER = "lower"


class Scope(StrEnum):
    """Whether scores compete over the whole model or within each tensor or group."""

    GLOBAL = "global"
    LOCAL = "local"


class Spread(StrEnum):
    """How the share that goes is spread: over all tensors at once, alike over each or each row, or by their shapes.

    ERK is the Erdos-Renyi kernel rule; DEVIATION and THRESHOLD take what lies below a bound instead of a share.
    """

    GLOBAL = "global"
    LOCAL = "local"
    ROW = "row"
    ERK = "erk"
    DEVIATION = "deviation"
    THRESHOLD = "threshold"


class Solver(StrEnum):
    """How Sparsify finds what goes: by a score of weights, or by solving each layer on calibration data."""

    MAGNITUDE = "magnitude"
    AUTO = "auto"
    SPARSEGPT = "sparsegpt"
    OBS = "obs"
    ADMM = "admm"


class LowRank(StrEnum):
    """What a low-rank weight is nearest in: its own values, or the outputs on data; AUTO looks at data if there are."""

    AUTO = "auto"
    SVD = "svd"
    WHITENED = "whitened"


class Kernels(StrEnum):
    """How Factorize splits the kernel of a convolution: by its channels, its two sizes, or inputs and outputs."""

    CHANNEL = "channel"
    SPATIAL = "spatial"
    TUCKER = "tucker"


class Regrow(StrEnum):
    """By what weights come back while a model becomes sparse: their stored values, chance, or gradients."""

    SPLICE = "splice"
    SET = "set"
    RIGL = "rigl"


class Part(StrEnum):
    """What a sensitivity analysis takes away: single weights, channels, or whole blocks."""

    ELEMENT = "element"
    CHANNEL = "channel"
    BLOCK = "block"


class Measure(StrEnum):
    """What a sensitivity analysis looks at: the metric, the noise in the outputs, or how far class scores move."""

    METRIC = "metric"
    SQNR = "sqnr"
    KL = "kl"


class Unit(StrEnum):
    """What depth counts: all branches of a layer as one, or each residual branch by itself."""

    LAYER = "layer"
    BLOCK = "block"


class Budget(StrEnum):
    """What the ratio of a structural cut counts."""

    CHANNELS = "channels"
    MACS = "macs"
    PARAMS = "params"
    LATENCY = "latency"


class Reduce(StrEnum):
    """How the scores of the parts of a coupled group become one; "first" takes the layer that makes the units."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    FIRST = "first"


class Normalize(StrEnum):
    """What the scores of a group are divided by before groups compete.

    "gaussian" also moves their mean to 0; "cost" divides by what a unit of the group costs of the budget.
    """

    MEAN = "mean"
    MAX = "max"
    SUM = "sum"
    GAUSSIAN = "gaussian"
    COST = "cost"
    NONE = "none"


class Penalty(StrEnum):
    """What a training may add to its loss: norms of weights, of the gains of batch norms, or of whole units."""

    L1 = "l1"
    BATCH_NORM = "batch_norm"
    GROUP_LASSO = "group_lasso"
    GROUP_VARIANCE = "group_variance"
    GROWING = "growing"


class Granularity(StrEnum):
    """What has a scale of its own: a whole tensor, each index of its output axis, or each group of inputs."""

    TENSOR = "tensor"
    AXIS = "axis"
    GROUP = "group"


class Start(StrEnum):
    """Where k-means starts; EXACT is the optimum itself."""

    KMEANS_PLUS_PLUS = "kmeans++"
    DENSITY = "density"
    LINEAR = "linear"
    RANDOM = "random"
    EXACT = "exact"


class Importance(StrEnum):
    """What an error in a weight counts: all alike, the square of its gradient, or that of what it multiplies."""

    NONE = "none"
    FISHER = "fisher"
    INPUTS = "inputs"


class Pooling(StrEnum):
    """What a centroid takes of the gradients of its weights."""

    MEAN = "mean"
    SUM = "sum"


class Decision(StrEnum):
    """What a verdict says."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


class Status(StrEnum):
    """How much is known of a saved model."""

    UNJUDGED = "unjudged"
    SEARCH_ESTIMATE = "search-estimate"
    CERTIFIED = "certified"


class Split(StrEnum):
    """The part of the evaluation data that is looked at."""

    SEARCH = "search"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided interval; confidence is a probability, 0.95 for 95 %."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class LogRow:
    """One line of what a step did: which step, what happened, whether it fell back, and its proof if it has one."""

    step: str
    what: str
    fell_back: bool = False
    proof: str | None = None


Choice = TypeVar("Choice", bound=StrEnum)


def choose(vocabulary: type[Choice], value: str, what: str, error: type[PenjingError] = PenjingError) -> Choice:
    """Turn a string into a member of a closed vocabulary.

    Raises `error`, listing the known words, for any other.

    >>> choose(Scope, "local", "scope")
    <Scope.LOCAL: 'local'>
    """
    try:
        return vocabulary(value)
    except ValueError:
        known = ", ".join(repr(str(member)) for member in vocabulary)
        raise error(f"{what}={value!r} is unknown; use one of {known}") from None
