"""Every page of the built book, opened with no network: whole, readable, and without a broken link.

A browser is used where `chromium` is installed; every request it makes goes to a small proxy, which serves
the book and writes down all else. Without a browser the same pages are only read.
"""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from steerlib.reproduce.contents import contents

REPOSITORY = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("STEERLIB_BOOK", REPOSITORY / "_build" / "html"))
SITE = "http://book.test/"  # the proxy knows this name
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OWN = re.compile(r"(google|googleapis|gvt1|gstatic)\.com$")  # what the browser itself asks at start-up

needs_book = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason=f"no built book in {HTML}: `steerlib book` builds it"
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH")


class Page(HTMLParser):
    """Title, links, sources, images, ids and the text of outputs of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = ""
        self.headings = 0
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: set[str] = set()
        self.outputs: list[str] = []
        self._open: list[str] = []  # div classes, to know when an output ends
        self._title = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.ids.add(about.get("id") or "")
        self._title |= tag == "title" and not self.title
        self.headings += tag == "h1" and "onlyprint" not in self._open  # the theme has one for print
        if tag == "a" and about.get("href"):
            self.links.append(str(about["href"]))
        if tag in ("script", "img", "iframe", "source", "video", "audio") and about.get("src"):
            self.loaded.append(str(about["src"]))
        if tag == "link" and "canonical" not in str(about.get("rel")) and about.get("href"):
            self.loaded.append(str(about["href"]))
        if tag == "img":
            self.images.append(about)
        if tag == "div":
            self._open.append(about.get("class") or "")
            if self._open[-1].startswith("cell_output"):
                self.outputs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._title = False
        if tag == "div" and self._open:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._title:
            self.title += data
        if any(name.startswith("cell_output") for name in self._open):
            self.outputs[-1] += data


def names() -> list[str]:
    return sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html") if "_static" not in path.parts)


@cache
def parsed(path: Path, written: int) -> Page:
    """A page, read once as long as it is not written anew (in ns): hundreds of links lead into the reference."""
    return Page(path.read_text(encoding="utf-8"))


def read(name: str) -> Page:
    path = HTML / name
    return parsed(path, path.stat().st_mtime_ns)


def external(address: str) -> bool:
    return urlparse(urljoin(SITE, address)).netloc != urlparse(SITE).netloc


def faults(page: Page, name: str) -> list[str]:
    """What is wrong with a page as it is written."""
    found = [] if page.title.strip() else ["no title"]
    found += [f"loads {where}" for where in page.loaded if external(where)]
    found += [f"image without alt text: {i.get('src')}" for i in page.images if not (i.get("alt") or "").strip()]
    for output in page.outputs:
        for bad in (r"Traceback \(most recent call last\)", r"\b\w*Error: ", r"\bERROR\b", r"(?i)\bnan\b"):
            found += [f"an output says {match[0]!r}" for match in re.finditer(bad, output)]
    here = urljoin(SITE, name)
    for link in page.links:
        address, mark = urldefrag(urljoin(here, link))
        if external(address) or not address.startswith("http"):
            continue
        target = HTML / unquote(urlparse(address).path).lstrip("/")
        if not target.is_file():
            found.append(f"link to nothing: {link}")
        elif "=" in mark:  # no place, but what a page that steers is to show
            continue
        elif mark and target.suffix == ".html" and unquote(mark) not in read(target.relative_to(HTML).as_posix()).ids:
            found.append(f"link to no such place: {link}")
    return found


@needs_book
def test_every_page_is_whole() -> None:
    assert len(names()) >= 4
    assert {name: found for name in names() if (found := faults(read(name), name))} == {}


@needs_book
def test_every_chapter_has_one_heading_and_its_badges_lead_to_the_ledger() -> None:
    rows = read("reproducibility.html").ids
    for chapter in contents(REPOSITORY):
        if not chapter.number.isdigit():
            continue
        page = read(f"{chapter.name}.html")
        assert page.headings == 1, chapter.name
        marks = [urldefrag(link)[1] for link in page.links if link.startswith("reproducibility.html#")]
        assert marks, f"{chapter.name} makes no claim"
        assert set(marks) <= rows


def test_the_reader_of_pages_sees_every_fault(tmp_path: Path) -> None:
    bad = """<html><head><title> </title><script src="https://cdn.example/x.js"></script></head><body>
        <a href="no-such.html">a</a><a href="mailto:a@b.c">b</a><a href="https://example.org">c</a>
        <img src="a.png" alt=""><div class="cell_output docutils"><div><pre>ValueError: x is nan</pre></div></div>
        <p>Not an output: ERROR</p></body></html>"""
    assert faults(Page(bad), "index.html") == [
        "no title",
        "loads https://cdn.example/x.js",
        "image without alt text: a.png",
        "an output says 'ValueError: '",
        "an output says 'nan'",
        "link to nothing: no-such.html",
    ]


# --------------------------------------------------------------------------------------- in a browser


class Server(http.server.ThreadingHTTPServer):
    """A proxy that serves one folder as http://book.test/; what else was asked is in `refused`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.refused: list[str] = []


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        address = urlparse(self.path)
        if f"http://{address.netloc}/" != SITE:
            return self.refuse(self.path, address.hostname or "")
        if not Path(self.translate_path(self.path)).is_file():
            self.server.refused.append(f"missing: {address.path}")
        super().do_GET()

    def do_CONNECT(self) -> None:
        self.refuse(f"https://{self.path}", self.path.split(":")[0])

    def refuse(self, what: str, host: str) -> None:
        if not OWN.search(host):
            self.server.refused.append(what)
        self.send_error(502)

    def translate_path(self, path: str) -> str:
        return str(self.server.folder / unquote(urlparse(path).path).lstrip("/"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(HTML) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def opened(name: str, port: int, profile: Path) -> str:
    """The page as it stands after its scripts have run."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", f"--proxy-server=http://127.0.0.1:{port}"]
    command += ["--proxy-bypass-list=<-loopback>", "--virtual-time-budget=10000", "--dump-dom", SITE + name]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return made.stdout


@needs_book
@needs_browser
def test_every_page_opens_without_a_network(server: Server, tmp_path: Path) -> None:
    for name in names():
        text = opened(name, server.server_port, tmp_path / "profile")
        written = (HTML / name).read_text(encoding="utf-8")
        assert server.refused == [], name
        if "http-equiv" not in written:  # not a page that only leads to another
            assert faults(Page(text), name) == [], name
        formulas = len(re.findall(r'class="math notranslate', written))
        assert text.count("<mjx-container") >= formulas, f"{name}: formulas that were not drawn"
        assert "<mjx-merror" not in text, f"{name}: a formula that MathJax cannot read"


@needs_browser
def test_the_browser_s_requests_are_seen(server: Server, tmp_path: Path) -> None:
    server.folder = tmp_path
    (tmp_path / "index.html").write_text(
        "<title>A page</title><link rel='icon' href='data:,'><script src='https://cdn.example/a.js'></script>"
        "<img src='gone.png'><script>fetch('http://elsewhere.example/b')</script>"
    )
    opened("index.html", server.server_port, tmp_path / "profile")
    seen = ["http://elsewhere.example/b", "https://cdn.example:443", "missing: /gone.png"]
    assert sorted(set(server.refused)) == seen
