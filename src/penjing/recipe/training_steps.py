"""The steps that train: what every training may be told, and what it learns from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from penjing.errors import RecipeError
from penjing.recipe.regularize import Regularize
from penjing.recipe.step import Step, check_at_least, check_fraction, check_one_of

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("auto", "fp32", "bf16")
SCHEDULES = ("cosine", "linear", "constant", "multi_step")
ROUNDINGS = ("lsq", "lsq+", "pact", "dorefa", "wrpn", "ema")
LOSSES = ("task", "logits", "features", "attention", "attention_matrices", "distances", "angles", "similarity")


@dataclass(frozen=True)
class Training(Step):
    """Base of the steps that train: how long, how fast, when it stops and which weights are kept.

    epochs: passes over the training data (a fraction is allowed). lr: peak learning rate; None takes 0.01 for SGD and
    1e-3 for the adaptive ones. A mapping of patterns of parameter names, {"layer4*": 0.01, "*": 0.001}, gives each its
    own: the first match wins, what no pattern matches takes the default, and 0 freezes. layer_decay: factor by which
    each layer learns more slowly than the one behind it (Howard and Ruder 2018, arXiv:1801.06146), 1 for none.
    schedule: "cosine", "linear", "constant" or "multi_step" (a tenth after each of `milestones`, shares of what follows
    the warm-up), after a linear rise over the share `warmup`. patience: epochs without a better search metric before it
    stops. ema: decay of a moving average of the weights, such as 0.999, which is evaluated beside them, the better one
    being kept; None for none. reestimate_norms: at the end, take the running statistics of batch norms anew from
    training data, unless the search metric falls. precision "auto" uses bfloat16 autocast where it is measured to be
    faster.

    After a Quantize step the quantised model trains (QAT): weights behind rounding that passes gradients, and what is
    stored follows. rounding: "lsq" learns all scales, "lsq+" zero points too, "pact" learns where activations are
    clipped and squashes weights, "dorefa" squashes them with the scales as they are, "wrpn" leaves all scales as they
    are, "ema" has those of activations follow moving averages. Formulas: `penjing.techniques.quantize.fake`.

    regularize: penalties that are added to the loss, one or several. drop_filters: share of the filters of each
    convolution that is left out at random in each step.
    """

    epochs: float = 1.0
    lr: float | Mapping[str, float] | None = None
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    milestones: tuple[float, ...] = (0.5, 0.75)
    layer_decay: float = 1.0
    ema: float | None = None
    reestimate_norms: bool = False
    patience: int | None = None
    clip_norm: float | None = None
    precision: str = "auto"
    temperature: float = 4.0
    rounding: str = "lsq"
    regularize: Regularize | tuple[Regularize, ...] = ()
    drop_filters: float = 0.0

    def __post_init__(self) -> None:
        me = type(self).__name__
        if not isinstance(self.regularize, Regularize):
            object.__setattr__(self, "regularize", tuple(self.regularize))
        check_at_least(me, "epochs", self.epochs, 0)
        check_fraction(me, "drop_filters", self.drop_filters)
        if isinstance(self.lr, Mapping):
            object.__setattr__(self, "lr", dict(self.lr))
            if not self.lr:
                raise RecipeError(f"{me}: lr={{}} names no parameters; write for instance {{'*': 0.01}}")
            for pattern, lr in self.lr.items():
                check_at_least(me, f"lr[{pattern!r}]", lr, 0)
        elif self.lr is not None and self.lr <= 0:
            raise RecipeError(f"{me}: lr={self.lr!r} must be positive")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if any(not 0 < share < 1 for share in self.milestones):
            raise RecipeError(f"{me}: milestones={self.milestones!r} must be shares of the training, in (0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise RecipeError(f"{me}: layer_decay={self.layer_decay!r} must lie in (0, 1]; 1 is none")
        if self.ema is not None and not 0 < self.ema < 1:
            raise RecipeError(f"{me}: ema={self.ema!r} must lie in (0, 1), such as 0.999; None is none")
        if self.temperature <= 0:
            raise RecipeError(f"{me}: temperature={self.temperature!r} must be positive")
        check_one_of(me, "optimizer", self.optimizer, OPTIMIZERS)
        check_one_of(me, "schedule", self.schedule, SCHEDULES)
        check_one_of(me, "precision", self.precision, PRECISIONS)
        check_one_of(me, "rounding", self.rounding, ROUNDINGS)

    @property
    def penalties(self) -> tuple[Regularize, ...]:
        """What `regularize` names, one or several."""
        return (self.regularize,) if isinstance(self.regularize, Regularize) else self.regularize

    @property
    def terms(self) -> dict[str, float]:
        """What is minimised, with the weight of each term; "task" is the owner's loss."""
        return {"task": 1.0}

    @property
    def needs_original(self) -> bool:
        """Whether the original teaches."""
        return False


