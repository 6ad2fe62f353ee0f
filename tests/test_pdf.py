"""The pages of the site as one document to print: every link inside of it has a place, and solutions are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from steerlib import SteerlibError
from steerlib.reproduce.pdf import one_document, print_book

SHELL = '<html><head><link rel="stylesheet" href="s.css"></head><body><nav>menu</nav>{}</body></html>'
ONE = """<article class="bd-article"><h1 id="one">1. One<a class="headerlink" href="#one">#</a></h1>
<a href="two.html#there">there</a> <a href="two.html">two</a> <a href="#one">up</a> <a href="api.html#f">f</a> <a href="https://x.org">x</a>
<div class="admonition dropdown toggle"><p class="admonition-title">Solution</p><p>It is 3.</p></div>
<details class="book-fold"><summary>Table</summary>7</details><details class="hide"><pre>code()</pre></details>
<svg class="figure"><clipPath id="c"></clipPath><g clip-path="url(#c)"></g></svg></article>"""
TWO = '<article class="bd-article"><h1 id="one">2. Two</h1><p id="there">Here.</p></article>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in (("one", ONE), ("two", TWO)):
        (tmp_path / f"{name}.html").write_text(SHELL.format(text))
    (tmp_path / "three.html").write_text("<html></html>")
    return tmp_path


def test_links_between_pages_lead_inside_of_the_document(site: Path) -> None:
    page = BeautifulSoup(one_document(site, ["one", "two"], "A <book>"), "html.parser")
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids))
    links = {tag.get_text(): str(tag["href"]) for tag in page.select("a")}
    assert links == {
        "there": "#two--there",
        "two": "#two--",
        "up": "#one--one",
        "f": "api.html#f",
        "x": "https://x.org",
    }
    assert {link[1:] for link in links.values() if link.startswith("#")} <= set(ids)
    assert page.select_one("[clip-path]")["clip-path"] == "url(#one--c)"  # type: ignore[index]
    assert page.title is not None and page.title.get_text() == "A <book>"


def test_solutions_are_shown_and_code_is_left_out(site: Path) -> None:
    text = one_document(site, ["one", "two"], "x")
    assert "It is 3." in text and 'class="admonition"' in text and "code()" not in text and "menu" not in text
    assert '<details class="book-fold" open="">' in text


def test_a_page_without_an_article_and_a_machine_without_a_browser_are_said(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SteerlibError, match="the page three has no article"):
        one_document(site, ["three"], "x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SteerlibError, match="takes Chromium or Chrome"):
        print_book(site, ["one"], "x", site / "book.pdf")
