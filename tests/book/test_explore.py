"""The page that steers, in a real browser: its numbers are the grid's, the model in it answers, and nothing that goes wrong breaks it.

Skipped where Playwright's Python package, a Chromium or the built book is missing; the tests of the model itself also where the book
was built without it.
"""

from __future__ import annotations

import gzip
import json
import re
from typing import Any
from urllib.parse import urlparse

import pytest

from book.browsing import BROWSER, HTML, REPOSITORY, Site
from steerlib.inpage.table import grid_probabilities

sync_api = pytest.importorskip("playwright.sync_api")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright")

SCRIPTS = ("explore.css", "explore.js", "live.js", "pictures.js")
BARS = ".steer-bars tbody tr"
LOADED = 120_000  # milliseconds: a loaded machine takes its time

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH"),
    pytest.mark.skipif(
        not (HTML / "explore.html").is_file(), reason=f"no such page in {HTML}: `steerlib book` builds it"
    ),
]
needs_model = pytest.mark.skipif(
    not (HTML / "live" / "model" / "model.json").is_file(), reason="the book was built without the model"
)


def opened(context: Any, site: Site, mark: str = "", page: str = "explore.html") -> Any:
    sheet = context.new_page()
    sheet.goto(f"{site.address}{page}{mark}")
    sheet.locator(".steer-bars").first.wait_for()
    return sheet


def grid() -> dict[str, Any]:
    text = (HTML / "live" / "grid.js").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


def expected(method: str, occupation: str, wording: str, strength: float) -> list[float]:
    whole = grid()
    place = (
        [one["name"] for one in whole["occupations"]].index(occupation),
        [one["name"] for one in whole["wordings"]].index(wording),
        whole["strengths"].index(strength),
    )
    p: list[float] = grid_probabilities(whole, method)[place].tolist()
    return p


def shown(page: Any, column: int = 1) -> list[float]:
    """P(he), P(she), P(they): column 0 is unsteered, column 1 at the strength that is set."""
    cells = page.locator(BARS).evaluate_all(
        f"rows => rows.map(row => row.querySelectorAll('.bar-number')[{column}].textContent)"
    )
    return [0.0 if text.startswith("<") else float(text) if text[0].isdigit() else float("nan") for text in cells[:3]]


def slide(page: Any, strength: float) -> None:
    page.locator("input[type=range]").first.fill(str(strength))


def status(page: Any) -> str:
    text: str = page.locator(".steer-status").first.inner_text()
    return text


def load(page: Any) -> None:
    page.get_by_role("button", name=re.compile("Load the model|Start the model|Try again")).first.click()
    page.get_by_text("The model runs in this page").first.wait_for(timeout=LOADED)


def settled(page: Any) -> None:
    """All is asked: the answer, the cost and the curve."""
    page.wait_for_timeout(400)  # a change is answered after a moment's rest
    page.wait_for_function("() => !document.querySelector('.steer-status').textContent.includes('…')", timeout=LOADED)


# ---------------------------------------------------------------------------------------------- without the model


def test_the_scripts_are_small() -> None:
    sent = [gzip.compress((REPOSITORY / "book" / "live" / name).read_bytes()) for name in SCRIPTS]
    assert sum(map(len, sent)) < 20_000  # as a server sends them


def test_the_page_without_the_model_is_under_a_megabyte_and_has_its_icons(context: Any, site: Site) -> None:
    one = context()
    page, answers = one.new_page(), list[Any]()
    page.on("response", lambda answer: answers.append(answer))
    page.goto(f"{site.address}explore.html")
    page.wait_for_load_state("networkidle")
    assert not [answer.url for answer in answers if "/live/model/" in answer.url]
    assert sum(len(gzip.compress(answer.body())) for answer in answers) < 1_000_000  # as a server sends it
    icon = page.locator("i.fa-solid, .fa-solid").first
    drawn = icon.evaluate("i => getComputedStyle(i, '::before').content + getComputedStyle(i).fontFamily")
    assert "Font Awesome" in drawn and not drawn.startswith("none")


