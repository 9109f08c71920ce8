"""How often the verdict certifies a candidate whose true drop lies exactly at the margin: at most alpha.

    python benchmarks/verdict_size.py            # some ten minutes; writes benchmarks/results/verdict_size.json

Each row is one case: a score type, n samples, the share of pairs that differ, and the true drop, which is also the
contract's. `certified` is the share of trials that pass; for right-or-wrong scores `exact` is that share in the limit
of infinitely many trials. `method` says which limits the trials used, most frequent first.
"""

import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from penjing.types import Direction
from penjing.verdict import drop_limits
from penjing.verdict.power import pass_probability
from penjing.verdict.tango import tango_limits
from penjing.workload import Metric, Samples, metrics

ALPHA = 0.05
SIZES = (200, 1_000, 10_000)
DISCORDANCES = (0.02, 0.05, 0.1, 0.2)
MARGINS = (0.005, 0.01, 0.02)

Pair = tuple[Samples, Samples]


@dataclass(frozen=True)
class Row:
    case: str
    n: int
    discordance: float
    drop: float
    trials: int
    certified: float
    exact: float | None
    method: str


def score_rows(trials: int, seed: int = 0) -> Iterator[Row]:
    """Right-or-wrong scores: lost - gained = drop, lost + gained = discordance."""
    rng = np.random.default_rng(seed)
    for n in SIZES:
        for discordance in DISCORDANCES:
            for drop in MARGINS:
                shares = [(discordance + drop) / 2, (discordance - drop) / 2, 1 - discordance]
                lost, gained, _ = rng.multinomial(n, shares, size=trials).T
                certified = float(np.mean(tango_limits(lost, gained, n, ALPHA)[1] <= drop))
                exact = pass_probability(n, discordance, drop, drop, ALPHA)
                yield Row("right or wrong", n, discordance, drop, trials, certified, exact, "Tango's score limits")


def simulate(
    case: str,
    n: int,
    discordance: float,
    drop: float,
    trials: int,
    draw: Callable[[np.random.Generator], Pair],
    *,
    relative: bool = False,
    seed: int = 0,
) -> Row:
    """Judge `trials` pairs of score lists, each drawn anew."""
    methods: Counter[str] = Counter()
    passes = 0
    for trial in range(trials):
        found = drop_limits(*draw(np.random.default_rng([seed, trial])), ALPHA, relative=relative, seed=trial)
        methods[found.method] += 1
        passes += found.upper <= drop
    return Row(
        case, n, discordance, drop, trials, passes / trials, None, ", ".join(m for m, _ in methods.most_common())
    )


def mean_metric(low: float = 0.0, high: float = 1.0, direction: Direction = Direction.HIGHER) -> Metric:
    return metrics.mean_of(lambda outputs, target: outputs, "score", direction, low, high)


def graded(n: int, discordance: float, drop: float, loss: float, gain: float) -> Callable[[np.random.Generator], Pair]:
    """Scores in [0, 1] of which a share differs: some lose `loss`, others gain `gain`; the mean loses `drop`."""
    losing = (drop + discordance * gain) / (loss + gain)

    def draw(rng: np.random.Generator) -> Pair:
        kind = rng.choice(3, size=n, p=[losing, discordance - losing, 1 - discordance])
        change = np.array([-loss, gain, 0.0])[kind]
        old = np.where(change < 0, loss, np.where(change > 0, 1 - gain, 0.5))
        return Samples(mean_metric(), old), Samples(mean_metric(), old + change)

    return draw


def clustered(clusters: int, discordance: float, drop: float) -> Callable[[np.random.Generator], Pair]:
    """Right-or-wrong scores in clusters of 5 to 15 samples that are lost or gained together."""
    lost = (discordance + drop) / 2

    def draw(rng: np.random.Generator) -> Pair:
        labels = np.repeat(np.arange(clusters), rng.integers(5, 16, size=clusters))
        kind = rng.choice(3, size=clusters, p=[lost, discordance - lost, 1 - discordance])[labels]
        right = rng.random(len(labels)) < 0.8
        old = np.where(kind == 0, True, np.where(kind == 1, False, right)).astype(float)
        new = np.where(kind == 0, False, np.where(kind == 1, True, right)).astype(float)
        metric = metrics.accuracy()
        return Samples(metric, old, labels), Samples(metric, new, labels)

    return draw


