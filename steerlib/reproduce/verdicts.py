"""A run beside the ledger: a verdict for every claim, the table of them, and what they come to.

    holds                           the finding holds, and the number is the recorded one     judged
    not reproduced, as recorded     so does our number, which differs from a paper's          judged
    not testable here, as recorded  so does our number, which could not have been another     judged
    drifted                         the finding holds, but a number is not the recorded one   judged, a miss
    misses                          the finding does not hold                                 judged, a miss
    missing                         the chapter ran without recording it                      judged, a miss
    not yet recorded                the entry has no number                                   judged, a miss
    stale                           notebook, library, data or weights changed since it ran   not judged
    never run                       a paper's number, and nobody ran the profile for it       not judged
    rehearsed                       the number was recorded, on a model that stands in        not judged
    other parameters, other profile, not run                                                  not judged

What is not judged is never called holding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerlib.reproduce.profiles import USUAL
from steerlib.reproduce.rules import STATUSES, Claim, Measured, judge
from steerlib.reproduce.wording import expected, interval, show

MISSES = ("misses", "missing", "not yet recorded")
AS_RECORDED = tuple(word for word, _ in STATUSES.values())
JUDGED = (*AS_RECORDED, "drifted", *MISSES)


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured, and one of the words at the top.

    `sound` is True where the number may become the recorded one: its chapter ran to its end, with its own parameters,
    nothing changed since, and it is not a paper's.
    """

    claim: Claim
    got: Measured | None
    word: str
    sound: bool = False

    @property
    def miss(self) -> bool:
        """True where the run must be called failed."""
        return self.word == "drifted" or self.word in MISSES

    @property
    def judged(self) -> bool:
        """True where the number was compared with the ledger."""
        return self.word in JUDGED

    @property
    def drift(self) -> float | None:
        """Measured minus recorded, for single numbers."""
        got, value = self.got and self.got.value, self.claim.value
        return got - value if isinstance(got, float) and isinstance(value, float) else None


def check(
    ledger: Mapping[str, Claim],
    records: Mapping[str, Mapping[str, Any]],
    *,
    stale: Collection[str] = (),
    profile: str = USUAL,
    rehearses: str = "",
) -> list[Verdict]:
    """Compare a run with the ledger.

    Args:
        ledger: claims by id.
        records: for each chapter that was run (its file stem) its record, {"claims": {id: {...}}, "status": "ran"}.
        stale: the chapters whose record is older than what it was made of; their claims are not judged.
        profile: that the chapters were run with. The book's own judges the claims of the tier cpu; any other judges the
            papers' numbers that belong to it.
        rehearses: a profile whose numbers must have been recorded, and are not judged.

    Returns:
        A verdict for every claim of the ledger, in its order. A claim that its chapter did not record is "missing", a
        miss; a claim of a chapter without a record is "not run", or "never run" if it is a paper's number; no miss.
    """
    found = []
    for one in ledger.values():
        record, own = records.get(one.chapter), one.profile or USUAL
        if own == (rehearses or profile):
            found.append(_verdict(one, record, one.chapter in stale, rehearsal=bool(rehearses)))
        else:
            found.append(Verdict(one, None, "never run" if one.profile and profile == USUAL else "other profile"))
    return found


def _verdict(one: Claim, record: Mapping[str, Any] | None, stale: bool, *, rehearsal: bool) -> Verdict:
    if record is None:
        return Verdict(one, None, "never run" if one.profile else "not run")
    found = record.get("claims", {}).get(one.measured_as or one.id)
    got = Measured(**found) if found else None
    if record.get("other_parameters"):
        return Verdict(one, got, "other parameters")
    if stale:
        return Verdict(one, got, "stale")
    names = set(got.value) if got and isinstance(got.value, dict) else set()
    if got is None or names != set(one.order):  # other names: recorded when the entry was another
        return Verdict(one, None, "missing")
    if rehearsal:
        return Verdict(one, got, "rehearsed")
    return Verdict(one, got, judge(one, got), sound=record.get("status") == "ran" and not one.profile)