@pytest.mark.parametrize(
    ("method", "occupation", "wording", "strength"),
    [("dso", "nurse", "late", 0.5), ("random", "mechanic", "forest", 1.5), ("add", "judge", "smile", -1.0)],
)
def test_the_page_shows_the_numbers_of_the_grid(
    context: Any, site: Site, method: str, occupation: str, wording: str, strength: float
) -> None:
    page = opened(context(), site)
    for name, value in (("Occupation", occupation), ("Sentence to go on with", wording), ("Method", method)):
        page.get_by_label(name, exact=True).select_option(value)
    slide(page, strength)
    assert shown(page) == pytest.approx(expected(method, occupation, wording, strength), abs=6e-4)
    assert shown(page, 0) == pytest.approx(expected(method, occupation, wording, 0.0), abs=6e-4)
    row = next(one for one in grid()["summary"][method] if one["strength"] == strength)
    told = page.locator(".steer-big").all_inner_texts()
    assert told[0].endswith(f"{row['bias'][0]:.2f}")
    assert told[1].endswith(f"{row['perplexity'][0]:.1f}")
    assert told[2].endswith(f"{row['right'][0]:.2f}")


@pytest.mark.parametrize("chapter", ["add-or-ablate", "direct-steering-optimization", "the-tradeoff"])
def test_a_chapter_has_a_small_version_that_leads_to_the_page_with_its_state(
    context: Any, site: Site, chapter: str
) -> None:
    page = opened(context(), site, page=f"{chapter}.html")
    slide(page, 1.0)
    numbers = shown(page)
    page.get_by_role("link", name=re.compile("a sentence of your own", re.IGNORECASE)).click()
    page.locator("[data-full] .steer-bars").wait_for()
    assert shown(page) == numbers


def test_the_controls_work_with_the_keyboard_alone(context: Any, site: Site) -> None:
    page = opened(context(), site)
    slider = page.locator("input[type=range]").first
    before, reached = shown(page), False
    page.get_by_label("Occupation", exact=True).focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        reached = reached or slider.evaluate("node => node === document.activeElement")
        if reached:
            break
    assert reached
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "0.75"
    assert shown(page) != before
    outline = slider.evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline == "solid"  # where the focus is can be seen


def test_a_link_restores_its_state_and_loads_no_model(context: Any, site: Site) -> None:
    one = context()
    page = opened(one, site)
    page.get_by_label("Method", exact=True).select_option("ablate")
    page.get_by_label("Occupation", exact=True).select_option("mechanic")
    slide(page, 1.25)
    page.wait_for_function("() => location.hash.includes('1.25')")
    other = opened(one, site, urlparse(page.url)._replace(scheme="", netloc="", path="").geturl())
    assert shown(other) == shown(page) == pytest.approx(expected("ablate", "mechanic", "late", 1.25), abs=6e-4)
    own = opened(one, site, "#method=dso&strength=0.35&sentence=The+%3C%7Cim_end%7C%3E+judge+%F0%9F%98%80")
    assert own.get_by_label("Beginning of a sentence").input_value() == "The <|im_end|> judge 😀"
    assert "needs the model" in status(own)
    assert not [path for path in site.asked if path.startswith("/live/model/")]


@pytest.mark.parametrize(
    "mark", ["#strength=x&method=no&occupation=", "#strength=1e99&block=99&wording=%00", "#=&=", "#%E0%A4%A"]
)
def test_a_link_that_makes_no_sense_gives_a_whole_page(context: Any, site: Site, mark: str) -> None:
    page = opened(context(), site, mark)
    assert sum(shown(page)) <= 1


def test_copying_the_link_gives_the_state(context: Any, site: Site) -> None:
    one = context(permissions=["clipboard-read", "clipboard-write"])
    page = opened(one, site)
    slide(page, 1.0)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("Copied.").wait_for()
    assert "strength=1" in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "phone"],
)
def test_axe_finds_nothing_to_complain_of(context: Any, site: Site, options: dict[str, Any]) -> None:
    page = opened(context(**options), site)
    for fold in page.locator(".steer-fold summary").all():
        fold.click()
    found = axe_api.Axe().run(page, context={"include": [["article"]]})
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found.response["violations"]] == []


