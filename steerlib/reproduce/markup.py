"""Tables of HTML inside a page of Markdown.

The one idea: a cell holds HTML, or Markdown between blank lines; on a phone a row is a card, whose lines have the titles of the
columns (book/_static/ledger.css).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[str], kind: str = "cards") -> str:
    """A table with these titles; `rows` are made by `row`."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in head)
    start = f'<table class="table {kind}">\n<thead><tr>{titles}</tr></thead>\n<tbody>\n'
    return start + "".join(rows) + "</tbody>\n</table>"


def row(cells: Mapping[str, str], about: str = "") -> str:
    """A row, from HTML by the title of its column; `about` is put into its tag.

    >>> print(row({"Value": "<b>1</b>"}, ' id="x"'), end="")
    <tr id="x">
    <td data-label="Value"><b>1</b></td>
    </tr>
    """
    inside = "".join(f'<td data-label="{label}">{cell}</td>\n' for label, cell in cells.items())
    return f"<tr{about}>\n{inside}</tr>\n"


def named(head: Sequence[str], texts: Iterable[object]) -> dict[str, str]:
    """The cells of a row of plain texts."""
    return {label: text(str(one)) for label, one in zip(head, texts, strict=True)}


def text(plain: str) -> str:
    """Text as HTML has it, on one line: a blank line would end the HTML, and what follows it would be Markdown.

    >>> text("a < b\\n\\n# c")
    'a &lt; b # c'
    """
    return html.escape(re.sub(r"\s*[\r\n]\s*", " ", plain))


def markdown(source: str) -> str:
    """Markdown inside a cell: blank lines end the HTML before it and after it."""
    return f"\n\n{source}\n\n"


def literal(plain: str) -> str:
    """Text that Markdown must show as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]|$<>#" else c for c in plain)
