"""Figures that are not the result of one evaluation: the contact sheet of the people in the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from steerlib.tasks.people import GENDERS, OCCUPATIONS, PERSON_IS_MAN, TONES, Split, View, people

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 10  # pictures in a row
VIEWS: tuple[View, ...] = ("whole", "face", "small", "blurred")


def contact_sheet(
    *,
    occupation: str = "doctor",
    gender: str = "woman",
    tone: str = "medium",
    size: int = 112,
    style: str = "openmoji",
    seed: int = 0,
) -> Figure:
    """Everybody on one page: each occupation by gender, then what tone, clothes, scene and view make of one person.

    Args:
        occupation: of the person in the rows below the occupations.
        gender: of that person.
        tone: of everybody, where it does not vary.
        size: of each picture, in pixels.
        style: as in `people`.
        seed: of the first scene.

    Returns:
        A figure, 7.5 by 8.6 inches.

    Raises:
        SteerlibError: as `people` does.

    Example:
        >>> from matplotlib import pyplot as plt
        >>> figure = contact_sheet(size=8)
        >>> len(figure.axes)
        5
        >>> plt.close(figure)
    """
    import matplotlib.pyplot as plt

    drawn = partial(people, size=size, style=style)
    one = partial(drawn, occupation=occupation, gender=gender, tone=tone)
    same = PERSON_IS_MAN if style == "openmoji" else ()
    blocks = [OCCUPATIONS[i : i + ACROSS] for i in range(0, len(OCCUPATIONS), ACROSS)]
    tones = [one(tone=skin) for skin in TONES] + [one(occupation=None, gender=g) for g in GENDERS]
    splits: list[Split] = ["train" if i < ACROSS // 2 else "test" for i in range(ACROSS)]
    scenes = [one(split=split, seed=seed + i) for i, split in enumerate(splits)]
    views = [one(view=view, seed=seed) for view in VIEWS]
    pairs = [one(gender=g, seed=seed + i) for i in range(1, 4) for g in ("man", "woman")]

    figure = plt.figure(figsize=(7.5, 8.6), layout="constrained")
    axes = figure.subplots(len(blocks) + 3, 1, height_ratios=[3] * len(blocks) + [1] * 3)
    for ax, block in zip(axes, blocks, strict=False):
        names = [o.replace(" ", "\n") + "*" * (o in same) for o in block]
        _montage(ax, [[drawn(occupation=o, gender=g, tone=tone) for o in block] for g in GENDERS], names, GENDERS)
    skins = [skin.replace("-", "-\n") for skin in TONES]
    _montage(axes[-3], [tones], [*skins, *(f"plain,\n{g}" for g in GENDERS)], ["tone,\nclothes"])
    _montage(axes[-2], [scenes], [f"{split}\nscene" for split in splits], ["scene"])
    _montage(
        axes[-1], [[*views, *pairs]], [*VIEWS, *["same\nscene,\nman", "same\nscene,\nwoman"] * 3], ["view,\npairs"]
    )
    if same:
        figure.supxlabel("* the person is drawn exactly as the man", x=0.98, ha="right", fontsize=8)
    return figure


def _montage(ax: Axes, rows: Sequence[Sequence[Image.Image]], names: Sequence[str], labels: Sequence[str]) -> None:
    """Rows of pictures with a name above each column and a label before each row."""
    side = rows[0][0].width
    step = side + max(2, side // 14)
    page = np.full((step * len(rows), step * ACROSS, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            page[r * step : r * step + side, c * step : c * step + side] = np.asarray(picture)
    ax.imshow(page, interpolation="lanczos")
    ax.xaxis.tick_top()
    ax.set_xticks([c * step + side / 2 for c in range(len(names))], names, fontsize=7.5)
    ax.set_yticks([r * step + side / 2 for r in range(len(labels))], labels, fontsize=7.5)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
