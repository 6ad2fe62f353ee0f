"""FACET: photographs of real people at work, with a box around each and what annotators perceived of them.

A picture may show several people, so a photo is the part within a person's box. The photographs are not counterfactual: a pair of
two people differs in everything, not in gender alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.tasks.folder import folder_of
from steerlib.tasks.hub.photo import Box, Photo
from steerlib.tasks.item import occupations
from steerlib.tasks.table import empty, read_table

PRESENTATION = {"masc": "man", "fem": "woman", "non_binary": "", "na": ""}
TONES = range(1, 11)
COLUMNS = (
    "person_id",
    "filename",
    "class1",
    "bounding_box",
    *(f"gender_presentation_{name}" for name in PRESENTATION),
    *(f"skin_tone_{tone}" for tone in TONES),
)


def facet(folder: str | Path, *, smallest: int = 64, size: int | None = 448) -> tuple[Photo, ...]:
    """Photos of FACET (Gustafson et al., ICCV 2023), from your own copy.

    - Source: facet.metademolab.com, after accepting its terms: for evaluation only. About 32,000 pictures and 50,000 people of 52
      occupations and other roles. Their names are FACET's, in small letters; those in our table have a stereotype.
    - What is left out: people seen as both or neither of man and woman, those with a second role (class2), and those in a small box.
    - `race` is the group of skin tones on the Monk scale that most annotators saw (their mean): "light" to 3.5, "dark" from 7.5, "medium"
      between, a division of ours; so use races=("light", "dark").

    Args:
        folder: The copy, with annotations/annotations.csv (or annotations.csv) and the pictures in folders such as imgs_1.
        smallest: The shorter side that a box must have, in pixels.
        size: The longer side of the photos, in pixels; None leaves them as they are.

    Returns:
        Photos, by occupation of our table first, in the order of the file. A picture is opened when it is asked for.

    Raises:
        SteerlibError: If the table, a column or all pictures are missing, or a box cannot be read.

    >>> task = steerlib.tasks.who_is("test", photos=facet("FACET"))  # doctest: +SKIP
    """
    root = folder_of(folder)
    table = next(
        (file for file in (root / "annotations" / "annotations.csv", root / "annotations.csv") if file.is_file()), None
    )
    if table is None:
        raise SteerlibError(f"'{folder}' is no copy of FACET: it has no annotations/annotations.csv.")
    frame = read_table(table)
    if missing := [column for column in COLUMNS if column not in frame.columns]:
        raise SteerlibError(f"'{table}' has no column '{missing[0]}': there are {', '.join(map(str, frame.columns))}.")
    files = {file.name: file for file in sorted(root.rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg", ".png")}
    made: list[Photo] = []
    for number, cells in enumerate(frame.to_dict("records"), start=2):
        row = {str(key): value for key, value in cells.items()}
        gender = _gender(row)
        second = row.get("class2")
        box = _box(row["bounding_box"], number)
        if not gender or not (empty(second) or str(second).strip().lower() == "none") or row["filename"] not in files:
            continue
        if min(box[2] - box[0], box[3] - box[1]) < smallest:
            continue
        job = str(row["class1"]).strip().lower().replace("_", " ")
        made.append(Photo(files[row["filename"]], job, gender, _tone(row), source="FACET", size=size, box=box))
    if not made:
        raise SteerlibError(f"none of the people that '{table}' lists is on a picture in '{folder}'.")
    order = {job: place for place, job in enumerate(occupations()["occupation"])}
    return tuple(sorted(made, key=lambda photo: order.get(photo.occupation, len(order))))


def _gender(row: dict[str, Any]) -> str:
    """The one gender that was perceived, or "" for several or none of the two."""
    seen = [name for name in PRESENTATION if _count(row[f"gender_presentation_{name}"])]
    return PRESENTATION[seen[0]] if len(seen) == 1 else ""


def _tone(row: dict[str, Any]) -> str:
    votes = [(_count(row[f"skin_tone_{tone}"]), tone) for tone in TONES]
    total = sum(count for count, _ in votes)
    if not total:
        return ""
    mean = sum(count * tone for count, tone in votes) / total
    return "light" if mean <= 3.5 else "dark" if mean >= 7.5 else "medium"


def _count(cell: Any) -> float:
    """How many annotators said so."""
    try:
        value = float(cell)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _box(cell: Any, number: int) -> Box:
    """{"x": ..., "y": ..., "width": ..., "height": ...} as left, top, right and bottom."""
    try:
        told = json.loads(str(cell))
        left, top = max(0, math.floor(told["x"])), max(0, math.floor(told["y"]))
        return left, top, math.ceil(told["x"] + told["width"]), math.ceil(told["y"] + told["height"])
    except (ValueError, KeyError, TypeError) as error:
        raise SteerlibError(
            f"row {number}: the bounding box {str(cell)[:60]!r} is not one with x, y, width and height."
        ) from error
