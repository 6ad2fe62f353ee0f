"""`claim(id, result)`: the one way by which a number that the book measured reaches its pages.

It looks the id up in the ledger (`steerlib.reproduce.ledger`), adds the number to the record of the run, and
gives it to the prose as glue data and as a badge. It never fails because a number differs: a reader
who changed a parameter should see the difference, not an error. `check` judges after the run.
"""

from __future__ import annotations

import difflib
import html
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from steerlib.errors import SteerlibError
from steerlib.reproduce.ledger import (
    Claim,
    Measured,
    Value,
    expected,
    interval,
    load_ledger,
    measure,
    meets,
    parse_ledger,
    sentence,
    show,
)

SITE = "https://steerlib.github.io/steering-away-from-bias/"
GLUE = "application/papermill.record/"  # data that {glue:text} reads and no page shows by itself


def claim(id: str, result: object) -> None:
    """Record a measured number under its id in the ledger, and show it as a badge.

    Prose takes it with {glue:text}`01-measuring-decisions.ipynb::ID:.3f`; ID.low and ID.high are
    the ends of the interval, and ID.NAME the named numbers of a claim of kind `order`.

    Args:
        id: the id of an entry of data/claims.yml. A new entry has `value: null`, which means "not
            yet recorded", until `steerlib check --accept` writes the measured number.
        result: a number; an object with `.value`, `.low`, `.high`, `.n` (an Estimate); for `order`
            a dict of these by name, or a list of them in the order of the claim's names.

    Raises:
        SteerlibError: the ledger has no such id; the result is not a finite number; in a run of the
            book, the claim belongs to another chapter or was recorded already.
    """
    ledger = load_ledger()
    if id not in ledger:
        near = difflib.get_close_matches(id, ledger, n=1)
        hint = f"is {near[0]} meant?" if near else "add an entry with `value: null` first"
        raise SteerlibError(f"the ledger data/claims.yml has no claim {id}: {hint}")
    one = ledger[id]
    got = measure(one, result)
    run = os.environ.get("STEERLIB_RUN")  # set by `steerlib reproduce`
    word = _record(Path(run), one, got) if run else judge(one, got)
    _show(one, got, word, page="" if run else SITE)


def anchor(id: str) -> str:
    """The HTML id of a claim's row on the Reproducibility page."""
    return "claim-" + id.replace(".", "-")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
    os.replace(name, path)


def _record(path: Path, one: Claim, got: Measured) -> str:
    """Add the number to the run's file; return the verdict that the badge shows."""
    if path.stem != one.chapter:
        raise SteerlibError(f"claim {one.id} belongs to the chapter {one.chapter}, not to {path.stem}")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    claims = record.setdefault("claims", {})
    if one.id in claims:
        raise SteerlibError(f"claim {one.id} is recorded twice in {path.stem}: use an id for each number")
    claims[one.id] = asdict(got)
    write_json(path, record)
    return "other parameters" if record.get("other_parameters") else judge(one, got)


def _show(one: Claim, got: Measured, word: str, *, page: str) -> None:
    said = sentence(one, got) + (f" Interval {interval(got)}." if interval(got) else "")
    plain = f"[{word}] {said} (claim {one.id}, expected {expected(one)})"
    shell = _shell()
    if shell is None:
        print(plain)
        return
    for key, number in _glue(one, got).items():
        about = {"scrapbook": {"name": key, "mime_prefix": GLUE}}
        shell.display_pub.publish({f"{GLUE}text/plain": repr(number)}, about)
    style = {"holds": "holds", "misses": "misses"}.get(word, "other")
    badge = (
        f'<div class="claim claim-{style}" role="note"><strong class="claim-word">{word}</strong> '
        f"{html.escape(said)} "
        f'<span class="claim-expected">Expected: {html.escape(expected(one))}. '
        f'<a href="{page}reproducibility.html#{anchor(one.id)}">{one.id}</a></span></div>'
    )
    shell.display_pub.publish({"text/html": badge, "text/plain": plain})