@pytest.mark.parametrize("name", ["explore", "add-or-ablate"])
def test_nothing_is_wider_than_a_phone(context: Any, site: Site, name: str) -> None:
    page = opened(context(viewport={"width": 390, "height": 844}), site, page=f"{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for box in page.locator(".steer-it").all():
        assert box.evaluate("node => node.getBoundingClientRect().right") <= 390


def test_the_page_works_from_a_file_and_says_why_the_model_does_not(context: Any) -> None:
    page = context().new_page()
    page.goto((HTML / "explore.html").as_uri())
    slide(page, 1.0)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=6e-4)
    page.get_by_role("button", name="Load the model").first.click()
    assert "python -m http.server" in page.locator(".steer-live [role=status]").first.inner_text()


def test_a_reader_without_javascript_has_the_tables(context: Any, site: Site) -> None:
    page = context(java_script_enabled=False).new_page()
    page.goto(f"{site.address}explore.html")
    assert page.locator(".steer-fallback").first.is_visible()
    whole = grid()
    rows = page.locator(".steer-numbers tbody tr")
    assert rows.count() == len(whole["methods"]) * len(whole["strengths"]) + len(whole["occupations"])


def test_a_book_without_the_model_says_so_in_one_sentence(context: Any, site: Site) -> None:
    page = opened(context(), site)
    page.route("**/live/model/**", lambda route: route.fulfill(status=404, body=""))
    page.get_by_role("button", name="Load the model").first.click()
    page.get_by_role("button", name="Try again").first.wait_for()
    assert "without the model" in page.locator(".steer-live").first.inner_text()
    slide(page, 1.0)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=6e-4)


# ------------------------------------------------------------------------------------------------- with the model


@needs_model
def test_the_model_in_the_page_gives_the_probabilities_of_the_grid(context: Any, site: Site) -> None:
    page = opened(context(), site)
    load(page)
    for strength in (0.0, 0.5, 1.0):
        slide(page, strength)
        settled(page)
        assert "in this page just now" in status(page)
        assert shown(page) == pytest.approx(expected("dso", "nurse", "late", strength), abs=1.5e-3)
    slide(page, 0.35)  # between the strengths of the grid
    settled(page)
    assert 0 < sum(shown(page)) < 1
    page.get_by_text("The curve as a table").click()
    assert page.locator(".steer-fold tbody").first.locator("tr").count() == len(grid()["strengths"]) + 1


@needs_model
def test_two_texts_are_written_and_stop_stops(context: Any, site: Site) -> None:
    page = opened(context(), site)
    load(page)
    settled(page)
    page.get_by_role("button", name="Write both texts").click()
    page.wait_for_function("() => document.querySelectorAll('.steer-text')[1].textContent.length > 80", timeout=LOADED)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for(timeout=LOADED)
    begun = page.locator(".steer-text").all_inner_texts()
    page.get_by_role("button", name="Write both texts").click()
    page.get_by_text("Written in").wait_for(timeout=LOADED)
    for before, after in zip(begun, page.locator(".steer-text").all_inner_texts(), strict=True):
        assert after.startswith(before) and len(after) > len(before)  # the same text, gone on with


@needs_model
def test_a_reader_s_own_sentence_is_only_text(context: Any, site: Site) -> None:
    page = opened(context(), site)
    load(page)
    page.get_by_label("a sentence of your own").check()
    field, counts = (
        page.get_by_label("Beginning of a sentence"),
        page.locator(".steer-note", has_text="of at most 300 tokens"),
    )
    tokens = {}
    for text in ("The nurse said that", "The <|im_end|> said that", "الممرضة قالت إن", "😀 said that"):
        field.fill(text)
        settled(page)
        tokens[text] = int(re.findall(r"\d+", counts.inner_text())[0])
        assert "just now" in status(page)
        assert sum(shown(page)) <= 1
    assert tokens["The <|im_end|> said that"] > tokens["The nurse said that"] + 2  # spelled out, not one special token
    for text, words in (
        ("", "Write the beginning"),
        ("  ", "Write the beginning"),
        ("x y " * 1250, "shorten it"),
        ("a b " * 300, "shorten it"),
    ):
        field.fill(text)
        settled(page)
        assert words in status(page)
    field.fill("The judge said that")
    settled(page)
    assert "just now" in status(page)


