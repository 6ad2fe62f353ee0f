"""The Colab edition reads as prose, hides solutions, keeps results, and installs what Colab lacks without changing what it has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from helpers import tool
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from steerlib.reproduce.address import INSTALL, RELEASE, REPOSITORY, SITE, colab
from steerlib.reproduce.colab import cited_as, edition, link, plain, write_edition
from steerlib.reproduce.contents import Page, contents
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.references import References, references

ROOT = Path(__file__).resolve().parents[1]
PYTHON = Version("3.13.0")  # of Colab's runtime


def colab_has() -> dict[str, Version]:
    lines = (ROOT / "tests" / "colab.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


# --------------------------------------------------------------------------------- what is installed


def missing_in_colab(wanted: list[str]) -> dict[str, str]:
    """What pip would install in Colab, all the way down, and why: "absent", or the version that does not do."""
    has, found, queue = colab_has(), dict[str, str](), list(wanted)
    environment = {"python_version": "3.13", "python_full_version": str(PYTHON), "extra": ""}
    while queue:
        asked = Requirement(queue.pop())
        name = canonicalize_name(asked.name)
        if asked.marker and not asked.marker.evaluate(environment):
            continue
        if name in has:
            if not asked.specifier.contains(has[name], prereleases=True):
                found[name] = f"{has[name]} is not {asked.specifier}"
        elif name not in found:
            found[name] = "absent"
            try:
                queue += requires(name) or []
            except PackageNotFoundError:
                pytest.fail(f"{asked} is missing in Colab, and here, where its own requirements could be read")
    return found


def dependencies() -> list[str]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted: list[str] = tomllib.load(file)["project"]["dependencies"]
    return wanted


def test_installing_the_library_in_colab_changes_nothing_that_is_there() -> None:
    assert missing_in_colab(dependencies()) == dict.fromkeys(("gguf", "resvg-py", "vadersentiment"), "absent")


def test_the_contract_sees_a_version_that_colab_does_not_have() -> None:
    found = missing_in_colab(["numpy>=2.2", "pandas>=2.2", "papermill", "torch<2; python_version < '3.10'"])
    assert found["numpy"] == "2.1.3 is not >=2.2" and found["papermill"] == "absent"
    assert "pandas" not in found and "torch" not in found


def test_the_first_cell_is_short_and_the_same_in_every_chapter() -> None:
    assert len([line for line in INSTALL.splitlines() if line.strip()]) == 3
    assert "--no-deps" not in INSTALL and INSTALL.endswith(f"git+{REPOSITORY}@{RELEASE}")
    for page in contents(ROOT):
        if page.notebook:
            cells = json.loads((ROOT / "book" / f"{page.name}.ipynb").read_text(encoding="utf-8"))["cells"]
            first = next(cell for cell in cells if cell["cell_type"] == "code")
            assert re.sub(r"(--quiet) [a-z]+ git", r"\1 git", "".join(first["source"])) == INSTALL, page.name


# ------------------------------------------------------------------------------------ how it reads


PAGES = [Page("x", "4", "", True), Page("y", "5", "", True)]
WORKS = {"a2020": "Doe et al., 2020", "b2021": "Roe, 2021"}


def refers_to(notebook: dict[str, Any]) -> References:
    return references(PAGES, {"x": notebook}, {}, {}, link)


def made(*cells: dict[str, Any]) -> list[dict[str, Any]]:
    notebook = {"cells": [code("import sys"), *cells]}
    found: list[dict[str, Any]] = edition(notebook, "x", refers_to(notebook), WORKS)["cells"]
    return found[1:]


def words(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(source: str, *outputs: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"cell_type": "code", "id": "a", "metadata": metadata, "source": source, "outputs": list(outputs)}


def said(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize(
    ("text", "plainly"),
    [
        ("By {cite:t}`a2020`.", f"By [Doe et al., 2020]({SITE}bibliography.html)."),
        ("It is so {cite}`a2020`.", f"It is so ([Doe et al., 2020]({SITE}bibliography.html))."),
        ("A {term}`logit`.", f"A [logit]({SITE}glossary.html#term-logit)."),
        ("Two {term}`logits <logit>`.", f"Two [logits]({SITE}glossary.html#term-logit)."),
        ("See [the price](the-tradeoff).", f"See [the price]({SITE}the-tradeoff.html)."),
        ("See [web](https://x.org) and [here](#there).", "See [web](https://x.org) and [here](#there)."),
        ("% a comment\nText", "Text"),
        (
            "```{admonition} Note this\n:class: note\nA line.\n\nAnother.\n```",
            "> **Note this**\n>\n> A line.\n>\n> Another.",
        ),
        (
            "```{admonition} Solution\n:class: dropdown\nIt is 3.\n```",
            "<details>\n<summary><b>Solution</b></summary>\n\nIt is 3.\n\n</details>",
        ),
        (":::{note}\nText.\n:::", "> **Note**\n>\n> Text."),
    ],
)
def test_markup_of_the_site_is_plain_in_colab(text: str, plainly: str) -> None:
    assert plain(text, "x", WORKS).strip() == plainly


def test_a_fold_inside_of_a_fold_stays_one() -> None:
    text = "````{admonition} Solution\n:class: dropdown\nSo:\n\n```python\nx = 1\n```\n````"
    assert (
        plain(text, "x", {})
        == "<details>\n<summary><b>Solution</b></summary>\n\nSo:\n\n```python\nx = 1\n```\n\n</details>"
    )


def test_below_each_exercise_is_an_empty_cell_and_its_solution_is_folded() -> None:
    text = (
        "## Exercises\n\n**1. Count (easy, 5 minutes).** How many?\n\n```{admonition} Solution\n:class: dropdown\nThree.\n```\n\n"
        "**2. Try (hard, 10 minutes).** What then?\n"
    )
    cells = made(words("# Title"), words(text))
    assert [(cell["cell_type"], said(cell).split("\n")[0]) for cell in cells] == [
        ("markdown", "# 4. Title"),
        ("markdown", "## Exercises"),
        ("markdown", "**1. Count (easy, 5 minutes).** How many?"),
        ("code", "# your answer"),
        ("markdown", "<details>"),
        ("markdown", "**2. Try (hard, 10 minutes).** What then?"),
        ("code", "# your answer"),
    ]


def test_figures_are_pixels_with_captions_and_claims_are_a_line() -> None:
    badge = '<div class="claim claim-holds" role="note" data-verdict="holds" data-strength="pinned"><a href="reproducibility.html#c">x</a></div>'
    figure = {
        "output_type": "display_data",
        "metadata": {},
        "data": {"image/png": "iVBO", "image/svg+xml": "<svg/>", "text/plain": "f"},
    }
    claim = {"output_type": "display_data", "metadata": {}, "data": {"text/html": badge}}
    about = {"book": {"figure": "f", "caption": "Bars."}, "mystnb": {"image": {"alt": "Two bars"}}}
    cell, caption = made(code("plot()", claim, figure, **about))
    assert said(caption) == "**Figure 4.1.** Bars."
    shown, line = cell["outputs"]
    assert shown["data"] == {"image/png": "iVBO", "text/plain": "Two bars"}
    assert (
        "1 claim holds" in line["data"]["text/html"]
        and f'href="{SITE}reproducibility.html#c"' in line["data"]["text/html"]
    )


def whole_book() -> dict[str, dict[str, Any]]:
    pages = [page for page in contents(ROOT) if page.notebook]
    return {page.name: json.loads((ROOT / "book" / f"{page.name}.ipynb").read_text(encoding="utf-8")) for page in pages}


RAW = {
    "a role of the site": r"\{(?:glue:\w+|cite[\w:]*|term|doc|ref|numref|math|py:\w+|[Cc]hapter|[Ff]ig|[Tt]ab)\}`",
    "a directive of the site": r"(?m)^\s*(?:`{3,}|:{3,})\{",
    "a comment of the site": r"(?m)^%",
    "a relative link": r"\]\((?!https?:|mailto:|#)[^)]*\)",
    "an element of the site": r"<div class",
}


def test_no_markup_of_the_site_is_left_in_the_whole_edition(tmp_path: Path) -> None:
    notebooks = whole_book()
    refers = references(contents(ROOT), notebooks, load_ledger(), {}, link)  # not run: every number is "(not measured)"
    works = cited_as((ROOT / "book" / "references.bib").read_text(encoding="utf-8"))
    write_edition(tmp_path / "colab", notebooks, refers, works)
    left = []
    for name in notebooks:
        cells = json.loads((tmp_path / "colab" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert said(next(cell for cell in cells if cell["cell_type"] == "code")).startswith(INSTALL[:30])
        for cell in cells:
            if cell["cell_type"] == "markdown":
                text = re.sub(r"(?s)```.*?```|`[^`]*`", "", said(cell)) if "{" not in said(cell) else said(cell)
                left += [(name, kind, match[0]) for kind, raw in RAW.items() for match in re.finditer(raw, text)]
    assert left == []


def test_the_search_for_raw_markup_finds_it() -> None:
    seen = "{glue:text}`a.b.c` {term}`x`\n```{admonition} y\n[z](other)\n% no\n<div class='w'>"
    assert {kind for kind, raw in RAW.items() if re.search(raw, seen)} == set(RAW)


# ------------------------------------------------------------------------------------------ addresses


def test_the_addresses_are_in_one_place_and_no_stray_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "tools/address.py", "--check"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stray_address_is_seen_and_a_move_leaves_none() -> None:
    address = tool("address")
    now = {"repository": REPOSITORY, "site": SITE, "release": RELEASE}
    owner, name = REPOSITORY.split("/")[-2:]
    for text in (
        f"https://github.com/another/{name}/issues",
        f"https://another.github.io/{name}/x",
        "blob/colab-v9.9/x",
    ):
        assert address.strays(text, now), text
    assert address.strays(f"%pip install --quiet --no-deps gguf git+{REPOSITORY}", now)
    kept = f"{REPOSITORY}/issues {SITE}x.html {colab('x')}\n{INSTALL}"
    assert address.strays(kept, now) == []
    new = {"repository": "https://github.com/new/book", "site": "https://book.example/", "release": "v9.9"}
    gone = address.moved(kept, now, new)
    assert owner not in gone and RELEASE not in gone and "github/new/book/blob/colab-v9.9/x" in gone


def test_colab_opens_the_edition_of_the_release() -> None:
    assert colab("x").endswith(f"/blob/colab-{RELEASE}/x.ipynb") and "github.com" not in colab("x")