def short(word: str) -> str:
    """A verdict after a number of claims.

    >>> short("holds"), short("not testable here, as recorded")
    ('hold', 'not testable here')
    """
    return {"holds": "hold", "misses": "miss"}.get(word, word.removesuffix(", as recorded"))


def table(verdicts: Iterable[Verdict]) -> str:
    """The table that a run prints: claim, expected, got, verdict (in capitals a miss, and what was never run)."""
    rows = [("claim", "expected", "got", "verdict")]
    for v in verdicts:
        got = f"{show(v.got.value)} {interval(v.got)}".strip() if v.got else "-"
        rows.append((v.claim.id, expected(v.claim), got, v.word.upper() if v.miss or v.word == "never run" else v.word))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class Outcome:
    """What a run, or a check of it, comes to.

    `failed` chapters did not run to their end; `stale` says what changed since a chapter ran; `asked` is True where
    the user chose other parameters, so that nothing to judge is what was asked for.
    """

    verdicts: Sequence[Verdict]
    failed: Sequence[str] = ()
    stale: Mapping[str, Sequence[str]] | None = None
    asked: bool = False

    @property
    def status(self) -> int:
        """The exit status: 0 all judged claims hold or a rehearsal was whole, 1 a miss or a failure, 3 else."""
        if self.failed or any(v.miss for v in self.verdicts):
            return 1
        if self.stale:
            return 3
        return 0 if self.asked or any(v.judged or v.word == "rehearsed" for v in self.verdicts) else 3

    def __str__(self) -> str:
        lines = [f"chapters that failed: {', '.join(self.failed)}"] if self.failed else []
        for what, words in (("claims that miss", MISSES), ("claims that drifted", ("drifted",))):
            which = [v.claim.id for v in self.verdicts if v.word in words]
            lines += [f"{what}: {', '.join(which)}"] if which else []
        for name, causes in (self.stale or {}).items():
            lines.append(f"{name} is stale: {' and '.join(causes)} changed since it ran; run it again")
        never = [v.claim for v in self.verdicts if v.word == "never run"]
        for name in dict.fromkeys(one.profile for one in never):
            count = sum(one.profile == name for one in never)
            lines.append(
                f"NEVER RUN: {count} of the papers' own numbers, which `steerlib reproduce --profile {name}` measures"
            )
        judged, total = sum(v.judged for v in self.verdicts), len(self.verdicts)
        others = Counter(v.word for v in self.verdicts if not v.judged)
        left = ", ".join(f"{number} {word}" for word, number in others.items())
        if not judged:
            return "\n".join([*lines, f"nothing was judged: {left or 'the ledger has no claim of what was run'}"])
        bad = sum(v.miss for v in self.verdicts)
        as_it_was = {word: sum(v.word == word for v in self.verdicts) for word in AS_RECORDED}
        kinds = ", ".join(f"{n} {short(word)}" for word, n in as_it_was.items() if n)
        all_ = "all hold" if as_it_was["holds"] == judged else f"all as recorded ({kinds})"
        said = f"{judged} of {total} claims judged: {f'{bad} do not hold' if bad else all_}"
        return "\n".join([*lines, said + (f"; not judged: {left}" if left else "")])


def conclude(
    verdicts: Sequence[Verdict],
    records: Mapping[str, Mapping[str, Any]],
    old: Mapping[str, Sequence[str]],
    names: Sequence[str],
    *,
    asked: bool = False,
) -> Outcome:
    """What the verdicts on the chosen chapters come to.

    Args:
        verdicts: of `check`, on all chapters.
        records: of the chapters' runs.
        old: what changed since chapters ran, by chapter; these are not judged.
        names: the chosen chapters.
        asked: whether the user asked for other parameters than the book's.
    """
    return Outcome(
        [v for v in verdicts if v.claim.chapter in names and v.word != "other profile"],
        [name for name in names if name in records and records[name].get("status") != "ran"],
        {name: causes for name, causes in old.items() if name in names},
        asked,
    )
