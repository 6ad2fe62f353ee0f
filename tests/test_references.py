"""Chapters, figures, tables and numbers that a text refers to are filled in, or the build stops with a sentence."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlib import SteerlibError
from steerlib.reproduce.contents import Page, chapters_list, contents, question_of, title_of
from steerlib.reproduce.documents import documents, slug, with_documents
from steerlib.reproduce.references import References, references
from steerlib.reproduce.rules import Claim

ROOT = Path(__file__).resolve().parents[1]
PAGES = [Page("words", "1", "Measure", True), Page("push", "2", "Steer", True), Page("made", "A1", "", True)]
PAGES += [Page("intro", "", "", False)]


def cell(**about: Any) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {"book": about}, "source": "", "outputs": []}


def collected(status: str = "ran", extra: list[dict[str, Any]] | None = None, **claims: Any) -> References:
    common = {"says": "{value}", "source": "ours", "tier": "cpu", "seed": 0, "chapter": "words", "value": 1.0}
    ledger = {
        "a.b.c": Claim(**common | {"id": "a.b.c", "kind": "close", "tolerance": 0.1}),
        "a.b.o": Claim(**common | {"id": "a.b.o", "kind": "order", "order": ("x y", "z"), "value": {"x y": 1, "z": 2}}),
    }
    found = {id.replace("_", "."): got for id, got in claims.items()}
    cells = [
        cell(figure="bars", caption="One."),
        cell(),
        cell(table="sums", caption="Two."),
        cell(figure="dots", caption="3."),
    ]
    notebooks = {"words": {"cells": cells}, "push": {"cells": [cell(figure="sweep", caption="Four."), *(extra or [])]}}

    def link(text: str, page: str, place: str) -> str:
        return f"[{text}]({page}{'#' * bool(place)}{place})"

    return references(PAGES, notebooks, ledger, {"words": {"status": status, "claims": found}}, link)


def test_chapters_and_what_they_show_are_called_by_their_numbers() -> None:
    refers = collected()
    assert (
        refers.fill("See {chapter}`push`, or {chapter}`made`.", "x") == "See [chapter 2](push), or [appendix A1](made)."
    )
    assert (
        refers.fill("{Chapter}`words` and {Fig}`dots`.", "x") == "[Chapter 1](words) and [Figure 1.2](words#fig-dots)."
    )
    assert refers.fill("{tab}`sums`, {fig}`sweep`", "x") == "[table 1.1](words#tab-sums), [figure 2.1](push#fig-sweep)"


def test_a_chapter_that_moves_takes_its_numbers_along() -> None:
    moved = references(
        [Page("push", "1", "", True), Page("words", "2", "", True)],
        {"words": {"cells": [cell(figure="bars", caption="One.")]}},
        {},
        {},
        lambda text, page, place: text,
    )
    assert moved.fill("{chapter}`words`, {fig}`bars`", "x") == "chapter 2, figure 2.1"


@pytest.mark.parametrize(
    "text",
    ["{chapter}`gone`", "{chapter}`intro`", "{fig}`gone`", "{fig}`sums`", "{tab}`bars`", "{glue:text}`a.b.n:.2f`"],
)
def test_what_does_not_exist_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(SteerlibError, match=r"^push\b.*\.$"):
        collected().fill(f"See {text}.", "push")


def test_a_name_that_is_used_twice_or_has_no_caption_is_refused() -> None:
    with pytest.raises(SteerlibError, match=r"^push: the name bars is that of another figure\.$"):
        collected(extra=[cell(figure="bars", caption="x")])
    with pytest.raises(SteerlibError, match=r"^push: the table empty has no caption\.$"):
        collected(extra=[cell(table="empty")])


WHOLE = {"a_b_c": {"value": 0.456, "low": 0.4, "high": 0.5, "n": 3}, "a_b_o": {"value": {"x y": 1.0, "z": 2.0}}}


def test_prose_and_alt_texts_take_the_numbers_of_the_run() -> None:
    refers = collected(**WHOLE)
    alt = "From {a.b.c:.2f} ({a.b.c.low:.0%} to {a.b.c.high:.0%}) to {a.b.o.x y:.1f}, or {a.b.c}."
    prose = re.sub(r"\{([^}]*)\}", r"{glue:text}`\1`", alt)
    assert refers.fill_alt(alt, "words") == refers.fill(prose, "words") == "From 0.46 (40% to 50%) to 1.0, or 0.456."
    assert refers.fill_alt("No number.", "words") == "No number."


def test_a_number_that_was_not_recorded_stops_the_build() -> None:
    refers = collected(a_b_o=WHOLE["a_b_o"])
    for key in ("a.b.never", "a.b.c.low", "a.b.c", "never"):
        with pytest.raises(SteerlibError, match=rf"^words: an alt text names {key}, but .*\.$"):
            refers.fill_alt(f"It is {{{key}:.2f}}.", "words")
    with pytest.raises(SteerlibError, match=r"^words: an alt text has \{a.b.c:much\}"):
        collected(**WHOLE).fill_alt("It is {a.b.c:much}.", "words")


def test_a_chapter_that_did_not_run_to_its_end_says_so() -> None:
    refers = collected(status="failed")
    assert refers.fill_alt("It is {a.b.c:.2f}.", "words") == "It is (not measured)."
    assert refers.fill("It is {glue:text}`a.b.c:.2f`.", "words") == "It is (not measured)."
    with pytest.raises(SteerlibError, match="names a.b.never"):
        refers.fill_alt("It is {a.b.never:.2f}.", "words")


# ----------------------------------------------------------------------------------------- the contents


def test_numbers_follow_the_order_of_the_contents(tmp_path: Path) -> None:
    book = tmp_path / "book"
    book.mkdir()
    for name in ("b", "a", "z", "y"):
        (book / f"{name}.ipynb").write_text('{"cells": [{"cell_type": "markdown", "source": ["# The title\\n", "x"]}]}')
    (book / "intro.md").write_text("# Welcome\n")
    (book / "page.md").write_text("no title")
    parts = [
        {"caption": "One", "numbered": True, "chapters": [{"file": "b"}, {"file": "page"}]},
        {"caption": "Appendix", "chapters": [{"file": "z", "sections": [{"file": "y"}]}]},
        {"caption": "Two", "numbered": True, "chapters": [{"file": "a"}]},
    ]
    (book / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "intro", "parts": parts}))
    found = {page.name: (page.number, page.part, page.called) for page in contents(tmp_path)}
    assert found == {
        "intro": ("", "", ""),
        "b": ("1", "One", "chapter 1"),
        "page": ("", "One", ""),
        "z": ("A1", "Appendix", "appendix A1"),
        "y": ("A2", "Appendix", "appendix A2"),
        "a": ("2", "Two", "chapter 2"),
    }
    assert [title_of(book / name) for name in ("b.ipynb", "intro.md", "page.md")] == ["The title", "Welcome", "page"]


def test_every_page_of_the_book_has_a_title_and_no_number_is_typed_into_it() -> None:
    for page in contents(ROOT):
        title = title_of(ROOT / "book" / f"{page.name}.{'ipynb' if page.notebook else 'md'}")
        assert title and title != page.name and not re.match(r"\d|chapter", title.lower()), page.name


def test_no_number_of_a_chapter_is_typed_where_it_could_go_stale() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    typed = {}
    for name in listed:
        if name.endswith((".md", ".ipynb", ".yml", ".js", ".css")) and not name.startswith(
            ("CHANGELOG", "data/records/")
        ):
            text = (ROOT / name).read_text(encoding="utf-8")
            if found := re.findall(
                r"\b[Cc]hapters? \d+|\b[Aa]ppendix A?\d+|\b[Ff]igure \d+\.\d|\b[Tt]able \d+\.\d", text
            ):
                typed[name] = found
    assert typed == {}


def test_every_chapter_opens_with_one_question() -> None:
    chapters = [page for page in contents(ROOT) if page.number]
    asked = {page.name: question_of(ROOT / "book" / f"{page.name}.ipynb") for page in chapters}
    assert [name for name, question in asked.items() if not question] == []
    listed = chapters_list(ROOT, contents(ROOT))
    assert all(question in listed for question in asked.values())


# ---------------------------------------------------------------------------------------- documents


def test_a_page_shows_a_document_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    text = "# Card\n\n## A part\n\nSee [b](b.csv), [up](../README.md#x), [home](../README.md), [there](#a-part), [web](https://x.org).\n\n```\n# code\n```\n\n## Next\n\nmore"
    (tmp_path / "data" / "README.md").write_text(text)
    (tmp_path / "LICENSE").write_text("You may.\n")
    shown = with_documents("# P\n\n## Q\n\n<!-- document: data/README.md -->\n", tmp_path, "R", {"README.md": "home"})
    assert shown == (
        "# P\n\n## Q\n\n(data-readme-a-part)=\n### A part\n\nSee [b](R/data/b.csv), [up](#readme-x), [home](home), [there](#data-readme-a-part), [web](https://x.org).\n\n```\n# code\n```\n\n(data-readme-next)=\n### Next\n\nmore\n"
    )
    assert with_documents("<!-- document: data/README.md#next -->", tmp_path, "R", {}) == "more"
    assert with_documents("<!-- document: LICENSE -->", tmp_path, "R", {}) == "```text\nYou may.\n```"
    assert documents("<!-- document: a.md --> <!-- document: b/c.md#d -->") == ["a.md", "b/c.md"]
    for mark, fault in (("data/no.md", "does not have"), ("data/README.md#no", "has no heading no")):
        with pytest.raises(SteerlibError, match=fault):
            with_documents(f"<!-- document: {mark} -->", tmp_path, "R", {})


def test_every_document_that_a_page_shows_is_there() -> None:
    shown = [path for page in (ROOT / "book").glob("*.md") for path in documents(page.read_text(encoding="utf-8"))]
    assert "data/README.md" in shown and "data/models/smol-llava/README.md" in shown
    for path in shown:
        assert (ROOT / path).is_file(), path
    assert slug("What this *is*, and 2.") == "what-this-is-and-2"


def test_every_old_address_leads_to_a_page_of_the_book() -> None:
    moved = yaml.safe_load((ROOT / "book" / "_redirects.yml").read_text(encoding="utf-8"))
    known = {page.name for page in contents(ROOT)}
    assert moved and set(moved.values()) <= known
    assert not known & set(moved), "an address that is in use again needs no redirect"
