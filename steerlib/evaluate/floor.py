"""The floor of a Per-Occupation Bias, and two numbers that tell noise from bias. Both are ours.

A Per-Occupation Bias is a mean over occupations of absolute values, each an average over wordings. Noise over few wordings lifts it:
with every occupation fair and tilts that vary by 0.4 from wording to wording, ten wordings still show a bias of 0.10, and no
interval reaches 0. With p(w) the probabilities of k groups in wording w, and D their distance from parity,

    D(p)          = k / (2 (k - 1)) * sum over groups g of |p(g) - 1 / k|
    chance        = mean over occupations and deals of D(mean over w of p(w) with its groups dealt out at random)
    cross-fitted  = mean over occupations and wordings w of k / (2 (k - 1)) * sum over g of s(g) (p(g, w) - 1 / k),
                    s(g) = sign of (mean of p(g, v) over the other wordings v, minus 1 / k)

The null behind `chance` keeps how far each wording leans and forgets where to; for two groups it flips the sign of each wording's
tilt at random. The cross-fitted bias averages 0 for a fair model, because the direction comes from other wordings than those it is
measured in, and agrees with the Per-Occupation Bias where all wordings of an occupation lean the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from steerlib.evaluate.intervals import Estimate, Floats
from steerlib.evaluate.statistics import mean

DEALS = 400  # of the groups, behind `chance`
Wordings = list[tuple[Floats, Floats]]
"""For each cluster: the mean probabilities of its wordings (wordings, k), and their numbers of items (wordings,)."""


def distance(p: Floats) -> Floats:
    """D(p), how far probabilities of k groups are from parity; p: (..., k), returns (...)."""
    k = p.shape[-1]
    far: Floats = k / (2 * (k - 1)) * np.abs(p - 1 / k).sum(-1)
    return far


def wordings(items: pd.DataFrame, about: str, groups: tuple[str, ...]) -> Wordings:
    """For each cluster the mean probabilities of its wordings (wordings, k), and their numbers of items (wordings,)."""
    columns = [f"p_{group}" for group in groups]
    found: Wordings = []
    for _, part in items.groupby(about, sort=True):
        by = part.groupby("wording", sort=True)[columns]
        found.append((np.asarray(by.mean(), dtype=np.float64), np.asarray(by.size(), dtype=np.float64)))
    return found


def chance(found: Wordings, *, seed: int = 0) -> Estimate | None:
    """The bias if the groups were dealt out at random in each wording; None if a cluster has only one."""
    rng = np.random.default_rng(seed)
    total = np.zeros(DEALS)
    for p, size in found:
        if len(p) < 2:
            return None
        dealt = rng.permuted(np.broadcast_to(p, (DEALS, *p.shape)), axis=-1)  # (deals, wordings, k)
        total += distance(np.einsum("dwk,w->dk", dealt, size / size.sum()))
    low, high = np.percentile(total / len(found), [2.5, 97.5])
    return Estimate(float(total.mean() / len(found)), float(low), float(high), len(found))


def cross_fitted(found: Wordings, families: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> Estimate | None:
    """The bias of each wording in the direction of the others of its cluster; None if a cluster has only one.

    families: (clusters,) which of them the bootstrap draws together.
    """
    values = []
    for p, size in found:
        if len(p) < 2:
            return None
        k = p.shape[-1]
        whole = size @ (p - 1 / k)  # (k,)
        rest = whole - size[:, None] * (p - 1 / k)  # (wordings, k): the lean of all wordings but this one
        lean = np.where(np.abs(rest) < 1e-12, 0.0, np.sign(rest))
        own = k / (2 * (k - 1)) * (lean * (p - 1 / k)).sum(-1)  # (wordings,)
        values.append(float(size @ own / size.sum()))
    return mean(values, families, bounds=(-1, 1), resamples=resamples, seed=seed)
