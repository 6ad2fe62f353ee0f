"""The ledger: what each measured number of the book must be, and whether a rerun still finds it.

The one idea: every number has an entry in `data/claims.yml`, and a run is judged by these entries.

    kind       fields             a measured number x meets the claim when
    close      value, tolerance   |x - value| <= tolerance
    within     low, high          low <= x <= high   (the interval that was recorded)
    at_most    bound              x <= bound
    at_least   bound              x >= bound
    sign       value              x has the sign of value
    order      order              the named numbers increase strictly, in the order listed

Every entry has `value`, the number last accepted; `value: null` means "not yet recorded".
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError

Value = float | dict[str, float]  # a dict for `order`: name -> number

NEEDS: dict[str, tuple[str, ...]] = {
    "close": ("tolerance",),
    "within": ("low", "high"),
    "at_most": ("bound",),
    "at_least": ("bound",),
    "sign": (),
    "order": ("order",),
}


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger; numbers are in the unit of the measured quantity.

    `no_effect` is the number that would mean "no effect". A claim of a paper that does not hold here has
    the status "not-reproduced": `paper` then says what the paper found, and all other fields are
    about our own number, which is checked like any other.
    """

    id: str
    says: str
    source: str
    kind: str
    tier: str
    seed: int
    chapter: str
    value: Value | None
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    bound: float | None = None
    order: tuple[str, ...] = ()
    no_effect: float = 0.0
    status: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Measured:
    """What a chapter measured: a number or, for `order`, named numbers; interval and n if known."""

    value: Value
    low: float | None = None
    high: float | None = None
    n: int | None = None


def ledger_path() -> Path:
    """data/claims.yml, or the file that the environment variable STEERLIB_LEDGER names."""
    chosen = os.environ.get("STEERLIB_LEDGER")
    return Path(chosen) if chosen else data_path("claims.yml")


def load_ledger(path: Path | None = None) -> dict[str, Claim]:
    """Read and check the ledger.

    Args:
        path: a YAML file, a list of entries; data/claims.yml when left out.

    Returns:
        The claims by id, in the order of the file.

    Raises:
        SteerlibError: a missing, misspelt or ill-typed field, an unknown kind, a malformed id, an
            id used twice, a tolerance above half of the claim's own effect, or a recorded value
            that misses its own claim.
    """
    path = path or ledger_path()
    if not path.is_file():
        raise SteerlibError(f"there is no ledger of claims at {path}; an empty one is the line `[]`")
    return parse_ledger(path.read_text(encoding="utf-8"), path.name)


def parse_ledger(text: str, name: str) -> dict[str, Claim]:
    """`load_ledger` on a text; `name` is what error messages call it."""
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SteerlibError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SteerlibError(f"{name} must be a list of claims, each beginning with `- id: ...`")
    ledger: dict[str, Claim] = {}
    for number, entry in enumerate(entries, start=1):
        one = _claim(entry, f"{name}: claim {entry.get('id', f'number {number}')}")
        if one.id in ledger:
            raise SteerlibError(f"{name}: the id {one.id} is used twice; every claim needs its own")
        ledger[one.id] = one
    return ledger


def _claim(entry: Mapping[str, Any], where: str) -> Claim:
    kind, status = entry.get("kind"), entry.get("status", "")
    _must(
        kind is None or kind in NEEDS,
        f"{where}: kind {kind!r} is unknown, it is {', '.join(NEEDS)}",
    )
    required = ["id", "says", "source", "kind", "tier", "seed", "chapter", "value"]
    required += [*NEEDS.get(str(kind), ()), *(["paper"] if status else [])]
    missing = [field for field in required if field not in entry]
    _must(not missing, f"{where} lacks {', '.join(missing)}")
    unknown = [str(field) for field in entry if field not in {f.name for f in fields(Claim)}]
    _must(not unknown, f"{where} has the unknown field {', '.join(unknown)}")
    part = r"[a-z0-9]+(-[a-z0-9]+)*"
    _must(
        re.fullmatch(rf"{part}\.{part}\.{part}", str(entry["id"])),
        f"{where}: an id is chapter.slug.what, three parts of small letters, digits and hyphens",
    )
    for field in ("says", "source", "chapter", "paper"):
        text = entry.get(field, "-")
        _must(isinstance(text, str) and text.strip(), f"{where}: {field} must be a text")
    _must(entry["tier"] in ("cpu", "gpu"), f"{where}: tier must be cpu or gpu, not {entry['tier']!r}")
    _must(status in ("", "not-reproduced"), f"{where}: status can only be not-reproduced")
    _must(type(entry["seed"]) is int, f"{where}: seed must be a whole number")
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
    if isinstance(one.value, float) and one.tolerance is not None:
        effect = abs(one.value - one.no_effect)
        _must(
            0 <= one.tolerance <= effect / 2,
            f"{where}: the tolerance {one.tolerance:g} is not between 0 and half of the claim's "
            f"own effect, {effect:g}: a claim that loose is no claim",
        )
    _must(meets(one, one.value), f"{where}: its own recorded value misses it ({expected(one)})")


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise SteerlibError(otherwise)


