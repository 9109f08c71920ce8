import itertools

import numpy as np
import pytest
from scipy.stats import multinomial

from penjing.errors import ContractError
from penjing.verdict.power import largest_drop, n_needed, pass_probability, power, smallest_margin
from penjing.verdict.tango import tango_limits


@pytest.mark.parametrize(("discordance", "drop", "margin"), [(0.1, 0.0, 0.1), (0.3, 0.1, 0.15), (0.2, -0.05, 0.05)])
def test_pass_probability_is_the_sum_over_all_outcomes(discordance: float, drop: float, margin: float) -> None:
    n = 40
    lost, gained = np.array([(b, c) for b, c in itertools.product(range(n + 1), repeat=2) if b + c <= n]).T
    shares = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
    mass = multinomial.pmf(np.stack([lost, gained, n - lost - gained], axis=1), n, shares)
    brute = mass[tango_limits(lost, gained, n, alpha=0.05)[1] <= margin].sum()
    assert pass_probability(n, discordance, drop, margin, alpha=0.05) == pytest.approx(brute, abs=1e-9)


def test_half_a_point_is_undecidable_with_five_thousand_samples() -> None:
    told = power(5000, 0.05, max_drop=0.005)
    assert told.typical_drop > 0.005
    assert told.pass_probability is not None
    assert told.pass_probability < 0.5
    assert told.largest_drop is None
    assert told.typical_largest_drop is None
    assert told.n_needed is not None
    assert told.n_needed > 10_000


def test_one_point_with_ten_thousand_samples_passes_up_to_a_drop_of_six_tenths() -> None:
    told = power(10_000, 0.05, max_drop=0.01)
    assert told.typical_largest_drop == pytest.approx(0.006, abs=0.0005)
    assert told.largest_drop == pytest.approx(0.0044, abs=0.0003)
    assert "up to a true drop of 0.44 points" in told.sentence()


def test_answers_agree_with_each_other() -> None:
    margin = smallest_margin(2000, 0.1, alpha=0.05)
    assert pass_probability(2000, 0.1, 0, margin, 0.05) >= 0.8 > pass_probability(2000, 0.1, 0, 0.999 * margin, 0.05)
    drop = largest_drop(2000, 0.1, 0.03, alpha=0.05)
    assert drop is not None
    assert pass_probability(2000, 0.1, drop, 0.03, 0.05) >= 0.8 > pass_probability(2000, 0.1, 1.01 * drop, 0.03, 0.05)
    n = n_needed(0.05, 0.01, alpha=0.05)
    assert n is not None
    assert pass_probability(n, 0.05, 0, 0.01, 0.05) >= 0.8 > pass_probability(n * 98 // 100, 0.05, 0, 0.01, 0.05)


def test_exact_answer_is_near_the_textbook_formula() -> None:
    z = 1.6449 + 0.8416
    assert smallest_margin(10_000, 0.05, alpha=0.05) == pytest.approx(z * np.sqrt(0.05 / 10_000), rel=0.02)
    assert n_needed(0.05, 0.01, alpha=0.05) == pytest.approx(z**2 * 0.05 / 0.01**2, rel=0.02)


def test_no_number_of_samples_passes_a_drop_at_the_margin() -> None:
    assert n_needed(0.05, 0.01, alpha=0.05, drop=0.01) is None


def test_a_drop_beyond_the_discordance_is_refused() -> None:
    with pytest.raises(ContractError, match="raise discordance"):
        pass_probability(100, 0.01, drop=0.02, margin=0.05, alpha=0.05)
    with pytest.raises(ContractError, match=r"discordance=1\.5"):
        power(100, 1.5)
    with pytest.raises(ContractError, match="n=0"):
        power(0, 0.05)
