"""The Map says of every method where it touches, in the picture and in words, on light and dark pages, with and without a pointer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steerlib.errors import SteerlibError
from steerlib.reproduce.the_map import METHODS, the_map

ROOT = Path(__file__).resolve().parents[1]
CSS = (ROOT / "book" / "_static" / "map.css").read_text(encoding="utf-8")
LINKS = {key: f"{key}.html" for key in METHODS}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
methods = pytest.mark.parametrize("key", METHODS)
themes = pytest.mark.parametrize("theme", ["light", "dark"])
PAGES = {"light": "#ffffff", "dark": "#121212"}


class Tags(HTMLParser):
    """The elements of a piece of HTML: name, attributes, and the text inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in ("input", "br"):
            self.open.append(len(self.found) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.found[self.open.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for number in self.open:
            self.found[number][2].append(data)


def classes(page: str) -> list[str]:
    return [name for _, about, _ in Tags(page).found for name in (about.get("class") or "").split()]


def places(page: str) -> set[str]:
    return {place for _, about, _ in Tags(page).found if (place := about.get("data-place"))}


@methods
def test_a_method_changes_a_place_that_the_picture_has(key: str) -> None:
    method = METHODS[key]
    assert method.changes and {*method.changes, *method.made_from} <= places(the_map())
    lit = [about for _, about, _ in Tags(the_map()).found if f"c-{key}" in (about.get("class") or "").split()]
    assert {about["data-place"] for about in lit} == set(method.changes)
    from_ = [about for _, about, _ in Tags(the_map()).found if f"f-{key}" in (about.get("class") or "").split()]
    assert {about["data-place"] for about in from_} == set(method.made_from)


def test_every_place_of_the_picture_belongs_to_a_method() -> None:
    assert places(the_map()) == {place for m in METHODS.values() for place in (*m.changes, *m.made_from)}


@methods
def test_the_style_sheet_lights_what_a_method_touches(key: str) -> None:
    for kind, there in (("c", True), ("f", bool(METHODS[key].made_from)), ("o", True)):
        rule = f".book-map:has([value={key}]:checked) .{kind}-{key}"
        assert rule in CSS or not there, rule


def test_the_style_sheet_and_the_picture_name_no_other_method() -> None:
    named = set(re.findall(r"\[value=(\w+)\]", CSS)) | set(re.findall(r"\.[cfo]-(\w+)", CSS))
    shown = {name[2:] for name in classes(the_map()) if re.fullmatch(r"[cfo]-\w+", name)}
    assert named == shown == set(METHODS)


@methods
def test_the_method_of_a_page_is_chosen_from_the_start(key: str) -> None:
    chosen = [about["value"] for tag, about, _ in Tags(the_map(key)).found if tag == "input" and "checked" in about]
    marked = [
        "".join(text) for tag, _, text in Tags(the_map(key)).found if tag == "label" and "You are here" in "".join(text)
    ]
    assert chosen == [key] and len(marked) == 1 and METHODS[key].name in marked[0]


def test_without_a_method_nothing_is_chosen() -> None:
    assert "checked" not in the_map() and "You are here" not in the_map()


def test_two_maps_on_a_page_share_neither_an_id_nor_a_group_of_buttons() -> None:
    page = the_map("add", LINKS) + the_map("dso", LINKS)
    ids = [about["id"] for _, about, _ in Tags(page).found if about.get("id")]
    assert len(ids) == len(set(ids))
    forms = re.findall(r"(?s)<form.*?</form>", page)
    assert len(forms) == 2 and all(form.count('type="radio"') == len(METHODS) for form in forms)


def test_everything_that_can_be_focused_has_a_name() -> None:
    found = Tags(the_map("dso", LINKS)).found
    labels = ["".join(text).strip() for tag, _, text in found if tag == "label"]
    links = ["".join(text).strip() for tag, _, text in found if tag == "a"]
    assert len(labels) == len(METHODS) == sum(tag == "input" for tag, _, _ in found)
    assert all(labels) and len(set(labels)) == len(labels)
    said = {(about["href"], text) for (_, about, _), text in zip([f for f in found if f[0] == "a"], links, strict=True)}
    assert len(said) == len(METHODS) == len({text for _, text in said}), "a link is called like another"
    assert all("".join(text).strip() for tag, _, text in found if tag in ("summary", "legend"))
    assert not any("tabindex" in about for _, about, _ in found)
    (svg,) = [about for tag, about, _ in found if tag == "svg"]
    assert svg["role"] == "img" and len(svg["aria-label"] or "") > 100


def test_the_words_name_every_method_and_say_what_it_touches() -> None:
    (words,) = ["".join(text) for tag, _, text in Tags(the_map()).found if tag == "details"]
    for method in METHODS.values():
        plain = re.sub(r"<[^>]*>", "", method.says)
        assert f"{method.name}. {plain}" in words and plain.endswith(".") and method.says.count("<b>") >= 1


def test_markdown_leaves_the_map_as_it_is() -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    page = the_map("merge", LINKS)
    assert markdown.render(f"Text.\n\n{page}\n\nText.\n") == f"<p>Text.</p>\n{page}\n<p>Text.</p>\n"


@pytest.mark.parametrize("wrong", [{"here": "caa"}, {"links": {"caa": "x.html"}}])
def test_a_method_that_is_not_on_the_map_is_refused(wrong: Any) -> None:
    with pytest.raises(SteerlibError, match=r"^the Map has no method 'caa': use prompt, .*merge\.$"):
        the_map(**wrong)


def test_an_address_is_escaped() -> None:
    assert 'href="a.html?x&amp;&quot;"' in the_map(links={"add": 'a.html?x&"'})


# ---------------------------------------------------------------- how it looks


def colours(theme: str) -> dict[str, str]:
    """The colours of the style sheet; those of the book's theme by their fallbacks."""
    found: dict[str, str] = {}
    for selector, inside in re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"(?s)/\*.*?\*/", "", CSS)):
        if selector.strip() == ".book-map" or (
            theme == "dark" and selector.strip() == 'html[data-theme="dark"] .book-map'
        ):
            found |= dict(re.findall(r"--([\w-]+): (?:var\([\w-]+, )?(#[0-9a-f]{3,6})", inside))
    return found


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_guidelines() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21) and contrast("#767676", "#ffffff") == pytest.approx(
        4.54, abs=0.01
    )


