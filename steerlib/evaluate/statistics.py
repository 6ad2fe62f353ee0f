"""Estimates with intervals: the percentile bootstrap over clusters.

Prompts about one occupation are not independent, so whole occupations (clusters) are drawn again, with replacement, and the
statistic is computed anew; the 2.5 % and 97.5 % points of what it gives bound the interval. Source: Efron and Tibshirani, An
Introduction to the Bootstrap (1993), chapter 13. On it rest the mean of items, the gap between two groups of them and the
difference between two scores of the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from steerlib.errors import SteerlibError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number that was measured: its value, the ends of its 95 % interval, and how many clusters it rests on."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % interval; both NaN where there is none."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __float__(self) -> float:
        return self.value


def bootstrap(
    statistic: Callable[[Floats], Floats], clusters: Floats, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The statistic of the clusters, with a bootstrap interval over them.

    clusters: (n, columns), one row a cluster. statistic: maps (..., n, columns) to (...), so that all resamples are
    computed at once; where it is NaN (a group that was not drawn, say) the resample is left out.
    Raises SteerlibError if there is no cluster, a value is missing, or the statistic of all clusters is not finite.
    """
    if len(clusters) == 0:
        raise SteerlibError("there is nothing to estimate: no item was scored.")
    if not np.isfinite(clusters).all():
        raise SteerlibError("an estimate needs finite numbers: a score is NaN or infinite.")
    value = float(statistic(clusters))
    if not np.isfinite(value):
        raise SteerlibError("an estimate is not finite: a group of the items is empty, or a number is too large.")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(clusters), size=(resamples, len(clusters)))
    low, high = np.nanpercentile(statistic(clusters[draws]), [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(clusters))


def correlation(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation along the last axis; 0 where one of the two does not vary, since nothing can be seen to go along."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    product, size = (x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    still = size < 1e-12
    result: Floats = np.where(still, 0.0, product / np.where(still, 1.0, size))
    return result


def mean(
    values: ArrayLike, clusters: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of items, with an interval over their clusters.

    values: (items,). clusters: a label an item, such as its occupation; None takes each item for itself.
    Raises SteerlibError if there is no item, a value is missing or the labels are too many or too few.
    """
    return bootstrap(
        lambda x: ratio(x[..., 0].sum(-1), x[..., 1].sum(-1)), _sums(values, clusters), resamples=resamples, seed=seed
    )


def gap(
    values: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over the items of one group less the mean over another's, their clusters drawn together.

    values: (items,). first, second: (items,) bool, who belongs to which. clusters: as in `mean`.
    Raises SteerlibError if a group has no item.
    """
    scores, one, other = _floats(values), _floats(first), _floats(second)
    columns = [_sums(column, clusters)[:, 0] for column in (scores * one, one, scores * other, other)]

    def statistic(x: Floats) -> Floats:
        a, b, c, d = np.moveaxis(x.sum(-2), -1, 0)
        return ratio(a, b) - ratio(c, d)

    return bootstrap(statistic, np.stack(columns, axis=-1), resamples=resamples, seed=seed)


def paired(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of after - before on the same items: a change is significant at 5 % if the interval leaves out 0.

    before, after: (items,), in one order. clusters: as in `mean`. The two share items and clusters, so that what makes an item
    hard in both cancels; comparing two separate intervals would not see that.
    """
    return mean(_change(before, after), clusters, resamples=resamples, seed=seed)


def minimum_detectable_effect(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    power: float = 0.8,
    level: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The smallest true difference that `paired` would find, on as many items and clusters, with probability `power`.

        (z(1 - level / 2) + z(power)) SE,    SE = sqrt(G / (G - 1) sum over g of (sum over i in g of (d_i - mean d))^2) / n

    with z the normal quantile, d = after - before on n items, in G clusters g: a two-sided test at `level`. With few clusters
    (below twenty or so) the normal quantiles, and hence the effect, are a little too small. Source: Bloom, Minimum Detectable
    Effects, Evaluation Review 19 (1995); for evaluations of language models Miller, arXiv 2411.00640. The interval, from
    the same formula on resampled clusters, is ours.
    Raises SteerlibError if there are fewer than two clusters, or power or level is not between 0 and 1.
    """
    if not (0 < power < 1 and 0 < level < 1):
        raise SteerlibError(f"power and level are between 0 and 1, such as 0.8 and 0.05, not {power} and {level}.")
    data = _sums(_change(before, after), clusters)
    if len(data) < 2:
        raise SteerlibError("a standard error needs two clusters or more: there is one.")
    quantiles = NormalDist().inv_cdf(1 - level / 2) + NormalDist().inv_cdf(power)

    def statistic(x: Floats) -> Floats:
        total, size = x[..., 0], x[..., 1]  # (..., clusters)
        n = size.sum(-1)
        away = total - size * (total.sum(-1) / n)[..., None]
        effect: Floats = quantiles * np.sqrt(len(data) / (len(data) - 1) * (away**2).sum(-1)) / n
        return effect

    return bootstrap(statistic, data, resamples=resamples, seed=seed)


@dataclass(frozen=True)
class Monotone:
    """How steadily something goes with the strength: Spearman's rank correlation, its two-sided p value, and n points."""

    value: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} (p = {self.p:.3g})"

    def __float__(self) -> float:
        return self.value


EXACT = 9  # points up to which every order is tried: 9! = 362,880
ORDERS = 100_000  # drawn at random for more


def monotone(strengths: Sequence[float], values: Sequence[float], *, seed: int = 0) -> Monotone:
    """Whether the values rise (1) or fall (-1) with every step of the strength; ties share a rank.

    p: the share of orders of the values whose rank correlation is as far from 0. Up to nine points all orders are tried, so
    that p is exact (and never below 2 / n!); for more, 100,000 drawn with `seed`. Raises SteerlibError on fewer than three.
    """
    if len(strengths) != len(values) or len(values) < 3:
        raise SteerlibError(
            f"a trend needs three points or more, a value each: there are {len(strengths)} strengths and {len(values)} values."
        )
    x, y = (_floats(pd.Series(_floats(given)).rank()) for given in (strengths, values))
    n = len(y)
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))
    else:
        rng = np.random.default_rng(seed)
        orders = np.stack([np.arange(n), *rng.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)])
    value = float(correlation(x, y))
    p = float((np.abs(correlation(x, y[orders])) >= abs(value) - 1e-9).mean())
    return Monotone(value, p, n)


