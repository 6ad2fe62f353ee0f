"""Who is shown beside whom: from photos to the people of each occupation, and to the pairs that a question compares.

Two photos are an ambiguous pair if they show one scene and differ in gender alone, or in race alone. In an unambiguous pair the
other person does other work, and differs in the same way; pictures of other scenes are taken.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerlib.errors import SteerlibError
from steerlib.tasks.hub.own_pictures import photos_from
from steerlib.tasks.hub.pairs import is_pairs, pairs
from steerlib.tasks.hub.photo import Photo
from steerlib.tasks.hub.repository import is_id
from steerlib.tasks.hub.social_counterfactuals import social_counterfactuals
from steerlib.tasks.item import occupations

Photos = Sequence[Photo] | str | Path
"""Photos, or where they are: the id of SocialCounterfactuals on the hub, with "@" and a commit if you like, or a folder."""

ALIKE = (
    {"chef", "cook"},
    {"chemist", "scientist"},
    {"manager", "supervisor"},
    {"worker", "factory worker", "construction worker"},
)
"""Occupations of which one can be taken for the other, so that they are no rivals in an unambiguous pair."""


@dataclass(frozen=True)
class Job:
    """An occupation that photos show.

    Attributes:
        name: The occupation.
        photos: Those that show it, in order.
        stereotype: The gender that a prejudice expects, or None if none is known.
        percent_women: The percentage of women, if it is known.
        family: See `Item`.
    """

    name: str
    photos: tuple[Photo, ...]
    stereotype: str | None
    percent_women: float | None
    family: str


def photos_of(photos: Photos, split: str, *, sets: int, size: int | None, seed: int) -> tuple[Photo, ...]:
    """The photos that were given, or that are where a text says.

    Args:
        photos: A sequence of photos, or where they are.
        split: Of SocialCounterfactuals.
        sets: Of each occupation, likewise.
        size: The longer side of pictures that a text names; None: 448 for SocialCounterfactuals, and as they are for a folder.
        seed: Of the choice of sets.

    Raises:
        SteerlibError: If something else was given.
    """
    if isinstance(photos, (str, Path)):
        folder = Path(photos).expanduser()
        if folder.is_dir():
            if (folder / "table.csv").is_file():
                return photos_from(folder, size=size)
            if is_pairs(folder):
                return pairs(folder, size=size)
            return social_counterfactuals(split, source=folder, sets=sets, size=size or 448, seed=seed)
        source, _, revision = str(photos).partition("@")
        if not is_id(source):
            raise SteerlibError(
                f"photos are a list of Photo, a folder, or the id of a data set such as 'Intel/SocialCounterfactuals', and '{photos}' "
                "is neither a folder nor an id."
            )
        return social_counterfactuals(
            split, source=source, revision=revision or None, sets=sets, size=size or 448, seed=seed
        )
    given = [] if isinstance(photos, Photo) else list(photos)
    if not given or not all(isinstance(photo, Photo) for photo in given):
        raise SteerlibError("photos are a list of one or more Photo, as steerlib.tasks.photos_from makes it.")
    return tuple(given)


def jobs_of(photos: Sequence[Photo], split: str, *, unknown: bool = False) -> list[Job]:
    """The occupations that photos show, of one split.

    An occupation of ours belongs to its split in `occupations`. A photo with a stereotype of its own belongs to every split.

    Args:
        photos: The photos.
        split: "train", "validation", "test" or "all".
        unknown: Keep occupations without a stereotype that are not in our table.

    Raises:
        SteerlibError: If no photo shows an occupation of the split, or photos disagree about an occupation.
    """
    ours: dict[str, Any] = {row["occupation"]: row for row in occupations(split).to_dict("records")}
    elsewhere = set(occupations()["occupation"])
    made: dict[str, list[Photo]] = {}
    for photo in photos:
        if photo.stereotype is not None or photo.occupation in ours or (unknown and photo.occupation not in elsewhere):
            made.setdefault(photo.occupation, []).append(photo)
    if not made:
        shown = ", ".join(list(dict.fromkeys(photo.occupation for photo in photos))[:8])
        raise SteerlibError(
            f"no photo shows an occupation of the split '{split}', and none has a stereotype of its own: they show {shown}."
        )
    found = []
    for name, some in made.items():
        facts = list(dict.fromkeys((p.stereotype, p.percent_women, p.family) for p in some))
        if len(facts) > 1:
            raise SteerlibError(f"photos of '{name}' disagree about its stereotype, percentage of women or family.")
        about: dict[str, Any] = ours.get(name, {})
        if facts[0][0] is not None:
            about = dict(zip(("stereotype", "percent_women", "family"), facts[0], strict=True))
        found.append(
            Job(name, tuple(some), about.get("stereotype"), about.get("percent_women"), about.get("family") or "")
        )
    return found


def couples(job: Job, by: str, races: tuple[str, str], seed: int) -> list[tuple[Photo, Photo]]:
    """The pairs of one scene, shuffled: a man before a woman of one race, or people of two races and one gender.

    Args:
        job: The occupation.
        by: "gender" or "race".
        races: The two races to compare, if by race.
        seed: Of the shuffle.

    Raises:
        SteerlibError: If there is no pair.
    """
    sides = ("man", "woman") if by == "gender" else races
    scenes: dict[tuple[str, str], tuple[list[Photo], list[Photo]]] = {}
    for photo in job.photos:
        group, rest = (photo.gender, photo.race) if by == "gender" else (photo.race, photo.gender)
        if group in sides:
            scenes.setdefault((photo.scene, rest), ([], []))[sides.index(group)].append(photo)
    rng = np.random.default_rng([seed, zlib.crc32(job.name.encode())])
    found: list[tuple[Photo, Photo]] = []
    for one, other in scenes.values():
        if one and other:  # where a scene is not known, each of the more numerous side has one partner
            rows, columns = rng.permutation(len(one)), rng.permutation(len(other))
            most = max(len(one), len(other))
            found += [(one[rows[i % len(one)]], other[columns[i % len(other)]]) for i in range(most)]
    if not found:
        raise SteerlibError(
            f"no two photos of '{job.name}' show one scene and differ in {by} alone: a question needs a {sides[0]} and a {sides[1]} "
            "side by side."
        )
    return [found[i] for i in rng.permutation(len(found))]


def rival(job: Job, jobs: Sequence[Job], fits: Photo, wrong: Photo, by: str, rng: np.random.Generator) -> Photo:
    """A person of other work than `fits`, who differs from that one as `wrong` does.

    Args:
        job: The occupation that is asked about.
        jobs: All of them.
        fits: Whom the question means.
        wrong: The other one of the pair that `fits` is from.
        by: "gender" or "race".
        rng: What chooses.

    Raises:
        SteerlibError: If there is nobody.
    """
    scenes = {photo.scene for photo in job.photos} - {""}
    close = {job.name, *(name for group in ALIKE if job.name in group for name in group)}
    there: list[list[Photo]] = []
    for other in jobs:
        if other.name in close or (job.family and other.family == job.family):
            continue
        some = [
            photo
            for photo in other.photos
            if photo.gender == wrong.gender and photo.race == wrong.race and photo.scene not in scenes
        ]
        there += [some] if some else []
    if not there:
        who = f"{wrong.race} {wrong.gender}".strip()
        raise SteerlibError(
            f"no photo shows a {who} of other work than '{job.name}', for a question with a right answer."
        )
    some = there[int(rng.integers(len(there)))]
    return some[int(rng.integers(len(some)))]