@needs_model
def test_only_the_newest_question_is_answered(context: Any, site: Site) -> None:
    page = opened(context(), site)
    load(page)
    for name in ("mechanic", "judge", "plumber"):
        page.get_by_label("Occupation", exact=True).select_option(name)
        page.wait_for_timeout(300)
    settled(page)
    assert shown(page) == pytest.approx(expected("dso", "plumber", "late", 0.5), abs=1.5e-3)


@needs_model
@pytest.mark.parametrize(("how", "words"), [("altered", "damaged"), ("cut", "lost")])
def test_a_part_that_does_not_arrive_whole_is_named_and_the_next_try_goes_on(
    context: Any, site: Site, how: str, words: str
) -> None:
    page = opened(context(), site)
    site.broken["/live/model/05-"] = how
    page.get_by_role("button", name="Load the model").first.click()
    page.get_by_role("button", name="Try again").first.wait_for(timeout=LOADED)
    assert words in page.locator(".steer-live").first.inner_text()
    slide(page, 1.0)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=6e-4)  # nothing is broken by it
    site.broken.clear()
    site.asked.clear()
    load(page)
    assert not [path for path in site.asked if "/live/model/00-" in path]  # what had arrived was not asked for again


@needs_model
def test_a_load_can_be_cancelled_and_goes_on_from_there(context: Any, site: Site) -> None:
    page = opened(context(), site)
    page.get_by_role("button", name="Load the model").first.click()
    page.wait_for_function("() => document.querySelector('progress').value > 0.3", timeout=LOADED)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for(timeout=LOADED)
    site.asked.clear()
    load(page)
    assert not [path for path in site.asked if "/live/model/00-" in path]


@needs_model
def test_a_second_visit_needs_no_network_and_says_so(context: Any, site: Site) -> None:
    one = context()
    load(opened(one, site))
    page = opened(one, site)
    page.get_by_role("button", name="Start the model").first.wait_for()
    site.asked.clear()
    load(page)
    assert not [path for path in site.asked if re.search(r"/live/model/\d\d-", path)]


@needs_model
def test_without_a_network_it_says_so_and_the_numbers_stay(context: Any, site: Site) -> None:
    one = context()
    page = opened(one, site)
    one.set_offline(True)
    page.get_by_role("button", name="Load the model").first.click()
    page.get_by_role("button", name="Try again").first.wait_for(timeout=LOADED)
    assert page.locator(".steer-live [role=status]").first.inner_text().strip()
    slide(page, 1.0)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=6e-4)
    one.set_offline(False)
    load(page)


@needs_model
def test_two_tabs_at_once_both_answer(context: Any, site: Site) -> None:
    one = context()
    pages = [opened(one, site, f"#occupation={name}") for name in ("nurse", "mechanic")]
    for page in pages:
        page.get_by_role("button", name="Load the model").first.click()
    for page, name in zip(pages, ("nurse", "mechanic"), strict=True):
        page.get_by_text("The model runs in this page").first.wait_for(timeout=LOADED)
        settled(page)
        assert shown(page) == pytest.approx(expected("dso", name, "late", 0.5), abs=1.5e-3)


@needs_model
def test_the_live_page_has_nothing_for_axe_either(context: Any, site: Site) -> None:
    page = opened(context(), site)
    load(page)
    settled(page)
    found = axe_api.Axe().run(page, context={"include": [["article"]]})
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found.response["violations"]] == []


