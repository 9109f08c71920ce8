"""The steps of a recipe: frozen dataclasses that say what is wanted and know nothing of how.

A field is a plain value, so that a step can be written to YAML and read back. Each class names its YAML key in `key`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from penjing.errors import RecipeError
from penjing.recipe.cluster import Cluster
from penjing.recipe.factorize import Factorize
from penjing.recipe.schemes import FLOAT, Scheme, scheme_of
from penjing.recipe.step import Step, check_at_least, check_fraction
from penjing.recipe.training_steps import Distill, Finetune
from penjing.types import Budget, Normalize, Reduce, Regrow, Scope, Solver, Spread, Unit, choose


@dataclass(frozen=True)
class PruneChannels(Step):
    """Remove whole channels, neurons or heads, so that the model becomes smaller and dense.

    ratio: share of `of` that goes, in [0, 1); the cut is the gentlest that leaves at most 1 - ratio. A mapping of
    patterns to ratios, {"layer1*": 0.2, "*": 0.4}, gives each pattern's groups a budget of their own: patterns match
    names of groups (`pj.couple` lists them) or of their parameters, the first match wins, and a group that no pattern
    matches stays whole.

    of: "channels" counts the outputs of the layers that produce the units, so that a head counts its width; "params"
    and "macs" those of the whole model, or under a mapping those of the layers that the pattern touches; "latency" what
    the target predicts, which may fall in steps and rise between them.

    score: what makes a unit matter; the lowest go. From weights: "l1", "l2", "lp" (of order `p`), "batch_norm", "lamp",
    "geometric_median". From the loss on training data: "taylor", "taylor_activation", "fisher". From calibration data
    without labels: "activation", "apoz", "reconstruction". And "random". "auto" is "reconstruction" where there are
    data to compensate on, else "l2". Formulas and sources: `penjing.techniques.prune.scores`; more may be added by
    `pj.extend.register_score`.

    reduce: how the parts of a coupled group, its weights or its readers, become one score: "sum", "mean", "max", or
    "first", the layer that makes the units. normalize: what the scores of a group are divided by before groups compete:
    their "mean", "max" or "sum"; "gaussian" moves their mean to 0 and their deviation to 1; "cost" divides by what a
    unit of the group costs of the budget; "none" compares as it is. "auto" is what suits the score.

    scope: "global" lets groups compete, "local" takes the same share of each. groups, exclude: patterns of the groups
    that may and may not be cut. min_width: channels that stay in each group at least. round_to: the number of which
    widths are multiples; "auto" takes what fills the target's kernel blocks, 8 without a target; None rounds nothing.
    allow_inexact: also cut what passes a norm or softmax over the channels, which changes the function beyond masking.
    eager_safe: keep the user's own class whatever it costs: heads go whole, parts of a chunk lose the same, and what
    the class cannot lose stays, with the reason.

    compensate: refit the layers behind the cut by least squares on calibration data, which need no labels. iterations:
    cut in that many shares, scored and refitted anew after each.

    >>> PruneChannels({"blocks.0*": 0.25, "*": 0.5}, of="macs", score="taylor").explain()
    "prune_channels(ratio={'blocks.0*': 0.25, '*': 0.5}, of=macs, score=taylor)"
    """

    key: ClassVar[str] = "prune_channels"

    ratio: float | Mapping[str, float] = 0.5
    of: Budget | str = Budget.CHANNELS
    score: str = "l2"
    scope: Scope | str = Scope.GLOBAL
    groups: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    min_width: int = 1
    round_to: int | str | None = "auto"
    allow_inexact: bool = False
    eager_safe: bool = False
    compensate: bool = True
    iterations: int = 1
    normalize: Normalize | str = "auto"
    reduce: Reduce | str = Reduce.SUM
    p: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ratio, Mapping):
            if not self.ratio:
                raise RecipeError("PruneChannels: ratio={} names no groups; write for instance {'*': 0.5}")
            object.__setattr__(self, "ratio", dict(self.ratio))
        for pattern, ratio in self.ratios:
            check_fraction(
                "PruneChannels", f"ratio[{pattern!r}]" if isinstance(self.ratio, Mapping) else "ratio", ratio
            )
        check_at_least("PruneChannels", "min_width", self.min_width, 1)
        check_at_least("PruneChannels", "iterations", self.iterations, 1)
        object.__setattr__(self, "of", choose(Budget, self.of, "PruneChannels: of", RecipeError))
        object.__setattr__(self, "scope", choose(Scope, self.scope, "PruneChannels: scope", RecipeError))
        object.__setattr__(self, "reduce", choose(Reduce, self.reduce, "PruneChannels: reduce", RecipeError))
        if self.normalize != "auto":
            what = "PruneChannels: normalize"
            object.__setattr__(self, "normalize", choose(Normalize, self.normalize, what, RecipeError))
        if (self.score == "lp") != (self.p is not None):
            raise RecipeError(
                f"PruneChannels: score={self.score!r}, p={self.p!r}: score='lp' and its order p go together"
            )
        if self.p is not None and not 0 < self.p < float("inf"):
            raise RecipeError(f"PruneChannels: p={self.p!r} must be positive and finite; l1 is p=1, l2 is p=2")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(self.groups))
        if isinstance(self.round_to, str) and self.round_to != "auto":
            raise RecipeError(f"PruneChannels: round_to={self.round_to!r}; use 'auto', None or a number")
        if isinstance(self.round_to, int):
            check_at_least("PruneChannels", "round_to", self.round_to, 1)

    @property
    def ratios(self) -> tuple[tuple[str, float], ...]:
        """The ratio of each pattern of groups, in order; one ratio is that of all groups together.

        >>> PruneChannels({"layer1*": 0.2, "*": 0.4}).ratios, PruneChannels(0.3).ratios
        ((('layer1*', 0.2), ('*', 0.4)), (('*', 0.3),))
        """
        return tuple(self.ratio.items()) if isinstance(self.ratio, Mapping) else (("*", self.ratio),)


@dataclass(frozen=True)
class Lossless(Step):
    """Remove the channels, neurons and heads that contribute nothing; the model computes what it computed before.

    Such are units whose weights are zero (after Sparsify, or torch.nn.utils.prune) and units that nothing reads; what a
    unit of zero weights gives by its bias moves into the layers behind it. inactive: remove, too, what is zero on all
    calibration data where the workload has some; then the model is the same on these data, not on all. min_width,
    round_to: the least width of a group, and the number of which widths are multiples.

    >>> Lossless(round_to=8).explain()
    'lossless(round_to=8)'
    """

    key: ClassVar[str] = "lossless"

    inactive: bool = True
    min_width: int = 1
    round_to: int | None = None

    def __post_init__(self) -> None:
        check_at_least("Lossless", "min_width", self.min_width, 1)
        if self.round_to is not None:
            check_at_least("Lossless", "round_to", self.round_to, 1)


@dataclass(frozen=True)
class DropBlocks(Step):
    """Leave whole residual blocks out, so that the model becomes shallower: y = x + f(x) becomes y = x.

    count: how many blocks, or a share of those there are, in [0, 1). unit: what counts as one: "layer" takes all
    branches of a transformer layer together, "block" each residual branch by itself. score: what a block must have
    little of; "divergence" measures how far the outputs move without it, on calibration data. blocks, exclude: names or
    patterns such as "layers.1*" that the choice is limited to, or spares.

    >>> DropBlocks(2, exclude=("layers.0",)).explain()
    "drop_blocks(count=2, exclude=['layers.0'])"
    """

    key: ClassVar[str] = "drop_blocks"

    count: int | float = 1
    score: str = "divergence"
    unit: Unit | str = Unit.LAYER
    blocks: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int | float):
            raise RecipeError(f"DropBlocks: count={self.count!r} must be a whole number of blocks or a share in [0, 1)")
        if isinstance(self.count, float):
            check_fraction("DropBlocks", "count", self.count)
        else:
            check_at_least("DropBlocks", "count", self.count, 0)
        object.__setattr__(self, "unit", choose(Unit, self.unit, "DropBlocks: unit", RecipeError))
        for name in ("blocks", "exclude"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True)
class Sparsify(Step):
    """Set weights to zero and keep them there; shapes stay.

    amount: share of the weights in [0, 1), or a whole number of them, as in torch.nn.utils.prune, or either by pattern
    of names; by default a half, or what an N:M pattern says. pattern: "unstructured", N:M such as "2:4", blocks such as
    "4x1", "kernels", "filters" (or "rows"), "channels", "columns". score: "l1", "l2", "lamp", "random"; "snip",
    "grasp" and "fisher" look at gradients, "wanda" at inputs. scope: over all tensors at once ("global"), the same
    share of each ("local") or of each output ("row"), by shapes ("erk"); or what lies below `amount` deviations of the
    weights ("deviation") or below `amount` itself ("threshold"). `parameters` takes the same list as torch,
    [(module, "weight"), ...], or parameter names; None means every convolution and linear weight.

    schedule: "constant", "linear", "cubic", "exponential", "multi_step" or "cyclic" lets the zeros grow in the Finetune
    step that comes next, from the share `begin` to the share `end` of its steps, every `frequency` steps (a hundredth
    of them by default); "movement" is a score for that.

    method: "magnitude" removes by score and leaves the other weights as they are. The others solve each layer on
    calibration data, min ||X W - X W'||^2 subject to ||W'||_0 <= k, in the order in which the layers run, and refit
    what stays; no training and no label is needed: "obs" (exact and greedy), "admm", "sparsegpt", and "auto", the best
    that the size of a layer allows. Patterns are then "unstructured", N:M or blocks; scope="global" shares what goes
    such that the errors of the layers' outputs are least. Formulas and sources:
    `penjing.techniques.sparsify.solve`.

    regrow: what a schedule has closed may come back, while as much lives as it says: "splice" lets masked weights train
    on and opens them above a second threshold; "set" and "rigl" drop at each update the `regrow_share` of live weights
    that is lowest, and open as many by chance, or where gradients are largest. Formulas:
    `penjing.techniques.sparsify.regrow`.

    cut: when a schedule has emptied whole units, they are cut out of the model, and the training goes on with the
    smaller one; for "filters", "rows" and "channels".

    >>> Sparsify(0.2).explain()
    'sparsify(amount=0.2)'
    """

    key: ClassVar[str] = "sparsify"

    amount: float | int | Mapping[str, float | int] | None = None
    pattern: str = "unstructured"
    score: str = "l1"
    scope: Spread | str = Spread.GLOBAL
    parameters: Iterable[str | tuple[nn.Module, str]] | None = field(default=None)
    schedule: str | None = None
    begin: float = 0.0
    end: float = 0.6
    frequency: int | None = None
    method: Solver | str = Solver.MAGNITUDE
    regrow: Regrow | str | None = None
    regrow_share: float = 0.3
    cut: bool = False

    def __post_init__(self) -> None:
        if self.regrow is not None:
            object.__setattr__(self, "regrow", choose(Regrow, self.regrow, "Sparsify: regrow", RecipeError))
            if self.schedule is None:
                raise RecipeError(
                    f"Sparsify: regrow='{self.regrow}' opens masks while a model trains; give schedule=, such as "
                    "'constant' for the same sparsity all the time"
                )
        if self.cut and (self.schedule is None or self.pattern not in ("filters", "rows", "channels")):
            raise RecipeError(
                f"Sparsify: cut=True, pattern={self.pattern!r}, schedule={self.schedule!r}: what a schedule empties of "
                "'filters', 'rows' or 'channels' can be cut out in training; else leave cut out, and see Lossless()"
            )
        check_fraction("Sparsify", "regrow_share", self.regrow_share)
        if not 0 <= self.begin < self.end <= 1:
            raise RecipeError(
                f"Sparsify: begin={self.begin!r} and end={self.end!r} must be shares of the training, with "
                "0 <= begin < end <= 1"
            )
        if self.frequency is not None:
            check_at_least("Sparsify", "frequency", self.frequency, 1)
        object.__setattr__(self, "scope", choose(Spread, self.scope, "Sparsify: scope", RecipeError))
        object.__setattr__(self, "method", choose(Solver, self.method, "Sparsify: method", RecipeError))
        bound = self.scope in (Spread.DEVIATION, Spread.THRESHOLD)
        if bound and not isinstance(self.amount, float | Mapping):
            raise RecipeError(f"Sparsify: scope='{self.scope}' needs amount= a bound, not {self.amount!r}")
        amounts = self.amount.items() if isinstance(self.amount, Mapping) else [("", self.amount)]
        for pattern, amount in amounts:
            self._check(f"amount[{pattern!r}]" if pattern else "amount", amount, bound)
        if self.parameters is not None:
            object.__setattr__(self, "parameters", tuple(self.parameters))

    def _check(self, name: str, amount: float | int | None, bound: bool) -> None:
        if amount is None and name == "amount":
            return
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise RecipeError(f"Sparsify: {name}={amount!r} must be a share in [0, 1) or a whole number of weights")
        if isinstance(amount, int) or bound:
            check_at_least("Sparsify", name, amount, 0)
        else:
            check_fraction("Sparsify", name, amount)
        if isinstance(amount, int) and self.scope is Spread.ERK:
            raise RecipeError(f"Sparsify: {name}={amount!r}: scope='erk' spreads a share in [0, 1), not a number")


@dataclass(frozen=True)
class Rewind(Step):
    """Set the weights back to what they once were; zeros and cuts stay: the tickets of the lottery.

    Train, prune and rewind in turn is iterative magnitude pruning (Frankle and Carbin 2019, "The Lottery Ticket
    Hypothesis", arXiv:1803.03635); larger networks rewind to an early step of their training instead of its beginning
    (Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", arXiv:1912.05671).

    weights: a safetensors file with the state_dict of the model before any cut; None takes the model as it was given,
    which is then the untrained one, or that of an early step. Its training learns from labels: Finetune(distill=False).

    >>> Rewind().explain(), Rewind("early.safetensors").explain()
    ('rewind()', 'rewind(weights=early.safetensors)')
    """

    key: ClassVar[str] = "rewind"

    weights: str | Path | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", str(self.weights))


@dataclass(frozen=True)
class Quantize(Step):
    """Store and compute in fewer bits.

    scheme: the number format of all layers, a name of `penjing.recipe.SCHEMES` or a `Scheme` of your own. "int8" is
    static: weights int8 per output channel, activations uint8 per tensor with ranges observed on calibration data.
    "int8-dynamic" finds the ranges at each call (linears and LSTMs; the rest stores its weights alone). "w4a8" has
    weights of four bits in int8 arithmetic. "w8", "w4", "w4-g32", "w4-g64", "w4-g128", "fp16", "bf16" and "fp8" store
    weights alone, per output channel or per group of so many inputs, and compute in float.

    products: whether products of two activations, such as the two of attention, run in int8 as well; they have no name
    that an override could say. For static schemes alone.

    overrides: names or patterns of modules -> the name of another scheme, or "float"; the first that matches holds.

    method: how ranges and roundings are found, one name or several, each for its stage: balance weights against
    activations ("equalize", "smooth", "awq"), observe activations ("minmax", "average", "percentile", "mse", "fisher",
    "entropy", "deviations", "laplace", "gauss", "lapq"), round weights ("nearest", "gptq", "adaround", "blocks"),
    correct biases ("bias"). "auto" tries what helps, and keeps and logs each stage that brings the outputs nearer to
    the float model's on inputs that it was not fitted to. Formulas and sources: `penjing.techniques.quantize`.

    >>> Quantize("w4", method=("mse", "gptq"), overrides={"head*": "float"}).explain()
    "quantize(scheme=w4, method=['mse', 'gptq'], overrides={'head*': 'float'})"
    """

    key: ClassVar[str] = "quantize"

    scheme: Scheme | str = "int8"
    method: str | tuple[str, ...] = "auto"
    overrides: dict[str, Scheme | str] = field(default_factory=dict)
    products: bool = False

    def __post_init__(self) -> None:
        if self.products and not scheme_of(self.scheme, "Quantize: scheme").is_static:
            raise RecipeError(
                f"Quantize: products=True needs ranges from calibration, which scheme={self.scheme!r} has none of; use "
                "'int8', or leave products out"
            )
        scheme_of(self.scheme, "Quantize: scheme")
        for pattern, value in self.overrides.items():
            if value != FLOAT:
                scheme_of(value, f"Quantize: overrides[{pattern!r}]")
        if not isinstance(self.method, str):
            object.__setattr__(self, "method", tuple(self.method))
            if not self.method:
                raise RecipeError(
                    "Quantize: method=() names nothing; use 'auto', or 'minmax' to do no more than observe"
                )

    def settings(self) -> dict[str, Any]:
        """Give the fields that differ from their default, as plain values."""
        found = super().settings()
        if "scheme" in found:
            found["scheme"] = _plain_scheme(self.scheme)
        if "overrides" in found:
            found["overrides"] = {pattern: _plain_scheme(value) for pattern, value in self.overrides.items()}
        return found


def _plain_scheme(value: Scheme | str) -> Any:
    """A scheme as a name or as plain values."""
    if not isinstance(value, Scheme):
        return value
    data = asdict(value)
    for name in ("weight", "activation"):
        if data[name] is not None:
            data[name]["granularity"] = str(data[name]["granularity"])
    return data


STEPS: dict[str, type[Step]] = {
    step.key: step
    for step in (PruneChannels, DropBlocks, Factorize, Lossless, Sparsify, Rewind, Cluster, Quantize, Finetune, Distill)
}
