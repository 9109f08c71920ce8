"""The judgement of real ONNX files whose right and wrong answers are laid down in the data.

Model j answers with columns 2j and 2j + 1 of the input, so each sample says which of the models get it right.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import penjing
from penjing.errors import ArtifactError, ContractError
from penjing.recipe import Contract, MaxDrop, MinValue
from penjing.runtimes import Artifact, export
from penjing.types import Decision, Split
from penjing.verdict import Ledger, Verdict, judge, judge_in_order
from penjing.workload import Workload, metrics

MODELS = 4


def picks(j: int) -> nn.Module:
    layer = nn.Linear(2 * MODELS, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 2 * j] = layer.weight[1, 2 * j + 1] = 1
    return layer


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    folder = tmp_path_factory.mktemp("models")
    return [export(picks(j), torch.zeros(2, 2 * MODELS), folder / str(j)) for j in range(MODELS)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def answers(n: int, wrong: Sequence[range], seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Data on which model j is wrong on the samples `wrong[j]` and right on all others."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 2 * MODELS), dtype=np.float32)
    target = rng.integers(2, size=n)
    for j in range(MODELS):
        right = np.ones(n, dtype=bool)
        right[list(wrong[j]) if j < len(wrong) else []] = False
        x[np.arange(n), 2 * j + np.where(right, target, 1 - target)] = rng.uniform(1, 2, size=n)
    return [(torch.from_numpy(x[i : i + 500]), torch.from_numpy(target[i : i + 500])) for i in range(0, n, 500)]


def workload(
    wrong: Sequence[range], n: int = 2000, search_wrong: Sequence[range] | None = None, **options: Any
) -> Workload:
    return Workload(
        picks(0),
        torch.zeros(1, 2 * MODELS),
        evaluation=answers(n, wrong if search_wrong is None else search_wrong, seed=1),
        certificate=answers(n, wrong, seed=2),
        **options,
    )


@dataclass(frozen=True)
class Latency:
    median_ms: float
    low_ms: float
    high_ms: float


def test_pass_fail_and_undecided(artifacts: list[Artifact], ledger: Ledger) -> None:
    """One model loses 4 of 2,000 samples, one loses 20, one loses 200, where one point (20 samples) is allowed."""
    w = workload([range(100), range(104), range(120), range(300)])
    contract = Contract(max_drop=0.01)
    passed, open_, failed = (judge(artifacts[0], artifacts[j], w, contract, ledger=ledger) for j in (1, 2, 3))
    assert [v.outcome for v in (passed, open_, failed)] == [Decision.PASS, Decision.UNDECIDED, Decision.FAIL]
    assert (passed.drop, passed.discordant, passed.n) == (pytest.approx(0.002), 4, 2000)
    assert passed.drop_lower < passed.drop < passed.drop_upper <= 0.01 < failed.drop_lower
    assert (passed.reference_value, passed.candidate_value) == (0.95, pytest.approx(0.948))
    assert passed.candidate_interval.low < 0.948 < passed.candidate_interval.high
    assert passed.candidate_interval.confidence == 0.95
    assert passed.n_needed is None
    assert failed.n_needed is None
    assert open_.n_needed is not None
    assert open_.n_needed > 2000
    assert passed.reasons == ()
    assert "at least" in failed.reasons[0]


def test_sentence_says_it_in_plain_english(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(100), range(104)])
    verdict = judge(artifacts[0], artifacts[1], w, Contract(max_drop=0.01), ledger=ledger)
    assert verdict.sentence() == (
        "Pass: accuracy loses 0.2 points (one-sided 95 % limits 0.0646 to 0.445 points; n = 2,000, 4 scored "
        "differently); the contract allows 1 point."
    )


def test_limits_beside_a_gain_are_said_to_be_of_the_drop(artifacts: list[Artifact], ledger: Ledger) -> None:
    verdict = judge(artifacts[0], artifacts[1], workload([range(104), range(100)]), Contract(0.01), ledger=ledger)
    assert verdict.sentence().startswith(
        "Pass: accuracy gains 0.2 points (one-sided 95 % limits of the drop -0.445 to "
    )


def test_equal_models_are_not_certified_below_what_n_can_show(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(10), range(10)], n=200)
    verdict = judge(artifacts[0], artifacts[1], w, Contract(max_drop=0.005), ledger=ledger)
    assert (verdict.drop, verdict.discordant) == (0, 0)
    assert verdict.outcome is Decision.UNDECIDED
    assert verdict.drop_upper == pytest.approx(1.6449**2 / (200 + 1.6449**2), rel=1e-3)
    assert verdict.n_needed == pytest.approx(1.6449**2 * 0.995 / 0.005, abs=3)


def test_n_needed_comes_from_the_search_split(artifacts: list[Artifact], ledger: Ledger) -> None:
    """The same certificate, more discordance on the search split: more samples are asked for."""
    certificate = [range(100), range(115)]
    contract = Contract(max_drop=0.01)
    calm = workload(certificate, search_wrong=[range(100), range(100)])
    restless = workload(certificate, search_wrong=[range(200), range(100, 300)])
    few, many = (judge(artifacts[0], artifacts[1], w, contract, ledger=ledger) for w in (calm, restless))
    assert few.outcome is many.outcome is Decision.UNDECIDED
    assert few.drop_upper == many.drop_upper
    assert few.n_needed == 2001
    assert many.n_needed is not None
    assert many.n_needed > 5000


def test_fixed_sequence_stops_at_the_first_that_does_not_pass(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(100), range(102), range(150), range(101)])
    verdicts = judge_in_order(artifacts[0], artifacts[1:], w, Contract(max_drop=0.01), ledger=ledger)
    assert [v.outcome for v in verdicts] == [Decision.PASS, Decision.FAIL]
    assert [v.looks for v in verdicts] == [1, 1]
    assert ledger.looks(w.fingerprint(Split.CERTIFICATE)) == 1


def test_a_second_run_is_told_that_it_is_one(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(10), range(10)])
    contract = Contract(max_drop=0.01)
    first = judge(artifacts[0], artifacts[1], w, contract, ledger=ledger, family="run")
    resumed = judge(artifacts[0], artifacts[1], w, contract, ledger=ledger, family="run")
    second = judge(artifacts[0], artifacts[1], w, contract, ledger=ledger)
    assert [v.looks for v in (first, resumed, second)] == [1, 1, 2]
    assert resumed == first
    assert not any("look number" in sentence for sentence in first.assumptions)
    assert any("look number 2" in sentence for sentence in second.assumptions)


def test_the_look_is_written_before_a_score_is_computed(
    artifacts: list[Artifact], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = workload([range(10), range(10)])
    seen: list[int] = []

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        seen.append(ledger.looks(w.fingerprint(Split.CERTIFICATE)))
        raise KeyboardInterrupt

    monkeypatch.setattr(w, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        judge(artifacts[0], artifacts[1], w, Contract(), ledger=ledger)
    assert seen == [1]


def test_no_verdict_without_a_ledger(artifacts: list[Artifact], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="PENJING_HOME"):
        judge(artifacts[0], artifacts[1], workload([range(1)], n=50), Contract(), ledger=Ledger(tmp_path / "file"))


def test_a_module_is_not_what_is_deployed(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(1)], n=50)
    with pytest.raises(ContractError, match=r"candidate is a Linear.*penjing\.export"):
        judge(artifacts[0], picks(1), w, Contract(), ledger=ledger)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="reference is a str"):
        judge_in_order("model", artifacts, w, Contract(), ledger=ledger)  # type: ignore[arg-type]
    assert ledger.looks(w.fingerprint(Split.CERTIFICATE)) == 0


def test_sessions_are_judged_like_artifacts(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(10), range(12)], n=500)
    contract = Contract(max_drop=0.02)
    sessions = judge(artifacts[0].load(), artifacts[1].load(), w, contract, ledger=ledger, family="one")
    assert sessions == judge(artifacts[0], artifacts[1], w, contract, ledger=ledger, family="one")


def test_every_further_term_must_hold(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(100), range(104)])
    size = artifacts[1].size_bytes

    def outcome(latency: Latency | None = None, **terms: Any) -> Decision:
        contract = Contract(max_drop=0.01, **terms)
        return judge(artifacts[0], artifacts[1], w, contract, ledger=ledger, latency=latency).outcome

    assert outcome(max_size_bytes=size) is Decision.PASS
    assert outcome(max_size_bytes=size - 1) is Decision.FAIL
    assert outcome(Latency(1, 0.9, 1.1), max_latency_ms=1.2) is Decision.PASS
    assert outcome(Latency(1, 0.9, 1.1), max_latency_ms=1.05) is Decision.UNDECIDED
    assert outcome(Latency(1, 0.9, 1.1), max_latency_ms=0.8) is Decision.FAIL
    assert outcome(limits=[MinValue("accuracy", 0.93)]) is Decision.PASS
    assert outcome(limits=[MinValue("accuracy", 0.945)]) is Decision.UNDECIDED
    assert outcome(limits=[MinValue("accuracy", 0.97)]) is Decision.FAIL
    assert outcome(limits=[MaxDrop("accuracy", 0.05, relative=True)]) is Decision.PASS
    assert outcome(limits=[MaxDrop(metrics.f1("macro"), 0.0)]) is not Decision.PASS


@pytest.mark.slow
def test_latency_and_memory_are_measured_in_new_processes_where_none_is_given(
    artifacts: list[Artifact], ledger: Ledger
) -> None:
    w = workload([range(100), range(104)])
    contract = Contract(max_drop=0.01, max_latency_ms=60_000, max_memory_bytes=10**10)
    verdict = judge(artifacts[0], artifacts[1], w, contract, ledger=ledger)
    latency, memory = verdict.limits
    assert verdict.outcome is Decision.PASS
    assert 0 < latency.lower <= latency.value <= latency.upper < 60_000
    assert memory.value < 10**10
    known = judge(artifacts[0], artifacts[1], w, Contract(0.01, max_memory_bytes=10), memory_bytes=11, ledger=ledger)
    assert known.outcome is Decision.FAIL


def test_a_limit_says_why_it_is_broken(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(100), range(104)])
    contract = Contract(max_drop=0.01, max_size_bytes=10, limits=[MinValue("accuracy", 0.97)])
    verdict = judge(artifacts[0], artifacts[1], w, contract, ledger=ledger)
    accuracy, size = verdict.limits
    assert (accuracy.outcome, size.outcome) == (Decision.FAIL, Decision.FAIL)
    assert accuracy.upper < 0.97
    assert [reason.split(":")[0] for reason in verdict.reasons] == [
        "accuracy no worse than 0.97",
        "size in bytes at most 10",
    ]


def test_slices_are_judged_by_themselves(artifacts: list[Artifact], ledger: Ledger) -> None:
    """All losses fall on the night, a tenth of the samples."""
    groups = ["night" if i < 200 else f"day {i}" for i in range(2000)] * 2
    w = workload([range(10), range(25)], groups=groups)
    limits = [MaxDrop("accuracy", 0.03, slice="night")]
    verdict = judge(artifacts[0], artifacts[1], w, Contract(max_drop=0.02, limits=limits), ledger=ledger)
    (night,) = verdict.limits
    assert (night.n, night.discordant, night.outcome) == (200, 15, Decision.FAIL)
    assert night.value == pytest.approx(15 / 200)
    with pytest.raises(ContractError, match="the slice 'dusk' of accuracy holds no sample; known slices: day"):
        judge(artifacts[0], artifacts[1], w, Contract(limits=[MaxDrop("accuracy", 0.1, slice="dusk")]), ledger=ledger)
    plain = workload([range(1)], n=50)
    with pytest.raises(ContractError, match="groups="):
        judge(
            artifacts[0], artifacts[1], plain, Contract(limits=[MinValue("accuracy", 0.1, slice="dusk")]), ledger=ledger
        )


def test_clusters_are_named_in_the_assumptions_and_widen_the_limits(artifacts: list[Artifact], ledger: Ledger) -> None:
    """Losses that come in blocks of ten are ten times rarer than single ones."""
    lost = [i for i in range(2000) if (i // 10) % 5 == 0]
    wrong = [range(0), lost]
    clustered = workload(wrong, groups=[i // 10 for i in range(2000)] * 2)  # type: ignore[arg-type]
    loose = workload(wrong)  # type: ignore[arg-type]
    contract = Contract(max_drop=0.3)
    wide, narrow = (judge(artifacts[0], artifacts[1], w, contract, ledger=ledger) for w in (clustered, loose))
    assert wide.drop == narrow.drop == pytest.approx(0.2)
    assert wide.drop_upper - wide.drop > 2 * (narrow.drop_upper - narrow.drop)
    assert any("200 clusters" in sentence for sentence in wide.assumptions)
    assert any("independent of each other" in sentence for sentence in narrow.assumptions)


def test_terms_that_do_not_fit_the_metric_are_refused(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(10), range(12)], n=500)
    with pytest.raises(ContractError, match=r"limits 'recall', but the metric of .* is 'accuracy'"):
        judge(artifacts[0], artifacts[1], w, Contract(limits=[MinValue("recall", 0.5)]), ledger=ledger)
    unbounded = metrics.mean_of(lambda outputs, target: outputs.sum(1), "sum")
    with pytest.raises(ContractError, match=r"sum has no known range .* use relative=True"):
        judge(artifacts[0], artifacts[1], w, Contract(limits=[MaxDrop(unbounded, 0.5)]), ledger=ledger)
    with pytest.raises(ContractError, match="1 candidates, but 2 latencies"):
        judge_in_order(artifacts[0], artifacts[1:2], w, Contract(), latencies=[None, None], ledger=ledger)


def test_verdict_survives_json(artifacts: list[Artifact], ledger: Ledger) -> None:
    w = workload([range(100), range(115)])
    error = metrics.mean_of(lambda outputs, target: 1 + outputs[:, 0].abs(), "size", "lower", low=0)
    limits = [MinValue("accuracy", 0.9), MaxDrop(error, 0.01, relative=True)]
    verdict = judge(artifacts[0], artifacts[0], w, Contract(max_drop=0.01, limits=limits), ledger=ledger)
    again = Verdict.from_data(json.loads(json.dumps(verdict.to_data(), allow_nan=False)))
    assert again == verdict
    assert again.limits[1].upper == float("inf")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Verdict.from_data({"outcome": "pass"})


def test_only_this_room_asks_for_the_certificate() -> None:
    root = Path(penjing.__file__).parent
    asks = re.compile(r"\bevaluate\([^)]*(CERTIFICATE|certificate)")
    users = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if asks.search(path.read_text("utf-8"))}
    assert users <= {"verdict"}
