"""The tables of the page that steers have every number of the grid, and say which is which."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from steerlib.errors import SteerlibError
from steerlib.inpage.table import grid_probabilities, grid_table

STRENGTHS = [-0.5, 0.0, 0.5, 1.0]
SHAPE = (3, 2, len(STRENGTHS), 3)  # (occupations, wordings, strengths, words)


def grid() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    p = rng.integers(0, 20000, SHAPE).astype("<u2")
    summary = [
        {
            "strength": strength,
            "bias": [0.4 - 0.1 * strength, 0.3, 0.5],
            "gap": [-0.25, -0.5, None],
            "right": [0.9, 0.8, 1.0],
            "accuracy": [None, None, None],
            "perplexity": [27.04, 25.0, 30.0],
        }
        for strength in STRENGTHS
    ]
    return {
        "occupations": [{"name": name, "women": 12.6} for name in ("nurse", "a < b & c", "judge")],
        "wordings": [{"name": "one"}, {"name": "two"}],
        "strengths": STRENGTHS,
        "methods": [{"id": "dso", "name": "DSO, per occupation"}, {"id": "random", "name": "Control"}],
        "p": {method: base64.b64encode(p.tobytes()).decode() for method in ("dso", "random")},
        "summary": {"dso": summary, "random": summary},
    }


class Tables(HTMLParser):
    """The text of all cells, row by row, the scopes of heading cells, and what is open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.scopes: list[str | None] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "caption":
            self.captions.append("")
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "th":
            self.scopes.append(dict(attrs).get("scope"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] == "caption":
            self.captions[-1] += data


def test_there_is_one_row_per_method_and_strength_and_one_per_occupation() -> None:
    read = Tables(grid_table(grid()))
    assert read.open == []
    assert len(read.rows) == 1 + 2 * len(STRENGTHS) + 2 + SHAPE[0]
    assert [row[-6] for row in read.rows[1 : 1 + len(STRENGTHS)]] == ["−0.5", "0", "0.5", "1"]


def test_every_heading_cell_has_a_scope_and_every_table_a_caption() -> None:
    read = Tables(grid_table(grid()))
    assert set(read.scopes) == {"col", "colgroup", "row", "rowgroup"}
    assert len(read.captions) == 2 and all(read.captions)


def test_an_occupation_s_numbers_are_the_means_over_the_wordings() -> None:
    whole = grid()
    p = grid_probabilities(whole, "dso").mean(axis=1)[:, [1, 2, 3]]  # (occupations, strengths, words)
    rows = Tables(grid_table(whole)).rows[-SHAPE[0] :]
    for row, values in zip(rows, p, strict=True):
        assert row[2:] == [f"{value:.2f}" for value in values.reshape(-1)]
    assert [row[0] for row in rows] == ["nurse", "a < b & c", "judge"]


def test_an_interval_is_shown_where_there_is_one_and_minus_is_a_minus() -> None:
    row = Tables(grid_table(grid())).rows[1]
    assert row == [
        "DSO, per occupation",
        "−0.5",
        "0.45 (0.30 to 0.50)",
        "−0.25",
        "0.90 (0.80 to 1.00)",
        "not measured",
        "27.0 (25.0 to 30.0)",
    ]


def test_markdown_does_not_end_the_html() -> None:
    assert "\n\n" not in grid_table(grid())


def test_a_grid_with_numbers_missing_is_refused() -> None:
    broken = grid()
    broken["p"]["dso"] = broken["p"]["dso"][:-8]
    with pytest.raises(SteerlibError, match="has 69 numbers: it needs 72"):
        grid_table(broken)
