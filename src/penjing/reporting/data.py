"""Everything a report shows, and nothing else: one frozen value, schema 1, the content of `report.json`.

A number that is not known is `Figure.missing("why")`: it is shown as a dash with its reason, never as zero.
Texts are kept as they came; each writer escapes them for its own format.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from penjing.types import Decision, Direction, LogRow, Status

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Unit(StrEnum):
    """How a figure is written. A share is kept as 0.914 and shown as 91.4 %."""

    SHARE = "share"
    MILLISECONDS = "ms"
    BYTES = "bytes"
    COUNT = "count"
    MONEY = "money"
    PLAIN = "plain"


class Role(StrEnum):
    """What a point of the accuracy-latency picture is."""

    BASELINE = "baseline"
    CONTROL = "control"
    CANDIDATE = "candidate"
    CHOSEN = "chosen"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Value):
    """A number with its interval, or the reason why there is none.

    low, high: limits of its interval, in the same unit. note: more about it in a few words, such as "p95 4.2 ms".

    >>> Figure.of(3.9, 3.8, 4.0).value
    3.9
    >>> Figure.missing("the export failed").reason
    'the export failed'
    """

    value: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    reason: str = ""
    note: str = ""

    @classmethod
    def of(cls, value: float, low: float | None = None, high: float | None = None, note: str = "") -> "Figure":
        """Give a known number."""
        return cls(value=value, low=low, high=high, note=note)

    @classmethod
    def missing(cls, reason: str) -> "Figure":
        """Say why there is no number."""
        return cls(reason=reason)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.value is None) != bool(self.reason.strip()):
            raise ValueError(
                f"value={self.value!r} with reason={self.reason!r}: give a number, or say why there is none"
            )
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError(f"low={self.low!r}, high={self.high!r}: an interval has both ends, around a number")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low={self.low!r} lies above high={self.high!r}: swap them")
        return self


class Limit(_Value):
    """A hard limit of the contract: what it demands, what was found, whether it held (None: not known)."""

    what: str
    found: Figure
    unit: Unit
    held: bool | None


class Judgement(_Value):
    """The verdict on the deployed file.

    outcome: None when nothing was judged. drop: the loss of the metric with its one-sided limits as low and high, in
    `unit` (a share of the reference if `relative`); max_drop: what the contract allows. n: certificate samples;
    n_needed: how many would decide; discordant: samples on which reference and candidate differ. looks: how often this
    certificate data has been looked at.
    """

    sentence: str
    outcome: Decision | None
    metric: str
    unit: Unit
    relative: bool = False
    max_drop: Finite
    drop: Figure
    n: Figure
    n_needed: Figure
    discordant: Figure
    alpha: Annotated[float, Field(gt=0, lt=1)]
    method: str
    looks: Count
    limits: tuple[Limit, ...] = ()
    assumptions: tuple[str, ...] = ()


class Power(_Value):
    """Told before any training: the smallest drop that n samples can certify at this share of discordant samples."""

    smallest_drop: Figure
    unit: Unit
    n: Count
    discordance: Share


class Row(_Value):
    """One line of before and after. Rows come in order of importance: the first of each unit leads the page.

    factor: before / after, measured (above one: faster, smaller); left out, it is computed from the two figures.
    method: the command or method that made the figures.
    """

    name: str
    unit: Unit
    before: Figure
    after: Figure
    factor: Figure | None = None
    method: str


class Candidate(_Value):
    """One model that was tried; metric on n samples of the search split; note: what became of it."""

    label: str
    recipe: str
    role: Role = Role.CANDIDATE
    metric: Figure
    n: Count
    latency_ms: Figure
    size_bytes: Figure
    status: Status
    note: str = ""


class Front(_Value):
    """Accuracy against latency. floor: the metric that the contract asks for; latency_limit_ms: the slowest it allows.

    latency: what was timed, such as "batch 32, 1 thread".
    """

    metric: str
    unit: Unit
    better: Direction
    latency: str
    floor: Finite | None = None
    latency_limit_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    candidates: tuple[Candidate, ...] = ()


class Layer(_Value):
    """One layer before and after. format: how its numbers are stored, such as "int8". note: why a figure is missing."""

    name: str
    kind: str
    width_before: Count | None
    width_after: Count | None
    params_before: Count | None
    params_after: Count | None
    macs_before: Count | None
    macs_after: Count | None
    format: str
    note: str = ""

    @model_validator(mode="after")
    def _explained(self) -> Self:
        numbers = (
            self.width_before,
            self.width_after,
            self.params_before,
            self.params_after,
            self.macs_before,
            self.macs_after,
        )
        if None in numbers and not self.note.strip():
            raise ValueError(f"layer {self.name!r} misses a figure: say why in its note")
        return self


class FrozenPart(_Value):
    """A part of the model that was not touched, and why."""

    what: str
    why: str


class Fact(_Value):
    """A named text: a property of the machine, a version, a hash or a command."""

    name: str
    value: str


class ReportData(_Value):
    """The whole report. Runs that failed, that are undecided or that found no candidate fill it just as well."""

    schema_version: Literal[1] = 1
    title: str
    created: AwareDatetime
    verdict: Judgement
    power: Power
    contract: str
    rows: tuple[Row, ...]
    front: Front
    layers: tuple[Layer, ...]
    steps: tuple[LogRow, ...]
    frozen: tuple[FrozenPart, ...]
    machine: tuple[Fact, ...]
    versions: tuple[Fact, ...]
    hashes: tuple[Fact, ...]
    commands: tuple[Fact, ...]
