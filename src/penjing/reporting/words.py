"""How figures are written, once for every format: units, digits, changes, and the headline."""

import math
import re
from datetime import UTC, datetime

from penjing.reporting.data import Figure, Judgement, Power, ReportData, Row, Unit
from penjing.types import Decision

DASH = "-"
MINUS = "\u2212"
NBSP = "\u00a0"  # a no-break space keeps a number and its unit on one line
OUTCOMES = {Decision.PASS: "Pass", Decision.FAIL: "Fail", Decision.UNDECIDED: "Undecided", None: "Not judged"}
CHANGES = {
    Unit.MILLISECONDS: ("faster", "slower"),
    Unit.BYTES: ("smaller", "larger"),
    Unit.COUNT: ("fewer", "more"),
    Unit.MONEY: ("cheaper", "dearer"),
}

# Control characters break XML and terminals, direction marks reorder the text around them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def safe(text: str) -> str:
    r"""Show characters that would break a page or a terminal as a replacement mark; line breaks stay.

    >>> safe("a\x1b[31mb")
    'a\ufffd[31mb'
    """
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str, most: int | None = None) -> str:
    r"""Put a text on one line, with an ellipsis after `most` characters.

    >>> one_line("two\n lines"), one_line("a long name", most=6)
    ('two lines', 'a lon…')
    """
    line = " ".join(safe(text).split())
    return line if most is None or len(line) <= most else line[: most - 1].rstrip() + "…"


def number(value: float, digits: int = 3) -> str:
    """Write a number to so many significant digits; whole digits are never rounded away.

    >>> number(3.8961), number(0.000123456), number(12345.6), number(0.0)
    ('3.90', '0.000123', '12,346', '0')
    """
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -6 <= exponent < 15:
        return _sign(f"{value:.{digits - 1}e}")
    return _sign(f"{value:,.{max(0, digits - 1 - exponent)}f}")


def amount(value: float, unit: Unit) -> str:
    """Write a number with its unit.

    >>> amount(0.9142, Unit.SHARE), amount(1_084_300, Unit.BYTES), amount(269_722, Unit.COUNT)
    ('91.42\\xa0%', '1.08\\xa0MB', '269.7\\xa0k')
    """
    match unit:
        case Unit.SHARE:
            return f"{_sign(f'{100 * value:.2f}')}{NBSP}%"
        case Unit.MILLISECONDS:
            return f"{number(value)}{NBSP}ms"
        case Unit.BYTES:
            return _scaled(value, ("B", "kB", "MB", "GB", "TB"), digits=3)
        case Unit.COUNT:
            return _scaled(value, ("", "k", "M", "G", "T"), digits=4)
        case Unit.MONEY:
            return number(value)
        case Unit.PLAIN:
            return number(value, 4)


def difference(value: float, unit: Unit, relative: bool = False, signed: bool = False) -> str:
    """Write a difference of two metrics: shares differ by points, relative ones by a share of the reference.

    >>> difference(0.0031, Unit.SHARE), difference(-0.02, Unit.PLAIN, relative=True, signed=True)
    ('0.31\\xa0points', '−2.00\\xa0% of the reference')
    """
    plus = "+" if signed and value > 0 else ""
    if relative:
        return f"{plus}{_sign(f'{100 * value:.2f}')}{NBSP}% of the reference"
    if unit is Unit.SHARE:
        return f"{plus}{_sign(f'{100 * value:.2f}')}{NBSP}points"
    return f"{plus}{amount(value, unit)}"


def whole(value: float) -> str:
    """Write a count in full.

    >>> whole(10_000.0)
    '10,000'
    """
    return _sign(f"{value:,.0f}")


def shown(figure: Figure, unit: Unit) -> str:
    """Write a figure's number, or a dash."""
    return DASH if figure.value is None else amount(figure.value, unit)


def interval(low: float, high: float, unit: Unit) -> str:
    """Write an interval, its unit once where both ends have the same.

    >>> interval(3.86, 3.95, Unit.MILLISECONDS), interval(990, 1010, Unit.BYTES)
    ('3.86 to 3.95\\xa0ms', '990\\xa0B to 1.01\\xa0kB')
    """
    first, last = amount(low, unit), amount(high, unit)
    value, _, suffix = first.partition(NBSP)
    return f"{value} to {last}" if last.partition(NBSP)[2] == suffix else f"{first} to {last}"


def details(figure: Figure, unit: Unit) -> list[str]:
    """Say what belongs to a figure, a line each: its interval and note, or the reason why there is no number."""
    if figure.value is None:
        return [figure.reason]
    lines = [figure.note] if figure.note else []
    if figure.low is None or figure.high is None:
        return lines
    return [interval(figure.low, figure.high, unit), *lines]


def counted(figure: Figure) -> str:
    """Write a count in full, or a dash with its reason."""
    return f"{DASH} ({figure.reason})" if figure.value is None else whole(figure.value)


