"""The one error that bad input raises: a sentence saying what was wrong, where, and what would be right."""

from __future__ import annotations

import operator


class SteerlibError(ValueError):
    """Raised for every input that steerlib refuses; its text is one sentence meant to be read by a person."""


def check_count(name: str, value: object, least: int = 1) -> int:
    """A whole number that is at least `least`, as an int. Raises SteerlibError, naming the argument, if it is something else."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is no integer is refused below
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise SteerlibError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number