def errors(n: int, drop: float) -> Callable[[np.random.Generator], Pair]:
    """Squared errors without an upper end; the candidate's are 1 + drop times as large on average."""

    def draw(rng: np.random.Generator) -> Pair:
        metric = mean_metric(0.0, inf, Direction.LOWER)
        common, noise = rng.normal(size=n), rng.normal(size=(2, n))
        old = (common + 0.3 * noise[0]) ** 2
        new = (1 + drop) * (common + 0.3 * noise[1]) ** 2
        return Samples(metric, old), Samples(metric, new)

    return draw


def f1(n: int, discordance: float) -> tuple[Callable[[np.random.Generator], Pair], float]:
    """F1 of two classes, 30 % positive; the reference errs on 10 %, the candidate flips a share of all answers."""
    positive, error = 0.3, 0.1

    def value(wrong: float) -> float:
        hits, false_positives, misses = positive * (1 - wrong), (1 - positive) * wrong, positive * wrong
        return 2 * hits / (2 * hits + false_positives + misses)

    drop = value(error) - value(error * (1 - discordance) + (1 - error) * discordance)
    metric = metrics.f1("binary")

    def draw(rng: np.random.Generator) -> Pair:
        labels = rng.random(n) < positive
        old = labels ^ (rng.random(n) < error)
        new = old ^ (rng.random(n) < discordance)
        stack: Callable[[Any], NDArray[Any]] = lambda predicted: np.stack([predicted, labels], 1).astype(float)  # noqa: E731
        return Samples(metric, stack(old)), Samples(metric, stack(new))

    return draw, drop


def perplexity(n: int, drop: float) -> Callable[[np.random.Generator], Pair]:
    """Perplexity over texts of 20 to 200 tokens; the candidate's is 1 + drop times as large."""
    metric = metrics.perplexity()

    def draw(rng: np.random.Generator) -> Pair:
        tokens = rng.integers(20, 201, size=n)
        nll = rng.gamma(4, 0.75, size=n)
        change = np.log1p(drop) + rng.normal(0, 0.2, size=n)
        return (
            Samples(metric, np.stack([nll * tokens, tokens], axis=1)),
            Samples(metric, np.stack([(nll + change) * tokens, tokens], axis=1)),
        )

    return draw


def bounded_rows(trials: int) -> Iterator[Row]:
    for name, loss, gain in (("graded, equal steps", 0.5, 0.5), ("graded, rare large losses", 1.0, 0.1)):
        for n in SIZES:
            for discordance in DISCORDANCES:
                drop = 0.005
                yield simulate(name, n, discordance, drop, trials, graded(n, discordance, drop, loss, gain))


def cluster_rows(trials: int) -> Iterator[Row]:
    for clusters in (50, 200, 1000):
        for discordance in (0.05, 0.2):
            yield simulate(
                f"{clusters} clusters", 10 * clusters, discordance, 0.02, trials, clustered(clusters, discordance, 0.02)
            )


def ratio_rows(trials: int) -> Iterator[Row]:
    for n in (200, 1_000):
        yield simulate("squared error, relative", n, 1.0, 0.05, trials, errors(n, 0.05), relative=True)


def corpus_rows(trials: int) -> Iterator[Row]:
    for n, discordance in ((200, 0.2), (1_000, 0.1)):
        draw, drop = f1(n, discordance)
        yield simulate("F1 of the corpus", n, discordance, drop, trials, draw)
    yield simulate("perplexity, relative", 500, 1.0, 0.02, trials, perplexity(500, 0.02), relative=True)


def main() -> None:
    rows: list[Row] = []
    for part in (score_rows(4000), bounded_rows(400), cluster_rows(400), ratio_rows(200), corpus_rows(100)):
        for row in part:
            rows.append(row)
            exact = "" if row.exact is None else f"  exact {100 * row.exact:.2f} %"
            print(
                f"{row.case:28} n {row.n:6,}  differ {row.discordance:5.0%}  drop {row.drop:.3f}  "
                f"certified {100 * row.certified:4.1f} %{exact}  {row.method}",
                flush=True,
            )
    target = Path(__file__).parent / "results" / "verdict_size.json"
    target.parent.mkdir(exist_ok=True)
    data = {
        "command": "python benchmarks/verdict_size.py",
        "alpha": ALPHA,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "rows": [asdict(row) for row in rows],
    }
    target.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