def _shell() -> Any:
    """The running IPython, in a notebook or not; None in plain Python."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _glue(one: Claim, got: Measured) -> dict[str, float]:
    if isinstance(got.value, dict):
        return {f"{one.id}.{name}": number for name, number in got.value.items()}
    ends = {"low": got.low, "high": got.high}
    return {one.id: got.value} | {f"{one.id}.{k}": x for k, x in ends.items() if x is not None}


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured, and one of the words that `judge` and `check` use."""

    claim: Claim
    got: Measured | None
    word: str

    @property
    def miss(self) -> bool:
        """True where the run must be called failed."""
        return self.word in ("misses", "missing", "not yet recorded")

    @property
    def drift(self) -> float | None:
        """Measured minus recorded, for single numbers."""
        got, value = self.got and self.got.value, self.claim.value
        return got - value if isinstance(got, float) and isinstance(value, float) else None


def judge(one: Claim, got: Measured) -> str:
    """The verdict on a number that was measured with the book's own parameters."""
    if one.value is None:
        return "not yet recorded"
    if not meets(one, got.value):
        return "misses"
    return "not reproduced, as recorded" if one.status else "holds"


def check(ledger: Mapping[str, Claim], records: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Compare a run with the ledger.

    Args:
        ledger: claims by id.
        records: for each chapter that was run (its file stem) its record, {"claims": {id: {...}}}.

    Returns:
        A verdict for every claim of the ledger, in its order. A claim that its chapter did not
        record is "missing", a miss; a claim of a chapter without a record is "not run", no miss.
    """
    return [_verdict(one, records.get(one.chapter)) for one in ledger.values()]


def _verdict(one: Claim, record: Mapping[str, Any] | None) -> Verdict:
    if record is None:
        return Verdict(one, None, "not run")
    found = record.get("claims", {}).get(one.id)
    got = Measured(**found) if found else None
    if one.tier != "cpu":
        return Verdict(one, got, "other tier")
    if record.get("other_parameters"):
        return Verdict(one, got, "other parameters")
    names = set(got.value) if got and isinstance(got.value, dict) else set()
    if got is None or names != set(one.order):  # other names: recorded when the entry was another
        return Verdict(one, None, "missing")
    return Verdict(one, got, judge(one, got))


def accept(path: Path, verdicts: Iterable[Verdict]) -> str:
    """Write the measured numbers of claims that miss, or are not yet recorded, into the ledger.

    Only `value` changes, and for `within` also low and high (to the measured interval); tolerances,
    bounds, orders, comments and everything else stay to the letter.

    Returns:
        The difference, line by line; empty when there was nothing to write.

    Raises:
        SteerlibError: the ledger with these numbers would be refused (say, a bound that does not
            hold); nothing is written then.
    """
    before = after = path.read_text(encoding="utf-8")
    edits: list[tuple[int, int, str]] = []  # from character, to character, new text
    wanted: dict[str, str] = {}
    entries: Any = yaml.compose(before, Loader=yaml.SafeLoader)
    places = [{key.value: place for key, place in entry.value} for entry in entries.value]
    for verdict in verdicts:
        one, got = verdict.claim, verdict.got
        if got is None or verdict.word not in ("misses", "not yet recorded"):
            continue
        wanted[one.id] = _yaml(got.value)
        changes = ("value", "low", "high") if one.kind == "within" else ("value",)
        place = next(place for place in places if place["id"].value == one.id)
        for field in changes:
            number = getattr(got, field)
            if number is None:
                raise SteerlibError(f"claim {one.id} is of kind within, but came without an interval")
            marks = place[field].start_mark.index, place[field].end_mark.index
            edits.append((*marks, " " + _yaml(number)))
    for start, end, text in sorted(edits, reverse=True):
        after = after[:start].rstrip(" ") + text + after[end:]
    ledger = parse_ledger(after, path.name)
    if any(_yaml(ledger[id].value or 0.0) != text for id, text in wanted.items()):
        raise SteerlibError(f"{path.name}: put each value on the line of its field, to have it edited")
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


def table(verdicts: Iterable[Verdict]) -> str:
    """The table that a run prints: claim, expected, got, verdict (a miss in capitals)."""
    rows = [("claim", "expected", "got", "verdict")]
    for v in verdicts:
        got = f"{show(v.got.value)} {interval(v.got)}".strip() if v.got else "-"
        rows.append((v.claim.id, expected(v.claim), got, v.word.upper() if v.miss else v.word))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