@dataclass(frozen=True)
class Finetune(Training):
    """Train on, so that what was lost comes back.

    distill: learn from the original model's outputs (Hinton et al. 2015, arXiv:1503.02531) at `temperature`, mixed with
    the workload's loss by `distill_weight`. What else may be set is told by `Training`.

    >>> Finetune(5, lr={"fc*": 0.01, "*": 0.001}, ema=0.99).explain()
    "finetune(epochs=5, lr={'fc*': 0.01, '*': 0.001}, ema=0.99)"
    """

    key: ClassVar[str] = "finetune"

    distill: bool = True
    distill_weight: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.distill_weight <= 1:
            raise RecipeError(f"Finetune: distill_weight={self.distill_weight!r} must lie in [0, 1]")

    @property
    def terms(self) -> dict[str, float]:
        """The owner's loss and, where it distils, the distance from the original's outputs."""
        return {"task": 1 - self.distill_weight, "logits": self.distill_weight} if self.distill else {"task": 1.0}

    @property
    def needs_original(self) -> bool:
        """Whether the original teaches."""
        return self.distill


@dataclass(frozen=True)
class Distill(Training):
    """Train on, and learn from a teacher, of which more may be seen than its outputs.

    teacher: any module that is called like the model; None is the original. A name, as a saved recipe holds it, says
    who taught and cannot be applied. losses: the weight of each of "task", the workload's loss, left out where there is
    none; "logits", the outputs at `temperature` (Hinton et al. 2015, arXiv:1503.02531); and of layers "features"
    (arXiv:1412.6550), "attention" (arXiv:1612.03928), "attention_matrices" (arXiv:1909.10351), "distances" and "angles"
    (arXiv:1904.05068), and "similarity" (arXiv:1907.09682); formulas in `penjing.training.knowledge`. Where features
    differ in their channels, a projection is learned, and dropped at the end.

    layers: names of the student's modules -> those of the teacher; a * stands for the same in both. None pairs the ends
    of blocks that have one name in both. What else may be set is told by `Training`.

    >>> Distill(5, losses={"logits": 1.0, "features": 0.1}).explain()
    "distill(epochs=5, losses={'logits': 1.0, 'features': 0.1})"
    """

    key: ClassVar[str] = "distill"
    __pydantic_config__: ClassVar[dict[str, bool]] = {"arbitrary_types_allowed": True}

    teacher: nn.Module | str | None = None
    losses: Mapping[str, float] = field(default_factory=lambda: {"task": 0.1, "logits": 0.9})
    layers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "losses", dict(self.losses))
        for name, weight in self.losses.items():
            check_one_of("Distill", "losses", name, LOSSES)
            check_at_least("Distill", f"losses[{name!r}]", weight, 0)
        if not any(weight > 0 for name, weight in self.losses.items() if name != "task"):
            raise RecipeError(
                f"Distill: losses={self.losses!r} asks nothing of the teacher; give for instance {{'logits': 0.9}}"
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", dict(self.layers))

    @property
    def terms(self) -> dict[str, float]:
        """The losses, with their weights."""
        return dict(self.losses)

    @property
    def needs_original(self) -> bool:
        """Whether the original teaches."""
        return self.teacher is None

    def settings(self) -> dict[str, Any]:
        """Give the fields that differ from their default; a teacher by the name of its class."""
        found = super().settings()
        return found | ({"teacher": type(self.teacher).__name__} if isinstance(self.teacher, nn.Module) else {})
