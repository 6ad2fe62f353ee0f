"""Alt texts: what a figure shows, in words, with the numbers of the run in their places.

The one idea: whoever hears a figure gets numbers that are checked like those in the prose. An alt text in a cell's metadata
holds {id:.2f}, with the id of a claim, or {id.low:.2f}, {id.high:.2f}, {id.NAME:.2f}: what {glue:text} takes in prose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.reproduce.claims import glue
from steerlib.reproduce.rules import Claim, Measured
from steerlib.reproduce.wording import show

PLACE = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
UNKNOWN = "(not measured)"  # in a chapter that was not run to its end


def measured_numbers(ledger: Mapping[str, Claim], records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Every number that the runs recorded, by the key by which prose and alt texts take it."""
    found: dict[str, float] = {}
    for record in records.values():
        for id, got in record.get("claims", {}).items():
            if id in ledger:
                found |= glue(ledger[id], Measured(**got))
    return found


def fill_alts(
    notebook: Mapping[str, Any], chapter: str, ledger: Mapping[str, Claim], records: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put the measured numbers into the alt texts of a notebook, in place.

    Args:
        notebook: as JSON has it.
        chapter: its file stem, for error messages.
        ledger: the claims by id.
        records: run records by chapter.

    Raises:
        SteerlibError: a key that is of no claim, or that a chapter which ran to its end did not record; a format that
            Python does not know.
    """
    numbers = measured_numbers(ledger, records)

    def number(match: re.Match[str]) -> str:
        key, spec = match[1], match[2] or ""
        owner = ledger.get(".".join(key.split(".")[:3]))
        if key in numbers:
            try:
                return format(numbers[key], spec) if spec else show(numbers[key])
            except ValueError as error:
                raise SteerlibError(f"{chapter}: an alt text has {match[0]}, of which Python says: {error}.") from error
        if owner and records.get(owner.chapter, {}).get("status") != "ran":
            return UNKNOWN
        raise SteerlibError(f"{chapter}: an alt text names {key}, but no chapter recorded a number of that name.")

    for cell in notebook["cells"]:
        image = cell["metadata"].get("mystnb", {}).get("image", {})
        if "alt" in image:
            image["alt"] = PLACE.sub(number, image["alt"])
