"""Profiles: the same chapters with other models, data and sample sizes, in one file each under profiles/.

The one idea: a chapter does not know where it runs. A profile hands papermill the chapter's parameters, and what the run
measures is judged against the claims of that profile.

    about: ...                    one line, shown by `steerlib reproduce --help`
    needs: ...                    the machine that it takes
    prepare: tools/tiny.py        a script that makes what the parameters name; optional
    rehearses: gpu                the profile whose claims it records without judging them; optional
    revisions: {...}              of models and data sets on the hub: written after an @ wherever their name is a parameter
    chapters: all                 or the parameters of each chapter that runs, by its file stem; {} is the chapter's own
"""

from __future__ import annotations

import difflib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from steerlib.errors import SteerlibError

USUAL = "cpu"  # the book as it is read
FIELDS = ("about", "needs", "prepare", "rehearses", "revisions", "chapters")


@dataclass(frozen=True)
class Profile:
    """A profile; the fields are those of its file, `chapters` in the book's order."""

    name: str
    about: str
    chapters: Mapping[str, Mapping[str, object]]
    needs: str = ""
    prepare: str = ""
    rehearses: str = ""
    revisions: Mapping[str, str] = field(default_factory=dict)


def profile_names(root: Path) -> list[str]:
    """The profiles of a checkout, the book's own first."""
    return sorted((path.stem for path in (root / "profiles").glob("*.yml")), key=lambda name: (name != USUAL, name))


def read_profile(root: Path, name: str, known: Sequence[str]) -> Profile:
    """Read profiles/NAME.yml.

    Args:
        root: the checkout.
        name: of the profile. "cpu" needs no file: it is every chapter with its own parameters.
        known: all chapters, in the book's order.

    Returns:
        The profile, each model and data set of the hub with its revision.

    Raises:
        SteerlibError: there is no such profile, or its file is not one.
    """
    path = root / "profiles" / f"{name}.yml"
    if not path.is_file():
        if name == USUAL:
            return Profile(name, "the book as it is read", {chapter: {} for chapter in known})
        there = profile_names(root)
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"is {near[0]} meant?" if near else f"there are {', '.join(there) or 'none'}."
        raise SteerlibError(f"there is no profile {name!r}: {hint}")
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise SteerlibError(f"profiles/{path.name} is not valid YAML: {' '.join(str(error).split())}.") from error
    where = f"profiles/{path.name}"
    if not isinstance(found, dict) or not {"about", "chapters"} <= set(found):
        raise SteerlibError(f"{where} must be a mapping with at least about and chapters.")
    if unknown := [str(key) for key in found if key not in FIELDS]:
        raise SteerlibError(f"{where} has the unknown field {unknown[0]}: there are {', '.join(FIELDS)}.")
    for key in ("about", "needs", "prepare", "rehearses"):
        if not isinstance(found.get(key, ""), str):
            raise SteerlibError(f"{where}: {key} must be a text.")
    revisions, chapters = found.pop("revisions", {}), found.pop("chapters")
    chapters = {chapter: {} for chapter in known} if chapters == "all" else chapters
    for key, content in (("revisions", revisions), ("chapters", chapters)):
        if not isinstance(content, dict):
            raise SteerlibError(f"{where}: {key} must be a mapping.")
    for chapter, values in chapters.items():
        if chapter not in known:
            raise SteerlibError(f"{where} names the chapter {chapter}, no notebook of book/_toc.yml.")
        if not isinstance(values, dict):
            raise SteerlibError(f"{where}: the parameters of {chapter} must be a mapping, {{}} for its own.")
    pinned = {
        name: {key: _pinned(x, revisions) for key, x in chapters[name].items()} for name in known if name in chapters
    }
    return Profile(name, **found, revisions=revisions, chapters=pinned)


def prepare(root: Path, profile: Profile) -> None:
    """Run the script of a profile that makes what its parameters name.

    Raises:
        SteerlibError: the script failed; what it printed is on the screen.
    """
    if profile.prepare:
        command = [sys.executable, *shlex.split(profile.prepare)]
        if subprocess.run(command, cwd=root, check=False).returncode:
            raise SteerlibError(f"the profile {profile.name} could not be prepared: `python {profile.prepare}` failed.")


def _pinned(value: object, revisions: Mapping[str, str]) -> object:
    """A name on the hub with the revision that the profile gives it."""
    return f"{value}@{revisions[value]}" if isinstance(value, str) and value in revisions else value
