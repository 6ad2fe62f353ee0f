"""A number with its interval: the bootstrap over clusters, made wide enough for few of them.

Prompts about one occupation are not independent, so whole occupations (clusters) are resampled, with replacement, and the
statistic is computed anew each time. Percentiles of the resampled values are too narrow for few clusters (80 % instead of 95 %
at four), so only their spread is used. With n clusters and t the 97.5 % quantile of Student's t with n - 1 degrees of freedom,

    SE   = standard deviation of the resampled values * sqrt(n / (n - 1))
    ends = value -+ t SE,  the total length 2 t SE being divided about the value as the 2.5 % and 97.5 % percentiles are.

For the mean of normal data this is the t interval. A statistic with known bounds, lo and hi, is put on the scale

    z = log((value - lo) / (hi - value)) / 2,  SE(z) = SE (1 / (value - lo) + 1 / (hi - value)) / 2,  ends = z -+ t SE(z)

and taken back, so that an interval never leaves the bounds and leans away from the nearer one; on (-1, 1) this is Fisher's z.
Below three clusters there is no interval. Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), for the
bootstrap; Hesterberg, The American Statistician 69 (2015), for its narrowness at small n. What covers how often is measured in
benchmarks/coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from steerlib.errors import SteerlibError

Floats = NDArray[np.float64]
ENOUGH = 3  # clusters: fewer say too little about how clusters differ
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % interval.

    Args:
        value: the number.
        low: the lower end of the interval; NaN where there is none.
        high: the upper end; NaN where there is none.
        n: the number of clusters (occupations, say) that it rests on. Below three there is no interval.

    Example:
        >>> print(Estimate(0.317, 0.238, 0.408, 26))
        0.317 [0.238, 0.408]
        >>> print(Estimate(0.5, float("nan"), float("nan"), 2))
        0.500, no interval (n = 2)
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval; both NaN where there is none."""
        return self.low, self.high

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.3f}, no interval (n = {self.n})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __float__(self) -> float:
        return self.value


def bootstrap(
    statistic: Callable[[Floats], Floats],
    clusters: Floats,
    *,
    bounds: tuple[float, float] | None = None,
    least: float = 0.0,
    n: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The statistic of the clusters, with the interval defined at the top of this file.

    Args:
        statistic: maps (..., n, columns) to (...), so that all resamples are computed at once. A resample for which it is NaN
            (one without a member of some group, say) is left out.
        clusters: (n, columns), one row per cluster.
        bounds: the lowest and the highest value that the statistic can take, such as (0, 1) for a share; the highest may be
            infinite. None if it is unbounded.
        least: the smallest standard error to believe on the scale z of a bounded statistic: 1 / sqrt(n - 3) for a
            correlation, for instance.
        n: the number of clusters that the statistic rests on, if fewer than were given: those of its rarest group.
        resamples: how often the clusters are drawn.
        seed: of the draws.

    Returns:
        The value with its interval; without one (NaN ends) if n is below three.

    Raises:
        SteerlibError: if there is no cluster, a value is missing, the statistic of all clusters is not finite, or resamples
            is below two.

    Example:
        >>> bootstrap(lambda x: x[..., 0].mean(-1), np.array([[0.2], [0.4], [0.6], [0.8]])).value
        0.5
    """
    if len(clusters) == 0:
        raise SteerlibError("there is nothing to estimate: no item was scored.")
    check_resamples(resamples)
    if not np.isfinite(clusters).all():
        raise SteerlibError("an estimate needs finite numbers: a score is NaN or infinite.")
    value = float(statistic(clusters))
    if not np.isfinite(value):
        raise SteerlibError("an estimate is not finite: a group of the items is empty, or a number is too large.")
    count = len(clusters) if n is None else n
    if count < ENOUGH:
        return Estimate(value, math.nan, math.nan, count)
    draws = np.random.default_rng(seed).integers(0, len(clusters), size=(resamples, len(clusters)))
    return spread(value, statistic(clusters[draws]), count, bounds=bounds, least=least)


def spread(
    value: float,
    drawn: Floats,
    n: int,
    *,
    bounds: tuple[float, float] | None = None,
    least: float = 0.0,
) -> Estimate:
    """A number with the interval that its resampled values give, as defined at the top of this file.

    Args:
        value: the number.
        drawn: (resamples,) its value in each resample; NaN where a resample has none.
        n: the number of clusters that were drawn, three or more.
        bounds: as in `bootstrap`.
        least: as in `bootstrap`.

    Returns:
        The value with its interval.

    Raises:
        SteerlibError: the value lies outside its bounds.

    Example:
        >>> spread(0.5, np.array([0.4, 0.5, 0.6]), 3).n
        3
    """
    error = float(np.nanstd(drawn)) * math.sqrt(n / (n - 1))
    if bounds is not None:
        if not bounds[0] - 1e-9 <= value <= bounds[1] + 1e-9:
            raise SteerlibError(f"a statistic between {bounds[0]} and {bounds[1]} cannot be {value}.")
        value = min(max(value, bounds[0]), bounds[1])  # sums of shares are not exact
        if math.isinf(least):
            return Estimate(value, *bounds, n)
        if bounds[0] < value < bounds[1]:
            return Estimate(value, *_inside(value, error, bounds, least, n), n)
    below, above = np.maximum(0.0, (np.nanpercentile(drawn, [2.5, 97.5]) - value) * [-1, 1])
    lower = below / (below + above) if below + above > 0 else 0.5
    length = 2 * quantile(n) * error
    low, high = value - lower * length, value + (1 - lower) * length
    if bounds is not None:  # the value lies on one of them
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(value, float(low), float(high), n)


def check_resamples(resamples: object) -> None:
    """Refuse a number of resamples that is not a whole number of 2 or more."""
    if isinstance(resamples, bool) or not isinstance(resamples, (int, np.integer)) or resamples < 2:
        raise SteerlibError(f"resamples is how often the clusters are drawn, 2 or more, not {resamples!r}.")


def quantile(n: int, p: float = 0.5 + LEVEL / 2) -> float:
    """The quantile of Student's t with n - 1 degrees of freedom below which a share p lies."""
    return float(stdtrit(n - 1, p))


def reach(n: int) -> float:
    """How large a share may be of which none was seen in n clusters: Wilson's upper end for 0 of n, with Student's t.

    It is t^2 / (n + t^2): a rule of three for few clusters (0.61 at 5, 0.34 at 10, 0.06 at 74).
    """
    return quantile(n) ** 2 / (n + quantile(n) ** 2)


def correlation(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation along the last axis; 0 where one of the two does not vary."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    product, size = (x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    still = size < 1e-12
    result: Floats = np.where(still, 0.0, product / np.where(still, 1.0, size))
    return result


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below; NaN where below is 0."""
    result: Floats = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
    return result


def _inside(value: float, error: float, bounds: tuple[float, float], least: float, n: int) -> tuple[float, float]:
    """The ends of the interval of a bounded statistic, by way of the scale z."""
    lo, hi = bounds
    if math.isinf(hi):
        step = quantile(n) * max(error / (value - lo), least)
        return lo + (value - lo) * math.exp(-step), lo + (value - lo) * math.exp(min(step, 700.0))
    z = math.log((value - lo) / (hi - value)) / 2
    step = quantile(n) * max(error * (1 / (value - lo) + 1 / (hi - value)) / 2, least)
    low, high = (lo + (hi - lo) * (1 + math.tanh(end)) / 2 for end in (z - step, z + step))
    return low, high