@themes
def test_text_and_lit_places_can_be_read(theme: str) -> None:
    found = colours(theme)
    assert set(found) == {"ink", "dim", "edge", "paper", "shade", "lit", "glow", "from"}
    for name in ("ink", "dim", "edge", "lit", "from"):
        for ground in (PAGES[theme], found["paper"], found["shade"]):
            assert contrast(found[name], ground) >= 4.5, f"{name} on {ground}"
    assert contrast(found["ink"], found["glow"]) >= 4.5 and contrast(found["lit"], found["glow"]) >= 3


def test_text_has_ten_pixels_on_a_phone() -> None:
    width = float(re.findall(r'viewBox="0 0 (\d+) ', the_map())[0])
    sizes = [float(size) for size in re.findall(r"(?:font-size|font): ([\d.]+)px", CSS)]
    assert len(sizes) == 2 and min(sizes) * 358 / width >= 10


def test_the_style_sheet_is_small_and_asks_for_nothing() -> None:
    assert len(CSS) < 6000 and not re.search(r"url\(|@import|http", CSS + the_map())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no chromium on the PATH")
    with api.sync_playwright() as play:
        window = play.chromium.launch(executable_path=BROWSER)
        yield window
        window.close()


def opened(browser: Any, width: int, *maps: str) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce", java_script_enabled=True)
    page.set_content(f'<html data-theme="light"><style>body{{margin:16px}}{CSS}</style>{"".join(maps)}')
    return page


def lit(figure: Any) -> set[str]:
    """The places of a map that are filled now."""
    script = """f => [...f.querySelectorAll('[data-place] .s')]
        .filter(s => getComputedStyle(s).fill == 'rgb(255, 217, 184)').map(s => s.parentElement.dataset.place)"""
    return set(figure.evaluate(script))


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_sticks_out_and_no_text_meets_another(browser: Any, width: int) -> None:
    page = opened(browser, width, the_map("gradient", LINKS))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    script = """() => { const box = document.querySelector('svg').getBoundingClientRect();
        const all = [...document.querySelectorAll('svg text')].filter(t => t.getClientRects().length)
            .map(t => [t.textContent, t.getBoundingClientRect()]);
        const out = all.filter(([, r]) => r.left < box.left || r.right > box.right || r.top < box.top || r.bottom > box.bottom);
        const met = all.flatMap(([a, r], i) => all.slice(i + 1).filter(([, q]) => r.left < q.right && q.left < r.right
            && r.top + 2 < q.bottom - 2 && q.top + 2 < r.bottom - 2).map(([b]) => a + ' / ' + b));
        return [all.length, out.map(([t]) => t), met]; }"""
    count, out, met = page.evaluate(script)
    assert count > 20 and (out, met) == ([], [])


def test_the_arrow_keys_go_from_method_to_method_and_light_its_places(browser: Any) -> None:
    page = opened(browser, 390, the_map("prompt", LINKS))
    page.focus("input:checked")
    for key, method in METHODS.items():
        assert page.locator("input:checked").get_attribute("value") == key
        assert lit(page.locator("figure")) == set(method.changes)
        said = page.locator(".map-said").inner_text()
        assert said.startswith(f"{method.name}.") and len(re.findall(r"Read about it", said)) == 1
        page.keyboard.press("ArrowRight")
    assert page.locator("input:checked").get_attribute("value") == "prompt"


def test_a_choice_on_one_map_leaves_the_other_alone(browser: Any) -> None:
    page = opened(browser, 1280, the_map("add"), the_map("lora"))
    first, second = page.locator("figure").all()
    second.locator("[value=iti]").check()
    page.keyboard.press("Enter")
    assert lit(first) == {"residual"} and lit(second) == {"heads"}
