"""The grid: what the page can show before any model is there, as a classic script that also works from a file.

    window.steerlibGrid = {occupations, wordings, told, groups, chat, strengths, methods, words, p, summary, texts, sentence}

p is P(word | prompt), over the whole vocabulary, at the place of the answer: 74 occupations, 10 wordings, 11 strengths and 3 words
per method, in that order, as unsigned 16-bit numbers of 65535ths (little endian, in base64), so that each is exact to 8e-6.
`tools/grid.py` measured it, once, into data/grid.json; no model is needed here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.intervals import Floats
from steerlib.inpage.methods import METHODS
from steerlib.tasks.article import article
from steerlib.tasks.item import occupations
from steerlib.tasks.pronoun import TEMPLATES, WORDS, Template

Segment = str | Mapping[str, str]
"""A part of a prompt: text, {"special": a token that no text can write} or {"fill": what stands there}."""

STRENGTHS = tuple(n / 4 for n in range(-4, 7))
"""From -1 to 1.5; the steerings were made for 0 to 1."""
ANSWERS = (" he", " she", " they")
LEVELS = 65535
AMBIGUOUS = tuple(template for template in TEMPLATES if not template.unambiguous)
TOLD = tuple(template for template in TEMPLATES if template.unambiguous)
SENTENCE = "In the evening the rain stopped, and the two of them walked home along the river without saying much."
"""What the page measures the cost in language on, live: plain prose about nobody's work."""


def packed(p: Floats) -> str:
    """Probabilities, in any shape, as base64 of 16-bit numbers.

    Args:
        p: Numbers from 0 to 1.

    Returns:
        The text; its numbers are in the order of memory.

    >>> unpacked(packed(np.array([[0.0, 0.25, 1.0]])), (3,)).round(4).tolist()
    [0.0, 0.25, 1.0]
    """
    return base64.b64encode(np.rint(p * LEVELS).astype("<u2").tobytes()).decode("ascii")


def unpacked(text: str, shape: Sequence[int]) -> Floats:
    """The probabilities in a text that `packed` wrote.

    Args:
        text: Base64 of unsigned 16-bit numbers.
        shape: Of the result.

    Returns:
        Float64, exact to half of 1 / 65535.
    """
    whole: Floats = np.frombuffer(base64.b64decode(text), dtype="<u2").reshape(shape) / LEVELS
    return whole


@cache
def measured() -> Mapping[str, Any]:
    """What data/grid.json holds.

    Raises:
        SteerlibError: If it is missing, or was measured on other occupations, wordings or strengths than the library has.

    >>> measured()["words"]
    [' he', ' she', ' they']
    """
    path = data_path("grid.json")
    if not path.is_file():
        raise SteerlibError(f"{path} is missing: install steerlib again, or measure it with `python tools/grid.py`.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    asked = axes()
    for key, value in asked.items():
        if found.get(key) != value:
            raise SteerlibError(
                f"{path} was measured for other {key} than the library has: run `python tools/grid.py`."
            )
    return found


def axes() -> dict[str, list[Any]]:
    """What the numbers of the grid are about, along each of its axes, and the prompts themselves."""
    return {
        "occupations": [str(name) for name in occupations()["occupation"]],
        "wordings": [[template.name, template.text, template.answer] for template in AMBIGUOUS],
        "strengths": list(STRENGTHS),
        "words": list(ANSWERS),
        "methods": [[method.id, method.steering, method.layers and list(method.layers)] for method in METHODS],
    }


def probabilities(method: str) -> Floats:
    """P(word | prompt) under one method, (occupations, wordings, strengths, words).

    Args:
        method: The id of one of `METHODS`.

    Returns:
        Float64 in 0..1, over the whole vocabulary.

    Raises:
        SteerlibError: If there is no such method, or no grid.

    >>> probabilities("dso").shape
    (74, 10, 11, 3)
    """
    grid = measured()
    if method not in grid["p"]:
        raise SteerlibError(f"the grid has no method '{method}': it has {', '.join(grid['p'])}.")
    return unpacked(grid["p"][method], [len(grid[axis]) for axis in ("occupations", "wordings", "strengths", "words")])


def segments(text: str, specials: Sequence[str], fills: Mapping[str, str]) -> list[Segment]:
    """A rendered chat cut into plain text, special tokens and places to be filled.

    Args:
        text: What a chat template made.
        specials: Special tokens that may be in it.
        fills: What was written where something is to be filled in, by name.

    Returns:
        The segments, in order; no two texts follow each other.

    >>> segments("<s>user: X</s>", ["<s>", "</s>"], {"user": "X"})
    [{'special': '<s>'}, 'user: ', {'fill': 'user'}, {'special': '</s>'}]
    """
    marks: dict[str, Segment] = {token: {"special": token} for token in specials}
    marks |= {written: {"fill": name} for name, written in fills.items()}
    cut: list[Segment] = []
    while text:
        found = {place: mark for mark in marks if (place := text.find(mark)) >= 0}
        place = min(found, default=len(text))
        cut += [text[:place]] * (place > 0)
        if found:
            cut.append(marks[found[place]])
            place += len(found[place])
        text = text[place:]
    return cut


def filled(prompt: Sequence[Segment], given: Mapping[str, str]) -> list[Segment]:
    """A prompt with its places filled; texts that then follow each other are joined, as they must be before they become tokens.

    Args:
        prompt: Segments.
        given: A text for each fill.

    Returns:
        Texts and special tokens; a fill that nothing is given for stays.

    >>> filled([{"special": "<s>"}, "user: ", {"fill": "user"}], {"user": "Hi"})
    [{'special': '<s>'}, 'user: Hi']
    """
    whole: list[Segment] = []
    for part in prompt:
        put = part if isinstance(part, str) else given.get(part.get("fill", ""), part)
        if isinstance(put, str) and whole and isinstance(whole[-1], str):
            whole[-1] += put
        else:
            whole.append(put)
    return whole


def grid_script() -> str:
    """The script live/grid.js, which sets `window.steerlibGrid`.

    Returns:
        JavaScript, ASCII only. Estimates are [value, low, high], the ends of their 95 % intervals.

    Raises:
        SteerlibError: If data/grid.json is missing, or does not fit the library.

    >>> grid_script().startswith("window.steerlibGrid = {")
    True
    """
    grid, table = measured(), occupations()
    data = {
        "occupations": [
            {
                "name": row["occupation"],
                "an": article(row["occupation"]),
                "women": row["percent_women"],
                "stereotype": row["stereotype"],
                "split": row["split"],
            }
            for row in table.to_dict("records")
        ],
        "wordings": [_wording(template) for template in AMBIGUOUS],
        "told": [_wording(template) for template in TOLD],
        "groups": WORDS,
        "chat": grid["chat"],
        "strengths": list(STRENGTHS),
        "methods": [
            {
                "id": method.id,
                "name": method.name,
                "steering": method.steering,
                "layers": method.layers,
                "trained": method.trained,
                "about": method.about,
            }
            for method in METHODS
        ],
        "words": list(ANSWERS),
        "p": grid["p"],
        "summary": grid["summary"],
        "measured": {"told": grid["told"], "texts": grid["texts"]},
        "sentence": SENTENCE,
    }
    return f"window.steerlibGrid = {json.dumps(data, separators=(',', ':'))};\n"


def _wording(template: Template) -> dict[str, Any]:
    return {
        "name": template.name,
        "text": template.text,
        "answer": template.answer,
        "heldOut": template.held_out,
    }
