"""What a judgement says, as one frozen value that can be saved and shown."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from penjing.errors import ArtifactError
from penjing.types import Decision, Interval
from penjing.workload import Metric


@dataclass(frozen=True, slots=True)
class LimitResult:
    """How one further term of the contract came out.

    value, lower, upper: of what is limited, in its own unit; limit: what the contract allows. n, discordant, method: as
    in a verdict, for terms on a metric. reason: why it did not pass. unit: "ms", "bytes", or as in a verdict.
    """

    what: str
    outcome: Decision
    value: float
    lower: float
    upper: float
    limit: float
    n: int | None = None
    discordant: int | None = None
    method: str | None = None
    reason: str | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate keeps a contract, and how that is known.

    drop, drop_lower, drop_upper: the loss of `metric` and its one-sided limits, each at level `alpha`, in units of the
    metric or, where `relative`, as a share of the reference's value; infinite where the data says nothing. n: samples;
    discordant: how many are scored differently. n_needed: for an undecided drop, the samples that would decide it in
    four of five cases. looks: how many runs, this one included, have looked at this certificate data.
    limits: further terms. reasons: why it did not pass. assumptions: what the verdict covers and takes for granted.
    unit: "points" where drops are shown times 100, "%" where relative, else "".
    """

    outcome: Decision
    metric: str
    drop: float
    drop_lower: float
    drop_upper: float
    max_drop: float
    relative: bool
    unit: str
    n: int
    n_needed: int | None
    discordant: int
    alpha: float
    looks: int
    method: str
    reference_value: float
    reference_interval: Interval
    candidate_value: float
    candidate_interval: Interval
    limits: tuple[LimitResult, ...] = ()
    reasons: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the outcome is a pass."""
        return self.outcome is Decision.PASS

    def sentence(self) -> str:
        """Say the verdict in one plain English sentence, with the interval and n."""
        says = {Decision.PASS: "Pass", Decision.FAIL: "Fail", Decision.UNDECIDED: "Undecided"}[self.outcome]
        of = " of the drop" if self.drop < 0 else ""  # beside a gain their signs would mislead
        text = (
            f"{says}: {self.metric} {_moves(self.drop, self.unit)} "
            f"(one-sided {100 * (1 - self.alpha):.3g} % limits{of} {_number(self.drop_lower, self.unit)} to "
            f"{show(self.drop_upper, self.unit)}; n = {self.n:,}, {self.discordant:,} scored differently); "
            f"the contract allows {show(self.max_drop, self.unit)}"
        )
        if self.reasons:
            text += "; " + "; ".join(self.reasons)
        if self.n_needed is not None:
            text += f"; about {self.n_needed:,} samples would decide it"
        return text + "."

    def to_data(self) -> dict[str, Any]:
        """Give plain values for JSON; an infinite limit becomes None."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Verdict":
        """Read what `to_data` wrote; raises ArtifactError for anything else."""
        try:
            values = {field.name: data[field.name] for field in fields(cls)}
            values |= {"outcome": Decision(data["outcome"])}
            values |= {name: _interval(data[name]) for name in ("reference_interval", "candidate_interval")}
            values |= {name: _unlimited(data[name], sign) for name, sign in ENDS.items() if name in data}
            values |= {name: tuple(data[name]) for name in ("reasons", "assumptions")}
            values["limits"] = tuple(_limit_result(limit) for limit in data["limits"])
        except (KeyError, TypeError, ValueError) as problem:
            raise ArtifactError(
                f"the verdict {data!r} cannot be read ({problem!r}); judge the candidate again"
            ) from problem
        return cls(**values)


ENDS = {"drop": math.inf, "drop_lower": -math.inf, "drop_upper": math.inf}


def unit_of(metric: Metric, relative: bool) -> str:
    """Give the unit in which drops of a metric are shown."""
    if relative:
        return "%"
    return "points" if (metric.low, metric.high) == (0, 1) else ""


def show(value: float, unit: str) -> str:
    """Show a drop: times 100 in "points" or "%", else as it is.

    >>> show(0.0054, "points"), show(0.02, "%"), show(1.25, ""), show(-float("inf"), "%")
    ('0.54 points', '2 %', '1.25', 'minus infinity')
    """
    number = _number(value, unit)
    if not unit or math.isinf(value):
        return number
    return f"{number} {'point' if (number, unit) == ('1', 'points') else unit}"


def _number(value: float, unit: str) -> str:
    if math.isinf(value):
        return "infinity" if value > 0 else "minus infinity"
    return f"{100 * value:.3g}" if unit else f"{value:.4g}"


def _moves(drop: float, unit: str) -> str:
    if drop == 0:
        return "does not move"
    return f"{'loses' if drop > 0 else 'gains'} {show(abs(drop), unit)}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Decision):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unlimited(value: float | None, sign: float) -> float:
    return sign if value is None else value


def _interval(data: dict[str, Any]) -> Interval:
    return Interval(_unlimited(data["low"], -math.inf), _unlimited(data["high"], math.inf), data["confidence"])


def _limit_result(data: dict[str, Any]) -> LimitResult:
    ends = {"value": math.nan, "lower": -math.inf, "upper": math.inf}
    values = {name: _unlimited(data[name], end) for name, end in ends.items()}
    return LimitResult(**{**data, **values, "outcome": Decision(data["outcome"])})
