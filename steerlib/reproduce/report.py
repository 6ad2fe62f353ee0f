"""The tables of the Reproducibility page: the papers' sentences beside ours, and every claim beside what was measured.

The one idea: failures come first, and every row says how strong its check is. The tables are HTML, whose cells may hold
Markdown between blank lines; book/_static has their look (on a phone a row is a card) and their filters.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from steerlib.reproduce.claims import anchor
from steerlib.reproduce.papers import sentences
from steerlib.reproduce.rules import STRENGTHS, Measured, strength
from steerlib.reproduce.verdicts import Verdict, short
from steerlib.reproduce.wording import expected, interval, sentence, show

SCORES = {  # what a verdict on our claim says of the paper's sentence
    "not reproduced, as recorded": "not reproduced",
    "not testable here, as recorded": "not testable here",
    "holds": "reproduced",
}
ORDER = (
    "not reproduced",
    "partly reproduced",
    "not testable here",
    "not tested",
    "reproduced",
)  # what failed here is first


def report(verdicts: Iterable[Verdict], records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tables of the Reproducibility page.

    Args:
        verdicts: on all claims.
        records: run records by chapter.

    Returns:
        The tables, by the name of the mark that each replaces.
    """
    found, of = list(verdicts), attrgetter("claim.chapter")
    runs = [{"chapter": name, **record.get("environment", {})} | dict(record) for name, record in records.items()]
    if not runs:
        nothing = "No run has been recorded yet."
        return {"scorecard": nothing, "counts": "", "claims": nothing, "chapters": "", "environment": ""}
    chapters = []
    for run in runs:
        values = ", ".join(f"{key} = {value}" for key, value in run.get("parameters", {}).items())
        about = [str(run.get(key, "")) for key in ("seconds", "date", "commit")]
        about = [run.get("status", "not finished"), *about, values or "the chapter's own"]
        chapters.append(_row({"Chapter": _markdown(f"{{doc}}`{run['chapter']}`")} | _named(CHAPTERS[1:], about)))
    last = max(runs, key=lambda run: run.get("date", ""))
    facts = [_row(_named(FACTS, (key.capitalize(), x))) for key, x in last.get("environment", {}).items()]
    return {
        "scorecard": scorecard(found),
        "counts": counts(found),
        "claims": "\n\n".join(_chapter(name, list(part)) for name, part in groupby(sorted(found, key=of), of)),
        "chapters": _table(CHAPTERS, chapters),
        "environment": _table(FACTS, facts),
    }


CHAPTERS = ("Chapter", "Status", "Seconds", "Date", "Commit", "Parameters")
FACTS = ("What", "The last run")
CARD = ("The paper says", "Its model and number", "Ours", "Verdict")
LEDGER = ("Claim", "Source", "Check", "Got", "Drift", "Verdict")


def score(words: Iterable[str]) -> str:
    """The verdict on a paper's sentence, from the verdicts on the claims that test it.

    >>> score(["holds", "holds"]), score(["holds", "not reproduced, as recorded"]), score([])
    ('reproduced', 'partly reproduced', 'not tested')
    >>> score(["holds", "drifted"])
    'drifted'
    """
    kinds = {SCORES.get(word, word) for word in words}
    other = kinds - set(SCORES.values())
    if other or len(kinds) < 2:
        return min(other or kinds, default="not tested")
    return "partly reproduced" if "reproduced" in kinds else "not reproduced"


def scorecard(verdicts: Sequence[Verdict]) -> str:
    """A table per paper: each sentence that the ledger tests or says it cannot test, what failed first."""
    tests = {v.claim.tests for v in verdicts}
    tables = []
    for paper in dict.fromkeys(one.paper for one in sentences().values() if one.id in tests):
        rows = []
        for one in sentences().values():
            ours = [v for v in verdicts if v.claim.tests == one.id]
            if one.paper != paper or not (ours or one.untested):
                continue
            word = score(v.word for v in ours)
            cells = [f"{_text(one.says)} <i>({_text(one.where)})</i>", _text(one.theirs)]
            cells += ["".join(map(_ours, ours)) or _text(one.untested), f"<b>{_text(word)}</b>"]
            place = ORDER.index(word) if word in ORDER else -1
            rows.append((place, _row(dict(zip(CARD, cells, strict=True)), f' class="score-{word.replace(" ", "-")}"')))
        rows.sort(key=lambda row: row[0])  # stable: else as in the file
        table = _table(CARD, [row for _, row in rows])
        tables.append(f"What {{cite:t}}`{paper}` say, and what came of it here:\n\n{table}")
    return "\n\n".join(tables) or "No claim tests a sentence of a paper."


