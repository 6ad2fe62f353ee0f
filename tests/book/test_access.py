"""Every page for everybody: light, dark and on a phone, axe finds nothing but what the theme brings; no script fails, nothing is cut.

Skipped where Playwright's Python package, a Chromium or the built book is missing.
"""

from __future__ import annotations

from typing import Any

import pytest
from browsing import BROWSER, HTML, Site

axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")
pytest.importorskip("playwright.sync_api")

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH"),
    pytest.mark.skipif(
        not (HTML / "intro.html").is_file(), reason=f"no built book in {HTML}: `steerlib book` builds it"
    ),
]
PAGES = sorted(
    path.stem
    for path in HTML.glob("*.html")
    if "http-equiv" not in path.read_text(encoding="utf-8") and path.stem != "index"
)
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": PHONE,
}
THEMES = {  # by rule, the parts of the theme that break it: not ours to mend, and nothing that a reader needs is in them
    "region": ("#pst-back-to-top", ".skip-link", "#pst-skip-link"),
    "aria-allowed-role": ("[role",),
    "landmark-unique": (".bd-",),
    "label-content-name-mismatch": ("toggle-button", "<summary", "toggle-details"),
    "color-contrast": ("highlight", '<span class="', "toc-h"),
    "scrollable-region-focusable": ("highlight", "<pre"),
    "link-in-text-block": (),
}


def opened(context: Any, site: Site, name: str, **options: Any) -> Any:
    page = context(**options).new_page()
    page.goto(f"{site.address}{name}.html")
    if page.locator("mjx-container, .math").count():
        page.wait_for_function("!window.MathJax || MathJax.startup.promise")
    return page


def violations(page: Any) -> list[tuple[str, str]]:
    """What axe finds on a page, but for what the theme brings."""
    found = axe_api.Axe().run(page).response["violations"]
    return [
        (one["id"], node["html"][:160])
        for one in found
        for node in one["nodes"]
        if not any(part in node["html"] or part in str(node["target"]) for part in THEMES.get(one["id"], ()))
    ]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(context: Any, site: Site, name: str, look: str) -> None:
    page = opened(context, site, name, **LOOKS[look])
    assert violations(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_phone_and_no_text_of_a_figure_is_small(context: Any, site: Site, name: str) -> None:
    page = opened(context, site, name, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.evaluate(
        "[...document.querySelectorAll('article mjx-container[display=true] > mjx-math')]"
        ".filter(f => f.getBoundingClientRect().width > f.closest('.math').getBoundingClientRect().width + 1).map(f => f.closest('.math').textContent)"
    )
    assert wide == []
    small = page.evaluate(
        """[...document.querySelectorAll('svg.figure text')].map(t => [t.textContent,
            parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width])
            .filter(([text, px]) => px > 0 && px < 9.9)"""
    )
    assert small == []


def test_the_search_finds_a_chapter_by_its_number_and_its_name(context: Any, site: Site) -> None:
    page = opened(context, site, "search")
    for asked in ("14 tradeoff", "add or ablate"):
        page.goto(f"{site.address}search.html?q={asked.replace(' ', '+')}")
        page.locator("#search-results li").first.wait_for()
        assert any(
            word in page.locator("#search-results").inner_text().lower() for word in ("tradeoff", "add or ablate")
        )


def test_the_first_stop_of_the_keyboard_skips_to_the_text(context: Any, site: Site) -> None:
    page = opened(context, site, "intro")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main-content"


def test_axe_is_at_work(context: Any, site: Site) -> None:
    page = opened(context, site, "intro")
    page.evaluate(
        "document.querySelector('article').insertAdjacentHTML('beforeend', '<img src=\"x.png\"><p style=\"color:#ccc;background:#fff\">pale</p>')"
    )
    assert {kind for kind, _ in violations(page)} >= {"image-alt", "color-contrast"}
