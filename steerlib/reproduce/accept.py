"""Make measured numbers the recorded ones: the only writer of expectations.

The one idea: the ledger is edited in place, at the marks where YAML found a number, so that tolerances, bounds, orders,
comments and everything else stay to the letter.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from steerlib.errors import SteerlibError
from steerlib.reproduce.ledger import parse_ledger
from steerlib.reproduce.rules import Value
from steerlib.reproduce.verdicts import Verdict

ACCEPTABLE = ("misses", "drifted", "not yet recorded")


def accept(path: Path, verdicts: Iterable[Verdict]) -> str:
    """Write the measured numbers of claims that miss, drifted or are not yet recorded into the ledger.

    Only `value` changes, and for `within` also low and high (to the measured interval). Numbers of a chapter that
    failed, is stale or ran with other parameters are left out.

    Args:
        path: the ledger.
        verdicts: of `check`.

    Returns:
        The difference, line by line; empty when there was nothing to write.

    Raises:
        SteerlibError: the ledger with these numbers would be refused (say, a bound that does not hold); nothing is
            written then.
    """
    before = after = path.read_text(encoding="utf-8")
    edits: list[tuple[int, int, str]] = []  # from character, to character, new text
    wanted: dict[str, str] = {}
    entries: Any = yaml.compose(before, Loader=yaml.SafeLoader)
    places = [{key.value: place for key, place in entry.value} for entry in entries.value]
    for verdict in verdicts:
        one, got = verdict.claim, verdict.got
        if got is None or not verdict.sound or verdict.word not in ACCEPTABLE:
            continue
        wanted[one.id] = _yaml(got.value)
        changes = ("value", "low", "high") if one.kind == "within" else ("value",)
        place = next(place for place in places if place["id"].value == one.id)
        for field in changes:
            number = getattr(got, field)
            if number is None:
                raise SteerlibError(f"claim {one.id} is of kind within, but came without an interval.")
            marks = place[field].start_mark.index, place[field].end_mark.index
            edits.append((*marks, " " + _yaml(number)))
    for start, end, text in sorted(edits, reverse=True):
        after = after[:start].rstrip(" ") + text + after[end:]
    ledger = parse_ledger(after, path.name)
    if any(_yaml(ledger[id].value or 0.0) != text for id, text in wanted.items()):
        raise SteerlibError(f"{path.name}: put each value on the line of its field, to have it edited.")
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(after, encoding="utf-8")
    os.replace(scratch, path)
    lines = before.splitlines(), after.splitlines()
    return "\n".join(difflib.unified_diff(*lines, "recorded", "accepted", n=1, lineterm=""))


def _yaml(value: Value) -> str:
    """Six digits, on one line; YAML takes 1e-09 for a text, and 1.0e-09 for a number."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)}: {_yaml(number)}" for name, number in value.items()) + "}"
    digits = repr(float(f"{value:.6g}"))
    return digits if "." in digits else digits.replace("e", ".0e")


def _key(name: str) -> str:
    """A name as a key between braces; in quotes where YAML would take it for something else."""
    plain = re.fullmatch(r"[A-Za-z][\w ()/-]*", name) and isinstance(yaml.safe_load(name), str)
    return name if plain else json.dumps(name)
