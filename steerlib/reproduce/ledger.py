"""The ledger: data/claims.yml, one entry for each number that the book measured.

The one idea: an entry that could not fail is refused when the ledger is read, before anything is run.

    - id: chapter.slug.what            three parts of small letters, digits and hyphens
      says: The bias is {value:.3f}.   one sentence with the number's place
      source: ours                     or a paper's table or section
      kind: at_most                    see `steerlib.reproduce.rules` for the kinds and the fields that each needs
      bound: 0.5
      tolerance: 0.01                  how far a rerun may be off; optional for all kinds but `close`
      stored: tools/ladder.py          the command that made the file from which the run only reads it; optional
      tests: dso-lowers-bias           the id of the sentence of data/papers.yml that it tests; optional
      status: not-testable             or not-reproduced; optional
      why: All captions are neutral.   what not-testable needs; not-reproduced needs `paper`, what the paper found
      tier: cpu                        or gpu: a paper's number, which another profile than the book's own measures
      profile: gpu                     that profile; of the tier gpu only
      measured_as: chapter.slug.what   the claim as which the chapter records the number in such a run; likewise
      seed: 0
      chapter: decisions-in-text
      value: 0.38                      the number last accepted; null means "not yet recorded"
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from re import fullmatch
from typing import Any

import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.reproduce.papers import sentences
from steerlib.reproduce.rules import NEEDS, STATUSES, Claim, Measured, absurd, meets
from steerlib.reproduce.wording import expected, sentence


def ledger_path() -> Path:
    """data/claims.yml, or the file that the environment variable STEERLIB_LEDGER names."""
    chosen = os.environ.get("STEERLIB_LEDGER")
    return Path(chosen) if chosen else data_path("claims.yml")


LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # in C where PyYAML has it: a chapter reads the ledger at every claim


def load_ledger(path: Path | None = None) -> dict[str, Claim]:
    """Read and check the ledger.

    Args:
        path: a YAML file, a list of entries; data/claims.yml when left out.

    Returns:
        The claims by id, in the order of the file.

    Raises:
        SteerlibError: a missing, misspelt or ill-typed field, an unknown kind or status, a malformed id, an id used
            twice, a test of a sentence that data/papers.yml does not have, a tolerance above half of the claim's own
            effect or of its number, or a recorded value that misses its own claim.
    """
    path = path or ledger_path()
    if not path.is_file():
        raise SteerlibError(f"there is no ledger of claims at {path}; an empty one is the line `[]`.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SteerlibError(f"the ledger {path} cannot be read as UTF-8 text: {error}.") from error
    return dict(_parsed(text, path.name))


@lru_cache(maxsize=4)
def _parsed(text: str, name: str) -> dict[str, Claim]:
    """A ledger as it was read before: a chapter looks at it for every claim."""
    return parse_ledger(text, name)


def parse_ledger(text: str, name: str) -> dict[str, Claim]:
    """Read a ledger from a text, as `load_ledger` does from a file.

    Args:
        text: the YAML.
        name: what error messages call it.

    Returns:
        The claims by id, in the order of the text.

    Raises:
        SteerlibError: as `load_ledger`.
    """
    try:
        entries = yaml.load(text, Loader=LOADER)
    except yaml.YAMLError as error:
        raise SteerlibError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SteerlibError(f"{name} must be a list of claims, each beginning with `- id: ...`.")
    ledger: dict[str, Claim] = {}
    for number, entry in enumerate(entries, start=1):
        one = _claim(entry, f"{name}: claim {entry.get('id', f'number {number}')}")
        if one.id in ledger:
            raise SteerlibError(f"{name}: the id {one.id} is used twice; every claim needs its own.")
        ledger[one.id] = one
    for one in ledger.values():
        _must(
            not one.measured_as or _same_number(one, ledger.get(one.measured_as)), f"{name}: claim {one.id}: {AS_WHICH}"
        )
    return ledger


AS_WHICH = (
    "measured_as must be the id of a claim of its chapter, of the tier cpu, with the same named numbers if it has any"
)


def _same_number(one: Claim, recorded: Claim | None) -> bool:
    """Whether what a chapter records for one claim can be judged against another."""
    if recorded is None or recorded.tier != "cpu" or recorded.chapter != one.chapter:
        return False
    return set(recorded.order) == set(one.order)


def _claim(entry: Mapping[str, Any], where: str) -> Claim:
    kind, status = entry.get("kind"), entry.get("status", "")
    _must(
        kind is None or kind in NEEDS,
        f"{where}: kind {kind!r} is unknown; choose one of {', '.join(NEEDS)}",
    )
    required = ["id", "says", "source", "kind", "tier", "seed", "chapter", "value"]
    _must(status in STATUSES, f"{where}: status can only be {' or '.join(filter(None, STATUSES))}")
    required += [*NEEDS.get(str(kind), ()), *filter(None, STATUSES[status][1:])]
    missing = [field for field in required if field not in entry]
    _must(not missing, f"{where} lacks {', '.join(missing)}")
    unknown = [str(field) for field in entry if field not in {f.name for f in fields(Claim)}]
    _must(not unknown, f"{where} has the unknown field {', '.join(unknown)}")
    part = r"[a-z0-9]+(-[a-z0-9]+)*"
    _must(
        fullmatch(rf"{part}\.{part}\.{part}", str(entry["id"])),
        f"{where}: an id is chapter.slug.what, three parts of small letters, digits and hyphens",
    )
    for field in ("says", "source", "chapter", "paper", "why", "stored", "tests", "profile", "measured_as"):
        text = entry.get(field, "-")
        _must(isinstance(text, str) and text.strip(), f"{where}: {field} must be a text")
    _must(entry["tier"] in ("cpu", "gpu"), f"{where}: tier must be cpu or gpu, not {entry['tier']!r}")
    elsewhere = [field for field in ("profile", "measured_as") if field in entry]
    _must(
        len(elsewhere) == (2 if entry["tier"] == "gpu" else 0),
        f"{where}: profile and measured_as belong to the tier gpu, and both of them",
    )
    _must(
        status == "not-testable" or "why" not in entry,
        f"{where}: why belongs to the status not-testable, which it does not have",
    )
    _must(
        "tests" not in entry or entry["tests"] in sentences(),
        f"{where}: tests must be the id of a sentence of data/papers.yml, not {entry.get('tests')!r}",
    )
    _must(type(entry["seed"]) is int, f"{where}: seed must be a whole number")
    _must(entry["tier"] == "cpu" or entry["value"] is not None, f"{where}: the value of a gpu claim is the paper's")
    found = {field: content for field, content in entry.items() if content is not None}
    for field in ("low", "high", "tolerance", "bound", "no_effect"):
        if field in found:
            found[field] = finite(found[field], f"{where}: {field}")
    if kind == "order":
        names = found.get("order")
        _must(
            isinstance(names, list) and len(set(map(str, names))) == len(names) > 1,
            f"{where}: order must list two or more different names, the smallest number's first",
        )
        found["order"] = tuple(map(str, found["order"]))
    one = Claim(**({"value": None} | found))
    if one.value is not None:
        one = replace(one, value=measure(one, one.value, where).value)
    _coherent(one, where)
    return one


def _coherent(one: Claim, where: str) -> None:
    """What ties the fields together; above all, no tolerance may swallow the effect it protects."""
    try:
        filled = sentence(one, Measured(dict.fromkeys(one.order, 1.0) or 1.0))
    except (LookupError, ValueError):
        filled = one.says
    _must(filled != one.says, f"{where}: says must hold {{value}}, and no other braces")
    if one.value is None:
        return
    gone = [field for field in NEEDS[one.kind] if getattr(one, field) is None]
    _must(not gone, f"{where} has a value, so {' and '.join(gone)} cannot be null")
    found = one.kind == "close" or meets(one, one.value)
    _must(found, f"{where}: its own recorded value misses it ({expected(one)})")
    fault = absurd(one)
    _must(not fault, f"{where}: the tolerance {one.tolerance:g} {fault}" if fault else "")


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise SteerlibError(f"{otherwise}.")


def measure(one: Claim, result: object, where: str = "") -> Measured:
    """Read a chapter's result for a claim.

    Args:
        one: the claim.
        result: a number; an object with `.value` and, if known, `.low`, `.high`, `.n`, of which NaN ends mean that
            there is no interval; for `order` a dict of these by name, or a list of them in the order of the claim's
            names.
        where: what an error message calls it; "claim ID" when left out.

    Returns:
        The number or numbers as Python floats.

    Raises:
        SteerlibError: not a number, not finite, or names other than the claim's.
    """
    what = where or f"claim {one.id}"
    if one.kind == "order":
        if isinstance(result, Sequence) and len(result) == len(one.order):
            result = dict(zip(one.order, result, strict=True))
        if not isinstance(result, Mapping) or set(result) != set(one.order):
            raise SteerlibError(f"{what} wants a number for each of {', '.join(one.order)}.")
        named = {name: getattr(result[name], "value", result[name]) for name in one.order}
        return Measured({name: finite(x, f"{what}: {name}") for name, x in named.items()})
    value = finite(getattr(result, "value", result), what)
    low, high, n = (getattr(result, field, None) for field in ("low", "high", "n"))
    count = None if n is None else int(n)
    if low is None or high is None or (_nan(low) and _nan(high)):
        return Measured(value, n=count)
    return Measured(value, finite(low, f"{what}: low"), finite(high, f"{what}: high"), count)


def _nan(number: Any) -> bool:
    try:
        return math.isnan(number)
    except TypeError:
        return False


def finite(number: Any, what: str) -> float:
    """Read a number as a Python float.

    Args:
        number: an int, a float, or what NumPy and PyTorch have for one.
        what: what an error message calls it.

    Raises:
        SteerlibError: a text, a truth value, NaN or an infinity.
    """
    try:
        found = math.nan if isinstance(number, (bool, str)) else float(number)
    except (TypeError, ValueError):
        found = math.nan
    _must(math.isfinite(found), f"{what} must be a finite number, not {number!r}")
    return found
