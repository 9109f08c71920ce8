"""What the coverage benchmark is made of: limits hold, weights hide nothing, shares and words are right."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_what_was_told_before_the_end_is_kept() -> None:
    from benchmarks.trials.processes import limited

    def dies(tell: Any) -> None:
        tell(first=1)
        raise ValueError("no more\nof this")

    def is_killed(tell: Any) -> None:
        tell(first=1)
        os.kill(os.getpid(), 9)

    def sleeps(tell: Any) -> None:
        tell(first=1)
        time.sleep(60)

    limits = {"cpu_s": 30, "memory_bytes": 2**33}
    assert limited(dies, wall_s=60, **limits) == {"first": 1, "died": "ValueError: no more"}
    assert limited(is_killed, wall_s=60, **limits)["first"] == 1
    assert "died" in limited(is_killed, wall_s=60, **limits)
    assert limited(sleeps, wall_s=0.5, **limits) == {"first": 1, "died": "no end after 0.5 s"}


def test_a_process_that_computes_for_too_long_is_ended() -> None:
    from benchmarks.trials.processes import limited

    def computes(tell: Any) -> None:
        while True:
            pass

    assert limited(computes, cpu_s=1, wall_s=60, memory_bytes=2**33) == {"died": "no end after 1 s of processor time"}


def test_memory_is_limited() -> None:
    from benchmarks.trials.processes import limited

    def eats(tell: Any) -> None:
        torch.ones(2**30, dtype=torch.float64)

    assert "died" in limited(eats, cpu_s=30, wall_s=60, memory_bytes=2**31)


def test_random_weights_hide_nothing() -> None:
    from benchmarks.trials.weights import is_degenerate, randomise

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)
            self.gamma, self.shift = nn.Parameter(1e-6 * torch.ones(6)), nn.Parameter(torch.zeros(6))
            nn.init.zeros_(self.head.weight)
            self.register_buffer("mask", torch.zeros(4))

    model = Scaled()
    kept = model.head.bias.clone()
    randomise(model)
    assert not any(is_degenerate(parameter) for parameter in model.parameters())
    assert 0.5 <= model.gamma.min() <= model.gamma.max() <= 1.5
    assert model.shift.abs().max() < 1
    assert (model.norm.running_var > 0).all()
    assert not is_degenerate(model.norm.running_mean)
    assert torch.equal(model.head.bias, kept)
    assert torch.equal(model.mask, torch.zeros(4))


def test_units_are_a_share_of_each_group_and_never_all() -> None:
    from benchmarks.trials.trial import choose

    from penjing.structure import couple

    model = nn.Sequential(nn.Linear(3, 10), nn.LayerNorm(10), nn.Linear(10, 2), nn.ReLU(), nn.Linear(2, 4))
    coupling = couple(model, torch.zeros(2, 3))
    assert {name: len(units) for name, units in choose(coupling, 0.3, inexact=True).items()} == {"0": 3, "2": 1}
    assert {name: len(units) for name, units in choose(coupling, 0.9, inexact=True).items()} == {"0": 9, "2": 1}
    assert set(choose(coupling, 0.3, inexact=False)) == {"2"}


def test_out_of_reach_is_what_no_unit_owns() -> None:
    from benchmarks.trials.trial import out_of_reach, reasons

    from penjing.structure import couple

    coupling = couple(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 3))
    assert out_of_reach(coupling, inexact=True) == 2 / 26  # the bias of the last layer
    assert sum(reasons(coupling).values()) == 2


def test_the_zeroed_model_finds_a_wrong_cut() -> None:
    from benchmarks.trials.trial import zeroed

    from penjing.structure import couple, cut
    from penjing.workload import ExampleInputs

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    example = ExampleInputs.of(torch.randn(5, 3))
    coupling = couple(model, example)
    removed = {"0": torch.tensor([1, 3]).numpy()}
    assert zeroed(model, cut(coupling, removed), example, coupling, removed)["passed"]
    wrong = cut(coupling, {"0": [0, 2]})
    assert not zeroed(model, wrong, example, coupling, removed)["passed"]


def test_a_verdict_names_what_failed_first() -> None:
    from benchmarks.coverage import verdict

    good = {"passed": True}
    cuts = {"exact 30": {"cut": good, "runs": good, "proof": good}, "all 30": {}}
    assert verdict({"cuts": cuts, "further": {"trains": good}}) == "passed"
    assert verdict({"cuts": {"exact 30": {}}}) == "nothing to cut"
    cuts["exact 30"]["proof"] = {"passed": False, "what": "they differ"}
    assert verdict({"cuts": cuts}) == "exact 30 %: proof: they differ"


def test_the_peer_keeps_the_layers_of_the_outputs() -> None:
    from benchmarks.trials.peer import last_layers

    from penjing.workload import ExampleInputs

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2), nn.Softmax(-1))
    assert last_layers(model, ExampleInputs.of(torch.zeros(2, 3, 4, 4))) == [model[2]]
    assert last_layers(model[:3], ExampleInputs.of(torch.zeros(2, 3, 4, 4))) == [model[2]]


def test_names_of_the_zoo_are_those_of_its_modules(zoo: Any) -> None:
    assert sum(name.startswith("plain/") for name in zoo) >= 35
    assert sum(name.startswith("timm/") for name in zoo) >= 60
    assert all(entry.needs or name.startswith("plain/") for name, entry in zoo.items())


class Chooser(nn.Module):
    """A backbone, and an output that is chosen by the values of its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.backbone(x)
        return {"boxes": scores[scores[:, 0] > 0] if scores.sum() > 0 else scores}


