"""The grid as two HTML tables: what the page that steers shows, for readers without JavaScript and for screen readers.

The first has gain and cost of each method at each strength. The second has P(he), P(she) and P(they) for each occupation,
averaged over the ambiguous wordings, without steering and with DSO at two strengths. There is no blank line in either, because
Markdown would end the HTML there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlib.errors import SteerlibError
from steerlib.inpage.grid import unpacked

MEASURES = (
    ("bias", "Bias", 2),
    ("gap", "Stereotype gap", 2),
    ("right", "Right pronoun", 2),
    ("accuracy", "Accuracy", 2),
)
"""What the first table shows beside the perplexity: the name in the grid, the heading, and the decimals."""
METHOD, COLUMNS = "dso", (0.0, 0.5, 1.0)
"""The method and the strengths of the second table."""
WORDS = ("he", "she", "they")


def grid_table(grid: Mapping[str, Any]) -> str:
    """The numbers of the grid as HTML.

    Args:
        grid: What the script live/grid.js sets, `window.steerlibGrid`.

    Returns:
        Two tables, each with a caption and in a region that scrolls by itself on a narrow screen.

    Raises:
        SteerlibError: If the grid's probabilities are not one number per occupation, wording, strength and word.
    """
    return "\n".join([_region(*_summary(grid)), _region(*_occupations(grid))])


def grid_probabilities(grid: Mapping[str, Any], method: str) -> NDArray[np.float64]:
    """The probabilities of one method, as the page reads them.

    Args:
        grid: As in `grid_table`.
        method: The id of a method, such as "dso".

    Returns:
        P(word) out of the whole vocabulary, 0 to 1, of shape (occupations, wordings, strengths, 3 words).

    Raises:
        SteerlibError: If there are more or fewer numbers than that.
    """
    shape = (len(grid["occupations"]), len(grid["wordings"]), len(grid["strengths"]), len(WORDS))
    numbers = unpacked(grid["p"][method], (-1,))
    if numbers.size != np.prod(shape):
        raise SteerlibError(
            f"the grid of '{method}' has {numbers.size} numbers: it needs {np.prod(shape)}, one per occupation, wording, strength and word."
        )
    return numbers.reshape(shape)


def _summary(grid: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    caption = (
        "Gain and cost of each method at each strength, on the 26 test occupations, with 95 % intervals. Strength 0 is the unsteered "
        "model. Less bias is better; a higher perplexity and a lower probability of the right pronoun are the price."
    )
    head = ["method", "strength", *(heading for _, heading, _ in MEASURES), "Perplexity"]
    rows = []
    for method in grid["methods"]:
        lines = grid["summary"][method["id"]]
        for number, line in enumerate(lines):
            name = f'<th scope="rowgroup" rowspan="{len(lines)}">{escape(method["name"])}</th>' if number == 0 else ""
            cells = [_interval(line[what], digits) for what, _, digits in MEASURES] + [_interval(line["perplexity"], 1)]
            rows.append(f'{name}<th scope="row">{_signed(line["strength"])}</th>{_cells(cells)}')
    return caption, [f"<tr>{_heads(head)}</tr>"], rows


def _occupations(grid: Mapping[str, Any]) -> tuple[str, list[str], list[str]]:
    wordings = len(grid["wordings"])
    caption = (
        f"Probability of he, she and they as the next word, for each occupation, averaged over the {wordings} sentences that "
        "say no gender: unsteered, and with DSO (per occupation) at strengths 0.5 and 1. The rest, up to 1, is every other word."
    )
    places = [grid["strengths"].index(strength) for strength in COLUMNS]
    p = grid_probabilities(grid, METHOD).mean(axis=1)[:, places]  # (occupations, strengths, words)
    names = ["unsteered" if strength == 0 else f"DSO at {_signed(strength)}" for strength in COLUMNS]
    groups = "".join(f'<th scope="colgroup" colspan="{len(WORDS)}">{name}</th>' for name in names)
    above = f'<tr><th scope="col" rowspan="2">occupation</th><th scope="col" rowspan="2">women, %</th>{groups}</tr>'
    rows = []
    for occupation, values in zip(grid["occupations"], p, strict=True):
        cells = [f"{occupation['women']:.0f}", *(f"{value:.2f}" for value in values.reshape(-1))]
        rows.append(f'<th scope="row">{escape(occupation["name"])}</th>{_cells(cells)}')
    return caption, [above, f"<tr>{_heads(list(WORDS) * len(COLUMNS))}</tr>"], rows


def _region(caption: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A folded table; it can be scrolled with the keyboard where it is wider than the page."""
    label = escape(caption.split(",")[0])
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<details>\n<summary>{label}</summary>\n"
        f'<div class="steer-wide steer-numbers" role="region" tabindex="0" aria-label="{label}">\n<table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead>\n{chr(10).join(head)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n</details>"
    )


def _heads(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col">{escape(name)}</th>' for name in names)


def _cells(values: Sequence[str]) -> str:
    return "".join(f"<td>{value}</td>" for value in values)


def _interval(estimate: Sequence[float | None], digits: int) -> str:
    value, *ends = estimate
    if value is None:
        return "not measured"
    low, high = ends if len(ends) == 2 else (None, None)
    between = "" if low is None or high is None else f" ({_signed(low, digits)} to {_signed(high, digits)})"
    return f"{_signed(value, digits)}{between}"


def _signed(value: float, digits: int | None = None) -> str:
    return (f"{value:g}" if digits is None else f"{value:.{digits}f}").replace("-", "−")
