"""Means, gaps and paired differences of scored items, each with an interval over clusters.

What an interval is, is defined in intervals.py. Scores that are all 0 or 1 (an item is right or wrong, a word is said or not)
are shares, and get three things more, because seven of seven right is no proof that all are:

    mean    bounds (0, 1), and a standard error of at least sqrt(p (1 - p) / items). A share of 0 or 1 has Wilson's interval
            for none of n clusters, which reaches t^2 / (n + t^2) into the inside.
    gap     of two shares p and q, from their own intervals (Newcombe's hybrid), r being their correlation over resamples:
            p - q - sqrt((p - low p)^2 + (high q - q)^2 - 2 r (p - low p) (high q - q)), and likewise upwards.
    paired  the gap between the shares after and before.

Sources: Korn and Graubard, Survey Methodology 24 (1998), for shares in clusters; Newcombe, Statistics in Medicine 17 (1998), for
their differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from steerlib.errors import SteerlibError
from steerlib.evaluate.intervals import Estimate, Floats, bootstrap, correlation, quantile, ratio, reach

__all__ = [
    "Estimate",
    "Floats",
    "bootstrap",
    "correlated",
    "correlation",
    "gap",
    "labels",
    "mean",
    "minimum_detectable_effect",
    "paired",
    "ratio",
    "together",
]


def mean(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    share: bool | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over items, with an interval over their clusters.

    Args:
        values: (items,) scores. If all are 0 or 1, the mean is a share, and treated as the top of this file says.
        clusters: one label per item, such as its occupation; None makes each item a cluster of its own.
        bounds: the lowest and the highest value that a score can have, such as (0, 1) for probabilities. Known bounds
            improve the interval of a mean that is close to one of them.
        share: whether the scores say yes or no; None takes it that they do if all are 0 or 1. Say False of numbers that may
            happen to be so, such as lengths.
        resamples: how often the clusters are drawn.
        seed: of the draws.

    Returns:
        The mean, its interval and the number of clusters.

    Raises:
        SteerlibError: if there is no item, a value is missing, or there is not one label per item.

    Example:
        >>> right = mean([1, 1, 0, 1, 1, 1, 1, 0], ["nurse", "nurse", "pilot", "pilot", "cook", "cook", "clerk", "clerk"])
        >>> right.value, right.n
        (0.75, 4)
        >>> print(mean([1, 1, 1, 1, 1, 1, 1]))
        1.000 [0.539, 1.000]
    """
    scores = _floats(values).reshape(-1)
    if share is False or not _is_share(scores):
        return _mean(scores, clusters, bounds, 0.0, resamples, seed)
    spread = math.sqrt(len(scores) * scores.mean() * (1 - scores.mean()))
    found = _mean(scores, clusters, (0.0, 1.0), 1 / (2 * spread) if spread else 0.0, resamples, seed)
    if spread or math.isnan(found.low):
        return found
    inside = reach(found.n)
    return Estimate(found.value, *((0.0, inside) if found.value == 0 else (1 - inside, 1.0)), found.n)


