"""Photos from a folder of your own pictures, and a table that says whom each shows.

file,gender,occupation,race,scene
anna.jpg,woman,nurse,White,ward          two pictures of one scene can be compared: they differ in nothing else
ben.jpg,man,nurse,White,ward
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.tasks.folder import file_of, folder_of, listed_pictures
from steerlib.tasks.hub.photo import Photo

CALLED = {"gender": "group", "occupation": "cluster", "percent_women": "statistic"}


def photos_from(
    folder: str | Path, table: str | Path | pd.DataFrame = "table.csv", *, size: int | None = None
) -> tuple[Photo, ...]:
    """Photos of your own.

    Args:
        folder: Where the pictures are.
        table: A CSV file in the folder, or a frame, with the columns file, gender (or group) and occupation (or cluster), and if you
            like race, scene (what pictures of one scene share; an empty cell: the picture has no counterpart), stereotype (the
            gender that a prejudice expects), percent_women (or statistic) and family.
        size: The longer side of the pictures, in pixels, for pictures that are larger; None leaves them as they are.

    Returns:
        Photos, one per row. A picture is opened when it is asked for.

    Raises:
        SteerlibError: If a file is missing, or the table is not as it should be.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (16, 16)).save(root / "a.png")
    >>> photos_from(root, pd.DataFrame({"file": ["a.png"], "gender": ["woman"], "occupation": ["pilot"]}))[0].gender
    'woman'
    """
    root = folder_of(folder)
    rows = listed_pictures(root, table, called=CALLED, more=("race", "scene", "family"))
    for number, row in enumerate(rows, start=2):
        if row["statistic"] is not None and not (row["stereotype"] is not None and 0 <= row["statistic"] <= 100):
            raise SteerlibError(
                f"row {number}: percent_women is a number from 0 to 100 beside a stereotype, not {row['statistic']:g}"
                f"{' without one' if row['stereotype'] is None else ''}."
            )
    return tuple(
        Photo(
            file_of(root, row["file"]),
            row["cluster"],
            row["group"],
            row["race"],
            scene=row["scene"],
            source=root.resolve().name,
            size=size,
            stereotype=row["stereotype"],
            percent_women=row["statistic"],
            family=row["family"],
        )
        for row in rows
    )
