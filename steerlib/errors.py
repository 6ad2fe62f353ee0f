"""The one error that bad input raises: a sentence saying what was wrong, where, and what would be right."""

from __future__ import annotations

import operator


class SteerlibError(ValueError):
    """Raised for every input that steerlib refuses; its text is one sentence meant to be read by a person.

    It is a ValueError, so that code which knows nothing of steerlib can catch it.

    Example:
        >>> import steerlib as sl
        >>> try:
        ...     sl.tasks.pronoun("tset")
        ... except sl.SteerlibError as error:
        ...     print(str(error).partition(":")[0])
        there is no split 'tset'
    """


def check_count(name: str, value: object, least: int = 1) -> int:
    """A whole number that is at least `least`, as an int.

    Args:
        name: of the argument, for the error.
        value: what was given; any integer type will do, but not a bool.
        least: the smallest number allowed.

    Returns:
        The number as an int.

    Raises:
        SteerlibError: the value is not such a number.

    >>> check_count("batch_size", 16)
    16
    >>> check_count("batch_size", 0)
    Traceback (most recent call last):
    steerlib.errors.SteerlibError: batch_size must be a whole number of at least 1, not 0.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is no integer is refused below
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise SteerlibError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number
