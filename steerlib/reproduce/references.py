"""What the text of a page refers to: chapters, figures and tables by their numbers, and the numbers that were measured.

The one idea: nothing that a later change could make wrong is typed. A page has

    {chapter}`add-or-ablate`       chapter 6, with a link
    {fig}`strength-sweep`          figure 6.2, with a link, {tab}`...` likewise; with a capital, {Fig}, at the start of a sentence
    {glue:text}`a.b.c:.2f`         the number that a run recorded for the claim a.b.c; a.b.c.low and .high are its interval

and both editions of the book, the site and the one for Colab, are made by filling these in. An alt text or a caption, in the
metadata of a cell, has its numbers as {a.b.c:.2f}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.reproduce.claims import glue
from steerlib.reproduce.contents import Page
from steerlib.reproduce.rules import Claim, Measured
from steerlib.reproduce.wording import show

UNKNOWN = "(not measured)"  # in a chapter that was not run to its end
IN_PROSE = re.compile(r"\{glue:text\}`([^`:]*)(?::([^`]*))?`")
IN_ALT = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
ROLE = re.compile(r"\{([Cc]hapter|[Ff]ig|[Tt]ab)\}`([^`]*)`")
KINDS = {"fig": "figure", "tab": "table"}


@dataclass(frozen=True)
class Shown:
    """A figure or a table of the book."""

    name: str
    kind: str  # "figure" or "table"
    page: str  # the file stem of its chapter
    number: str  # "6.2"

    @property
    def anchor(self) -> str:
        """The id of its place on the page."""
        return f"{self.kind[:3]}-{self.name}"

    @property
    def called(self) -> str:
        """How prose calls it."""
        return f"{self.kind} {self.number}"


Link = Callable[[str, str, str], str]
"""Makes a link of a text, the file stem of a page, and the id of a place there ("" is its top)."""


@dataclass(frozen=True)
class References:
    """All that a page may refer to."""

    pages: Mapping[str, Page]
    shown: Mapping[str, Shown]
    ledger: Mapping[str, Claim]
    records: Mapping[str, Mapping[str, Any]]
    numbers: Mapping[str, float]
    link: Link

    def fill(self, text: str, page: str) -> str:
        """A Markdown text with everything that it refers to in its place.

        Args:
            text: of a page.
            page: the file stem of that page, for error messages.

        Raises:
            SteerlibError: an unknown chapter, figure, table or number; a format that Python does not know.
        """

        def role(match: re.Match[str]) -> str:
            kind, name = match[1].lower(), match[2]
            if kind == "chapter":
                to = self.pages.get(name)
                if to is None or not to.called:
                    raise SteerlibError(f"{page} refers to the chapter {name}, which book/_toc.yml does not number.")
                called, stem, place = to.called, name, ""
            else:
                found = self.shown.get(name)
                if found is None or found.kind != KINDS[kind]:
                    raise SteerlibError(f"{page} refers to the {KINDS[kind]} {name}, which no cell of the book shows.")
                called, stem, place = found.called, found.page, found.anchor
            return self.link(called[0].upper() + called[1:] if match[1][0].isupper() else called, stem, place)

        text = ROLE.sub(role, text)
        return IN_PROSE.sub(lambda match: self._number(match, f"{page}: the text"), text)

    def fill_alt(self, text: str, page: str, where: str = "an alt text") -> str:
        """An alt text or a caption with its numbers.

        Args:
            text: with numbers as {a.b.c:.2f}.
            page: its page's file stem, for error messages.
            where: what error messages call the text.

        Raises:
            SteerlibError: as `fill`.
        """
        return IN_ALT.sub(lambda match: self._number(match, f"{page}: {where}"), text)

    def _number(self, match: re.Match[str], where: str) -> str:
        key, spec = match[1], match[2] or ""
        owner = self.ledger.get(".".join(key.split(".")[:3]))
        if key in self.numbers:
            try:
                return format(self.numbers[key], spec) if spec else show(self.numbers[key])
            except ValueError as error:
                raise SteerlibError(f"{where} has {match[0]}, of which Python says: {error}.") from error
        if owner and self.records.get(owner.chapter, {}).get("status") != "ran":
            return UNKNOWN
        raise SteerlibError(f"{where} names {key}, but no chapter recorded a number of that name.")


def references(
    pages: Iterable[Page],
    notebooks: Mapping[str, Mapping[str, Any]],
    ledger: Mapping[str, Claim],
    records: Mapping[str, Mapping[str, Any]],
    link: Link,
) -> References:
    """Collect all that pages may refer to.

    Args:
        pages: of the book, in order.
        notebooks: as JSON has them, by file stem.
        ledger: the claims by id.
        records: run records by chapter.
        link: makes a link of the edition.

    Raises:
        SteerlibError: a figure or table whose name is used twice, or that has no caption.
    """
    known = {page.name: page for page in pages}
    shown: dict[str, Shown] = {}
    for page in known.values():
        count = dict.fromkeys(KINDS.values(), 0)
        for cell in notebooks.get(page.name, {}).get("cells", []):
            about = cell["metadata"].get("book", {})
            for kind in count.keys() & about.keys():
                name = about[kind]
                if not about.get("caption"):
                    raise SteerlibError(f"{page.name}: the {kind} {name} has no caption.")
                if name in shown:
                    raise SteerlibError(f"{page.name}: the name {name} is that of another {shown[name].kind}.")
                count[kind] += 1
                shown[name] = Shown(name, kind, page.name, f"{page.number}.{count[kind]}".lstrip("."))
    return References(known, shown, ledger, records, _measured(ledger, records), link)


def _measured(ledger: Mapping[str, Claim], records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Every number that the runs recorded, by the key by which prose and alt texts take it."""
    found: dict[str, float] = {}
    for record in records.values():
        for id, got in record.get("claims", {}).items():
            if id in ledger:
                found |= glue(ledger[id], Measured(**got))
    return found
