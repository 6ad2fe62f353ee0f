"""What the two papers say: data/papers.yml, one entry for each sentence that this book tests, or cannot test.

The one idea: a sentence is there before any claim tests it, so what was never tested has a row of its own.

    - id: dso-lowers-bias              small letters, digits and hyphens; a claim's field `tests` names it
      paper: monteiropaes2026dso       a key of book/references.bib
      where: table of results          the table, figure or section
      says: DSO lowers the bias.       what the paper says, in our own words
      theirs: "Qwen2.5-VL-7B: 25.8 to 8.7 %"    its model and number; "no number" where it gives none
      untested: ...                    why no claim of this book tests it; only where none does
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from re import fullmatch
from typing import Any

import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError


@dataclass(frozen=True)
class Sentence:
    """One sentence of a paper; all fields are texts, as the table at the top explains them."""

    id: str
    paper: str
    where: str
    says: str
    theirs: str
    untested: str = ""


@cache
def sentences() -> dict[str, Sentence]:
    """The sentences of data/papers.yml by id, in the order of the file."""
    return parse_sentences(data_path("papers.yml").read_text(encoding="utf-8"))


def parse_sentences(text: str) -> dict[str, Sentence]:
    """Read the sentences of papers from a text in YAML.

    Raises:
        SteerlibError: the text is not a list of entries; a field is missing, unknown or no text; a malformed id, or one
            that is used twice.
    """
    try:
        entries: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SteerlibError(f"papers.yml is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SteerlibError("papers.yml must be a list of sentences, each beginning with `- id: ...`.")
    known = [field.name for field in fields(Sentence)]
    found: dict[str, Sentence] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"papers.yml: sentence {entry.get('id', f'number {number}')}"
        if lacking := [name for name in known if name not in entry and name != "untested"]:
            raise SteerlibError(f"{where} lacks {', '.join(lacking)}.")
        if extra := [str(name) for name in entry if name not in known]:
            raise SteerlibError(f"{where} has the unknown field {', '.join(extra)}.")
        if wrong := [name for name, x in entry.items() if not (isinstance(x, str) and x.strip())]:
            raise SteerlibError(f"{where}: {' and '.join(wrong)} must be a text.")
        if not fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry["id"]):
            raise SteerlibError(f"{where}: an id consists of small letters, digits and hyphens.")
        if entry["id"] in found:
            raise SteerlibError(f"{where}: the id is used twice; every sentence needs its own.")
        found[entry["id"]] = Sentence(**entry)
    return found
