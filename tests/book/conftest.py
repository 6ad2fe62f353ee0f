"""What the tests of the built book share: a server of it, a browser, and contexts in which nothing may leave the site or fail unseen."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from book.browsing import BROWSER, Site


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Callable[..., Any]]:
    """Makes browser contexts, each with its own store; in the end no request has left the site, and no script of the page has failed."""
    made, left, failed = [], [], []

    def new(**options: Any) -> Any:
        one = browser.new_context(**options)
        here = re.compile(r"^(http://127\.0\.0\.1:|file:|data:|blob:)")
        one.on("request", lambda request: None if here.match(request.url) else left.append(request.url))
        one.on("weberror", lambda error: failed.append(str(error.error.stack)))
        made.append(one)
        return one

    yield new
    for one in made:
        one.close()
    assert left == []
    assert failed == []
