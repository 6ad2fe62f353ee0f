"""Parameters from the command line: what a text means, and whether a chapter can take it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import papermill

from steerlib.errors import SteerlibError

WORDS = {"true": True, "false": False, "yes": True, "no": False, "none": None, "null": None}
KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", tuple: "a list"}


def literal(text: str) -> object:
    """The Python value that a text spells, else the text itself.

    Raises:
        SteerlibError: a value that no notebook can be handed, such as a set.

    >>> [literal(text) for text in ("3", "1e-3", "false", "None", "smollm2", "'3'", "[1, 2]")]
    [3, 0.001, False, None, 'smollm2', '3', [1, 2]]
    """
    if text.strip().lower() in WORDS:
        return WORDS[text.strip().lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SteerlibError(
            f"a parameter cannot be {text}: use a number, a text, true, false, none, or a list of these."
        ) from error
    return value


def other_parameters(root: Path, name: str, values: Mapping[str, object]) -> bool:
    """Tell whether a value differs from the chapter's own.

    Args:
        root: the checkout.
        name: the chapter's file stem.
        values: by the name of the parameter.

    Raises:
        SteerlibError: the chapter has no such parameter, or its own is of another kind: `maybe` for a truth value, say.
    """
    if not values:
        return False
    try:
        own = papermill.inspect_notebook(root / "book" / f"{name}.ipynb")
    except ValueError as problem:
        raise SteerlibError(f"book/{name}.ipynb cannot take parameters: {problem}.") from problem
    other = False
    for key, value in values.items():
        if key not in own:
            raise SteerlibError(f"the chapter {name} has no parameter {key!r}: it has {', '.join(own) or 'none'}.")
        spelt = own[key]["default"]
        try:
            usual = ast.literal_eval(spelt)
        except (ValueError, SyntaxError):  # an expression: what it comes to is not known before it runs
            other |= spelt != value
            continue
        kind, given = KINDS.get(type(usual)), KINDS.get(type(value))
        if kind and given and kind != given:
            raise SteerlibError(f"the parameter {key} of {name} is {kind} ({spelt}), not {given} ({value!r}).")
        other |= plain(usual) != plain(value)
    return other


def plain(value: object) -> object:
    """A value as a notebook gets it: a tuple is a list; True is not 1."""
    return json.dumps(value, default=repr)
