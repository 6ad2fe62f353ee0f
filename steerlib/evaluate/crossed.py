"""An interval over occupations and wordings at once: how far another set of both might have moved a number.

The intervals of `decision_bias` take the wordings as given: they speak of other occupations in these wordings. Here both are drawn,
each on its own, with replacement, and an occupation o counts in a wording w as often as the two were drawn together. With c(w) how
often a wording was drawn out of W, and p(o, w) the probabilities of the groups,

    p*(o) = sum over w of c(w) p(o, w) / W

takes the place of the average over wordings. This two-way bootstrap is Owen's pigeonhole bootstrap (Annals of Applied Statistics 1,
2007); it errs towards intervals that are too wide. The rest is as in intervals.py, n being the smaller of the two numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.decisions import PER_CLUSTER, DecisionBias
from steerlib.evaluate.floor import distance
from steerlib.evaluate.intervals import ENOUGH, Estimate, Floats, check_resamples, ratio, spread
from steerlib.evaluate.reduction import families_of

Answers = DecisionBias | pd.DataFrame
"""A result of `decision_bias`, or a frame of P(first of two groups) with a row per cluster and a column per wording."""


def over_wordings(
    results: Answers | Sequence[Answers],
    *,
    unsteered: Answers | None = None,
    metric: str = "per_occupation_bias",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A bias, or the share of it that a steering removes, with an interval that holds for other wordings, too.

    Args:
        results: of `decision_bias` on a task that asks every cluster in every wording; or, of two groups, a frame with a row
            per cluster and a column per wording, of the probability of the first group. Of several on the same items (one per
            seed, say) the average in each cluster counts.
        unsteered: the same for the unsteered model: the result is then the share of its bias that is gone, as in `reduction`.
        metric: "per_occupation_bias", "per_prompt_bias" or, not of frames, "stereotype_gap".
        resamples: how often clusters and wordings are drawn.
        seed: of the draws.

    Returns:
        The number with its interval; n is the number of wordings or of clusters (families of them), whichever is smaller.
        Below three there is no interval.

    Raises:
        SteerlibError: on another metric, a cluster that is not asked in every wording, results on different items, or no bias
            before.

    Example:
        >>> import steerlib as sl
        >>> four = sl.tasks.pronoun("validation").ambiguous.where(template=["late", "advice", "tired", "cafe"])[:16]
        >>> bias = sl.decision_bias(sl.load("smollm2"), four)
        >>> both = sl.over_wordings(bias)
        >>> abs(both.value - bias.per_occupation_bias.value) < 1e-9, both.n
        (True, 4)
    """
    several = [results] if isinstance(results, (DecisionBias, pd.DataFrame)) else list(results)
    if not several:
        raise SteerlibError("there is nothing to estimate: give at least one result of decision_bias.")
    if metric not in PER_CLUSTER:
        raise SteerlibError(f"there is no metric '{metric}' per wording: use {', '.join(PER_CLUSTER)}.")
    check_resamples(resamples)
    tables = [_table(result, metric) for result in [*several, *([] if unsteered is None else [unsteered])]]
    first = tables[0][0]
    if any(names != first for names, _ in tables):
        raise SteerlibError("results over wordings are compared on the same items: clusters or wordings differ.")
    names, family = np.unique(families_of(several[0], first[0]), return_inverse=True)
    wordings = len(first[1])
    n = min(len(names), wordings)
    rng = np.random.default_rng(seed)
    drawn = [np.ones((1, len(names))), np.ones((1, wordings))]  # the first "resample" is what was measured
    drawn = [
        np.vstack([all_once, rng.multinomial(size, [1 / size] * size, resamples)])
        for all_once, size in zip(drawn, (len(names), wordings), strict=True)
    ]
    counts = drawn[0][:, family]  # (1 + resamples, clusters)

    def statistic(table: Floats) -> Floats:
        p = np.einsum("rw,owk->rok", drawn[1] / wordings, table)  # (1 + resamples, clusters, k or 1)
        each = distance(p) if metric == "per_occupation_bias" else p[..., 0]
        mean: Floats = (counts * each).sum(-1) / counts.sum(-1)
        return mean

    values = np.mean([statistic(table) for _, table in tables[: len(several)]], axis=0)
    bounds: tuple[float, float] | None = (-1.0 if metric == "stereotype_gap" else 0.0, 1.0)
    if unsteered is not None:
        before = statistic(tables[-1][1])
        if abs(before[0]) < 1e-12:
            raise SteerlibError("there is no bias before: nothing can be removed.")
        values = ratio(values * np.sign(before[0]), before * np.sign(before[0]))
        bounds = None if metric == "stereotype_gap" else (0.0, math.inf)
    value = float(values[0])
    found = Estimate(value, math.nan, math.nan, n) if n < ENOUGH else spread(value, values[1:], n, bounds=bounds)
    return found if unsteered is None else Estimate(1 - found.value, 1 - found.high, 1 - found.low, n)


def _table(result: Answers, metric: str) -> tuple[tuple[list[str], list[str]], Floats]:
    """The names of clusters and wordings, and (clusters, wordings, k) probabilities, or (clusters, wordings, 1) of the metric."""
    if isinstance(result, pd.DataFrame):
        first = result.sort_index().sort_index(axis=1)
        p = first.to_numpy(dtype=np.float64)
        if metric == "stereotype_gap" or not ((p >= 0) & (p <= 1)).all():
            raise SteerlibError(
                "a frame of answers holds a probability from 0 to 1 of one of two groups in every cell, and no stereotypes."
            )
        both = np.stack([p, 1 - p], axis=-1)
        table = both if metric == "per_occupation_bias" else distance(both)[..., None]
        return ([str(name) for name in first.index], [str(name) for name in first.columns]), table
    items, k = result.ambiguous, len(result.groups)
    columns = [f"p_{group}" for group in result.groups]
    if metric != "per_occupation_bias":
        result.per_cluster(metric)  # which knows whether there are stereotypes
        gap = metric == "stereotype_gap"
        score = (k * items["p_pro"] - 1) / (k - 1) if gap else distance(items[columns].to_numpy())
        items, columns = items.assign(score=score), ["score"]
    cells = items.groupby([result.about, "wording"], sort=True)
    means = cells[columns].mean()
    clusters, wordings = (list(means.index.unique(level)) for level in (0, 1))
    if len(means) < len(clusters) * len(wordings) or cells.size().nunique() > 1:
        raise SteerlibError(
            f"'{result.task}' does not ask every {result.about} equally often in every wording: intervals over wordings need that."
        )
    table = means.to_numpy().reshape(len(clusters), len(wordings), len(columns))
    return (clusters, wordings), table
