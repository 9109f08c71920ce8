"""Turn the journal of a run into a report: a pure function of the events, finished or not."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from penjing.errors import RunError
from penjing.recipe import Recipe
from penjing.reporting.data import (
    Candidate,
    Fact,
    Figure,
    Front,
    FrozenPart,
    Judgement,
    Layer,
    Limit,
    Power,
    ReportData,
    Role,
    Row,
    Unit,
)
from penjing.reporting.pricing import Pricing, cost_rows
from penjing.types import Decision, Direction, LogRow, Status

Event = Mapping[str, Any]

NOT_JUDGED = "nothing was judged"
NOTHING_BETTER = "No candidate is better than the original, which stays: nothing was judged."
LIMIT_UNITS = {"points": Unit.SHARE, "%": Unit.SHARE, "ms": Unit.MILLISECONDS, "bytes": Unit.BYTES, "": Unit.PLAIN}


def compose(events: Sequence[Event], pricing: Pricing | None = None) -> ReportData:
    """Make the report of a run from its journal, with costs at a price; RunError before the baseline is known."""
    by: dict[str, list[Event]] = {}
    for event in events:
        by.setdefault(event["event"], []).append(event)
    if "baseline" not in by:
        raise RunError("the journal holds no baseline yet, and a report needs the original's figures; resume the run")
    base = by["baseline"][-1]
    done = by.get("candidate", [])
    verdicts = {event["hash"]: event["verdict"] for event in by.get("verdict", [])}
    chosen = _chosen(by, base, done)
    return ReportData(
        title=base["title"],
        created=datetime.fromtimestamp(events[-1]["time"], UTC),
        verdict=_judgement(base, verdicts.get(chosen["hash"]), finished="finish" in by),
        power=_power(base),
        contract=base["contract"]["describe"],
        rows=(
            *_rows(base, chosen, verdicts.get(chosen["hash"])),
            *(cost_rows(base, chosen, pricing, base["runtime"]) if pricing else ()),
        ),
        front=_front(base, done, chosen, verdicts),
        layers=_layers(base, chosen),
        steps=_steps(by, chosen),
        frozen=tuple(FrozenPart(what=what, why=why) for what, why in base["frozen"]),
        machine=_facts(base["machine"]),
        versions=_facts(base["versions"]),
        hashes=_facts({**base["hashes"], "chosen candidate": chosen["hash"]}),
        commands=_facts(base["commands"]),
    )


def _chosen(by: Mapping[str, list[Event]], base: Event, done: Sequence[Event]) -> Event:
    """Give the record of the model that ships, or that would ship if the run ended now."""
    if "finish" in by:
        return next((event for event in done if event["hash"] == by["finish"][-1]["chosen"]), base)
    objective, allowed = base["contract"]["objective"], base["contract"]["max_drop"]
    within = [event for event in done if event["limits_hold"] and event["drop"] <= allowed]
    return min([base, *within], key=lambda event: event[objective])


def _unit(base: Event) -> Unit:
    return Unit.SHARE if (base["metric"]["low"], base["metric"]["high"]) == (0, 1) else Unit.PLAIN


def _figure(value: Any, low: Any = None, high: Any = None, *, why: str, note: str = "") -> Figure:
    """Give a number; one that is unknown or infinite becomes the reason why."""
    if value is None:
        return Figure.missing(why)
    return Figure.of(value, low, high, note) if low is not None and high is not None else Figure.of(value, note=note)


def _judgement(base: Event, verdict: Mapping[str, Any] | None, *, finished: bool) -> Judgement:
    relative, unit = base["contract"]["relative"], _unit(base)
    terms = {"metric": base["metric"]["name"], "max_drop": base["contract"]["max_drop"], "relative": relative}
    if verdict is None:
        missing = Figure.missing(NOT_JUDGED)
        return Judgement(
            sentence=NOTHING_BETTER if finished else "Nothing is judged yet: the search is not over.",
            outcome=None,
            unit=Unit.SHARE if relative else unit,
            drop=missing,
            n=missing,
            n_needed=missing,
            discordant=missing,
            alpha=base["contract"]["alpha"],
            method=NOT_JUDGED,
            looks=0,
            **terms,
        )
    return Judgement(
        sentence=verdict["sentence"],
        outcome=Decision(verdict["outcome"]),
        unit=Unit.SHARE if relative else unit,
        drop=_figure(verdict["drop"], verdict["drop_lower"], verdict["drop_upper"], why="no limit could be computed"),
        n=Figure.of(verdict["n"]),
        n_needed=_figure(verdict["n_needed"], why="decided with the samples there are"),
        discordant=Figure.of(verdict["discordant"]),
        alpha=verdict["alpha"],
        method=verdict["method"],
        looks=verdict["looks"],
        limits=tuple(_limit(limit) for limit in verdict["limits"]),
        assumptions=tuple(verdict["assumptions"]),
        **terms,
    )


def _limit(limit: Mapping[str, Any]) -> Limit:
    outcome = Decision(limit["outcome"])
    held = None if outcome is Decision.UNDECIDED else outcome is Decision.PASS
    found = _figure(limit["value"], limit["lower"], limit["upper"], why=limit["reason"] or "not known")
    return Limit(what=limit["what"], found=found, unit=LIMIT_UNITS[limit["unit"]], held=held)


def _power(base: Event) -> Power:
    power = base["power"]
    note = f"{power['probability']:.0%} probability"
    drop = _figure(power["smallest_drop"], why="it depends on the scores of this metric", note=note)
    return Power(smallest_drop=drop, unit=Unit.SHARE, n=power["n"], discordance=power["discordance"])


def _rows(base: Event, chosen: Event, verdict: Mapping[str, Any] | None) -> tuple[Row, ...]:
    rows = [_metric_row(base, chosen, verdict)]
    for n in sorted(base["latencies"], key=int, reverse=True):
        before, after = base["latencies"][n], chosen["latencies"][n]
        ratio = after.get("ratio")
        rows.append(
            Row(
                name=f"latency, batch {n}",
                unit=Unit.MILLISECONDS,
                before=_latency(before),
                after=_latency(after),
                factor=Figure.of(ratio["value"], ratio["low"], ratio["high"]) if ratio else None,
                method=f"{base['runtime']}, {before['threads']} thread(s); factor: running times, measured in turns",
            )
        )
    counted = (
        ("size on disk", Unit.BYTES, "size_bytes", "the deployed file"),
        ("parameters", Unit.COUNT, "params", "penjing profile"),
        ("MACs", Unit.COUNT, "macs", "penjing profile"),
        ("peak memory", Unit.BYTES, "memory_bytes", "resident memory of load and run in a process of its own"),
    )
    for name, unit, key, method in counted:
        before, after = (_figure(event.get(key), why="not measured") for event in (base, chosen))
        rows.append(Row(name=name, unit=unit, before=before, after=after, method=method))
    return tuple(rows)


def _metric_row(base: Event, chosen: Event, verdict: Mapping[str, Any] | None) -> Row:
    name, unit = base["metric"]["name"], _unit(base)
    if verdict is None:
        before, after = (Figure.of(event["value"]) for event in (base, chosen))
        return Row(name=name, unit=unit, before=before, after=after, method=f"search split, n = {base['n']:,}")
    before, after = (
        _figure(
            verdict[f"{side}_value"],
            verdict[f"{side}_interval"]["low"],
            verdict[f"{side}_interval"]["high"],
            why="not known",
        )
        for side in ("reference", "candidate")
    )
    return Row(name=name, unit=unit, before=before, after=after, method=f"certificate, n = {verdict['n']:,}")


def _latency(latency: Mapping[str, Any]) -> Figure:
    running = f": {latency['cpu_ms']:.3g} ms running" if latency.get("cpu_ms") is not None else ""
    noisy = f", noisy{running}" if latency["noise"] else ""
    note = f"p95 {latency['p95_ms']:.3g} ms{noisy}"
    return Figure.of(latency["median_ms"], latency["low_ms"], latency["high_ms"], note)


def _front(base: Event, done: Sequence[Event], chosen: Event, verdicts: Mapping[str, Mapping[str, Any]]) -> Front:
    better = Direction(base["metric"]["direction"])
    allowed = base["contract"]["max_drop"] * (abs(base["value"]) if base["contract"]["relative"] else 1)
    batch = str(base["batch"])
    return Front(
        metric=f"{base['metric']['name']} on the search split",
        unit=_unit(base),
        better=better,
        latency=f"batch {batch}, {base['latencies'][batch]['threads']} thread(s), {base['runtime']}",
        floor=base["value"] - allowed if better is Direction.HIGHER else base["value"] + allowed,
        latency_limit_ms=base["contract"]["max_latency_ms"],
        candidates=tuple(_candidate(event, chosen, verdicts.get(event["hash"]), batch) for event in (base, *done)),
    )


def _candidate(event: Event, chosen: Event, verdict: Mapping[str, Any] | None, batch: str) -> Candidate:
    original = event["event"] == "baseline"
    role = Role.BASELINE if original else Role.CHOSEN if event is chosen else Role.CANDIDATE
    passed = verdict is not None and verdict["outcome"] == Decision.PASS
    note = f"certificate: {verdict['outcome']}" if verdict is not None else ""
    return Candidate(
        label="original" if original else label(_recipe(event)),
        recipe=_recipe(event).explain(),
        role=role,
        metric=Figure.of(event["value"]),
        n=event["n"],
        latency_ms=_latency(event["latencies"][batch]),
        size_bytes=Figure.of(event["size_bytes"]),
        status=Status.CERTIFIED if passed else Status.SEARCH_ESTIMATE,
        note=note,
    )


def label(recipe: Recipe) -> str:
    """Name a recipe in a few words.

    >>> from penjing.recipe import Finetune, PruneChannels, Quantize
    >>> label(Recipe([PruneChannels(0.5, of="macs", round_to=16), Finetune(), Quantize()]))
    'macs -50 % (x16), int8'
    """
    words = []
    for step in recipe:
        settings = {"ratio": None, "amount": None, **vars(step)}
        if step.key == "prune_channels":
            multiple = f" (x{settings['round_to']})" if isinstance(settings["round_to"], int) else ""
            words.append(f"{settings['of']} -{settings['ratio']:.0%}{multiple}".replace("%", " %"))
        elif step.key == "sparsify":
            words.append(f"sparse {settings['amount']}")
        elif step.key == "quantize":
            words.append(str(settings["scheme"]))
    return ", ".join(words) or "retrained"


def _layers(base: Event, chosen: Event) -> tuple[Layer, ...]:
    after = {layer["name"]: layer for layer in chosen["layers"]}
    rows = []
    for layer in base["layers"]:
        other = after.get(layer["name"])
        rows.append(
            Layer(
                name=layer["name"],
                kind=layer["type"],
                width_before=layer["width"],
                width_after=other and other["width"],
                params_before=layer["params"],
                params_after=other and other["params"],
                macs_before=layer["macs"],
                macs_after=other and other["macs"],
                format=other["format"] if other else "-",
                note="" if other else "folded into the layer before it",
            )
        )
    return tuple(rows)


def _recipe(event: Event) -> Recipe:
    return Recipe.from_data(event.get("recipe") or [])


def _steps(by: Mapping[str, list[Event]], chosen: Event) -> tuple[LogRow, ...]:
    rows = [LogRow(**row) for row in chosen.get("log", ())]
    for kind in ("probe", "candidate"):
        for event in by.get(f"{kind}-failed", ()):
            rows.append(LogRow(f"recipe {event['index']}", f"{kind} failed: {event['why']}", fell_back=True))
    return tuple(rows)


def _facts(facts: Mapping[str, Any]) -> tuple[Fact, ...]:
    return tuple(Fact(name=str(name), value=str(value)) for name, value in facts.items())