def test_a_model_that_chooses_by_values_is_tried_in_its_parts() -> None:
    from benchmarks.coverage import verdict
    from benchmarks.trials.trial import try_model
    from benchmarks.zoo import Entry

    told: dict[str, Any] = {}
    entry = Entry("chooser", "detection", Chooser, lambda: torch.randn(6, 4))
    try_model(entry, lambda **facts: told.update(facts))
    assert verdict(told) == "passed"
    assert list(told["parts"]) == ["30", "60"]
    half = told["parts"]["60"]
    assert list(half["parts"]) == ["backbone"]
    assert half["parts"]["backbone"].startswith("proven in float64")
    kept = 16 - round(0.6 * 16)
    assert half["left"] == (kept * 10 + 5) / (16 * 10 + 5)
    told["parts"]["60"] = {"passed": False, "what": "it broke"}
    assert verdict(told) == "in parts, 60 %: it broke"


def test_a_model_without_parts_is_not_exportable() -> None:
    from benchmarks.coverage import verdict
    from benchmarks.trials.trial import try_model
    from benchmarks.zoo import Entry

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight if x.sum() > 0 else x

    told: dict[str, Any] = {}
    try_model(Entry("alone", "vector", Alone, lambda: torch.randn(2, 4)), lambda **facts: told.update(facts))
    assert verdict(told) == "not exportable"


def test_a_backbone_left_whole_is_no_pass() -> None:
    from benchmarks.coverage import verdict
    from benchmarks.trials.trial import try_model
    from benchmarks.zoo import Entry

    class Hidden(Chooser):  # its backbone has nothing to cut
        def __init__(self) -> None:
            super().__init__()
            self.head, self.backbone = self.backbone, nn.Identity()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            scores = self.head(self.backbone(x))
            return {"boxes": scores[scores[:, 0] > 0] if scores.sum() > 0 else scores}

    told: dict[str, Any] = {}
    try_model(Entry("hidden", "detection", Hidden, lambda: torch.randn(6, 4)), lambda **facts: told.update(facts))
    assert told["parts"]["30"]["parts"]["head"].startswith("proven in float64")
    assert verdict(told) == "in parts, 30 %: the backbone was left whole"


def test_rows_in_parts_are_a_class_of_their_own() -> None:
    from benchmarks.coverage import verdict
    from benchmarks.trials.page import _table, summarise

    base = {"family": "detection", "held_out": False, "commit": "c", "first": "passed", "parameters": 9}
    cut = {"parts": {"backbone": "proven", "head": ""}, "left": 0.6, "passed": True, "what": ""}
    refused = {"export": {"error": "it chooses by values"}}
    rows = {
        "cut": {**base, **refused, "name": "cut", "parts": {"30": cut, "60": cut}},
        "died": {**base, **refused, "name": "died", "died": "no end after 300 s"},
        "none": {**base, **refused, "name": "none", "parts": {"30": {}, "60": {}}},
    }
    figures = summarise(rows, verdict)
    assert figures["in_parts"] == {"count": 1, "of": 2, "share": 0.5}
    assert list(figures["not_exportable"]) == ["none"]
    assert list(figures["failed"]) == ["died"]
    assert figures["onnx"]["of"] == figures["passed"] == figures["exportable"] == 0
    assert "| 1 of 2 parts | its parts |" in "\n".join(_table(rows, verdict))