def gap(
    values: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean over the items of one group minus the mean over another's, their clusters drawn together.

    Args:
        values: (items,) scores. If all are 0 or 1, the gap is one between shares, as the top of this file says.
        first: (items,) bool, who belongs to the first group.
        second: (items,) bool, who belongs to the second.
        clusters: as in `mean`.
        resamples: as in `mean`.
        seed: as in `mean`.

    Returns:
        The gap with its interval. n is the number of clusters in which the rarer group appears, because the gap rests on no
        more than those: a group met in two occupations of twelve has n = 2, and no interval.

    Raises:
        SteerlibError: if a group has no item, or there is not one label per item.

    Example:
        >>> scores, men = [0.9, 0.2, 0.8, 0.3, 0.7, 0.4], np.array([1, 0, 1, 0, 1, 0], dtype=bool)
        >>> jobs = ["nurse", "nurse", "pilot", "pilot", "cook", "cook"]
        >>> print(gap(scores, men, ~men, jobs).value.__round__(3))
        0.5
    """
    scores, one, other = _floats(values), _floats(first), _floats(second)
    data = np.stack([_sums(column, clusters)[:, 0] for column in (scores * one, one, scores * other, other)], axis=-1)

    def means(x: Floats) -> tuple[Floats, Floats]:
        a, b, c, d = np.moveaxis(x.sum(-2), -1, 0)
        return ratio(a, b), ratio(c, d)

    def difference(x: Floats) -> Floats:
        p, q = means(x)
        return p - q

    n = int(min((data[:, 1] > 0).sum(), (data[:, 3] > 0).sum()))
    found = bootstrap(difference, data, n=n, resamples=resamples, seed=seed)
    if math.isnan(found.low) or not _is_share(scores):
        return found
    names = np.arange(len(scores)) if clusters is None else np.array([str(cluster) for cluster in clusters])
    p, q = (mean(scores[own > 0], names[own > 0].tolist(), resamples=resamples, seed=seed) for own in (one, other))
    draws = np.random.default_rng(seed).integers(0, len(data), size=(resamples, len(data)))
    drawn = np.stack(means(data[draws]))  # (2, resamples)
    r = float(correlation(*drawn[:, np.isfinite(drawn).all(0)]))
    if found.high - found.low < 1e-9:  # all clusters alike, which is no proof that all others are
        return Estimate(found.value, max(-1.0, found.value - reach(n)), min(1.0, found.value + reach(n)), n)
    down = math.hypot(p.value - p.low, q.high - q.value) ** 2 - 2 * r * (p.value - p.low) * (q.high - q.value)
    up = math.hypot(p.high - p.value, q.value - q.low) ** 2 - 2 * r * (p.high - p.value) * (q.value - q.low)
    return Estimate(found.value, found.value - math.sqrt(max(down, 0.0)), found.value + math.sqrt(max(up, 0.0)), n)


def paired(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of after - before on the same items: a change is significant at 5 % if the interval excludes 0.

    The two share items and clusters, so that what makes an item hard in both cancels; comparing two separate intervals would
    not see that.

    Args:
        before: (items,) scores.
        after: (items,) scores of the same items, in the same order. Two pandas Series are aligned by their index.
        clusters: as in `mean`, in the order of `before`.
        resamples: as in `mean`.
        seed: as in `mean`.

    Returns:
        The mean change with its interval. Scores that are all 0 or 1 are treated as the top of this file says.

    Raises:
        SteerlibError: if the two are not about the same items, or a value is missing.

    Example:
        >>> before = pd.Series({"nurse": 0.9, "pilot": 0.7, "cook": 0.4, "clerk": 0.6})
        >>> after = pd.Series({"pilot": 0.3, "nurse": 0.4, "clerk": 0.3, "cook": 0.1})
        >>> print(paired(before, after))
        -0.375 [-0.524, -0.226]
    """
    first, second = _aligned(before, after)
    if not _is_share(np.concatenate([first, second])):
        return _mean(second - first, clusters, None, 0.0, resamples, seed)
    names = [str(cluster) for cluster in (range(len(first)) if clusters is None else clusters)]
    was = np.arange(2 * len(first)) < len(first)
    return gap(np.concatenate([first, second]), ~was, was, names * 2, resamples=resamples, seed=seed)


def correlated(
    x: ArrayLike, y: ArrayLike, clusters: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Pearson's correlation of pairs of values, with an interval on Fisher's scale.

    The standard error is the bootstrap's, and at least Fisher's 1 / sqrt(n - 3).

    Args:
        x: (pairs,).
        y: (pairs,).
        clusters: as in `mean`.
        resamples: as in `mean`.
        seed: as in `mean`.

    Returns:
        The correlation over all pairs; 0 where one of the two does not vary. With three clusters its interval is all of [-1, 1].

    Raises:
        SteerlibError: if the two differ in length, or a value is missing.

    Example:
        >>> print(correlated([2, 10, 40, 70, 90], [0.9, 0.8, 0.5, 0.4, 0.1]).value.__round__(2))
        -0.98
    """
    one, two = _floats(x).reshape(-1), _floats(y).reshape(-1)
    if one.shape != two.shape:
        raise SteerlibError(f"a correlation is of pairs of values: there are {one.size} and {two.size}.")
    a, b = (values - values.mean() if values.size else values for values in (one, two))
    moments = together(np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=-1), clusters)  # (clusters, 6)
    n = len(moments)

    def statistic(drawn: Floats) -> Floats:
        size, a, b, aa, bb, ab = np.moveaxis(drawn.sum(-2), -1, 0)
        spread = np.sqrt(np.clip(aa - a * a / size, 0, None) * np.clip(bb - b * b / size, 0, None))
        still = spread < 1e-12
        r: Floats = np.where(still, 0.0, np.clip((ab - a * b / size) / np.where(still, 1.0, spread), -1.0, 1.0))
        return r

    return bootstrap(
        statistic,
        moments,
        bounds=(-1.0, 1.0),
        least=1 / math.sqrt(n - 3) if n > 3 else math.inf,
        resamples=resamples,
        seed=seed,
    )


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

        (t(1 - level / 2) + t(power)) SE,    SE = sqrt(G / (G - 1) sum over g of (sum over i in g of (d_i - mean d))^2) / n

    with d = after - before on n items in G clusters g, and t the quantile of Student's t with G - 1 degrees of freedom: a
    two-sided test at `level`. Source: Bloom, Minimum Detectable Effects, Evaluation Review 19 (1995); for evaluations of
    language models Miller, arXiv 2411.00640. The interval, from the same formula on resampled clusters, is ours.

    Args:
        before: as in `paired`.
        after: as in `paired`.
        clusters: as in `mean`.
        power: the probability of finding an effect of that size.
        level: the probability of finding one where there is none.
        resamples: as in `mean`.
        seed: as in `mean`.

    Returns:
        The effect, in the units of the scores.

    Raises:
        SteerlibError: if there are fewer than two clusters, or power or level is not between 0 and 1.

    Example:
        >>> print(round(minimum_detectable_effect([0.5, 0.6, 0.4, 0.7], [0.6, 0.6, 0.5, 0.5]).value, 3))
        0.294
    """
    if not (0 < power < 1 and 0 < level < 1):
        raise SteerlibError(f"power and level are between 0 and 1, such as 0.8 and 0.05, not {power} and {level}.")
    first, second = _aligned(before, after)
    data = _sums(second - first, clusters)
    if len(data) < 2:
        raise SteerlibError("a standard error needs two clusters or more: there is one.")
    quantiles = quantile(len(data), 1 - level / 2) + quantile(len(data), power)

    def statistic(x: Floats) -> Floats:
        total, size = x[..., 0], x[..., 1]  # (..., clusters)
        n = size.sum(-1)
        away = total - size * (total.sum(-1) / n)[..., None]
        effect: Floats = quantiles * np.sqrt(len(data) / (len(data) - 1) * (away**2).sum(-1)) / n
        return effect

    return bootstrap(statistic, data, bounds=(0.0, math.inf), resamples=resamples, seed=seed)


TAKEN = ("cluster", "text", "words", "compound")


def labels(count: int, groups: Any = None, clusters: Sequence[object] | None = None) -> pd.DataFrame:
    """Who the items are about: a frame with one row per item, the column "cluster" and one column per grouping, all texts.

    groups: None, one label per item (the column is then "group"), or several groupings: a mapping or frame of such columns.
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


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _mean(
    scores: Floats,
    clusters: Sequence[object] | None,
    bounds: tuple[float, float] | None,
    least: float,
    resamples: int,
    seed: int,
) -> Estimate:
    """The mean over items, their clusters drawn whole."""

    def statistic(x: Floats) -> Floats:
        return ratio(x[..., 0].sum(-1), x[..., 1].sum(-1))

    return bootstrap(statistic, _sums(scores, clusters), bounds=bounds, least=least, resamples=resamples, seed=seed)


def _is_share(scores: Floats) -> bool:
    """Whether every score is 0 or 1."""
    return len(scores) > 0 and bool(np.isin(scores, (0.0, 1.0)).all())


def _aligned(before: ArrayLike, after: ArrayLike) -> tuple[Floats, Floats]:
    """The scores of the same items, twice (items,); Series go by their index."""
    if isinstance(before, pd.Series) and isinstance(after, pd.Series):
        if before.index.has_duplicates or after.index.has_duplicates:
            if not before.index.equals(after.index):
                raise SteerlibError(
                    "a paired comparison is on the same items: the two Series repeat index labels, and not in one order."
                )
        else:
            apart = before.index.symmetric_difference(after.index)
            if len(apart):
                raise SteerlibError(
                    f"a paired comparison is on the same items: {apart[0]!r} is in the index of one Series only."
                )
            after = after.loc[before.index]
    first, second = _floats(before).reshape(-1), _floats(after).reshape(-1)
    if first.shape != second.shape:
        raise SteerlibError(
            f"a paired comparison is on the same items: there are {first.size} before and {second.size} after."
        )
    return first, second


def _sums(values: ArrayLike, clusters: Sequence[object] | None) -> Floats:
    """(clusters, 2): the sum of the values in each cluster, and how many they are."""
    scores = _floats(values).reshape(-1)
    return together(np.column_stack([scores, np.ones_like(scores)]), clusters)


def together(rows: ArrayLike, clusters: Sequence[object] | None) -> Floats:
    """The sums of the rows of each cluster: (rows, columns) to (clusters, columns), in the order of the clusters' names.

    Raises:
        SteerlibError: if there is not one label per row.
    """
    data = _floats(rows)
    if clusters is None:
        return data
    names = [str(cluster) for cluster in clusters]
    if len(names) != len(data):
        raise SteerlibError(f"{len(data)} items need as many clusters: there are {len(names)}.")
    if not names:
        return data[:0]
    found, which = np.unique(names, return_inverse=True)
    return np.column_stack([np.bincount(which, column, minlength=len(found)) for column in data.T])
