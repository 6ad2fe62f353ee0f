"""The Colab edition: every executed chapter as a notebook that reads as prose outside of the site, too.

The one idea: it is made of the same executed copies as the site, by filling in what only the site's builder understands. Numbers,
chapters and figures are resolved, links are absolute, admonitions are block quotes, solutions are folded in `<details>`, and below
each exercise is an empty cell. Code is as it was run; outputs are kept, as pixels, so a reader sees results before running anything.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pybtex.database import parse_string  # type: ignore[import-untyped]

from steerlib.reproduce.address import SITE
from steerlib.reproduce.dress import claims_apart
from steerlib.reproduce.frames import dressed
from steerlib.reproduce.references import References, Shown

FENCE = re.compile(
    r"(?ms)^(?P<mark>`{3,}|:{3,})\{(?P<kind>[\w-]+)\}[ ]*(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=mark)[ ]*$"
)
EXERCISE = re.compile(r"(?m)^\*\*(\d+)\. ")
CITE = re.compile(r"\{cite(?::(\w+))?\}`([^`]+)`")
TERM = re.compile(r"\{term\}`(?:([^`<]*?)\s*<([^`>]+)>|([^`]+))`")
PAGE = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|mailto:|#)([\w-]+)(?:\.\w+)?(#[\w-]+)?\)")
SPACE = "# your answer"


def write_edition(
    folder: Path, notebooks: Mapping[str, Mapping[str, Any]], refers: References, works: Mapping[str, str]
) -> None:
    """Write the edition into an empty folder, one notebook per chapter.

    Args:
        folder: is emptied first.
        notebooks: the executed chapters, as JSON has them, by file stem.
        refers: what texts refer to, with links of `link`.
        works: how the text calls each work that it cites, by its BibTeX key.

    Raises:
        SteerlibError: a text refers to what does not exist.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, notebook in notebooks.items():
        made = edition(notebook, name, refers, works)
        (folder / f"{name}.ipynb").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def link(text: str, page: str, place: str) -> str:
    """A link to the site."""
    return f"[{text}]({SITE}{page}.html{'#' * bool(place)}{place})"


def edition(notebook: Mapping[str, Any], page: str, refers: References, works: Mapping[str, str]) -> dict[str, Any]:
    """One chapter for Colab.

    Args:
        notebook: the executed chapter, as JSON has it; it is left as it is.
        page: its file stem.
        refers: what texts refer to.
        works: how the text calls each work that it cites, by its BibTeX key.

    Raises:
        SteerlibError: a text refers to what does not exist.
    """
    number = refers.pages[page].number
    cells: list[dict[str, Any]] = []
    for cell in copy.deepcopy(notebook["cells"]):
        if cell["cell_type"] == "code":
            cells += _code(cell, page, refers)
            continue
        text = refers.fill("".join(cell["source"]), page)
        if number and not any(one["cell_type"] == "markdown" for one in cells):
            text = re.sub(r"(?m)^# ", f"# {number}. ", text, count=1)
        cells += _split(plain(text, page, works))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return {"cells": cells, "metadata": about | {"colab": {"provenance": []}}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, source: str) -> dict[str, Any]:
    code: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)} | code


def plain(text: str, page: str, works: Mapping[str, str]) -> str:
    """Markdown of the site as any notebook shows it.

    Args:
        text: with its references filled in.
        page: its page's file stem.
        works: how the text calls each work that it cites, by its BibTeX key.
    """
    text = re.sub(r"(?m)^%.*\n?", "", text)
    text = re.sub(
        r"<!-- map.*?-->", f"([The map of the model]({SITE}intro.html) shows where this method touches it.)", text
    )
    text = re.sub(
        r'(?s)<div class="(?:steer-it|play)[^>]*>.*?</div>',
        f"[On the page of this chapter]({SITE}{page}.html) you can try this without running anything.",
        text,
    )
    while FENCE.search(text):
        text = FENCE.sub(_admonition, text)
    text = CITE.sub(lambda m: "; ".join(_work(key.strip(), m[1], works) for key in m[2].split(",")), text)
    text = TERM.sub(lambda m: _term(m[1] or m[3], m[2] or m[3]), text)
    text = re.sub(r"\{(?:doc|ref)\}`([^`<]+) <([\w-]+)>`", lambda m: link(m[1], m[2], ""), text)
    text = re.sub(r"\{doc\}`([\w-]+)`", lambda m: link(m[1].replace("-", " "), m[1], ""), text)
    text = re.sub(r"\{py:\w+\}`~?([\w.]+)`", lambda m: f"[`{m[1].split('.')[-1]}`]({SITE}api.html#{m[1]})", text)
    return PAGE.sub(lambda m: f"[{m[1]}]({SITE}{m[2]}.html{m[3] or ''})", text)