TAKEN = ("cluster", "text", "words", "compound")


def labels(count: int, groups: Any = None, clusters: Sequence[object] | None = None) -> pd.DataFrame:
    """Who the items are about: a frame with a row an item, the column "cluster" and one a grouping, all texts.

    groups: None, a label an item (the column is then "group"), or several groupings: a mapping or frame of such columns.
    clusters: as in `mean`. Raises SteerlibError unless there are `count` labels everywhere.
    """
    if isinstance(groups, (Mapping, pd.DataFrame)):
        columns = {str(name): list(groups[name]) for name in groups}
    else:
        columns = {} if groups is None else {"group": list(groups)}
    given = {"cluster": list(range(count) if clusters is None else clusters), **columns}
    for name, column in given.items():
        if name in columns and name in TAKEN:
            raise SteerlibError(f"a grouping cannot be called '{name}', as another column is: choose another name.")
        if len(column) != count:
            raise SteerlibError(f"{count} items need {count} labels: '{name}' has {len(column)}.")
    return pd.DataFrame({name: [str(label) for label in column] for name, column in given.items()})


def ratio(above: Floats, below: Floats) -> Floats:
    """above / below; NaN where below is 0."""
    result: Floats = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)
    return result


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _change(before: ArrayLike, after: ArrayLike) -> Floats:
    """after - before, (items,)."""
    first, second = _floats(before), _floats(after)
    if first.shape != second.shape:
        raise SteerlibError(
            f"a paired comparison is on the same items: there are {first.size} before and {second.size} after."
        )
    return second - first


def _sums(values: ArrayLike, clusters: Sequence[object] | None) -> Floats:
    """(clusters, 2): the sum of the values in each cluster, and how many they are."""
    scores = _floats(values).reshape(-1)
    if clusters is None:
        return np.column_stack([scores, np.ones_like(scores)])
    names = [str(cluster) for cluster in clusters]
    if len(names) != len(scores):
        raise SteerlibError(f"{len(scores)} items need as many clusters: there are {len(names)}.")
    _, which = np.unique(names, return_inverse=True)
    return np.column_stack([np.bincount(which, scores), np.bincount(which)]) if names else np.empty((0, 2))