def factor(row: Row) -> Figure:
    """Give before / after of a row: the measured one if there is one."""
    if row.factor is not None:
        return row.factor
    before, after = row.before.value, row.after.value
    if before is None or after is None:
        return Figure.missing("needs both figures")
    if after <= 0 or before <= 0:
        return Figure.missing("needs figures above zero")
    return Figure.of(before / after)


def change(row: Row) -> str:
    """Say what became of a row in two or three words: "3.00x faster", "-0.31 points"."""
    if row.before.value is None or row.after.value is None:
        return DASH
    if row.unit not in CHANGES:
        return difference(row.after.value - row.before.value, row.unit, signed=True)
    ratio = factor(row)
    if ratio.value is None:
        return DASH
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        return "no clear change"
    better, worse = CHANGES[row.unit]
    if f"{ratio.value:.2f}" == "1.00":
        return "unchanged"
    return f"{_times(ratio.value)} {better}" if ratio.value > 1 else f"{_times(1 / ratio.value)} {worse}"


def change_details(row: Row) -> list[str]:
    """Say the interval and note of a measured factor, or why there is no change to tell."""
    if row.before.value is None or row.after.value is None:
        return ["needs both figures"]
    if row.unit not in CHANGES:
        return []
    ratio = factor(row)
    if ratio.value is None:
        return [ratio.reason]
    lines = [ratio.note] if ratio.note else []
    if ratio.low is None or ratio.high is None:
        return lines
    slower = ratio.high < 1 and ratio.low > 0
    low, high = (1 / ratio.high, 1 / ratio.low) if slower else (ratio.low, ratio.high)
    return [f"{number(low)} to {_times(high)}", *lines]


def leading_rows(data: ReportData) -> list[Row]:
    """Pick what matters first: the first latency, the first size and the first metric, as far as there are any."""
    picked = []
    for units in ({Unit.MILLISECONDS}, {Unit.BYTES}, {Unit.SHARE, Unit.PLAIN}):
        picked += [row for row in data.rows if row.unit in units][:1]
    return picked


def headline(data: ReportData) -> str:
    """Say the result in one line: "3.00x faster (latency at batch 32), 4.1x smaller ..., accuracy 92.1 % -> 91.8 %"."""
    parts = []
    for row in leading_rows(data):
        if row.unit in CHANGES and change(row) != DASH:
            parts.append(f"{change(row)} ({one_line(row.name)})")
        elif row.unit not in CHANGES and row.after.value is not None:
            parts.append(f"{one_line(row.name)} {shown(row.before, row.unit)} → {shown(row.after, row.unit)}")
    return ", ".join(parts) or "There is no candidate to compare with the original."


def drop_words(verdict: Judgement) -> str:
    """Say the drop with its limits against what is allowed."""
    allowed = f"allowed: {difference(verdict.max_drop, verdict.unit, verdict.relative)}"
    drop = verdict.drop
    if drop.value is None:
        return f"{DASH} ({drop.reason}); {allowed}"
    text = difference(drop.value, verdict.unit, verdict.relative)
    if drop.low is not None and drop.high is not None:
        low, high = (difference(end, verdict.unit, verdict.relative) for end in (drop.low, drop.high))
        text += f", one-sided limits {low} and {high}"
    return f"{text}; {allowed}"


def verdict_words(verdict: Judgement) -> str:
    """Give the sentence of a verdict as it stands next to its outcome, which is not said twice."""
    sentence = verdict.sentence.removeprefix(f"{OUTCOMES[verdict.outcome]}: ")
    return sentence[:1].upper() + sentence[1:]


def power_words(power: Power) -> str:
    """Say, as was told before training, what this certificate can decide."""
    changed = amount(power.discordance, Unit.SHARE)
    given = f"with {whole(power.n)} certificate samples, of which {changed} change their prediction"
    if power.smallest_drop.value is None:
        return f"Told before training: {given}, no limit can be certified ({power.smallest_drop.reason})."
    drop = difference(power.smallest_drop.value, power.unit)
    note = f" ({power.smallest_drop.note})" if power.smallest_drop.note else ""
    return f"Told before training: {given}, no limit below {drop} can be certified{note}."


def moment(created: datetime) -> str:
    """Write a time to the minute, in UTC."""
    return created.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sign(text: str) -> str:
    return MINUS + text[1:] if text.startswith("-") and text.strip("-0.,") else text.removeprefix("-")


def _times(ratio: float) -> str:
    return f"{number(ratio, 3)}×"


def _scaled(value: float, units: tuple[str, ...], digits: int) -> str:
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    power = 0 if rounded < 1000 else min(int(math.log10(rounded) // 3), len(units) - 1)
    if power == 0:
        text = _sign(f"{value:,.0f}") if value == round(value) else number(value, digits)
    else:
        text = number(value / 1000**power, digits)
    return f"{text}{NBSP}{units[power]}" if units[power] else text
