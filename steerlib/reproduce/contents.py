"""The contents of the book: its pages in order, and the numbers by which prose and readers call its chapters.

The one idea: a number is written down nowhere. Chapters are the notebooks in those parts of book/_toc.yml that have `numbered: true`;
the other notebooks are appendices, A1, A2 and so on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steerlib.errors import SteerlibError


@dataclass(frozen=True)
class Page:
    """A page of the book: its file stem, its number ("" where it has none), the part it is in, and whether it is a notebook."""

    name: str
    number: str
    part: str
    notebook: bool

    @property
    def called(self) -> str:
        """How prose calls it: "chapter 5", "appendix A1"; "" for a page without a number."""
        kind = "appendix" if self.number.startswith("A") else "chapter"
        return f"{kind} {self.number}" if self.number else ""


def contents(root: Path) -> list[Page]:
    """The pages of the book in the order of book/_toc.yml.

    Args:
        root: the checkout.

    Raises:
        SteerlibError: the table of contents names a page that is not there, or is not valid YAML.
    """
    book = root / "book"
    try:
        toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise SteerlibError(f"book/_toc.yml is not valid YAML: {' '.join(str(error).split())}.") from error
    found: list[Page] = []
    counted = {True: 1, False: 1}
    for name, part, numbered in _pages(toc):
        notebook = (book / f"{name}.ipynb").is_file()
        if not notebook and not (book / f"{name}.md").is_file():
            raise SteerlibError(f"book/_toc.yml lists {name}, but there is no such .md or .ipynb.")
        number = ""
        if notebook:
            number = f"{'' if numbered else 'A'}{counted[numbered]}"
            counted[numbered] += 1
        found.append(Page(name, number, part, notebook))
    return found


def _pages(node: Any, part: str = "", numbered: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Every page below a node: its name, its part, and whether that part is numbered."""
    if isinstance(node, list):
        for one in node:
            yield from _pages(one, part, numbered)
    elif isinstance(node, dict):
        part, numbered = node.get("caption", part), node.get("numbered", numbered)
        for key, content in node.items():
            if key in ("root", "file"):
                yield content, part, bool(numbered)
            else:
                yield from _pages(content, part, bool(numbered))


def question_of(path: Path) -> str:
    """The question that a chapter opens with: the first bold sentence below its title; "" where it has none."""
    match = re.search(r"(?m)^# .+\n+(?:\*[^*].*\*\n+)?\*\*((?:[^*]|\*(?!\*))+\?)\*\*", _text(path))
    return " ".join(match[1].split()) if match else ""


def chapters_list(root: Path, pages: Iterable[Page]) -> str:
    """A table of the chapters and appendices in order, by part: number, title, and the question that each answers.

    Args:
        root: the checkout.
        pages: as `contents` gives them.

    Returns:
        Markdown, with references that are still to be filled in.
    """
    rows, part = ["| chapter | question |", "|---|---|"], ""
    for page in pages:
        if not page.number:
            continue
        if page.part != part:
            part = page.part
            rows.append(f"| **{part}** | |")
        path = root / "book" / f"{page.name}.ipynb"
        rows.append(f"| [{page.number} {title_of(path)}]({page.name}) | {question_of(path)} |")
    return "\n".join(rows)


def title_of(path: Path) -> str:
    """The title of a page of the book: its first heading, without markup.

    Args:
        path: a notebook or a Markdown file.

    Returns:
        The title; the file's stem where there is no heading.
    """
    match = re.search(r"(?m)^# (.+)$", _text(path))
    return match[1].strip() if match else path.stem


def _text(path: Path) -> str:
    """The Markdown of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
