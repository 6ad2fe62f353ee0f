"""The tables of the Reproducibility page: the papers' sentences beside ours, and every claim beside what was measured.

The one idea: what failed or was never run comes first, and every row says how strong its check is. book/_static has the look of
the tables (on a phone a row is a card) and their filters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from steerlib.reproduce.claims import anchor
from steerlib.reproduce.machines import Machine
from steerlib.reproduce.markup import literal, markdown, named, row, table, text
from steerlib.reproduce.papers import sentences
from steerlib.reproduce.rules import STRENGTHS, Measured, strength
from steerlib.reproduce.side_by_side import NEVER, beside, elsewhere, machines_table, numbered
from steerlib.reproduce.verdicts import MISSES, Verdict, short
from steerlib.reproduce.wording import expected, interval, sentence, show

SCORES = {  # what a verdict on our claim says of the paper's sentence
    "not reproduced, as recorded": "not reproduced",
    "not testable here, as recorded": "not testable here",
    "holds": "reproduced",
}
NAMELESS: Mapping[str, str] = MappingProxyType({})  # no chapter has another name than its file
ORDER = (
    NEVER,
    "not reproduced",
    "partly reproduced",
    "not testable here",
    "not tested",
    "reproduced",
)  # what failed here is first


def report(
    verdicts: Iterable[Verdict],
    records: Mapping[str, Mapping[str, Any]],
    machines: Sequence[Machine] = (),
    called: Mapping[str, str] = NAMELESS,
) -> dict[str, str]:
    """The tables of the Reproducibility page.

    Args:
        verdicts: on all claims.
        records: run records by chapter.
        machines: the run records of other machines.
        called: how prose calls each chapter, such as "chapter 5", by its file stem; the stem itself where it is left out.

    Returns:
        The tables, by the name of the mark that each replaces.
    """
    others, here = numbered(machines), list(verdicts)
    measured_on = {v.claim.id: elsewhere(v, others) for v in here}
    found, of = [v for v, _ in measured_on.values()], attrgetter("claim.chapter")
    compared = machines_table(machines, {v.claim.id: v.claim for v in here})
    runs = [{"chapter": name, **record.get("environment", {})} | dict(record) for name, record in records.items()]
    if not runs:
        nothing = "No run has been recorded yet."
        empty = {"scorecard": nothing, "counts": "", "claims": nothing, "chapters": "", "environment": ""}
        return empty | {"machines": compared}
    chapters = []
    for run in runs:
        values = ", ".join(f"{key} = {value}" for key, value in run.get("parameters", {}).items())
        about = [str(run.get(key, "")) for key in ("seconds", "date", "commit")]
        about = [run.get("status", "not finished"), *about, values or "the chapter's own"]
        chapters.append(row({"Chapter": markdown(f"{{doc}}`{run['chapter']}`")} | named(CHAPTERS[1:], about)))
    last = max(runs, key=lambda run: run.get("date", ""))
    facts = [row(named(FACTS, (key.capitalize(), x))) for key, x in last.get("environment", {}).items()]
    rows = {v.claim.id: _claim(v, others, measured_on[v.claim.id][1]) for v in found}
    parts = groupby(sorted(found, key=of), of)
    return {
        "scorecard": scorecard(found, called),
        "counts": counts(found),
        "claims": "\n\n".join(_chapter(name, list(part), rows, called) for name, part in parts),
        "machines": compared,
        "chapters": table(CHAPTERS, chapters),
        "environment": table(FACTS, facts),
    }


LOUD = (*MISSES, "drifted", NEVER)  # verdicts that nobody should have to look for
CHAPTERS = ("Chapter", "Status", "Seconds", "Date", "Commit", "Parameters")
FACTS = ("What", "The last run")
CARD = ("The paper says", "Its model and number", "Ours", "Verdict")
LEDGER = ("Claim", "Source", "Check", "Got", "Drift", "Verdict")


def score(words: Iterable[str]) -> str:
    """The verdict on a paper's sentence, from the verdicts on the claims that test it.

    >>> score(["holds", "holds"]), score(["holds", "not reproduced, as recorded"]), score([])
    ('reproduced', 'partly reproduced', 'not tested')
    >>> score(["holds", "never run"]), score(["never run"])
    ('reproduced', 'never run')
    >>> score(["holds", "drifted"])
    'drifted'
    """
    kinds = {SCORES.get(word, word) for word in words}
    kinds = kinds - {NEVER} or kinds  # of a paper's own number, which the row says beside the verdict
    other = kinds - set(SCORES.values())
    if other or len(kinds) < 2:
        return min(other or kinds, default="not tested")
    return "partly reproduced" if "reproduced" in kinds else "not reproduced"


def scorecard(verdicts: Sequence[Verdict], called: Mapping[str, str] = NAMELESS) -> str:
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
            cells = [f"{text(one.says)} <i>({text(one.where)})</i>", text(one.theirs)]
            never = word != NEVER and any(v.word == NEVER for v in ours)
            beside_it = f"; <strong>{NEVER}</strong> with the paper's own models" if never else ""
            cells += ["".join(_ours(v, called) for v in ours) or text(one.untested), f"<b>{text(word)}</b>{beside_it}"]
            place = ORDER.index(word) if word in ORDER else -1
            rows.append((place, row(dict(zip(CARD, cells, strict=True)), f' class="score-{word.replace(" ", "-")}"')))
        rows.sort(key=lambda row: row[0])  # stable: else as in the file
        made = table(CARD, [row for _, row in rows])
        tables.append(f"What {{cite:t}}`{paper}` say, and what came of it here:\n\n{made}")
    return "\n\n".join(tables) or "No claim tests a sentence of a paper."


def _ours(v: Verdict, called: Mapping[str, str]) -> str:
    word = v.word.removesuffix(", as recorded")
    link = f'<a href="#{anchor(v.claim.id)}">{text(called.get(v.claim.chapter, v.claim.chapter))}: {text(word)}</a>'
    kind = " (stored)" if v.claim.stored else ""
    whose = "The paper's number: " if v.word == "never run" else ""
    return f"<p>{text(whose + _said(v))} {link}{kind}</p>"


def counts(verdicts: Sequence[Verdict]) -> str:
    """One line: how many claims have which verdict, what failed or never ran first, and how many checks have which strength."""
    said = ((word in LOUD, f"{number} {short(word)}") for word, number in _counted(verdicts))
    words = ", ".join(f"**{words}**" if loud else words for loud, words in said)
    kinds = Counter(strength(v.claim) for v in verdicts)
    checks = ", ".join(f"{kinds[kind]} {kind}" for kind in STRENGTHS)
    return f"Of {len(verdicts)} claims: {words}. Of their checks: {checks}."


def _chapter(name: str, verdicts: Sequence[Verdict], rows: Mapping[str, str], called: Mapping[str, str]) -> str:
    """The claims of a chapter, what failed or never ran first; folded unless there is such a claim."""
    first = sorted(verdicts, key=lambda v: v.word not in LOUD)  # stable: else as in the ledger
    said = called.get(name, name)
    summary = f"{said[0].upper()}{said[1:]}, claims: " + ", ".join(
        f"{n} {short(word)}" for word, n in _counted(verdicts)
    )
    start = "<details open>" if first[0].word in LOUD else "<details>"
    made = table(LEDGER, [rows[v.claim.id] for v in first], "cards ledger")
    return f"### {{doc}}`{name}`\n\n{start}\n<summary>{text(summary)}</summary>\n{made}\n</details>"


def _counted(verdicts: Iterable[Verdict]) -> list[tuple[str, int]]:
    """How many claims have which verdict: what failed or never ran first, then the most."""
    return sorted(Counter(v.word for v in verdicts).most_common(), key=lambda both: both[0] not in LOUD)


def _claim(v: Verdict, others: Mapping[int, Machine], measured_on: int | None) -> str:
    """A claim's row; `measured_on` is the number of the machine that the verdict is of, None for the run here."""
    one = v.claim
    fold, compared = beside(one, others)
    on = (
        ""
        if measured_on is None
        else f' <i>on <a href="#machine-{measured_on}">machine {measured_on}</a>, not here</i>'
    )
    said = [text(_said(v))]
    said += [f"<i>In the paper: {text(one.paper)}</i>"] if one.paper else []
    said += [f"<i>Not testable here: {text(one.why)}</i>"] if one.why else []
    source = one.source
    if one.tests and "{cite" not in source:  # else the source has said so
        tested = sentences()[one.tests]
        source += f"; tests: {literal(tested.says)} ({literal(tested.where)})"
    check = f"<b>{strength(one)}</b>: {text(expected(one))}"
    check += f"; read from a file made by <code>{text(one.stored)}</code>" if one.stored else ""
    cells = [
        f"{' '.join(said)} <code>{one.id}</code>",
        markdown(source) if "{" in source else text(source),
        check,
        text(f"{show(v.got.value)} {interval(v.got)}" if v.got else "") + fold,
        "" if v.drift is None else f"{v.drift:+.2g}" if v.drift else "0",
        (f"<strong>{v.word}</strong>" if v.word in LOUD else v.word) + on,
    ]
    about = (
        f' id="{anchor(one.id)}" data-strength="{strength(one)}" data-verdict="{text(v.word)}" data-others="{compared}"'
    )
    return row(dict(zip(LEDGER, cells, strict=True)), about)


def _said(v: Verdict) -> str:
    """The sentence with the number that was measured, else the recorded one."""
    got = v.got or (Measured(v.claim.value) if v.claim.value is not None else None)
    return sentence(v.claim, got) if got else re.sub(r"\{value[^}]*\}", "(not yet recorded)", v.claim.says)
