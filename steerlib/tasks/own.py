"""Occupations of your own for the tasks about work: a frame or a CSV file, checked row by row before anything is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.tasks.table import empty, number_of, read_table

People = pd.DataFrame | str | Path
"""A frame, or a CSV file, with the columns occupation, stereotype and, if you like, percent_women and family."""


def occupation_rows(people: People, *, groups: tuple[str, str]) -> list[dict[str, Any]]:
    """The occupations, each with its stereotype, its percentage of women (None without such a column) and its family ("").

    Args:
        people: a frame or the path of a CSV file. "90%" is read as 90.
        groups: what a stereotype may be.

    Raises:
        SteerlibError: a column is missing, a cell is empty, a percentage is none; says which occupation or row.
    """
    table = read_table(people) if isinstance(people, (str, Path)) else people
    if not isinstance(table, pd.DataFrame):
        raise SteerlibError(
            "people is a frame with the columns occupation, stereotype and percent_women, or the path of such a CSV file, not "
            f"{type(people).__name__}."
        )
    table = table.rename(columns=lambda column: str(column).replace("\ufeff", "").strip())
    if missing := {"occupation", "stereotype"} - set(table.columns):
        raise SteerlibError(f"the table of occupations lacks the column '{min(missing)}'.")
    if not len(table):
        raise SteerlibError("the table of occupations has no rows: give at least one occupation.")
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(table.to_dict("records"), start=2):
        job = row["occupation"]
        if empty(job) or not isinstance(job, str):
            raise SteerlibError(f"row {number} of the table of occupations names no occupation: it has {job!r}.")
        if row["stereotype"] not in groups:
            raise SteerlibError(
                f"occupation '{job}' has the stereotype {row['stereotype']!r}: it must be '{groups[0]}' or '{groups[1]}'."
            )
        percent = None
        if "percent_women" in table.columns:
            percent = number_of(row["percent_women"], f"occupation '{job}': the percentage of women")
            if percent is None or not 0 <= percent <= 100:
                raise SteerlibError(
                    f"occupation '{job}' has percent_women {row['percent_women']!r}: it is a number from 0 to 100; leave the "
                    "column out if there are no numbers."
                )
        family = row.get("family", "")
        about = {"occupation": job.strip(), "percent_women": percent, "stereotype": row["stereotype"]}
        rows.append({**about, "family": "" if empty(family) else str(family).strip()})
    given = [row["percent_women"] for row in rows if row["percent_women"] is not None]
    if given and max(given) <= 1 and any(value % 1 for value in given):
        raise SteerlibError("percent_women holds shares from 0 to 1: multiply them by 100.")
    return rows
