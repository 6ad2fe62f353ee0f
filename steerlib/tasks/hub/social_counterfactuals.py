"""SocialCounterfactuals: photographs of one scene at work, made by a model, in which only race and gender change.

A set holds 12 pictures of one occupation, six races by two genders. The whole is 27 GB, so the labels are read first, about 6 MB
once; sets are chosen by a seed; and only the parts of files that hold these are read then.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from steerlib.assets import cache_dir
from steerlib.errors import SteerlibError, check_count
from steerlib.tasks.hub.photo import Photo
from steerlib.tasks.hub.repository import COMMIT, Repository, check_installed, find, is_id, rows_of
from steerlib.tasks.item import occupations as known_occupations
from steerlib.tasks.own import People, occupation_rows

SOURCE = "Intel/SocialCounterfactuals"
LABELS = ("counterfactual_set", "caption", "a1_type", "a1", "a2_type", "a2", "a1a2")
GENDERS = {"male": "man", "female": "woman"}
SYNONYMS = {
    "computer programmer": "programmer",
    "security guard": "guard",
    "policeman": "police officer",
    "attorney": "lawyer",
}
"""What captions call some occupations of ours."""


def social_counterfactuals(
    split: str = "test",
    *,
    source: str | Path = SOURCE,
    revision: str | None = None,
    occupations: People | None = None,
    sets: int = 2,
    races: Sequence[str] | None = None,
    size: int | None = 448,
    seed: int = 0,
) -> tuple[Photo, ...]:
    """Photos of SocialCounterfactuals (Howard et al., CVPR 2024), some sets of each occupation.

    Only the sets that cross race with gender are used. The occupation is what the caption says ("A picture of a White male
    plumber"); its stereotype and its percentage of women come from `steerlib.tasks.occupations`, and occupations that we have no
    figure for are left out. Splits are ours, by occupation, since those of the papers are not published: training sees no occupation
    of the test. Reading needs the package `datasets` (`pip install 'steerlib[hub]'`). Labels and pictures of the hub are kept in
    steerlib's cache.

    - Source: Intel/SocialCounterfactuals, MIT. 170,832 pictures, of which 95,232 cross race with gender: 7,936 sets of 12.
    - Known faults: the pictures were made by Stable Diffusion and filtered by CLIP, so that race and gender are what a model takes
      them for; there are two genders and six races; the number of sets differs by occupation.

    Args:
        split: Of our occupations, as in `occupations(split)`.
        source: The set on the hub, or a folder that holds a copy of it with the same files (data/train-....parquet).
        revision: A commit of the hub. None takes the newest one, and warns which that is, so that it can be named.
        occupations: Occupations to use instead of the split's own: a frame or a CSV file, as in `pronoun`.
        sets: How many sets of each occupation; those that have fewer are left out, with a warning.
        races: Some of the races; None takes all.
        size: The longer side of the pictures, in pixels; None leaves them as they are.
        seed: Of the choice of sets.

    Returns:
        Photos, by occupation, set and race, a man before a woman. `source` has the commit.

    Raises:
        SteerlibError: If the set or a column is missing, the hub does not answer, no occupation is known, or every one has too few
            sets.

    >>> photos = social_counterfactuals("test", sets=4)  # doctest: +SKIP
    >>> photos[0].occupation, photos[0].race, photos[0].gender  # doctest: +SKIP
    ('mechanic', 'Asian', 'man')
    """
    check_count("sets", sets)
    check_count("seed", seed, 0)
    if isinstance(races, str) or (races is not None and not len(races)):
        raise SteerlibError(f"races is a list of one or more, such as ['White', 'Black'], not {races!r}.")
    known = known_occupations(split)
    own = None if occupations is None else occupation_rows(occupations, groups=("man", "woman"))
    about = (
        {row["occupation"]: {} for row in known.to_dict("records")}
        if own is None
        else {r["occupation"]: r for r in own}
    )
    repository, table = _labels(source, revision)
    rows = _used(table, list(about))
    if rows.empty:
        raise SteerlibError(
            f"no caption of '{repository.name}' names an occupation of {'yours' if own else f'the split {split!r}'}, such as "
            f"'{next(iter(about))}'."
        )
    if unknown := [race for race in races or () if race not in set(rows["race"])]:
        raise SteerlibError(
            f"'{repository.name}' has no race {unknown[0]!r}: there are {', '.join(sorted(set(rows['race'])))}."
        )
    chosen = _chosen(rows, list(about), sets, seed, repository.name)
    files = _pictures(repository, chosen)
    kept = chosen if races is None else chosen[chosen["race"].isin(list(races))]
    return tuple(
        Photo(
            files[row["counterfactual_set"], row["a1a2"]],
            row["occupation"],
            row["gender"],
            row["race"],
            scene=row["counterfactual_set"],
            source=repository.source,
            size=size,
            **{key: value for key, value in about[row["occupation"]].items() if key != "occupation"},
        )
        for row in kept.to_dict("records")
    )


def _labels(source: str | Path, revision: str | None) -> tuple[Repository, pd.DataFrame]:
    """The set, and a row of labels per picture with the shard that holds it; those of a commit of the hub are kept."""
    check_installed()
    if revision is not None and re.fullmatch(COMMIT, revision) and is_id(source) and not Path(source).is_dir():
        table = _read(_folder(str(source), revision) / "labels.parquet")
        if table is not None:  # then the hub need not be asked
            return Repository(str(source), revision, tuple(dict.fromkeys(table["shard"]))), table
    repository = find(source, revision=revision)
    kept = _folder(repository.name, repository.commit) / "labels.parquet"
    if repository.commit and (table := _read(kept)) is not None:
        return repository, table
    parts = []
    for shard in tqdm(repository.shards, desc=f"labels of {repository.source[:60]}", unit="shard", leave=False):
        part = rows_of(repository, shard, LABELS).astype(str)
        parts.append(part.assign(shard=shard))
    table = pd.concat(parts, ignore_index=True)
    if repository.commit:
        _keep(table, kept)
    return repository, table


def _used(table: pd.DataFrame, jobs: list[str]) -> pd.DataFrame:
    """The rows that cross race with gender and show one of the occupations, with the columns occupation, race and gender."""
    crossed = [
        {a.lower(), b.lower()} == {"race", "gender"} for a, b in zip(table["a1_type"], table["a2_type"], strict=True)
    ]
    rows = table[crossed].copy()
    first = rows["a1_type"].str.lower() == "gender"
    rows["gender"] = rows["a1"].where(first, rows["a2"]).str.lower().map(GENDERS)
    rows["race"] = rows["a2"].where(first, rows["a1"])
    names = {**SYNONYMS, **{_plain(job): job for job in jobs}}
    said = [_occupation(caption, who) for caption, who in zip(rows["caption"], rows["a1a2"], strict=True)]
    rows["occupation"] = [names.get(job) for job in said]
    return rows[rows["occupation"].isin(jobs) & rows["gender"].notna()].reset_index(drop=True)


def _occupation(caption: str, who: str) -> str:
    """What a caption says after whom it shows, in small letters: "plumber" of "A picture of a White male plumber"."""
    _, found, job = caption.casefold().partition(f"{who.casefold()} ")
    return _plain(job) if found else ""


def _plain(job: str) -> str:
    return " ".join(job.casefold().replace("-", " ").replace("_", " ").split()).rstrip(".")


def _chosen(rows: pd.DataFrame, jobs: list[str], sets: int, seed: int, name: str) -> pd.DataFrame:
    """The rows of some sets of each occupation, in the order in which photos are given."""
    kept: list[pd.DataFrame] = []
    few: list[str] = []
    for job in jobs:
        some = rows[rows["occupation"] == job]
        there = sorted(set(some["counterfactual_set"]))
        if len(there) < sets:
            few += [f"{job} ({len(there)})"] if there else []
            continue
        order = np.random.default_rng([seed, zlib.crc32(job.encode())]).permutation(len(there))[:sets]
        for place in order:
            one = some[some["counterfactual_set"] == there[place]]
            kept.append(one.sort_values(["race", "gender"], kind="stable"))
    if not kept:
        raise SteerlibError(f"no occupation has {sets} sets in '{name}': there are {', '.join(few[:8])}.")
    if few:
        warnings.warn(
            f"these occupations have fewer than {sets} sets and are left out: {', '.join(few)}.", stacklevel=3
        )
    return pd.concat(kept, ignore_index=True)


def _pictures(repository: Repository, rows: pd.DataFrame) -> dict[tuple[str, str], bytes]:
    """The file of each picture by its set and by whom it shows, from the cache or from the shards that hold them."""
    found: dict[tuple[str, str], bytes] = {}
    missing: dict[str, list[str]] = {}
    for name, some in rows.groupby("counterfactual_set", sort=False):
        kept = _kept_set(repository, str(name))
        if kept is not None and (table := _read(kept)) is not None:
            found |= {(str(name), who): file for who, file in zip(table["a1a2"], table["file"], strict=True)}
        else:
            for shard in dict.fromkeys(some["shard"]):
                missing.setdefault(shard, []).append(str(name))
    for shard, names in tqdm(missing.items(), desc=f"pictures of {repository.source[:60]}", unit="shard", leave=False):
        table = rows_of(repository, shard, ("counterfactual_set", "a1a2", "image"), counterfactual_set=names)
        for name, who, image in table.itertuples(index=False, name=None):
            if not isinstance(image, dict) or not image.get("bytes"):
                raise SteerlibError(f"'{repository.name}' holds no picture in the column 'image' of the set '{name}'.")
            found[str(name), str(who)] = bytes(image["bytes"])
    for name in dict.fromkeys(name for names in missing.values() for name in names):
        if (kept := _kept_set(repository, name)) is not None:
            files = {who: file for (one, who), file in found.items() if one == name}
            _keep(pd.DataFrame({"a1a2": list(files), "file": list(files.values())}), kept)
    if absent := [key for key in zip(rows["counterfactual_set"], rows["a1a2"], strict=True) if key not in found]:
        raise SteerlibError(f"'{repository.name}' lacks the picture of the {absent[0][1]} in the set '{absent[0][0]}'.")
    return found


def _kept_set(repository: Repository, name: str) -> Path | None:
    """The file in the cache for the pictures of a set; None for a copy in a folder, which needs none."""
    if not repository.commit:
        return None
    return (
        _folder(repository.name, repository.commit)
        / "sets"
        / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.parquet"
    )


def _folder(name: str, commit: str) -> Path:
    return cache_dir() / "hub" / name.replace("/", "--") / (commit or "folder")


def _read(file: Path) -> pd.DataFrame | None:
    """A table of the cache; None where there is none, or where it is damaged and has to be made again."""
    try:
        table: pd.DataFrame = pd.read_parquet(file)
        return table
    except (OSError, ValueError):  # pyarrow's errors about a damaged file are ValueErrors
        return None


def _keep(table: pd.DataFrame, file: Path) -> None:
    """Write a table in one step, so that a file that is there is whole."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        half: Any = file.with_suffix(f".{os.getpid()}.part")
        table.to_parquet(half, index=False)
        os.replace(half, file)
    except OSError as error:
        raise SteerlibError(
            f"the cache folder {cache_dir()} cannot be used ({error.strerror or error}): make room or give the right to write there, "
            "or name another folder in the environment variable STEERLIB_CACHE."
        ) from error
