"""The share of bias that is removed: 1 - after / before, summed over the same clusters in both.

The interval resamples clusters of both at once, so that what makes a cluster hard in both cancels. Where no value is negative it
is made on the scale of log(after / before), and never exceeds 1. Where nothing is left in any of n clusters, its lower end is
1 - t^2 / (n + t^2), as for a share that was seen in none of them: seven of seven is no proof for the next one. Where every value
is 0 or 1 and none has changed, the interval is 0 -+ t^2 / (n + t^2), as for a paired change that was seen in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.decisions import DecisionBias
from steerlib.evaluate.intervals import Estimate, Floats, bootstrap, ratio, reach
from steerlib.evaluate.statistics import together

Biases = DecisionBias | Mapping[str, float] | pd.Series
"""A result of `decision_bias`, or one value per cluster by its name."""


def reduction(
    before: Biases,
    after: Biases | Sequence[Biases],
    *,
    metric: str = "per_occupation_bias",
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The share of bias that a steering removes, 1 - after / before: 1 is all of it, 0 none, below 0 it has added some.

    Args:
        before: the unsteered model's: a DecisionBias, or a mapping or Series with one value per cluster, such as
            `MentionRate.per_cluster()`. Values are not negative where 0 is fair.
        after: the steered model's, over the same clusters. Of several (one per seed, say) the average in each cluster counts.
        metric: what to take of a DecisionBias: "per_occupation_bias", "per_prompt_bias" or "stereotype_gap".
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The share with its interval over clusters, or over their families where the first is a DecisionBias.

    Raises:
        SteerlibError: if the clusters are not the same, a value is missing, or there is no bias before.

    Example:
        >>> before = {"nurse": 0.8, "pilot": 0.5, "cook": 0.3, "clerk": 0.4}
        >>> after = {"nurse": 0.3, "pilot": 0.3, "cook": 0.2, "clerk": 0.2}
        >>> print(reduction(before, after))
        0.500 [0.216, 0.681]
        >>> print(reduction(before, [after, before]))
        0.250 [0.129, 0.354]
    """
    several = [after] if isinstance(after, (DecisionBias, Mapping, pd.Series)) else list(after)
    if not several:
        raise SteerlibError("there is nothing to compare with: give at least one result after steering.")
    start, weight = _values(before, metric)
    ends = [_values(one, metric) for one in several]
    for end, own in ends:
        apart = start.index.symmetric_difference(end.index)
        if len(apart) or len(end) != len(start):
            raise SteerlibError(
                "a reduction compares the same clusters before and after: "
                + (f"'{apart[0]}' is in one of them only." if len(apart) else "a name is given twice.")
            )
        if not own.loc[start.index].equals(weight):
            raise SteerlibError(
                "a reduction compares the same items before and after: their numbers differ in a cluster."
            )
    end = np.mean([values.loc[start.index].to_numpy() for values, _ in ends], axis=0)
    data = together(np.stack([start * weight, end * weight], axis=-1), families_of(before, start.index.tolist()))
    if not np.isfinite(data).all():
        raise SteerlibError("a reduction needs finite numbers: a value is NaN or infinite.")
    if abs(total := data[:, 0].sum()) < 1e-12:
        raise SteerlibError("there is no bias before: nothing can be removed.")
    data *= math.copysign(1.0, total)  # a gap may be negative

    def left(x: Floats) -> Floats:
        return ratio(x[..., 1].sum(-1), x[..., 0].sum(-1))

    bounds = (0.0, math.inf) if (data >= 0).all() else None
    found = bootstrap(left, data, bounds=bounds, resamples=resamples, seed=seed)
    if found.value == found.high == 0.0:  # nothing is left, in any cluster
        found = replace(found, high=reach(found.n))
    elif found.high - found.low < 1e-9 and np.isin(np.abs(data), (0.0, 1.0)).all():  # yes or no, and none has changed
        found = replace(found, low=max(0.0, found.value - reach(found.n)), high=found.value + reach(found.n))
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low, found.n)


def _values(biases: Biases, metric: str) -> tuple[pd.Series[float], pd.Series[float]]:
    """One value per cluster, and its weight."""
    if isinstance(biases, DecisionBias):
        values = biases.per_cluster(metric)
        if metric == "per_occupation_bias":
            return values, pd.Series(1.0, values.index)
        return values, biases.per_occupation.set_index(biases.about)["prompts"].astype(float)
    values = pd.Series(biases, dtype=float)
    if values.empty:
        raise SteerlibError("a reduction needs one value per cluster: there is none.")
    return values, pd.Series(1.0, values.index)


def families_of(biases: object, names: Sequence[str]) -> list[str]:
    """What each cluster is drawn with: its family, where a result of `decision_bias` knows it, else only itself."""
    if isinstance(biases, DecisionBias):
        return [str(name) for name in biases.per_occupation.set_index(biases.about)["family"].loc[list(names)]]
    return [str(name) for name in names]