def _ours(v: Verdict) -> str:
    word = v.word.removesuffix(", as recorded")
    link = f'<a href="#{anchor(v.claim.id)}">chapter {_number(v.claim.chapter)}: {_text(word)}</a>'
    kind = " (stored)" if v.claim.stored else ""
    return f"<p>{_text(_said(v))} {link}{kind}</p>"


def counts(verdicts: Sequence[Verdict]) -> str:
    """One line: how many claims have which verdict, and how many checks have which strength."""
    words = ", ".join(f"{number} {short(word)}" for word, number in Counter(v.word for v in verdicts).most_common())
    kinds = Counter(strength(v.claim) for v in verdicts)
    checks = ", ".join(f"{kinds[kind]} {kind}" for kind in STRENGTHS)
    return f"Of {len(verdicts)} claims: {words}. Of their checks: {checks}."


def _chapter(name: str, verdicts: Sequence[Verdict]) -> str:
    """The claims of a chapter, folded unless one of them is a miss."""
    words = Counter(v.word for v in verdicts).most_common()
    summary = f"Chapter {_number(name)}, claims: " + ", ".join(f"{number} {short(word)}" for word, number in words)
    start = "<details open>" if any(v.miss for v in verdicts) else "<details>"
    table = _table(LEDGER, map(_claim, verdicts), "cards ledger")
    return f"### {{doc}}`{name}`\n\n{start}\n<summary>{_text(summary)}</summary>\n{table}\n</details>"


def _claim(v: Verdict) -> str:
    one = v.claim
    said = [_text(_said(v))]
    said += [f"<i>In the paper: {_text(one.paper)}</i>"] if one.paper else []
    said += [f"<i>Not testable here: {_text(one.why)}</i>"] if one.why else []
    source = one.source
    if one.tests:
        tested = sentences()[one.tests]
        source += f"; tests: {_plain(tested.says)} ({_plain(tested.where)})"
    check = f"<b>{strength(one)}</b>: {_text(expected(one))}"
    check += f"; read from a file made by <code>{_text(one.stored)}</code>" if one.stored else ""
    cells = [
        f"{' '.join(said)} <code>{one.id}</code>",
        _markdown(source) if "{" in source else _text(source),
        check,
        _text(f"{show(v.got.value)} {interval(v.got)}" if v.got else ""),
        "" if v.drift is None else f"{v.drift:+.2g}" if v.drift else "0",
        f"<strong>{v.word}</strong>" if v.miss else v.word,
    ]
    about = f' id="{anchor(one.id)}" data-strength="{strength(one)}" data-verdict="{_text(v.word)}"'
    return _row(dict(zip(LEDGER, cells, strict=True)), about)


def _said(v: Verdict) -> str:
    """The sentence with the number that was measured, else the recorded one."""
    got = v.got or (Measured(v.claim.value) if v.claim.value is not None else None)
    return sentence(v.claim, got) if got else re.sub(r"\{value[^}]*\}", "(not yet recorded)", v.claim.says)


def _table(head: Sequence[str], rows: Iterable[str], kind: str = "cards") -> str:
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    return (
        f'<table class="table {kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
        + "".join(rows)
        + "</tbody>\n</table>"
    )


def _row(cells: Mapping[str, str], about: str = "") -> str:
    inside = "".join(f'<td data-label="{label}">{cell}</td>\n' for label, cell in cells.items())
    return f"<tr{about}>\n{inside}</tr>\n"


def _named(head: Sequence[str], texts: Iterable[object]) -> dict[str, str]:
    return {label: _text(str(text)) for label, text in zip(head, texts, strict=True)}


def _number(chapter: str) -> str:
    """The number by which prose calls a chapter: "7" of 07-direct-steering-optimization, "A1" of an appendix."""
    return _text(chapter.split("-")[0].lstrip("0").upper())


def _text(text: str) -> str:
    """Text as HTML has it."""
    return html.escape(text)


def _markdown(text: str) -> str:
    """Markdown inside a cell: blank lines end the HTML before it and after it."""
    return f"\n\n{text}\n\n"


def _plain(text: str) -> str:
    """Text that Markdown must show as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]|$<>#" else c for c in text)
