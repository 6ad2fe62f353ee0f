"""How often a "95 %" interval holds the truth: coverage on simulated data, for few and many clusters.

    python benchmarks/coverage.py                  all cases; prints a Markdown table, one row per case
    python benchmarks/coverage.py --case gap       only cases whose name contains "gap"
    python benchmarks/coverage.py --simulations 100

Every cell is the share of simulated data sets whose interval holds the value in the population they are drawn from, and is
seeded by its case and its number of clusters. A finished cell is kept in --path (a line of JSON) and not computed again, so a
run that was stopped goes on where it was. The "real-like" values have the shape of per-occupation biases of a small language
model: most occupations mildly biased, a second mode of strongly biased ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from steerlib.evaluate.intervals import Estimate, Floats
from steerlib.evaluate.reduction import reduction
from steerlib.evaluate.statistics import correlated, gap, mean, paired
from steerlib.evaluate.tradeoff import Tradeoff

CLUSTERS = (3, 4, 5, 7, 8, 10, 14, 20, 26, 40, 74)
RESAMPLES = 400
MANY = 400_000  # clusters that stand for the population
Random = np.random.Generator


def real_like(rng: Random, n: int) -> Floats:
    """Per-occupation biases: 65 % mild, 35 % strong; (n,) in [0, 1]."""
    return np.where(rng.random(n) < 0.65, rng.beta(1.3, 5, n), rng.beta(5, 2.2, n))


def tilts(rng: Random, n: int) -> Floats:
    """P(pro) - P(anti) of occupations, of either sign; (n,) in [-1, 1]."""
    return real_like(rng, n) * np.where(rng.random(n) < 0.8, 1, -1)


def named(n: int, each: int) -> list[int]:
    """A cluster for each of n * each items."""
    return np.repeat(np.arange(n), each).tolist()


def shares(rng: Random, n: int, each: int, p: float, sure: float) -> Floats:
    """Items that are 0 or 1; each cluster has a rate of its own, beta distributed about p. (n * each,)"""
    return rng.binomial(1, np.repeat(rng.beta(sure * p, sure * (1 - p), n), each)).astype(float)


def mean_of(
    draw: Callable[[Random, int], Floats], bounds: tuple[float, float] | None = None
) -> Callable[..., Estimate]:
    """The mean over clusters, one value each."""
    return lambda rng, n: mean(draw(rng, n), bounds=bounds, resamples=RESAMPLES)


def mean_of_shares(p: float) -> Callable[..., Estimate]:
    """The mean over items that are right or wrong, six per cluster."""
    return lambda rng, n: mean(shares(rng, n, 6, p, 10), named(n, 6), resamples=RESAMPLES)


def paired_of(draw: Callable[[Random, int], Floats]) -> Callable[..., Estimate]:
    """A paired comparison without any change: two measurements that differ by noise only."""
    return lambda rng, n: paired(np.zeros(n), draw(rng, n) - draw(rng, n), resamples=RESAMPLES)


def paired_shares(rng: Random, n: int) -> Estimate:
    """The same of items that are right or wrong: two in five are drawn anew, at the same rate."""
    before = shares(rng, n, 6, 0.85, 10)
    after = np.where(rng.random(6 * n) < 0.4, rng.binomial(1, 0.85, 6 * n), before)
    return paired(before, after, named(n, 6), resamples=RESAMPLES)


def percentiles(rng: Random, n: int) -> Estimate:
    """The mean of normal data with the plain percentiles of the bootstrap, which the library does not use."""
    values = rng.normal(size=n)
    low, high = np.percentile(values[rng.integers(0, n, (RESAMPLES, n))].mean(1), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), n)


def gap_everywhere(rng: Random, n: int) -> Estimate:
    """Two groups in each cluster, two items of each."""
    values = np.repeat(rng.normal(0, 1, n), 4) + rng.normal(0, 1, 4 * n) + np.repeat(rng.normal(0, 0.5, (n, 2)), 2)
    first = np.tile([1, 1, 0, 0], n).astype(bool)
    return gap(values, first, ~first, named(n, 4), resamples=RESAMPLES)


def gap_of_few(rng: Random, n: int) -> Estimate:
    """A group that appears in three clusters only, against one in all others."""
    few = np.repeat(np.arange(n) < 3, 3)
    values = np.repeat(rng.normal(0, 1, n), 3) + rng.normal(0, 0.5, 3 * n)
    return gap(values, few, ~few, named(n, 3), resamples=RESAMPLES)


def gap_of_shares(p: float, q: float) -> Callable[..., Estimate]:
    """Two groups in each cluster, four items of each, that are right or wrong."""

    def draw(rng: Random, n: int) -> Estimate:
        noise = rng.normal(0, 0.5, n)
        odds = [np.log(rate / (1 - rate)) for rate in (p, q)]
        rates = np.stack([1 / (1 + np.exp(-(o + noise))) for o in odds], 1)  # (n, 2)
        values = rng.binomial(1, np.repeat(rates, 4)).astype(float)
        first = np.tile([1] * 4 + [0] * 4, n).astype(bool)
        return gap(values, first, ~first, named(n, 8), resamples=RESAMPLES)

    return draw


def gap_of_shares_truth(p: float, q: float) -> float:
    """The gap in the population."""
    noise = np.random.default_rng(0).normal(0, 0.5, MANY)
    one, two = (float((1 / (1 + np.exp(-(np.log(r / (1 - r)) + noise)))).mean()) for r in (p, q))
    return one - two


def two(kind: str) -> Callable[[Random, int], tuple[Floats, Floats]]:
    """Shares of women and probabilities of "he": bivariate normal, or bimodal and S-shaped. (n,), (n,)"""

    def draw(rng: Random, n: int) -> tuple[Floats, Floats]:
        if kind == "normal":
            x = rng.normal(size=n)
            return x, -0.6 * x + 0.8 * rng.normal(size=n)
        x = np.where(rng.random(n) < 0.5, rng.beta(1.5, 9, n), rng.beta(8, 2, n))
        return x, 1 / (1 + np.exp(5 * (x - 0.4) + 1.2 * rng.normal(size=n)))

    return draw


def correlation_of(kind: str) -> Callable[..., Estimate]:
    """The correlation of two values per cluster."""
    return lambda rng, n: correlated(*two(kind)(rng, n), resamples=RESAMPLES)


def points(rng: Random, n: int) -> dict[tuple[str, float], tuple[Floats, Floats]]:
    """Bias and capability of n clusters, unsteered and at four strengths."""
    start, able = real_like(rng, n), rng.beta(9, 1.5, n)
    effect = rng.beta(6, 4, n)  # the share of bias that full strength removes from a cluster
    found = {("", 0.0): (start, able)}
    for strength in (0.25, 0.5, 0.75, 1.0):
        left = np.abs(start * (1 - effect * strength) + rng.normal(0, 0.03, n))
        found["steered", strength] = left, np.clip(able - 0.15 * strength**2 + rng.normal(0, 0.03, n), 0, 1)
    return found


def curve(rng: Random, n: int) -> Tradeoff:
    """The same as a result."""
    found = points(rng, n)
    rows = [
        {"method": "steered", "strength": s, "bias": b.mean(), "capability": c.mean()}
        for (_, s), (b, c) in found.items()
    ]
    clusters = {key: (pd.Series(b), pd.Series(c)) for key, (b, c) in found.items()}
    return Tradeoff(pd.DataFrame(rows), clusters, RESAMPLES, 0)


def area(rng: Random, n: int) -> Estimate:
    """The area under the front."""
    return curve(rng, n).area()["steered"]


def area_truth() -> float:
    """Of a population, by hand, from the lowest bias to the highest."""
    means = sorted((b.mean(), c.mean()) for b, c in points(np.random.default_rng(0), MANY).values())
    b0, c0 = max(means)
    ends = [b for b, _ in means[1:]]
    total = sum((end - b) * max(c for x, c in means if x <= b) for (b, _), end in zip(means, ends, strict=False))
    return float(total / (b0 * c0))


def reduced(rng: Random, n: int) -> Estimate:
    """The share of bias that is removed."""
    found = points(rng, n)
    before, after = (pd.Series(found[key][0]) for key in (("", 0.0), ("steered", 1.0)))
    return reduction(before, after, resamples=RESAMPLES)


def reduced_truth() -> float:
    """Of a population."""
    found = points(np.random.default_rng(0), MANY)
    return float(1 - found["steered", 1.0][0].mean() / found["", 0.0][0].mean())


def population(draw: Callable[[Random, int], Floats]) -> float:
    """The mean of a population."""
    return float(draw(np.random.default_rng(0), MANY).mean())


def beta(a: float, b: float) -> Callable[[Random, int], Floats]:
    """Values in [0, 1]."""
    return lambda rng, n: rng.beta(a, b, n)


def normal(rng: Random, n: int) -> Floats:
    """Values without bounds."""
    return rng.normal(size=n)


CASES: dict[str, tuple[Callable[..., Estimate], Callable[[], float]]] = {
    "mean, normal": (mean_of(normal), lambda: 0.0),
    "mean, lognormal (skewed)": (mean_of(lambda rng, n: rng.lognormal(0, 0.5, n)), lambda: float(np.exp(0.125))),
    "mean, beta(2, 2)": (mean_of(beta(2, 2), (0, 1)), lambda: 0.5),
    "mean, beta(19, 1), near 1": (mean_of(beta(19, 1), (0, 1)), lambda: 0.95),
    "mean, beta(9.5, 0.5), near 1": (mean_of(beta(9.5, 0.5), (0, 1)), lambda: 0.95),
    "mean of absolute values, real-like": (
        mean_of(lambda rng, n: np.abs(tilts(rng, n)), (0, 1)),
        lambda: population(real_like),
    ),
    "mean of absolute values, normal": (
        mean_of(lambda rng, n: np.minimum(1, np.abs(rng.normal(0, 0.25, n))), (0, 1)),
        lambda: population(lambda rng, n: np.minimum(1, np.abs(rng.normal(0, 0.25, n)))),
    ),
    "mean of tilts, real-like": (mean_of(tilts, (-1, 1)), lambda: 0.6 * population(real_like)),
    "share near 0.95, six items per cluster": (mean_of_shares(0.95), lambda: 0.95),
    "share near 0.6, six items per cluster": (mean_of_shares(0.6), lambda: 0.6),
    "paired, no change, normal": (paired_of(normal), lambda: 0.0),
    "paired, no change, real-like": (paired_of(real_like), lambda: 0.0),
    "paired, no change, shares near 0.85": (paired_shares, lambda: 0.0),
    "gap, both groups everywhere": (gap_everywhere, lambda: 0.0),
    "gap, one group in three clusters": (gap_of_few, lambda: 0.0),
    "gap of shares, 0.9 and 0.6": (gap_of_shares(0.9, 0.6), lambda: gap_of_shares_truth(0.9, 0.6)),
    "gap of shares, 0.95 and 0.95": (gap_of_shares(0.95, 0.95), lambda: 0.0),
    "correlation, normal": (correlation_of("normal"), lambda: -0.6),
    "correlation, real-like": (
        correlation_of("real-like"),
        lambda: float(np.corrcoef(*two("real-like")(np.random.default_rng(0), MANY))[0, 1]),
    ),
    "reduction": (reduced, reduced_truth),
    "area under the front": (area, area_truth),
    "for comparison: plain percentiles, mean, normal": (percentiles, lambda: 0.0),
}


def main() -> None:
    """Simulate what is left to be simulated, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--simulations", type=int, default=400, help="data sets per cell")
    parser.add_argument("--path", type=Path, default=Path(tempfile.gettempdir()) / "steerlib-coverage.jsonl")
    given = parser.parse_args()
    lines = given.path.read_text().splitlines() if given.path.exists() else []
    done = {(case, n, size): covered for case, n, size, covered in map(json.loads, lines)}
    began = time.perf_counter()
    for case, (estimate, truth) in CASES.items():
        if given.case not in case:
            continue
        goal = truth()
        for n in CLUSTERS:
            if (case, n, given.simulations) in done or (case.endswith("three clusters") and n < 6):
                continue
            hits = 0
            for run in range(given.simulations):
                found = estimate(np.random.default_rng([zlib.crc32(case.encode()), n, run]), n)
                hits += found.low <= goal <= found.high
            done[case, n, given.simulations] = hits / given.simulations
            with given.path.open("a") as file:
                file.write(json.dumps([case, n, given.simulations, hits / given.simulations]) + "\n")
    print("| coverage at n clusters |", " | ".join(map(str, CLUSTERS)), "|")
    print("|---" * (len(CLUSTERS) + 1) + "|")
    for case in CASES:
        cells = [done.get((case, n, given.simulations)) for n in CLUSTERS]
        if given.case in case:
            print(f"| {case} |", " | ".join("" if c is None else f"{c:.3f}" for c in cells), "|")
    print(
        f"\n{given.simulations} data sets per cell; {time.perf_counter() - began:.0f} seconds for what was not there yet."
    )


if __name__ == "__main__":
    main()