def _admonition(match: re.Match[str]) -> str:
    """An admonition as a fold, or as a block quote with its title in bold."""
    kind, title, body = match["kind"], match["title"].strip(), match["body"]
    classes = " ".join(re.findall(r"(?m)^:class: (.*)$", body))
    body = re.sub(r"(?m)^:\w+:.*\n", "", body).strip()
    title = title or kind.capitalize()
    if "dropdown" in classes:
        return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"
    quoted = "\n".join(f"> {line}".rstrip() for line in body.splitlines())
    return f"> **{title}**\n>\n{quoted}"


def _work(key: str, kind: str | None, works: Mapping[str, str]) -> str:
    said = works.get(key, key)
    return f"[{said}]({SITE}bibliography.html)" if kind in ("t", "alp") else f"([{said}]({SITE}bibliography.html))"


def _term(said: str, term: str) -> str:
    anchor = "term-" + re.sub(r"\W+", "-", term).strip("-")
    return f"[{said}]({SITE}glossary.html#{anchor})"


def _split(text: str) -> Iterator[dict[str, Any]]:
    """A Markdown cell, with an empty code cell below each of its exercises, before the fold that solves it."""
    starts = [match.start() for match in EXERCISE.finditer(text)] if re.search(r"\((easy|medium|hard)\b", text) else []
    if not starts:
        yield _cell("markdown", text)
        return
    if text[: starts[0]].strip():
        yield _cell("markdown", text[: starts[0]].strip())
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        exercise, fold, rest = text[start:end].partition("<details>")
        yield _cell("markdown", exercise.strip())
        yield _cell("code", SPACE)
        if fold:
            yield _cell("markdown", (fold + rest).strip())


def _code(cell: dict[str, Any], page: str, refers: References) -> list[dict[str, Any]]:
    """A code cell with its outputs, and the caption of what it shows in a cell below it."""
    about = cell["metadata"].get("book", {})
    outputs, line = claims_apart(cell["outputs"])
    for output in outputs:
        data = output.get("data", {})
        source = "".join(data.get("text/html", ""))
        if "image/png" in data:
            data.pop("image/svg+xml", None)
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            data["text/plain"] = refers.fill_alt(alt, page) or data.get("text/plain", "")
        elif "<table" in source:
            data["text/html"] = dressed(source)
    if line:
        line = re.sub(r'href="(?!http)', f'href="{SITE}', line)
        outputs.append({"output_type": "display_data", "metadata": {}, "data": {"text/html": line, "text/plain": ""}})
    made = _cell("code", "".join(cell["source"])) | {"outputs": outputs}
    name = about.get("figure") or about.get("table")
    if not name:
        return [made]
    return [made, _cell("markdown", _caption(refers.shown[name], refers.fill_alt(about["caption"], page, "a caption")))]


def _caption(shown: Shown, caption: str) -> str:
    return f"**{shown.called[0].upper()}{shown.called[1:]}.** {caption}"


def cited_as(bibtex: str) -> dict[str, str]:
    """How a text calls each work of a BibTeX file: the first author's family name, and the year.

    >>> cited_as("@article{a2020x, author = {Doe, Jane and Roe, Richard and Poe, Ed}, year = {2020}}")
    {'a2020x': 'Doe et al., 2020'}
    """
    found = {}
    for key, entry in parse_string(bibtex, "bibtex").entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        family = [" ".join(str(name) for name in (*one.rich_prelast_names, *one.rich_last_names)) for one in people]
        if len(family) < 3:
            who = " and ".join(family) or entry.fields.get("organization", key)
        else:
            who = f"{family[0]} et al."
        found[key] = f"{who}, {entry.fields.get('year', 'no year')}"
    return found
