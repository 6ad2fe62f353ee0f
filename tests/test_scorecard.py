"""The sentences of the papers are all accounted for, every row says how it was checked, and alt texts have measured numbers."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.reproduce.claims import anchor
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.papers import parse_sentences, sentences
from steerlib.reproduce.report import ORDER, counts, report, score, scorecard
from steerlib.reproduce.rules import Claim, Measured
from steerlib.reproduce.verdicts import AS_RECORDED, JUDGED, Verdict, check

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


# ------------------------------------------------------------------------------------ the page's tables


def verdict(word: str, **fields: Any) -> Verdict:
    about = {"says": "It is {value} <b>|.", "source": "ours", "kind": "at_most", "bound": 2.0, "tier": "cpu", "seed": 0}
    one = Claim(**({"id": "a.b.c", "chapter": "07-x", "value": 1.0} | about | fields))
    return Verdict(one, Measured(1.0), word)


HOLDS, NOT, UNTESTABLE = "holds", "not reproduced, as recorded", "not testable here, as recorded"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((HOLDS, HOLDS), "reproduced"),
        ((HOLDS, NOT), "partly reproduced"),
        ((UNTESTABLE, HOLDS), "partly reproduced"),
        ((NOT, UNTESTABLE), "not reproduced"),
        ((UNTESTABLE, UNTESTABLE), "not testable here"),
        ((HOLDS, "misses"), "misses"),
        ((NOT, "stale"), "stale"),
        ((), "not tested"),
    ],
)
def test_a_sentence_has_the_verdict_of_the_claims_that_test_it(words: tuple[str, ...], said: str) -> None:
    assert score(words) == score(words[::-1]) == said


def test_only_what_holds_or_is_as_recorded_scores() -> None:
    """No other verdict may ever read as one on a paper."""
    assert all(score([word]) == word for word in {*JUDGED, "stale", "not run"} - set(AS_RECORDED))


def test_the_scorecard_has_failures_first_and_every_sentence_of_a_paper_once() -> None:
    ledger = load_ledger(data_path("claims.yml"))
    ran = {one.chapter: {"status": "ran", "claims": {}} for one in ledger.values()}
    for one in ledger.values():
        ran[one.chapter]["claims"][one.id] = {"value": one.value}
    text = scorecard(check(ledger, ran))
    for paper in ("ratzlaff2025debias", "monteiropaes2026dso"):
        table = text.split(f"`{paper}`")[1].split("</table>")[0]
        own = [one for one in sentences().values() if one.paper == paper]
        assert all(table.count(html.escape(one.says)) == 1 for one in own)
        found = re.findall(r"<b>([^<]+)</b>", table)
        assert len(found) == len(own)
        assert [ORDER.index(word) for word in found] == sorted(ORDER.index(word) for word in found)
    assert {"not reproduced", "partly reproduced", "not testable here", "not tested"} <= set(
        re.findall(r"<b>([^<]+)</b>", text)
    )
    for one in ledger.values():
        assert (f'href="#{anchor(one.id)}"' in text) == bool(one.tests)


def test_a_paper_s_number_that_was_never_run_is_beside_the_verdict_on_ours() -> None:
    (first, *_) = (one for one in sentences().values() if not one.untested)
    ours, theirs = verdict("holds", tests=first.id), verdict("never run", id="a.b.p", tests=first.id)
    row = re.findall(
        rf'(?s)<tr class="score[^>]*>(?:(?!</tr>).)*{re.escape(html.escape(first.says))}.*?</tr>',
        scorecard([ours, theirs]),
    )
    assert len(row) == 1 and "<b>reproduced</b>; <strong>never run</strong>" in row[0]
    assert "<b>never run</b>" in scorecard([theirs]) and "<strong>" not in scorecard([ours])
    assert score(["never run", "misses"]) == "misses" and ORDER[0] == "never run"


def test_a_row_says_how_strong_its_check_is() -> None:
    some = [
        verdict("holds"),
        verdict("drifted", id="a.b.d", kind="close", tolerance=0.1, bound=None),
        verdict(UNTESTABLE, id="a.b.e", stored="tools/x.py --y", status="not-testable", why="It is <flat>."),
    ]
    text = report(some, {"07-x": {"status": "ran", "date": "today"}})["claims"]
    pinned, bounded, stored = re.findall(r"(?s)<tr id=.*?</tr>", text)  # what drifted is first
    assert 'data-strength="bounded"' in bounded and "at most 2.000, recorded 1.000 ± 0.02" in bounded
    assert 'data-strength="pinned"' in pinned and "<strong>drifted</strong>" in pinned and "1.000 ± 0.1" in pinned
    assert 'data-strength="stored"' in stored and "<code>tools/x.py --y</code>" in stored
    assert f'data-verdict="{UNTESTABLE}"' in stored and "It is &lt;flat&gt;." in stored
    assert "&lt;b&gt;|." in bounded and f'id="{anchor("a.b.c")}"' in bounded
    assert "<details open>" in text and "1 drifted, 1 hold, 1 not testable here" in text
    labels = re.findall(r'data-label="([^"]+)"', bounded)
    assert labels == re.findall(r"<th[^>]*>([^<]+)", text)[: len(labels)], (
        "on a phone a cell has the title of its column"
    )


def test_chapters_are_called_by_their_numbers_in_the_tables() -> None:
    (tested, *_) = sentences()
    some = [verdict("holds", tests=tested, chapter="a-constant-push")]
    made = report(
        some, {"a-constant-push": {"status": "ran", "date": "today"}}, called={"a-constant-push": "chapter 9"}
    )
    assert ">chapter 9: holds</a>" in made["scorecard"] and "<summary>Chapter 9, claims: 1 hold" in made["claims"]


def test_the_page_counts_verdicts_and_strengths() -> None:
    some = [verdict("holds"), verdict("holds", stored="x"), verdict(NOT, kind="sign")]
    assert counts(some) == "Of 3 claims: 2 hold, 1 not reproduced. Of their checks: 0 pinned, 2 bounded, 1 stored."


def test_what_failed_or_was_never_run_is_first_bold_and_unfolded() -> None:
    for loud in ("misses", "missing", "not yet recorded", "drifted", "never run"):
        some = [verdict("holds", id="a.b.a"), verdict("holds", id="a.b.b"), verdict(loud, id="a.b.z")]
        assert counts(some).startswith(f"Of 3 claims: **1 {loud.replace('misses', 'miss')}**, 2 hold.")
        text = report(some, {"07-x": {"status": "ran", "date": "today"}})["claims"]
        assert re.findall(r'<tr id="([^"]+)"', text)[0] == anchor("a.b.z") and "<details open>" in text
        assert f'data-verdict="{loud}"' in text and f"<strong>{loud}</strong>" in text
    quiet = report(some[:2], {"07-x": {"status": "ran", "date": "today"}})["claims"]
    assert "<details>" in quiet and "<strong>" not in quiet


def test_what_is_stored_is_what_chapters_read_from_files_of_results() -> None:
    ledger = load_ledger(data_path("claims.yml"))
    stored = {one.chapter for one in ledger.values() if one.stored}
    read = {path.stem for path in (ROOT / "book").glob("*.ipynb") if "json.loads(" in path.read_text(encoding="utf-8")}
    assert stored == read
    for one in ledger.values():
        assert not one.stored or (ROOT / one.stored.split()[1].removesuffix(",")).is_file(), one.id
        assert ("read from a file" in one.says) <= bool(one.stored), one.id