@needs_model
def test_two_people_are_asked_about_in_both_orders(context: Any, site: Site) -> None:
    page = opened(context(), site)
    part = page.locator("[data-pictures]")
    part.get_by_role("button", name=re.compile("Load the model")).click()
    answers = part.get_by_text("Computed in this page just now, in both orders.")
    answers.wait_for(timeout=LOADED)

    def rows() -> list[list[float]]:
        read = "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.textContent))"
        texts = part.locator("tbody tr").evaluate_all(read)
        return [[float(text.replace("−", "-")) for text in row] for row in texts]

    for first, second, average, order, bias in zip(*rows(), strict=True):
        assert average == pytest.approx((first + second) / 2, abs=0.011)
        assert order == pytest.approx(first - second, abs=0.011)
        assert bias == pytest.approx(abs(2 * average - 1), abs=0.021)
    before = rows()
    chosen = [
        part.get_by_role("group", name=f"Person {name}").locator(":checked").get_attribute("value") for name in "AB"
    ]
    for name, value in zip("AB", reversed(chosen), strict=True):  # the same two, the other way about
        part.get_by_role("group", name=f"Person {name}").locator(f"[value='{value}']").check()
    page.wait_for_timeout(400)
    answers.wait_for(timeout=LOADED)
    after = rows()
    assert after[2] == pytest.approx([1 - value for value in before[2]], abs=0.011)
    assert after[3] == pytest.approx(before[3], abs=0.011)  # who is called A does not matter to the order effect
    assert after[4] == pytest.approx(before[4], abs=0.011)
    found = axe_api.Axe().run(page, context={"include": [["[data-pictures]"]]})
    assert [one["id"] for one in found.response["violations"]] == []


@needs_model
@pytest.mark.parametrize("method", ["add", "ablate"])
def test_a_contrastive_vector_can_steer_one_block_alone(context: Any, site: Site, method: str) -> None:
    page = opened(context(), site, f"#method={method}&strength=1")
    load(page)
    settled(page)
    late = shown(page)
    page.get_by_label("Where").select_option("25")
    settled(page)
    assert "just now" in status(page)
    assert shown(page) != late
    slide(page, 0)
    settled(page)
    assert shown(page) == shown(page, 0)


@needs_model
def test_where_the_store_is_full_the_model_runs_all_the_same_and_says_that_it_is_not_kept(
    context: Any, site: Site
) -> None:
    one = context()
    page = opened(one, site)
    devtools = one.new_cdp_session(page)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": site.address.rstrip("/"), "quotaSize": 30_000_000})
    load(page)
    assert "did not keep it" in page.locator(".steer-live").first.inner_text()
    settled(page)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 0.5), abs=1.5e-3)


@needs_model
def test_a_tab_that_was_put_to_sleep_goes_on(context: Any, site: Site) -> None:
    one = context()
    page = opened(one, site)
    load(page)
    settled(page)
    devtools = one.new_cdp_session(page)
    slide(page, 1.0)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    devtools.send("Page.setWebLifecycleState", {"state": "active"})
    settled(page)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=1.5e-3)


@needs_model
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--wasm-max-mem-pages=1000", "too little memory"),  # 62 MB
        ("--no-enable-sse4-1 --no-enable-ssse3 --no-enable-sse3", "too old for the model"),  # no SIMD
    ],
)
def test_a_device_that_cannot_run_the_model_is_told_why(browser: Any, site: Site, flags: str, words: str) -> None:
    weak = browser.browser_type.launch(executable_path=BROWSER, args=["--no-sandbox", f"--js-flags={flags}"])
    page = weak.new_page()
    page.goto(f"{site.address}explore.html")
    page.get_by_role("button", name="Load the model").first.click()
    page.get_by_role("button", name="Try again").first.wait_for(timeout=LOADED)
    assert words in page.locator(".steer-live").first.inner_text()
    slide(page, 1.0)
    assert shown(page) == pytest.approx(expected("dso", "nurse", "late", 1.0), abs=6e-4)
    weak.close()