def measure(one: Claim, result: object, where: str = "") -> Measured:
    """Read a chapter's result for a claim.

    Args:
        one: the claim.
        where: what an error message calls it; "claim ID" when left out.
        result: a number; an object with `.value` and, if known, `.low`, `.high`, `.n`; for `order`
            a dict of these by name, or a list of them in the order of the claim's names.

    Raises:
        SteerlibError: not a number, not finite, or names other than the claim's.
    """
    what = where or f"claim {one.id}"
    if one.kind == "order":
        if isinstance(result, Sequence) and len(result) == len(one.order):
            result = dict(zip(one.order, result, strict=True))
        if not isinstance(result, Mapping) or set(result) != set(one.order):
            raise SteerlibError(f"{what} wants a number for each of {', '.join(one.order)}")
        named = {name: getattr(result[name], "value", result[name]) for name in one.order}
        return Measured({name: finite(x, f"{what}: {name}") for name, x in named.items()})
    value = finite(getattr(result, "value", result), what)
    low, high, n = (getattr(result, field, None) for field in ("low", "high", "n"))
    if low is None or high is None or (math.isnan(low) and math.isnan(high)):  # an Estimate without an interval
        return Measured(value)
    low, high = finite(low, f"{what}: low"), finite(high, f"{what}: high")
    return Measured(value, low, high, None if n is None else int(n))


def finite(number: Any, what: str) -> float:
    """`number` as a Python float; refuses texts, truth values, NaN and infinities."""
    try:
        found = math.nan if isinstance(number, (bool, str)) else float(number)
    except (TypeError, ValueError):
        found = math.nan
    _must(math.isfinite(found), f"{what} must be a finite number, not {number!r}")
    return found


def meets(one: Claim, x: Value) -> bool:
    """Whether a number meets a claim whose fields are all recorded: the table at the top."""
    if isinstance(x, dict):
        return all(x[a] < x[b] for a, b in zip(one.order, one.order[1:], strict=False))
    if one.kind == "sign":
        return isinstance(one.value, float) and x * one.value > 0
    low, high = one.low, one.high
    if isinstance(one.value, float) and one.tolerance is not None:
        edge = one.tolerance + 1e-12 * abs(one.value)  # 0.1 + 0.2 is not 0.3, but the edge counts
        low, high = one.value - edge, one.value + edge
    if one.bound is not None:
        low, high = (None, one.bound) if one.kind == "at_most" else (one.bound, None)
    return (low is None or x >= low) and (high is None or x <= high)


class _Number(float):
    """{value} in a sentence means our own three digits, {value:.1%} what Python makes of it."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else show(float(self))


def show(value: Value) -> str:
    """A number with three digits after the point; named numbers in increasing order."""
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda item: item[1])
        return " < ".join(f"{name} {show(number)}" for name, number in ordered)
    return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 100 else f"{value:.4g}"


def sentence(one: Claim, got: Measured) -> str:
    """The claim's sentence with a number filled in."""
    value = got.value
    return one.says.format(value=show(value) if isinstance(value, dict) else _Number(value))


def interval(got: Measured) -> str:
    """ "[low, high], n = 60", or nothing."""
    if got.low is None or got.high is None:
        return ""
    return f"[{show(got.low)}, {show(got.high)}]" + ("" if got.n is None else f", n = {got.n}")


def expected(one: Claim) -> str:
    """What the ledger expects, in a few words."""
    if one.kind == "order":
        return " < ".join(one.order)
    if not isinstance(one.value, float):
        return "not yet recorded"
    if one.kind == "sign":
        return "more than 0" if one.value > 0 else "less than 0"
    if one.kind == "within":
        return f"from {show(one.low or 0.0)} to {show(one.high or 0.0)}"
    if one.kind == "close":
        return f"{show(one.value)} ± {one.tolerance:.2g}"
    return f"{one.kind.replace('_', ' ')} {show(one.bound or 0.0)}"
