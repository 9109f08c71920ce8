"""The fit: it finds the coefficients, never a negative one, and its stated error is that of what it did not see."""

import numpy as np
import pytest

from penjing.measuring.latency_model import LatencyModel, Sample, fit, left_out


def made(count: int, noise: float = 0.0, seed: int = 0) -> list[Sample]:
    """Latencies of 0.2 ms a call, 3 ms a gigamac in blocks of 8, 1 ms a megabyte."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        width, mb = int(rng.integers(4, 64)), float(rng.uniform(0.1, 2))
        counts = {"macs/1": width * 0.01, "macs/8": -(-width // 8) * 8 * 0.01, "mb": mb}
        latency = 0.2 + 3 * counts["macs/8"] + mb
        found.append(Sample(counts, latency * float(np.exp(noise * rng.standard_normal()))))
    return found


def test_it_finds_which_block_explains_the_times() -> None:
    model = fit(made(40))
    assert model.coefficients == pytest.approx({"macs/8": 3.0, "mb": 1.0}, rel=1e-6)
    assert model.constant == pytest.approx(0.2)
    assert model.median_error < 1e-6


def test_the_stated_error_is_that_on_what_was_left_out() -> None:
    noise = 0.05
    model = fit(made(80, noise))
    unseen = [abs(model.predict(s.counts) / s.latency - 1) for s in made(400, noise, seed=1)]
    assert model.median_error == pytest.approx(float(np.median(unseen)), rel=0.4)
    assert 0.3 * noise < model.median_error < 2 * noise


def test_no_operator_takes_negative_time() -> None:
    falling = [Sample({"x": float(n), "y": 1.0 / n}, 1.0 / n) for n in range(1, 12)]
    assert all(value >= 0 for value in fit(falling).coefficients.values())


def test_it_survives_json() -> None:
    model = fit(made(20, 0.02))
    assert LatencyModel.from_data(model.to_data()) == model


def test_too_few_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 samples; a latency model takes at least 4"):
        fit(made(3))


def test_every_sample_is_left_out_once() -> None:
    assert len(left_out(made(13))) == 13
