"""The glossary explains every term that a page marks, in order and in plain sentences, and says where it is introduced."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from steerlib.reproduce.contents import contents

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"(?m)^([^\s`{#].*)\n  (\S.*)$")
TEXT = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = dict(ENTRY.findall(TEXT.split("```{glossary}")[1]))
PAGES = [page for page in contents(ROOT) if page.name != "glossary"]


def prose(name: str, notebook: bool) -> str:
    if not notebook:
        return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
    cells = json.loads((ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_term_that_a_page_marks_is_in_the_glossary(page: object) -> None:
    used = re.findall(r"\{term\}`(?:[^`<]*<([^`>]*)>|([^`]*))`", prose(page.name, page.notebook))  # type: ignore[attr-defined]
    known = {name.lower() for name in ENTRIES}
    assert [term for pair in used if (term := "".join(pair)).lower() not in known] == []


def test_entries_are_in_the_order_of_the_alphabet_and_none_is_there_twice() -> None:
    names = [name.lower() for name, _ in ENTRY.findall(TEXT.split("```{glossary}")[1])]
    assert len(names) > 100 and names == sorted(set(names))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_two_or_three_sentences_and_names_a_page(name: str) -> None:
    text, _, where = ENTRIES[name].partition(" See ")
    assert 2 <= len(re.findall(r"[.!?](?= |$)", text)) <= 4 and len(text) < 330
    assert re.search(r"\{chapter\}`[\w-]+`|\]\((?:intro|reproducibility)\)", where) and where.endswith(".")
