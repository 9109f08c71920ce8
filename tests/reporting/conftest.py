"""Reports to test with. Every figure below is invented: nothing here was measured."""

from datetime import UTC, datetime
from typing import Any

import pytest

from penjing.reporting import (
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
from penjing.types import Decision, Direction, LogRow, Status

TIMED = "median of 200 interleaved blocks in ONNX Runtime, 1 pinned thread; interval 95 %"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "]]></text><text>",
    "a | b `c` *d* [e](javascript:f)\n## heading",
    "long_" * 80,
    "盆景の模型 🌳 " * 6,
    "null \x00 escape \x1b[31m mark \u202eabc",
)


def candidate(
    label: str, value: float, latency: float, size: int, role: Role = Role.CANDIDATE, note: str = "", **changes: Any
) -> Candidate:
    values: dict[str, Any] = {
        "label": label,
        "recipe": f"1. cut channels: {label}\n2. fine-tune 8 epochs from the original",
        "role": role,
        "metric": Figure.of(value, value - 0.0072, value + 0.0069),
        "n": 5000,
        "latency_ms": Figure.of(latency, latency * 0.985, latency * 1.02, note=f"p95 {latency * 1.09:.2f} ms"),
        "size_bytes": Figure.of(size),
        "status": Status.SEARCH_ESTIMATE,
        "note": note,
    }
    return Candidate(**values | changes)


def layers() -> tuple[Layer, ...]:
    rows = [layer("conv1", "conv 3x3", 16, 12, 144, 784, "int8")]
    for stage, (width, kept, area) in enumerate(((16, 12, 784), (32, 20, 196), (64, 36, 49)), 1):
        for block in range(3):
            rows.append(layer(f"layer{stage}.{block}.conv1", "conv 3x3", width, kept - 4, 9 * width**2, area, "int8"))
            rows.append(layer(f"layer{stage}.{block}.conv2", "conv 3x3", width, kept, 9 * width**2, area, "int8"))
    rows.append(layer("fc", "linear", 10, 10, 650, 1, "fp32"))
    gone = {"width_after": None, "params_after": None, "macs_after": None, "note": "merged into conv1 at export"}
    rows.insert(1, layer("bn1", "batch norm", 16, 12, 32, 784, "fp32").model_copy(update=gone))
    return tuple(rows)


def layer(name: str, kind: str, before: int, after: int, params: int, area: int, stored: str) -> Layer:
    share = (after / before) ** 2
    figures = (params, round(params * share), params * area, round(params * area * share))
    return Layer(
        name=name, kind=kind, width_before=before, width_after=after, params_before=figures[0], params_after=figures[1],
        macs_before=figures[2], macs_after=figures[3], format=stored,
    )  # fmt: skip


