"""`claim(id, result)`: the one way by which a number that the book measured reaches its pages.

It looks the id up in the ledger (`steerlib.reproduce.ledger`), adds the number to the record of the run, from which prose
takes it, and shows it as a badge. It never fails because a number differs: a reader who changed a parameter
should see the difference, not an error. `steerlib check` judges after the run.
"""

from __future__ import annotations

import difflib
import html
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.reproduce.address import SITE
from steerlib.reproduce.ledger import load_ledger, measure
from steerlib.reproduce.profiles import USUAL
from steerlib.reproduce.record import Record, read_record, write_record
from steerlib.reproduce.rules import Claim, Measured, judge, strength
from steerlib.reproduce.terminal import printable
from steerlib.reproduce.wording import expected, interval, sentence


def claim(id: str, result: object) -> None:
    """Record a measured number under its id in the ledger, and show it as a badge.

    Prose takes it with {glue:text}`ID:.3f`; ID.low and ID.high are the ends of the
    interval, and ID.NAME the named numbers of a claim of kind `order`.

    Args:
        id: the id of an entry of data/claims.yml. A new entry has `value: null`, which means "not yet recorded", until
            `steerlib check --accept` writes the measured number.
        result: a number; an object with `.value`, `.low`, `.high`, `.n` (an Estimate), of which NaN ends mean that
            there is no interval; for `order` a dict of these by name, or a list of them in the order of the claim's
            names.

    Raises:
        SteerlibError: the ledger has no such id; the result is not a finite number; in a run of the book, the claim
            belongs to another chapter or was recorded already. In a run the chapter then counts as failed, even if
            it catches the error.

    Example:
        >>> import steerlib as sl
        >>> sl.claim("measuring.pronoun.per-prompt-bias", 0.4)  # doctest: +ELLIPSIS
        [...] ... (claim measuring.pronoun.per-prompt-bias, expected ...)
    """
    run = os.environ.get("STEERLIB_RUN")  # set by `steerlib reproduce`
    path = Path(run) if run else None
    record = read_record(path) if path and path.exists() else {}
    try:
        one, got = _measured(id, result)
        one, word = _add(record, path.stem, one, got) if path else (one, judge(one, got))
    except SteerlibError as problem:
        if path:
            record.setdefault("faults", []).append(str(problem))
            write_record(path, record)
        raise
    if path:
        write_record(path, record)
    _show(one, got, word, page="" if run else SITE)


def claims(results: Mapping[str, object]) -> None:
    """Record several measured numbers in one call, in the order given.

    Args:
        results: by id, what `claim` takes: `sl.claims({"chapter.slug.bias": bias, "chapter.slug.gap": gap})`.

    Raises:
        SteerlibError: as `claim`, at the first number that is refused; those before it are recorded.

    Example:
        >>> import steerlib as sl
        >>> sl.claims({"measuring.pronoun.per-prompt-bias": 0.4, "measuring.pronoun.stereotype-gap": 0.3})  # doctest: +ELLIPSIS
        [...] ... (claim measuring.pronoun.per-prompt-bias, expected ...)
        [...] ... (claim measuring.pronoun.stereotype-gap, expected ...)
    """
    for id, result in results.items():
        claim(id, result)


def anchor(id: str) -> str:
    """The HTML id of a claim's row on the Reproducibility page."""
    return "claim-" + id.replace(".", "-")


def _measured(id: str, result: object) -> tuple[Claim, Measured]:
    ledger = load_ledger()
    if id not in ledger:
        near = difflib.get_close_matches(str(id), ledger, n=1)
        hint = f"is {near[0]} meant?" if near else "add an entry with `value: null` first."
        raise SteerlibError(f"the ledger data/claims.yml has no claim {id}: {hint}")
    return ledger[id], measure(ledger[id], result)


def _add(record: Record, chapter: str, one: Claim, got: Measured) -> tuple[Claim, str]:
    """Add the number to the run's record; return the claim and the verdict that the badge shows."""
    if chapter != one.chapter:
        raise SteerlibError(f"claim {one.id} belongs to the chapter {one.chapter}, not to {chapter}.")
    found = record.setdefault("claims", {})
    if one.id in found:
        raise SteerlibError(f"claim {one.id} is recorded twice in {chapter}: use an id for each number.")
    found[one.id] = asdict(got)
    profile = record.get("profile", USUAL)
    if record.get("other_parameters"):
        return one, "other parameters"
    if profile == USUAL:
        return one, judge(one, got)
    of_papers = [x for x in load_ledger().values() if x.measured_as == one.id and x.profile == profile]
    return (of_papers[0], judge(of_papers[0], got)) if of_papers else (one, "other profile")


def _show(one: Claim, got: Measured, word: str, *, page: str) -> None:
    ends = interval(got)
    said = sentence(one, got) + (
        "" if not ends else f" Interval {ends}." if got.low is not None else f" {ends.capitalize()}."
    )
    plain = f"[{word}] {said} (claim {one.id}, expected {expected(one)})"
    shell = _shell()
    if shell is None:
        print(printable(plain, sys.stdout.encoding))
        return
    style = {"holds": "holds", "misses": "misses", "drifted": "misses"}.get(word, "other")
    badge = (
        f'<div class="claim claim-{style}" role="note" data-verdict="{html.escape(word)}" data-strength="{strength(one)}"><strong class="claim-word">{word}</strong> '
        f"{html.escape(said)} "
        f'<span class="claim-expected">Expected: {html.escape(expected(one))} ({strength(one)}). '
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


def glue(one: Claim, got: Measured) -> dict[str, float]:
    """The numbers of a claim by the keys under which prose and alt texts take them: ID, ID.low, ID.high or ID.NAME."""
    if isinstance(got.value, dict):
        return {f"{one.id}.{name}": number for name, number in got.value.items()}
    ends = {"low": got.low, "high": got.high}
    return {one.id: got.value} | {f"{one.id}.{k}": x for k, x in ends.items() if x is not None}
