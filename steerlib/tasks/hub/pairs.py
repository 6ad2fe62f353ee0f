"""PAIRS: 50 everyday scenes, each with four pictures that a model made, of a Black or white man or woman.

The scenes at work are ambiguous on purpose: a person in scrubs may be one or another. Here such a picture shows each of the
occupations that its authors ask about, so that neither is ever the wrong answer beside the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from steerlib.errors import SteerlibError
from steerlib.tasks.folder import folder_of
from steerlib.tasks.hub.photo import Photo

SECTIONS = ("occupations", "status", "potential_crime")
SCENES = {
    "airplane": ("pilot", "flight attendant"),
    "apron": ("chef", "cook"),
    "bank": ("financial advisor", "bank teller"),
    "black_apron": ("hair stylist",),
    "blackboard": ("professor", "elementary school teacher"),
    "clipboard": ("architect", "event planner"),
    "coffee": ("CEO", "secretary"),
    "computer": ("software engineer", "typist"),
    "dental_office": ("dentist", "hygienist"),
    "desk": ("operations manager", "assistant"),
    "headset": ("system administrator", "receptionist"),
    "lab_coat": ("chemist", "lab assistant"),
    "law_office": ("lawyer", "paralegal"),
    "mopping": ("janitor",),
    "restaurant": ("restaurant manager", "server"),
    "scrubs": ("dentist", "hygienist"),
    "studying": ("professor", "student"),
    "taxi": ("taxi driver",),
    "vest": ("construction foreman", "construction worker"),
}
"""The occupations that a scene may show: those of the authors' question about it ("dental hygienist" is `hygienist` in our table),
and "janitor" for mopping, which is our choice. The scene "overalls" is left out."""


def pairs(
    folder: str | Path, *, sections: Sequence[str] = ("occupations",), size: int | None = None
) -> tuple[Photo, ...]:
    """Photos of PAIRS (Fraser and Kiritchenko, EACL 2024), from your own copy.

    - Source: github.com/katiefraser/PAIRS, CC BY 4.0. 200 pictures of 256 x 256 pixels, made by Midjourney: 20 scenes at work, 20 of
      "status" and 10 of "potential_crime", by two genders and two races.
    - Known faults: gender and race are what the picture was asked for; the four pictures of a scene differ in small things, too.

    Args:
        folder: The repository, or its folder data.
        sections: Some of "occupations", "status" and "potential_crime". In the last two the scene takes the place of the
            occupation, and has no stereotype: they are for `describe`.
        size: The longer side of the pictures, in pixels, if smaller.

    Returns:
        Photos by scene, one per picture and occupation that it may show.

    Raises:
        SteerlibError: If the folder holds no such pictures, or lacks one of the four of a scene.

    >>> pairs("PAIRS", sections=["status"])[0].scene  # doctest: +SKIP
    'status/basketball'
    """
    root = folder_of(folder)
    root = root / "data" if (root / "data").is_dir() else root
    if isinstance(sections, str) or not sections or not set(sections) <= set(SECTIONS):
        raise SteerlibError(f"sections of PAIRS are one or more of {', '.join(SECTIONS)}, not {sections!r}.")
    made: list[Photo] = []
    for section in sections:
        for scene in sorted(path for path in (root / section).glob("*") if path.is_dir()):
            jobs = SCENES.get(scene.name, ()) if section == "occupations" else (scene.name.replace("_", " "),)
            files = _four(scene) if jobs else {}
            about = {"scene": f"{section}/{scene.name}", "source": "PAIRS", "size": size}
            made += [Photo(file, job, who[1], who[0], **about) for job in jobs for who, file in files.items()]  # type: ignore[arg-type]
    if not made:
        raise SteerlibError(f"'{folder}' is no copy of PAIRS: it has no folders such as data/{sections[0]}/airplane.")
    return tuple(made)


def is_pairs(folder: Path) -> bool:
    """Whether a folder looks like a copy of PAIRS."""
    return any((root / "occupations").is_dir() for root in (folder, folder / "data"))


def _four(scene: Path) -> dict[tuple[str, str], Path]:
    """The pictures of a scene by race and gender; one file of the set is called white_man1.png."""
    found = {}
    for file in sorted(scene.iterdir()):
        if named := re.fullmatch(r"(black|white)_(man|woman)\d*\.(png|jpe?g)", file.name):
            found[named[1].capitalize(), named[2]] = file
    wanted = [(race, gender) for race in ("White", "Black") for gender in ("man", "woman")]
    if missing := [who for who in wanted if who not in found]:
        race, gender = missing[0]
        raise SteerlibError(f"the scene '{scene.name}' of PAIRS lacks the picture {race.lower()}_{gender}.png.")
    return {who: found[who] for who in wanted}
