"""Estimates with intervals: the percentile bootstrap over clusters.

Prompts about one occupation are not independent, so whole occupations (clusters) are drawn again, with replacement, and the
statistic is computed anew; the 2.5 % and 97.5 % points of what it gives bound the interval. Source: Efron and Tibshirani, An
Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerlib.errors import SteerlibError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number that was measured: its value, the ends of its 95 % interval, and how many clusters it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __float__(self) -> float:
        return self.value


def bootstrap(
    statistic: Callable[[Floats], Floats], clusters: Floats, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The statistic of the clusters, with a bootstrap interval over them.

    clusters: (n, columns), one row a cluster. statistic: maps (..., n, columns) to (...), so that all resamples are
    computed at once. Raises SteerlibError if there is no cluster or a value is missing.
    """
    if len(clusters) == 0:
        raise SteerlibError("there is nothing to estimate: no item was scored.")
    if not np.isfinite(clusters).all():
        raise SteerlibError("an estimate needs finite numbers: a score is NaN or infinite.")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(clusters), size=(resamples, len(clusters)))
    low, high = np.percentile(statistic(clusters[draws]), [2.5, 97.5])
    return Estimate(float(statistic(clusters)), float(low), float(high), len(clusters))


def correlation(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation along the last axis; 0 where one of the two does not vary, since nothing can be seen to go along."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    product, size = (x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    still = size < 1e-12
    result: Floats = np.where(still, 0.0, product / np.where(still, 1.0, size))
    return result
