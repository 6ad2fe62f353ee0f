"""What the site makes of an executed chapter: folds, numbered figures and tables, and one line for the claims of a cell."""

from __future__ import annotations

import base64
import copy
import io
import re
from pathlib import Path
from typing import Any
from xml.dom import minidom

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from steerlib.evaluate.style import COLORS
from steerlib.reproduce.contents import Page
from steerlib.reproduce.dress import claims_line, dress
from steerlib.reproduce.figures import NAMES, inline
from steerlib.reproduce.frames import dressed
from steerlib.reproduce.references import references

ROOT = Path(__file__).resolve().parents[1]
STYLE = ROOT / "steerlib" / "reproduce" / "figures.mplstyle"


def drawn(scale: float = 1.0) -> tuple[str, str]:
    """A figure with every kind of colour, as SVG and as PNG in base64."""
    with plt.style.context(str(STYLE)):
        fig, ax = plt.subplots()
        for number, color in enumerate(COLORS):
            ax.plot([0, scale], [0, number], color=color, label=f"line {number}")
        ax.fill_between([0, 1], [0, 1], color="0.8")
        ax.scatter([0.5], [0.5], facecolor="white", edgecolor="black", clip_on=True)
        ax.set_title("a < b & c")
        ax.legend()
        svg, png = io.StringIO(), io.BytesIO()
        fig.savefig(svg, format="svg")
        fig.savefig(png, format="png")
        plt.close(fig)
    return svg.getvalue(), base64.b64encode(png.getvalue()).decode()


def test_a_figure_follows_the_colours_of_the_page() -> None:
    svg = inline(drawn()[0], 'A "fan" of < 7 lines', "fan")
    page = minidom.parseString(svg.replace("xlink:href", "href"))
    top = page.documentElement
    assert top.getAttribute("aria-label") == 'A "fan" of < 7 lines' and top.getAttribute("role") == "img"
    for name in (*NAMES, "ink"):
        assert f"var(--fig-{name}, #" in svg
    greys = set(re.findall(r"#(\w\w)\1\1\b", svg))
    assert greys and all(f"#{g * 3}; " in svg or g in ("00", "ff") for g in greys), "a grey without a dark version"
    assert "\n\n" not in svg and "<metadata" not in svg and "font-family" not in svg and "<style" not in svg


def test_two_figures_on_a_page_share_no_id_and_each_finds_its_own() -> None:
    one, two = (inline(drawn(scale)[0], "x", name) for scale, name in ((1, "one"), (2, "two")))
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, own in zip((one, two), ids, strict=True):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
        assert used and used <= own


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_dark_palette_is_legible_and_its_colours_are_apart() -> None:
    css = (ROOT / "book" / "_static" / "figures.css").read_text(encoding="utf-8")
    dark = dict(re.findall(r"--fig-(\w+): (#\w{6})", css.split('data-theme="dark"', 1)[1].split("}", 1)[0]))
    assert set(dark) == {*NAMES, "ink", "paper"}
    for name in NAMES:
        assert contrast(dark[name], "#14181e") >= 4.5, name
    assert contrast(dark["ink"], dark["paper"]) >= 7
    lines = [dark[name] for name in NAMES]
    assert (
        min(
            sum(abs(int(a[i : i + 2], 16) - int(b[i : i + 2], 16)) for i in (1, 3, 5))
            for a in lines
            for b in lines
            if a != b
        )
        > 60
    )


def test_the_text_of_a_figure_is_large_enough_on_a_phone() -> None:
    """A figure fills 358 of a phone's 390 pixels; an SVG has 72 units to the inch."""
    with plt.style.context(str(STYLE)):
        width = matplotlib.rcParams["figure.figsize"][0] * 72
        sizes = [
            matplotlib.rcParams[key]
            for key in ("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "axes.labelsize")
        ]
    assert min(float(size) * 358 / width for size in sizes) >= 10


# ----------------------------------------------------------------------------------------------- tables


def test_a_table_has_headers_a_caption_and_becomes_cards() -> None:
    frame = pd.DataFrame(
        {"bias": [0.1, 0.2], "gap": [1, 2], "n < 3": [3, 4]}, index=pd.Index(["a", "b"], name="method")
    )
    table = BeautifulSoup(dressed(frame.to_html(), "<b>Table 1.</b> It & that.", "tab-x"), "html.parser")
    assert table.caption is not None and table.caption.get_text() == "Table 1. It & that."
    assert [(th.get_text(), th["scope"]) for th in table.select("thead th")] == [
        ("method", "col"),
        ("bias", "col"),
        ("gap", "col"),
        ("n < 3", "col"),
    ]
    assert len(table.select("thead tr")) == 1
    assert [(td["data-label"], td.get_text()) for td in table.select("tbody tr:first-child td")] == [
        ("bias", "0.1"),
        ("gap", "1"),
        ("n < 3", "3"),
    ]
    assert "cards" in table.table["class"] and not table.select("[border], [style]")  # type: ignore[index]
    place = table.div
    assert place is not None and place["id"] == "tab-x" and place["tabindex"] == "0"


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1]}),
        pd.DataFrame({("x", "a"): [1], ("x", "b"): [2], ("y", "a"): [2], ("y", "b"): [2]}),
        pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("p", 1), ("p", 2)], names=["one", "two"])),
        pd.DataFrame({"a": [1, 2]}).rename_axis(columns="kind"),
    ],
    ids=["narrow", "two heads", "two indices", "named columns"],
)
def test_no_header_of_a_table_is_empty_and_no_number_is_lost(frame: pd.DataFrame) -> None:
    table = BeautifulSoup(dressed(frame.to_html()), "html.parser")
    assert all(th.get_text(strip=True) and th.get("scope") for th in table.find_all("th"))
    assert [td.get_text() for td in table.select("tbody td")] == [str(x) for x in frame.to_numpy().ravel()]
    assert "cards" not in table.table["class"]  # type: ignore[index]