def passed_report() -> ReportData:
    return ReportData(
        title="ResNet-20 on Fashion-MNIST (invented figures)",
        created=datetime(2026, 11, 24, 22, 5, tzinfo=UTC),
        verdict=Judgement(
            sentence="The deployed file loses 0.31 points of accuracy, at most 0.58 with 95 % confidence:"
            " less than the 1 point that its owner allows.",
            outcome=Decision.PASS,
            metric="accuracy",
            unit=Unit.SHARE,
            max_drop=0.01,
            drop=Figure.of(0.0031, 0.0004, 0.0058),
            n=Figure.of(10_000),
            n_needed=Figure.missing("decided"),
            discordant=Figure.of(563),
            alpha=0.05,
            method="Tango score interval for paired proportions",
            looks=1,
            limits=(
                Limit(what="Latency at most 5 ms", found=Figure.of(3.9, 3.86, 3.95), unit=Unit.MILLISECONDS, held=True),
            ),
            assumptions=(
                "This file, in ONNX Runtime with these session options, on data like the certificate.",
                "Not other retraining seeds.",
            ),
        ),
        power=Power(smallest_drop=Figure.of(0.0037), unit=Unit.SHARE, n=10_000, discordance=0.05),
        contract="drop at most 0.01 at 95% confidence, at most 5 ms latency",
        rows=(
            Row(
                name="Accuracy", unit=Unit.SHARE, before=Figure.of(0.9218, 0.9164, 0.9269),
                after=Figure.of(0.9187, 0.9132, 0.9239), method="10,000 certificate samples; 95 % interval",
            ),
            Row(
                name="Latency, batch 32", unit=Unit.MILLISECONDS, before=Figure.of(11.7, 11.58, 11.83, "p95 12.4 ms"),
                after=Figure.of(3.9, 3.86, 3.95, "p95 4.2 ms"), factor=Figure.of(3.0, 2.96, 3.04), method=TIMED,
            ),
            Row(
                name="Latency, batch 1", unit=Unit.MILLISECONDS, before=Figure.of(0.41, 0.405, 0.418, "p95 0.44 ms"),
                after=Figure.of(0.173, 0.17, 0.177, "p95 0.19 ms"), factor=Figure.of(2.37, 2.31, 2.43), method=TIMED,
            ),
            Row(
                name="Size on disk", unit=Unit.BYTES, before=Figure.of(1_102_334), after=Figure.of(131_204),
                method="bytes of the deployed files",
            ),
            Row(
                name="MACs", unit=Unit.COUNT, before=Figure.of(31_231_632), after=Figure.of(11_902_144),
                method="one formula per operator, one sample",
            ),
            Row(
                name="Parameters", unit=Unit.COUNT, before=Figure.of(272_186), after=Figure.of(91_702),
                method="elements of all parameters",
            ),
            Row(
                name="Peak memory", unit=Unit.BYTES, before=Figure.of(2_408_448),
                after=Figure.missing("not counted for quantised graphs"), method="activations alive at once, batch 32",
            ),
        ),
        front=Front(
            metric="accuracy",
            unit=Unit.SHARE,
            better=Direction.HIGHER,
            latency="batch 32, 1 thread",
            floor=0.9136,
            latency_limit_ms=5,
            candidates=(
                candidate("fp32 dense", 0.9236, 11.7, 1_102_334, Role.BASELINE),
                candidate("int8 dense", 0.9230, 6.01, 301_220, Role.CONTROL),
                candidate("cut 20 %", 0.9226, 8.9, 820_500),
                candidate("cut 20 %, int8", 0.9218, 4.9, 231_000),
                candidate("cut 40 %", 0.9204, 7.1, 512_000),
                candidate("cut 40 %, int8", 0.9202, 3.9, 131_204, Role.CHOSEN, "passed", status=Status.CERTIFIED),
                candidate("cut 55 %, int8", 0.9141, 3.1, 96_000, note="stopped: did not pass"),
                candidate("cut 75 %, int8", 0.8610, 2.2, 60_000),
                candidate(
                    "cut 40 %, bf16", 0.92, 5.0, 1, note="export failed", status=Status.UNJUDGED,
                    metric=Figure.missing("not exported"), latency_ms=Figure.missing("no bf16 convolution here"),
                    size_bytes=Figure.missing("not exported"),
                ),
            ),
        ),
        layers=layers(),
        steps=(
            LogRow("Capture", "88 operators, dimension 0 free"),
            LogRow("PruneChannels", "removed 214 of 512 channels in 12 groups", proof="1.3e-15 <= 1e-9 in float64"),
            LogRow("Finetune", "8 epochs, best 6, distilled from the original"),
            LogRow("Quantize", "fc stays fp32: its output error was 9.1 % of its range", fell_back=True),
        ),
        frozen=(FrozenPart(what="fc.weight, dimension 0", why="it makes the model's output: 10 classes"),),
        machine=(
            Fact(name="Processor", value="Example CPU, 2 cores, 8 GiB"),
            Fact(name="Threads", value="1, pinned"),
            Fact(name="Fingerprint", value="3f9a0c1d77e2"),
        ),
        versions=(Fact(name="penjing", value="0.1.0"), Fact(name="torch", value="2.13.0")),
        hashes=(Fact(name="Model file", value="9b1c" * 16), Fact(name="Certificate data", value="04fe" * 16)),
        commands=(Fact(name="Run it again", value="penjing optimize workload.py --max-drop 0.01 --seed 0"),),
    )  # fmt: skip


