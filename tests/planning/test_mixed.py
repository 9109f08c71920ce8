"""Mixed precision: what breaks in int8 is found and left in float, the rest is not, and few models are scored."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import penjing as pj
from penjing.errors import RecipeError, RuntimeUnavailable
from penjing.planning import mixed
from penjing.planning.mixed import Trial, mixed_precision


class Fragile(nn.Module):
    """`middle` gives one channel a thousand times larger than the others, which `after` scales down again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.after = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)
        with torch.no_grad():
            self.middle.weight[0] *= 2000
            self.after.weight[:, 0] /= 2000

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(torch.relu(self.first(x)))
        return self.head(torch.relu(self.after(torch.relu(x))))


@pytest.fixture(scope="module")
def workload() -> pj.Workload:
    torch.manual_seed(0)
    model = Fragile().eval()
    x = torch.randn(600, 16)
    with torch.no_grad():
        labels = model(x).argmax(1)
    data = [(a, b) for a, b in zip(x.split(100), labels.split(100), strict=True)]
    return pj.Workload(model, x[:32], evaluation=data[:5], certificate=data[5:], calibration=[torch.randn(64, 16)])


@pytest.fixture
def same_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer takes 2 ms in float and 1 in int8, whatever the machine is busy with."""

    def times(model: nn.Module, *_: object, **__: object) -> object:
        spent = 1.0 if any("quantized" in name for name, _ in model.named_buffers()) else 2.0
        return type("Times", (), {"layers": dict.fromkeys(("first", "middle", "after", "head"), spent)})

    monkeypatch.setattr(mixed, "layer_times", times)
    monkeypatch.setattr(mixed, "conversion_ms", lambda *_: 1e-6)


@pytest.mark.usefixtures("same_speed")
def test_the_layer_that_breaks_stays_in_float_and_the_rest_does_not(workload: pj.Workload) -> None:
    found = mixed_precision(workload, pj.Contract(max_drop=0.02), method="minmax")
    assert found.step is not None
    assert found.step.overrides == {"after": "float"}
    first, *_, last = found.trials
    assert first.drop > 0.02 >= last.drop
    assert found.evaluations <= 4
    assert f"{last.drop:.4f}" in found.table().splitlines()[-1]


@pytest.mark.usefixtures("same_speed")
def test_a_contract_that_int8_keeps_takes_one_trial(workload: pj.Workload) -> None:
    found = mixed_precision(workload, pj.Contract(max_drop=0.9), method="minmax")
    assert found.step == pj.Quantize("int8", "minmax")
    assert (found.evaluations, found.predicted_ms, found.trials[0].predicted_ms) == (1, 8.0, 4.0)


@pytest.mark.usefixtures("same_speed")
def test_what_nothing_keeps_has_no_step(workload: pj.Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[object] = []
    monkeypatch.setattr(mixed, "_score", lambda *given: scored.append(given) or 0.0)
    found = mixed_precision(workload, pj.Contract(max_drop=0.01), method="minmax", trials=3)
    assert found.evaluations == len(scored)
    assert found.step is None
    assert found.evaluations <= 3


@pytest.mark.parametrize(("bears", "most"), [(0.5, 8), (1e-2, 9), (3e-3, 10)])
def test_the_search_closes_in_on_the_noise_that_the_metric_bears(bears: float, most: int) -> None:
    seen: list[float] = []

    def trial(limit: float) -> Trial:
        seen.append(limit)
        return Trial(pj.Quantize(), (), limit, 0.0, 0.0, 0.01 * (limit / bears) ** 0.7)

    mixed._search(trial, lambda: len(seen) >= 12, 1.0, pj.Contract(max_drop=0.01))
    kept = max(limit for limit in seen if limit <= bears)
    assert bears / mixed._CLOSE**2 < kept
    assert len(seen) <= most


def test_layers_that_are_faster_in_float_stay_so_whatever_they_lose(
    workload: pj.Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def times(model: nn.Module, *_: object, **__: object) -> object:
        slow = any("quantized" in name for name, _ in model.named_buffers())
        return type("Times", (), {"layers": {"first": 3.0 if slow else 2.0, "middle": 1.0, "after": 1.0, "head": 0.5}})

    monkeypatch.setattr(mixed, "layer_times", times)
    monkeypatch.setattr(mixed, "conversion_ms", lambda *_: 0.0)
    found = mixed_precision(workload, pj.Contract(max_drop=0.9), method="minmax")
    assert "first" in found.trials[0].floats


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda w: {"trials": 0}, RecipeError, "trials=0 must be at least 1"),
        (lambda w: {"runtime": "torch"}, RuntimeUnavailable, "torch does not time its kernels"),
    ],
)
def test_what_cannot_be_done_is_refused(
    workload: pj.Workload, change: Callable[[pj.Workload], dict[str, object]], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        mixed_precision(workload, pj.Contract(), **change(workload))  # type: ignore[arg-type]


def test_data_are_asked_for_by_name() -> None:
    with pytest.raises(RecipeError, match="needs search data"):
        mixed_precision(pj.Workload(Fragile(), torch.zeros(1, 16), calibration=[torch.zeros(2, 16)]), pj.Contract())
