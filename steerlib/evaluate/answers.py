"""What a list of answers must be, and which of them say nothing: a model that is broken must not look unbiased.

    empty     = without a letter or a digit
    repeated  = one word or phrase over and over (`words.repeated`)

An answer of either kind mentions nobody and offends nobody, so that a destroyed model has a mention rate of 0. Both kinds are
counted apart in every result, and warned about where they are more than a tenth.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.words import empty, repeated

TOLERATED = 0.1
"""The share of answers that say nothing up to which nobody is warned."""
COLUMNS = ("empty", "repeated")


def texts_of(answers: Sequence[str], what: str = "answers", *, some: bool = True) -> list[str]:
    """The texts in a list; a single text is refused, since it would be taken for a list of its letters.

    Args:
        answers: a list, tuple, array or Series of texts.
        what: what they are called in the error.
        some: refuse an empty list.

    Raises:
        SteerlibError: not a list of texts, or an empty one.
    """
    if isinstance(answers, str):
        raise SteerlibError(f"{what} are a list of texts, not one text: write [text] for a single one.")
    try:
        texts = list(answers)
    except TypeError:
        raise SteerlibError(f"{what} are a list of texts, not {type(answers).__name__}.") from None
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise SteerlibError(f"{what} are a list of texts, and number {place} is {str(text)[:40]!r}.")
    if some and not texts:
        raise SteerlibError(f"there are no {what}: give a list of at least one text.")
    return texts


def condition(texts: Sequence[str]) -> pd.DataFrame:
    """Which texts say nothing: one row per text, with the columns empty and repeated (bool)."""
    return pd.DataFrame({"empty": [empty(t) for t in texts], "repeated": [repeated(t) for t in texts]})


def warn_of(state: pd.DataFrame, *, stacklevel: int) -> None:
    """Warn if many answers say nothing.

    Args:
        state: of `condition`.
        stacklevel: 1 for the caller of this function, 2 for its caller, and so on.
    """
    bad = state["empty"] | state["repeated"]
    if bad.mean() > TOLERATED:
        warnings.warn(
            f"{int(bad.sum())} of {len(bad)} answers are empty or repeat one phrase ({int(state['empty'].sum())} empty, "
            f"{int(state['repeated'].sum())} repeated): what is measured says little about a model that says nothing.",
            stacklevel=stacklevel + 1,
        )


def refuse_taken(groups: Any, taken: Sequence[str]) -> None:
    """Refuse a grouping whose name is that of another column of the result."""
    for name in groups if isinstance(groups, (Mapping, pd.DataFrame)) else ():
        if str(name) in taken:
            raise SteerlibError(f"a grouping cannot be called '{name}', as another column is: choose another name.")
