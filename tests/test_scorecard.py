"""The sentences of the papers are all accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.papers import parse_sentences, sentences

ROOT = Path(__file__).resolve().parents[1]
ENTRY = {"id": "it-falls", "paper": "somebody2026", "where": "table 1", "says": "It falls.", "theirs": "from 2 to 1 %"}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("- {id: [", "not valid YAML"),
        ("a: 1", "must be a list of sentences"),
        ([ENTRY, ENTRY], "it-falls: the id is used twice"),
        ([ENTRY | {"id": "It falls"}], "small letters, digits and hyphens"),
        ([ENTRY | {"says": ""}], "says must be a text"),
        ([ENTRY | {"untested": 3}], "untested must be a text"),
        ([ENTRY | {"page": "3"}], "unknown field page"),
        ([{k: v for k, v in ENTRY.items() if k != "where"}], "lacks where"),
    ],
)
def test_an_entry_that_is_not_a_sentence_is_refused(entries: str | list[dict[str, str]], words: str) -> None:
    text = entries if isinstance(entries, str) else yaml.safe_dump(entries)
    with pytest.raises(SteerlibError, match=r"^papers.yml") as caught:
        parse_sentences(text)
    assert words in str(caught.value) and str(caught.value).endswith(".")


def test_every_sentence_is_tested_or_says_why_not() -> None:
    tested = {one.tests for one in load_ledger(data_path("claims.yml")).values() if one.tests}
    assert tested == {one.id for one in sentences().values() if not one.untested}


def test_every_sentence_names_a_paper_that_the_book_cites() -> None:
    listed = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    assert {one.paper for one in sentences().values()} == {"ratzlaff2025debias", "monteiropaes2026dso"}
    assert all("{" + one.paper + "," in listed for one in sentences().values())
