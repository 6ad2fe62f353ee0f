"""A result by groups of people: one Estimate per group, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.statistics import Estimate, mean
from steerlib.evaluate.style import COLORS, MARKERS, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = "all"


def grouped(frame: pd.DataFrame, grouping: str, known: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The rows of each group, by its name, in the order of their first row.

    Args:
        frame: one row per answer.
        grouping: the column with the groups.
        known: the columns that hold groups.

    Raises:
        SteerlibError: there is no such grouping.
    """
    if grouping not in known:
        raise SteerlibError(f"there is no grouping '{grouping}': there are {', '.join(known) or 'none'}.")
    return {str(group): part for group, part in frame.groupby(grouping, sort=False)}


def share(part: pd.DataFrame, column: str, *, resamples: int, seed: int) -> Estimate:
    """The mean of a column, with an interval over the clusters; of truth values it is a share, of numbers it is not."""
    truths = part[column].map(lambda x: isinstance(x, (bool, np.bool_))).all()
    return mean(
        part[column].astype(float), part["cluster"].tolist(), share=bool(truths), resamples=resamples, seed=seed
    )


def rows(estimates: Mapping[str, Estimate], name: str) -> pd.DataFrame:
    """One row per group: value, low, high, n (clusters); the index is called after the grouping."""
    table = pd.DataFrame({group: vars(estimate) for group, estimate in estimates.items()}).T
    return table.astype({"n": int}).rename_axis(name)


def dots(
    metrics: Sequence[str], series: Mapping[str, Sequence[Estimate | None]], ax: Axes | None, *, xlabel: str
) -> Axes:
    """One row per metric, and in it one marker per group with its interval, if it has one.

    Args:
        metrics: the names of the rows, from the top.
        series: by the name of a group, its Estimate in each row; None leaves the place empty.
        ax: where to draw; None makes a figure.
        xlabel: what is measured.

    Returns:
        The axes.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(4.8, 1.4 + 0.5 * len(metrics)), layout="constrained")
    for k, (group, estimates) in enumerate(series.items()):
        drawn = [(i, e) for i, e in enumerate(estimates) if e is not None]
        reach = np.array([[e.value - e.low, e.high - e.value] for _, e in drawn]).T  # NaN where there is no interval
        ax.errorbar(
            [e.value for _, e in drawn],
            [i + 0.6 * ((k + 0.5) / len(series) - 0.5) for i, _ in drawn],
            xerr=np.maximum(reach, 0) if drawn else None,
            fmt=MARKERS[k % len(MARKERS)],
            color=COLORS[k % len(COLORS)],
            markersize=5,
            linewidth=1,
            label="all answers" if group == ALL else group,
        )
    ax.set_yticks(range(len(metrics)), list(metrics))
    ax.set_xlabel(xlabel)
    ax.set_ylim(len(metrics) - 0.5, -0.5)  # the first on top, on axes that share it as well
    ax.grid(axis="x", color="0.9")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(2, len(series)), frameon=False)
    return bare(ax)
