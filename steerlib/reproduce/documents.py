"""A document of the repository as a part of a page: data cards, model cards and licences, which are read next to the book.

The one idea: a page says `<!-- document: data/README.md -->`, and gets that file's text. Its headings
move down below the page's own, links to files lead to the repository, and links to documents that are pages lead to those pages.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

from steerlib.errors import SteerlibError

MARK = re.compile(r"<!-- document: (\S+?)(?:#([\w-]+))? -->")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def with_documents(text: str, root: Path, repository: str, pages: Mapping[str, str]) -> str:
    """A page with its documents in the place of their marks.

    Args:
        text: of the page; `path#heading` takes only the section below that heading.
        root: the checkout.
        repository: the address of the repository's files, without a slash at its end.
        pages: file stems of the pages that show a document, by its path.

    Raises:
        SteerlibError: there is no such document, or no such heading in it.
    """

    def document(match: re.Match[str]) -> str:
        path, heading = match[1], match[2] or ""
        if not (root / path).is_file():
            raise SteerlibError(f"a page shows the document {path}, which the repository does not have.")
        source = (root / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            return f"```text\n{source.strip()}\n```"
        source = _section(source, heading, path) if heading else re.sub(r"\A# .*\n+", "", source)
        above = re.findall(r"(?m)^(#+) ", text[: match.start()])
        source = _lower(source, len(above[-1]) - 1 if above else 0, path)
        return LINK.sub(lambda m: f"[{m[1]}]({_target(m[2], path, repository, pages)})", source).strip()

    return MARK.sub(document, text)


def documents(text: str) -> list[str]:
    """The paths of the documents that a page shows."""
    return [match[1] for match in MARK.finditer(text)]


def slug(heading: str) -> str:
    """The id by which links call a heading, as code hosts make it.

    >>> slug("occupations.csv"), slug("Drawings of people")
    ('occupationscsv', 'drawings-of-people')
    """
    return re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-")


def _place(path: str, heading: str) -> str:
    """The name by which pages link a heading of a document."""
    return f"{slug(path.replace('/', '-').removesuffix('.md'))}-{heading}".lower()


def _lower(source: str, levels: int, path: str) -> str:
    """The text with its headings some levels further down, and a place for links above each; code is left alone."""
    lines, code = [], False
    for line in source.splitlines():
        code ^= line.lstrip().startswith(("```", "~~~"))
        if not code and (heading := re.match(r"#+ (.+)", line)):
            lines += [f"({_place(path, slug(heading[1]))})=", "#" * levels + line]
        else:
            lines.append(line)
    return "\n".join(lines)


def _section(source: str, wanted: str, path: str) -> str:
    """What is below a heading, up to the next one of its level."""
    for match in re.finditer(r"(?m)^(#+) (.+)$", source):
        if slug(match[2]) == wanted:
            rest = source[match.end() :]
            end = re.search(rf"(?m)^#{{1,{len(match[1])}}} ", rest)
            return rest[: end.start()] if end else rest
    raise SteerlibError(f"{path} has no heading {wanted}.")


def _target(link: str, path: str, repository: str, pages: Mapping[str, str]) -> str:
    if re.match(r"[a-z]+:", link):
        return link
    file, _, place = link.partition("#")
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
    if whole in pages or not file:
        return f"#{_place(whole, place)}" if place else pages[whole]
    return f"{repository}/{whole}" + (f"#{place}" if place else "")
