"""How results look, once for all of them: colours, markers, bare axes, and the table of a result's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from steerlib.evaluate.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, which are told apart with any kind of colour vision."""
MARKERS = ("s", "o", "^", "D", "v", "P")


def bare(ax: Axes) -> Axes:
    """The axes without their top and right spines.

    Args:
        ax: any axes; they are changed in place.

    Returns:
        The same axes.
    """
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def table(estimates: Mapping[str, Estimate | None]) -> pd.DataFrame:
    """The numbers of a result as a frame, one row per metric.

    Args:
        estimates: by the name of the metric; those that are None were not measured, and are left out.

    Returns:
        A frame with the columns value, low, high (the ends of the 95 % interval) and n (clusters).
    """
    rows = {name.replace("_", " "): vars(estimate) for name, estimate in estimates.items() if estimate is not None}
    return pd.DataFrame(rows).T.astype({"n": int})