# -------------------------------------------------------------------------------------------- a chapter


def badge(word: str, strength: str) -> str:
    return f'<div class="claim claim-holds" role="note" data-verdict="{word}" data-strength="{strength}">It is 1.</div>'


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ([("holds", "pinned")], "1 claim holds: 1 pinned"),
        ([("holds", "pinned")] * 3 + [("holds", "bounded")], "4 claims hold: 3 pinned, 1 bounded"),
        ([("holds", "pinned"), ("misses", "pinned")], "2 claims: 1 misses, 1 holds (2 pinned)"),
        ([("not reproduced, as recorded", "stored")], "1 claim: 1 not reproduced, as recorded (1 stored)"),
    ],
)
def test_the_claims_of_a_cell_are_one_line(claims: list[tuple[str, str]], said: str) -> None:
    text = claims_line([badge(*one) for one in claims])
    assert re.findall(r"<summary[^>]*>(.*)</summary>", text) == [said]
    assert text.count("It is 1.") == len(claims)
    assert ('class="loud"' in text) == any(word != "holds" for word, _ in claims)


def output(**data: str) -> dict[str, Any]:
    kinds = {"html": "text/html", "svg": "image/svg+xml", "png": "image/png", "plain": "text/plain"}
    return {"output_type": "display_data", "metadata": {}, "data": {kinds[key]: text for key, text in data.items()}}


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = (), **metadata: Any) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": source[:1],
        "source": source,
        "outputs": list(outputs),
        "metadata": {"tags": list(tags), **metadata},
    }


def shown(cells: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    notebook = {"cells": copy.deepcopy(cells)}
    refers = references([Page("x", "4", "", True)], {"x": notebook}, {}, {}, lambda text, page, place: text)
    dress(notebook, "x", refers, folder)
    return notebook["cells"]


def test_a_chapter_s_title_has_its_number_and_only_its_title(tmp_path: Path) -> None:
    texts = ["# A title\n\nSee {fig}`fan`.\n\n## A part", "# Not one more"]
    cells = [{"cell_type": "markdown", "metadata": {}, "source": text} for text in texts]
    cells.append(code("p", output(svg=drawn()[0], png="", html=""), book={"figure": "fan", "caption": "A *fan*."}))
    cells[-1]["outputs"][0]["data"]["image/png"] = drawn()[1]
    found = shown(cells, tmp_path)
    assert found[0]["source"] == "# 4. A title\n\nSee figure 4.1.\n\n## A part"
    assert found[1]["source"] == "# Not one more"
    (figure,) = found[2]["outputs"]
    assert "<figcaption><strong>Figure 4.1.</strong> A <em>fan</em>.</figcaption>" in figure["data"]["text/html"]
    assert 'id="fig-fan"' in figure["data"]["text/html"] and "image/png" not in figure["data"]


def test_only_code_that_teaches_stands_open(tmp_path: Path) -> None:
    found = shown([code("a", tags=("open",)), code("b", output(plain="1")), code("c", tags=("remove-cell",))], tmp_path)
    assert [cell["metadata"]["tags"] for cell in found] == [["open"], ["hide-input"], ["remove-cell"]]


def test_folded_code_that_shows_nothing_goes_into_the_next_fold(tmp_path: Path) -> None:
    words = {"cell_type": "markdown", "metadata": {}, "source": "Words."}
    cells = [
        code("a = 1"),
        code("b = 2"),
        code("a + b", output(plain="3")),
        code("c = 3"),
        words,
        code("d", tags=("open",)),
        code("e"),
    ]
    found = shown(cells, tmp_path)
    assert [cell["source"] for cell in found] == ["a = 1\n\nb = 2\n\na + b", "c = 3", "Words.", "d", "e"]
    assert found[0]["outputs"] == [output(plain="3")]


def test_a_table_may_be_folded_and_claims_come_last(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1]}).to_html()
    table = {"table": "sums", "caption": "The sums.", "folded": True}
    (found,) = shown([code("t", output(html=badge("holds", "pinned")), output(html=frame), book=table)], tmp_path)
    first, last = (one["data"]["text/html"] for one in found["outputs"])
    assert first.startswith(
        '<details class="book-fold" id="tab-sums"><summary><strong>Table 4.1.</strong> The sums.</summary>'
    )
    assert "1 claim holds" in last


def test_a_heavy_figure_is_shown_as_pixels(tmp_path: Path) -> None:
    with plt.style.context(str(STYLE)):
        fig, ax = plt.subplots()
        ax.scatter(*np.random.default_rng(0).random((2, 4000)))
        text, png = io.StringIO(), io.BytesIO()
        fig.savefig(text, format="svg")
        fig.savefig(png, format="png")
        plt.close(fig)
    heavy = output(svg=text.getvalue(), png=base64.b64encode(png.getvalue()).decode())
    about = {"book": {"figure": "cloud", "caption": "x"}, "mystnb": {"image": {"alt": "Many dots"}}}
    (found,) = shown([code("f", heavy, **about)], tmp_path)
    assert 'alt="Many dots"' in found["outputs"][0]["data"]["text/html"]
    assert (tmp_path / "cloud.webp").is_file()
