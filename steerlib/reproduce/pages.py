"""Build the book: the pages of book/ with the executed copies of its notebooks in their places.

The one idea: Jupyter Book never runs anything here. It is given a folder `_build/source/` in which
every notebook has its outputs already, and its measured numbers in the alt texts, and makes `_build/html/` of it. What a page needs in a
browser is served from the site itself: it opens whole with no network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlib.assets import fetch
from steerlib.errors import SteerlibError
from steerlib.inpage.grid import grid_data
from steerlib.inpage.site import place
from steerlib.inpage.table import grid_table
from steerlib.reproduce.alts import fill_alts
from steerlib.reproduce.fingerprint import stale
from steerlib.reproduce.machines import read_machines
from steerlib.reproduce.reference import reference
from steerlib.reproduce.report import report
from steerlib.reproduce.rules import Claim
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
    whole = _assemble(root, ledger, records, notebooks)
    for left in (top / "html", top / ".doctrees", top / "jupyter_execute"):
        shutil.rmtree(left, ignore_errors=True)
    start = "from jupyter_book.cli.main import main; main()"  # it cannot be run with -m
    command = [sys.executable, "-c", start, "build", str(top / "source")]
    command += ["--path-output", str(root), "--config", str(root / "_config.yml")]
    command += ["--toc", str(top / "source" / "_toc.yml"), "-n", "--keep-going"]
    command += ["-W"] if whole else []  # without all numbers there is always a {glue} left open
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
    if (root / "book" / LIVE).is_dir():
        place(root / "book" / LIVE, top / "html" / LIVE, top / "inpage", model=model)
        shutil.copyfile(root / "LICENSE", top / "html" / LIVE / "LICENSE.txt")
    return page


def _assemble(
    root: Path,
    ledger: Mapping[str, Claim],
    records: Mapping[str, Mapping[str, Any]],
    notebooks: Sequence[str],
) -> bool:
    """Fill `_build/source/`; return whether every chapter has been run to its end."""
    source, whole = root / "_build" / "source", True
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(root / "book", source, ignore=shutil.ignore_patterns("*.ipynb", ".*", "_build", LIVE))
    for name in notebooks:
        executed = root / "_build" / "executed" / f"{name}.ipynb"
        whole &= executed.is_file() and records.get(name, {}).get("status") == "ran"
        if executed.is_file():
            chapter = json.loads(executed.read_text(encoding="utf-8"))
        else:
            print(f"{name} has not been run yet: its page has no results until `steerlib reproduce`")
            chapter = json.loads((root / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))
            note = ":::{note}\nThis chapter has not been run: figures and numbers are missing.\n:::"
            chapter["cells"].insert(1, {"cell_type": "markdown", "metadata": {}, "source": note})
        fill_alts(chapter, name, ledger, records)
        (source / f"{name}.ipynb").write_text(json.dumps(chapter), encoding="utf-8")
    verdicts = check(ledger, records, stale=stale(root, records))
    _fill(source / "reproducibility.md", report(verdicts, records, read_machines(root)))
    _fill(source / "api.md", {"reference": reference()})
    if (source / "explore.md").is_file():
        _fill(source / "explore.md", {"grid-table": grid_table(grid_data())})
    return whole


def _lighten(html: Path) -> None:
    """Leave out the script of the icons, half a megabyte packed: the theme draws them with its style sheet as well."""
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r'\s*<script src="[^"]*/fontawesome/[^"]*"></script>', "", text), encoding="utf-8")
    for script in html.glob("_static/vendor/fontawesome/*/js"):
        shutil.rmtree(script)


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
