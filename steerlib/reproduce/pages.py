"""Build the book: the pages of book/ with the executed copies of its notebooks in their places.

The one idea: Jupyter Book never runs anything here. It is given a folder `_build/source/` in which
every notebook has its outputs already, and every page its numbers and references, and makes `_build/html/` of it. What a page
needs in a browser is served from the site itself: it opens whole with no network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steerlib.assets import fetch
from steerlib.errors import SteerlibError
from steerlib.inpage.grid import grid_data
from steerlib.inpage.site import place
from steerlib.inpage.table import grid_table
from steerlib.reproduce.address import REPOSITORY, colab
from steerlib.reproduce.colab import cited_as, link, write_edition
from steerlib.reproduce.contents import chapters_list, contents
from steerlib.reproduce.documents import documents, with_documents
from steerlib.reproduce.dress import dress
from steerlib.reproduce.fingerprint import stale
from steerlib.reproduce.machines import read_machines
from steerlib.reproduce.reference import reference
from steerlib.reproduce.references import references
from steerlib.reproduce.report import report
from steerlib.reproduce.rules import Claim
from steerlib.reproduce.the_map import the_map
from steerlib.reproduce.verdicts import check

LIVE = "live"  # the folder of the pages that steer: their scripts, and the model
MATHJAX = "sphinx-mathjax-offline"  # the asset that carries MathJax; _config.yml has its place


def build(
    root: Path,
    ledger: Mapping[str, Claim],
    records: Mapping[str, Mapping[str, Any]],
    notebooks: Sequence[str],
    *,
    model: bool = True,
) -> Path:
    """Build the book from what was run so far.

    Args:
        root: the checkout.
        ledger: the claims by id.
        records: run records by chapter, as `read_records` gives them.
        notebooks: file stems of all chapters that are notebooks.
        model: whether the site has the model that readers can steer in the page (90 MB).

    Returns:
        The path of the book's first page.

    Raises:
        SteerlibError: Jupyter Book refused a page, an alt text names a number that was not recorded, a run record in
            data/records is faulty, or MathJax is not cached and cannot be had.
    """
    mathjax = fetch(MATHJAX)
    top = root / "_build"
    _assemble(root, ledger, records, notebooks)
    for left in (top / "html", top / ".doctrees", top / "jupyter_execute"):
        shutil.rmtree(left, ignore_errors=True)
    start = "from jupyter_book.cli.main import main; main()"  # it cannot be run with -m
    command = [sys.executable, "-c", start, "build", str(top / "source")]
    command += ["--path-output", str(root), "--config", str(root / "_config.yml")]
    command += ["--toc", str(top / "source" / "_toc.yml"), "-n", "-W", "--keep-going"]
    log = top / "book.log"
    with log.open("w", encoding="utf-8") as out:
        made = subprocess.run(command, cwd=root, stdout=out, stderr=out, check=False)
    page = top / "html" / "index.html"
    if made.returncode != 0 or not page.is_file():
        raise SteerlibError(f"the book was not built ({_first_fault(log)}); the whole log is {log}.")
    first = page.read_text(encoding="utf-8")
    if "<title" not in first:  # it only leads to the first page; a browser should know what it is
        head = '<!doctype html>\n<html lang="en">\n<title>Steering Away from Bias</title>\n'
        head += '<link rel="icon" href="_static/favicon.svg">\n'  # else it asks for one that is not there
        page.write_text(head + first, encoding="utf-8")
    shutil.copytree(mathjax, top / "html" / "_static" / "mathjax", dirs_exist_ok=True)
    _lighten(top / "html")
    _redirect(root, top / "html")
    if (root / "book" / LIVE).is_dir():
        place(root / "book" / LIVE, top / "html" / LIVE, top / "inpage", model=model)
        shutil.copyfile(root / "LICENSE", top / "html" / LIVE / "LICENSE.txt")
    return page


def _assemble(
    root: Path,
    ledger: Mapping[str, Claim],
    records: Mapping[str, Mapping[str, Any]],
    notebooks: Sequence[str],
) -> None:
    """Fill `_build/source/`."""
    source = root / "_build" / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source, ignore=shutil.ignore_patterns("*.ipynb", ".*", "_build", LIVE))
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    for part in toc.get("parts", []):
        part.pop("numbered", None)  # the titles have their numbers
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")
    chapters = {name: _executed(root, name) for name in notebooks}
    pages = contents(root)
    works = cited_as((root / "book" / "references.bib").read_text(encoding="utf-8"))
    write_edition(root / "_build" / "colab", chapters, references(pages, chapters, ledger, records, link), works)
    refers = references(pages, chapters, ledger, records, _link)
    for name, chapter in chapters.items():
        dress(chapter, name, refers, source / "_static" / "figures")
        for cell in chapter["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = _with_map(cell["source"], refers.pages)
        (source / f"{name}.ipynb").write_text(json.dumps(chapter), encoding="utf-8")
    verdicts = check(ledger, records, stale=stale(root, records))
    _fill(
        source / "reproducibility.md",
        report(verdicts, records, read_machines(root), {page.name: page.called for page in pages}),
    )
    _fill(source / "api.md", {"reference": reference()})
    if (source / "explore.md").is_file():
        _fill(source / "explore.md", {"grid-table": grid_table(grid_data())})
    texts = {page.name: (source / f"{page.name}.md").read_text(encoding="utf-8") for page in pages if not page.notebook}
    shown = {path: name for name, text in texts.items() for path in documents(text)}
    texts["intro"] = texts["intro"].replace("<!-- chapters-list -->", chapters_list(root, pages))
    for name, text in texts.items():
        whole = refers.fill(with_documents(text, root, f"{REPOSITORY}/blob/main", shown), name)
        (source / f"{name}.md").write_text(_with_map(whole, refers.pages), encoding="utf-8")


MAP = re.compile(r"<!-- map(?:: (\w+))? -->")
ABOUT = {  # the chapter on each method of the Map
    "prompt": "caa-iti-and-prompts", "add": "add-or-ablate", "ablate": "add-or-ablate", "contrastive": "contrastive-vectors",
    "gradient": "one-gradient-step", "iti": "caa-iti-and-prompts", "dso": "direct-steering-optimization", "lora": "the-tradeoff",
    "merge": "ship-it",
}  # fmt: skip


def _with_map(text: str, known: Collection[str]) -> str:
    """A text with the Map in the place of its marks; on the page of a method it is folded, and that method is lit."""
    links = {method: f"{page}.html" for method, page in ABOUT.items() if page in known}

    def drawn(match: re.Match[str]) -> str:
        if not match[1]:
            return the_map(links=links)
        summary = "<summary>You are here: where this method touches the model</summary>"
        return f'<details class="book-fold">{summary}\n{the_map(match[1], links)}\n</details>'

    return MAP.sub(drawn, text)


def _executed(root: Path, name: str) -> dict[str, Any]:
    """The executed copy of a chapter; the chapter itself, with a note, where it has not been run."""
    path = root / "_build" / "executed" / f"{name}.ipynb"
    if path.is_file():
        chapter: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return chapter
    print(f"{name} has not been run yet: its page has no results until `steerlib reproduce`")
    chapter = json.loads((root / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))
    note = ":::{note}\nThis chapter has not been run: figures and numbers are missing.\n:::"
    chapter["cells"].insert(1, {"cell_type": "markdown", "metadata": {}, "source": note})
    return chapter


def _link(text: str, page: str, place: str) -> str:
    """A link of the site: as HTML, because a place that a cell makes is none that Sphinx knows."""
    return f'<a class="reference internal" href="{page}.html{"#" * bool(place)}{place}">{text}</a>'


def _redirect(root: Path, html: Path) -> None:
    """A page at every address that the book has had, which leads to where its content is now."""
    path = root / "book" / "_redirects.yml"
    moved = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for old, new in moved.items():
        if not (html / f"{new}.html").is_file():
            continue  # a book of other chapters
        (html / f"{old}.html").write_text(
            f'<!doctype html>\n<html lang="en">\n<title>This page has moved</title>\n'
            f'<link rel="canonical" href="{new}.html">\n<link rel="icon" href="_static/favicon.svg">\n'
            f'<meta name="robots" content="noindex">\n<meta http-equiv="refresh" content="0; url={new}.html">\n'
            f'<p>This page has moved: <a href="{new}.html">{new}</a>.</p>\n',
            encoding="utf-8",
        )


UNUSED = (  # what the theme puts on every page and no page of ours uses
    r'<script src="[^"]*/fontawesome/[^"]*"></script>',  # half a megabyte: the style sheet draws the icons as well
    r"<script[^>]*>const THEBE_JS_URL[^<]*</script>",  # live code, from another server; and declared twice, an error
    r'<script[^>]*src="[^"]*sphinx-thebe[^"]*"[^>]*></script>',
    r'<link[^>]*href="[^"]*sphinx-thebe[^"]*"[^>]*>',
    r'<script[^>]*src="[^"]*design-tabs[^"]*"[^>]*></script>',
    r"<link[^>]*webfonts/fa-regular[^>]*>",
)


COLAB = re.compile(
    r'href="https://colab\.research\.google\.com/[^"]*/([\w-]+)\.ipynb"'
)  # the theme's, to the notebook of the source


def _lighten(html: Path) -> None:
    """Leave out of every page what it does not use, and lead its rocket to the Colab edition."""
    for page in html.rglob("*.html"):
        text = re.sub(rf"\s*(?:{'|'.join(UNUSED)})", "", page.read_text(encoding="utf-8"))
        page.write_text(COLAB.sub(lambda match: f'href="{colab(match[1])}"', text), encoding="utf-8")
    static = html / "_static"
    for left in (*static.glob("vendor/fontawesome/*/js"), *static.rglob("*.map"), *static.glob("sphinx-thebe.*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _fill(page: Path, made: Mapping[str, str]) -> None:
    """Put what was made in the place of its marks, such as <!-- claims -->, if there is such a page."""
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        for mark, content in made.items():
            text = text.replace(f"<!-- {mark} -->", content)
        page.write_text(text, encoding="utf-8")


def _first_fault(log: Path) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
    faults = [line for line in plain.splitlines() if re.search(r"WARNING|ERROR|Error", line)]
    return faults[0].strip().replace(f"{log.parent / 'source'}/", "") if faults else "no reason given"
