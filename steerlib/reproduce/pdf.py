"""The book as one PDF: the articles of all pages in one document, printed by a browser.

The one idea: what is printed is the site. Links between pages become links inside of the document, solutions are shown, code is left
out but for the cells that teach, and the browser makes page numbers and an outline from the headings.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from steerlib.errors import SteerlibError

TITLE = "Steering Away from Bias"
UNPRINTED = ("genindex", "api")  # an index without pages, and a reference that is read on a screen
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LEFT_OUT = "script, .headerlink, .steer-it, .play, .prev-next-footer, details.hide, .toggle-button, button"
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>
{styles}
<style>
  body {{ display: block; margin: 0; font-size: 10pt; line-height: 1.45; background: #fff; }}
  article.chapter {{ break-before: page; }} article.chapter:first-of-type {{ break-before: auto; }}
  figure.book-figure svg.figure, figure.book-figure img {{ max-width: 4.6in; }}
</style>
{math}</head><body>
{articles}
</body></html>
"""


def one_document(site: Path, names: Iterable[str], title: str) -> str:
    """The articles of some pages as one HTML document, to be opened from the folder of the site.

    Args:
        site: the folder of the built site.
        names: file stems of pages, in order.
        title: of the document.

    Returns:
        HTML in which every id is `PAGE--ID`, and links between these pages lead inside of it.
    """
    names = list(names)
    articles, styles, math = [], "", ""
    for name in names:
        soup = BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        article = soup.select_one("article.bd-article")
        if article is None:
            raise SteerlibError(f"the page {name} has no article to print.")
        if not styles:
            styles = "\n".join(str(link) for link in soup.select('link[rel="stylesheet"]'))
        math = math or "\n".join(str(one) for one in soup.find_all("script") if "mathjax" in str(one).lower())
        for left in article.select(LEFT_OUT):
            left.decompose()
        for fold in article.select("details"):
            if "book-claims" in (fold.get("class") or []):
                fold.decompose()
            else:
                fold["open"] = ""
        for box in article.select(".dropdown, .toggle"):
            kinds = str(box["class"]) if isinstance(box["class"], str) else " ".join(box["class"])
            box["class"] = " ".join(one for one in kinds.split() if one not in ("dropdown", "toggle"))
        _inside(article, name, set(names))
        articles.append(f'<article class="bd-article chapter" id="{name}--">{article.decode_contents()}</article>')
    return PAGE.format(title=html.escape(title), styles=styles, math=math, articles="\n".join(articles))


def _inside(article: Tag, name: str, names: set[str]) -> None:
    """Give every id of a page a name of its own in the document, and lead links there."""
    for tag in article.select("[id]"):
        tag["id"] = f"{name}--{tag['id']}"
    for tag in article.find_all(True):
        for key in ("href", "xlink:href"):
            target = str(tag.get(key) or "")
            page, mark, place = target.partition("#")
            if mark and not page:
                tag[key] = f"#{name}--{place}"
            elif key == "href" and (match := re.fullmatch(r"([\w-]+)\.html", page)) and match[1] in names:
                tag[key] = f"#{match[1]}--{place}"
        for key in ("clip-path", "style", "for", "aria-labelledby", "aria-controls"):
            if key in tag.attrs and "url(#" in str(tag[key]):
                tag[key] = str(tag[key]).replace("url(#", f"url(#{name}--")
            elif key in ("for", "aria-labelledby", "aria-controls") and key in tag.attrs:
                tag[key] = f"{name}--{tag[key]}"


def print_book(site: Path, names: Iterable[str], title: str, path: Path) -> None:
    """Print pages of the built site into one PDF, with an outline and page numbers.

    Args:
        site: the folder of the built site.
        names: file stems of pages, in order.
        title: of the document.
        path: of the PDF.

    Raises:
        SteerlibError: there is no browser, or the package playwright, which drives it, is not installed.
    """
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        raise SteerlibError("printing the book takes Chromium or Chrome: install one of them, and run this again.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise SteerlibError("printing the book takes the package playwright: `pip install playwright`.") from error
    source = site / "print.html"
    source.write_text(one_document(site, names, title), encoding="utf-8")
    number = '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'
    try:
        with sync_playwright() as play:
            running = play.chromium.launch(
                executable_path=browser, args=["--no-sandbox", "--allow-file-access-from-files"]
            )
            page = running.new_page()
            page.goto(source.as_uri(), timeout=180_000)
            page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)", timeout=180_000)
            page.evaluate("window.MathJax && MathJax.startup.promise")
            page.pdf(
                path=str(path), format="A4", print_background=True, outline=True, tagged=True,
                display_header_footer=True, header_template="<span></span>", footer_template=number,
                margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            )  # fmt: skip
            running.close()
    finally:
        source.unlink()
