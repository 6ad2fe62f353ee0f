"""Small data sets in the form of the real ones, written into a folder: made-up sentences, and pictures of plain colours."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

RACES = ("White", "Black", "Indian", "Asian", "Middle Eastern", "Latino")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def colour(*key: object) -> tuple[int, int, int]:
    """A colour that tells pictures apart."""
    mixed = sum((i + 1) * byte for i, byte in enumerate(repr(key).encode()))
    return mixed % 251, mixed // 251 % 251, mixed // 63001 % 251


def jpeg(*key: object, size: tuple[int, int] = (24, 16)) -> bytes:
    """The bytes of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour(*key)).save(file, "PNG")
    return file.getvalue()


def counterfactual_rows(jobs: Sequence[tuple[str, int]], *, head: str = "A picture of a") -> list[dict[str, Any]]:
    """Rows of SocialCounterfactuals: each occupation with so many sets of race by gender, and one set of another kind."""
    rows = []
    for job, sets in jobs:
        for k in range(sets):
            for race, gender in product(RACES, ("male", "female")):
                rows.append(
                    {
                        "image": {"bytes": jpeg(job, k, race, gender), "path": None},
                        "caption": f"{head} {race} {gender} {job}",
                        "counterfactual_set": f"{job.replace(' ', '_')}_{k}",
                        "a1_type": "race",
                        "a1": race,
                        "a2_type": "gender",
                        "a2": gender,
                        "a1a2": f"{race} {gender}",
                    }
                )
        for look, gender in product(("young", "old"), ("male", "female")):
            rows.append(
                {
                    "image": {"bytes": jpeg(job, look, gender), "path": None},
                    "caption": f"{head} {look} {gender} {job}",
                    "counterfactual_set": f"physical_{job}",
                    "a1_type": "physical",
                    "a1": look,
                    "a2_type": "gender",
                    "a2": gender,
                    "a1a2": f"{look} {gender}",
                }
            )
    return rows


def write_shards(folder: Path, rows: list[dict[str, Any]], *, shards: int = 3, group: int = 12) -> Path:
    """The rows as parquet files data/train-0000N-of-0000M-....parquet, with the types that the hub has."""
    datasets = pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [column for column in rows[0] if column != "image"]
    features = datasets.Features(
        {column: datasets.Image() if column == "image" else datasets.Value("string") for column in rows[0]}
    )
    assert strings
    (folder / "data").mkdir(parents=True, exist_ok=True)
    each = -(-len(rows) // shards)
    for n in range(shards):
        table = pa.Table.from_pylist(rows[n * each : (n + 1) * each], schema=features.arrow_schema)
        name = f"train-{n:05d}-of-{shards:05d}-{n:016x}.parquet"
        pq.write_table(table, folder / "data" / name, row_group_size=group)
    return folder


def write_own(folder: Path, rows: Sequence[dict[str, Any]], *, name: str = "table.csv") -> Path:
    """Pictures named in the rows, and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["file"]).write_bytes(jpeg(row["file"]))
    pd.DataFrame(list(rows)).to_csv(folder / name, index=False)
    return folder


def own_rows(jobs: Sequence[str], races: Sequence[str] = ("White",), scenes: int = 1) -> list[dict[str, Any]]:
    """A man and a woman of each race in each scene of each occupation."""
    return [
        {
            "file": f"{job}-{k}-{race}-{gender}.png".replace(" ", "_"),
            "gender": gender,
            "occupation": job,
            "race": race,
            "scene": f"{job} {k}",
        }
        for job in jobs
        for k in range(scenes)
        for race in races
        for gender in ("man", "woman")
    ]


def write_pairs(folder: Path) -> Path:
    """PAIRS: its folders and file names, one of which has a 1 too many."""
    for section, scenes in (
        ("occupations", ("airplane", "scrubs", "law_office", "mopping", "overalls")),
        ("status", ("phone",)),
        ("potential_crime", ("running",)),
    ):
        for scene, race, gender in product(scenes, ("black", "white"), ("man", "woman")):
            place = folder / "data" / section / scene
            place.mkdir(parents=True, exist_ok=True)
            odd = "1" if (scene, race, gender) == ("phone", "white", "man") else ""
            (place / f"{race}_{gender}{odd}.png").write_bytes(jpeg(scene, race, gender))
    return folder


def write_json(file: Path, content: Any) -> Path:
    """A JSON file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file