def undecided_report() -> ReportData:
    data = passed_report()
    verdict = data.verdict.model_copy(
        update={
            "outcome": Decision.UNDECIDED,
            "sentence": "Undecided: the drop lies between 0.1 and 1.3 points, and 1 point is allowed."
            " 21,000 samples would decide.",
            "drop": Figure.of(0.0068, 0.0011, 0.0127),
            "n": Figure.of(5_000),
            "n_needed": Figure.of(21_000),
        }
    )
    return data.model_copy(update={"verdict": verdict})


def failed_report() -> ReportData:
    data = passed_report()
    slow = Limit(what="Latency at most 2 ms", found=Figure.of(3.9, 3.86, 3.95), unit=Unit.MILLISECONDS, held=False)
    verdict = data.verdict.model_copy(
        update={
            "outcome": Decision.FAIL,
            "sentence": "No candidate keeps the contract: the best effort loses at least 1.2 points.",
            "drop": Figure.of(0.0151, 0.012, 0.0183),
            "limits": (slow,),
        }
    )
    lost = data.rows[0].model_copy(update={"after": Figure.of(0.9067, 0.9008, 0.9124)})
    return data.model_copy(update={"verdict": verdict, "rows": (lost, *data.rows[1:])})


def empty_report() -> ReportData:
    """A run that ended before the first candidate."""
    data, nothing = passed_report(), Figure.missing("no candidate was made")
    verdict = data.verdict.model_copy(
        update={
            "outcome": None,
            "sentence": "Nothing was judged: the run ended before a first candidate was ready.",
            "drop": nothing,
            "n": nothing,
            "n_needed": nothing,
            "discordant": nothing,
            "limits": (),
            "assumptions": (),
            "looks": 0,
        }
    )
    rows = tuple(row.model_copy(update={"after": nothing, "factor": None}) for row in data.rows)
    front = data.front.model_copy(update={"candidates": data.front.candidates[:1]})
    power = data.power.model_copy(update={"smallest_drop": Figure.missing("two samples are too few")})
    changes = {
        "verdict": verdict,
        "rows": rows,
        "front": front,
        "power": power,
        "layers": (),
        "steps": (),
        "frozen": (),
    }
    return data.model_copy(update=changes)


def bare_report() -> ReportData:
    """Nothing at all is known but the contract."""
    data = empty_report()
    front = data.front.model_copy(update={"candidates": ()})
    nothing: dict[str, Any] = dict.fromkeys(("rows", "machine", "versions", "hashes", "commands"), ())
    return data.model_copy(update={"front": front, **nothing})


def hostile_report() -> ReportData:
    """Every text of the report is one of the hostile names."""
    names = iter(HOSTILE * 400)

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: part if name in KEPT else spoil(part) for name, part in value.items()}
        if isinstance(value, list):
            return [spoil(part) for part in value]
        return next(names) if isinstance(value, str) and value else value

    return ReportData.model_validate(spoil(passed_report().model_dump(mode="json")))


KEPT = ("unit", "outcome", "role", "status", "better", "created", "schema_version")
REPORTS = {
    "pass": passed_report,
    "undecided": undecided_report,
    "fail": failed_report,
    "empty": empty_report,
    "bare": bare_report,
    "hostile": hostile_report,
}


@pytest.fixture
def report() -> ReportData:
    return passed_report()


@pytest.fixture(params=list(REPORTS))
def any_report(request: pytest.FixtureRequest) -> ReportData:
    return REPORTS[request.param]()


@pytest.fixture
def hostile() -> ReportData:
    return hostile_report()


@pytest.fixture
def reports() -> dict[str, ReportData]:
    return {name: make() for name, make in REPORTS.items()}
