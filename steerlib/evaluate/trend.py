"""Whether something goes steadily with the strength: Spearman's rank correlation, and a p value from all orders of the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.intervals import correlation


@dataclass(frozen=True)
class Monotone:
    """How steadily something changes with the strength: Spearman's rank correlation, its two-sided p value, and n points."""

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

    Args:
        strengths: three or more.
        values: one per strength.
        seed: of the random orders, for more than nine points.

    Returns:
        Spearman's rank correlation, and p: the share of orders of the values whose rank correlation is at least as far from
        0. Up to nine points all orders are tried, so that p is exact (and never below 2 / n!); for more, 100,000 are drawn.

    Raises:
        SteerlibError: on fewer than three points, unequal numbers, or a value that is missing or infinite.

    Example:
        >>> print(monotone([0, 0.25, 0.5, 0.75, 1], [0.4, 0.33, 0.25, 0.2, 0.1]))
        -1.000 (p = 0.0167)
    """
    if len(strengths) != len(values) or len(values) < 3:
        raise SteerlibError(
            f"a trend needs three points or more, with one value each: there are {len(strengths)} strengths and {len(values)} values."
        )
    given = [np.asarray(numbers, dtype=np.float64) for numbers in (strengths, values)]
    if not all(np.isfinite(numbers).all() for numbers in given):
        raise SteerlibError("a trend needs finite numbers: a strength or a value is NaN or infinite.")
    x, y = (np.asarray(pd.Series(numbers).rank(), dtype=np.float64) for numbers in given)
    n = len(y)
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))
    else:
        rng = np.random.default_rng(seed)
        orders = np.stack([np.arange(n), *rng.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)])
    value = float(correlation(x, y))
    p = float((np.abs(correlation(x, y[orders])) >= abs(value) - 1e-9).mean())
    return Monotone(value, p, n)
