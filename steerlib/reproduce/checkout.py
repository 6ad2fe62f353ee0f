"""The checkout of the book: where it is, which chapters it has, its ledger, and the records of what was run in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from steerlib.errors import SteerlibError
from steerlib.reproduce.contents import contents
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.profiles import USUAL
from steerlib.reproduce.record import Record, read_record
from steerlib.reproduce.rules import Claim

PACKAGE = Path(__file__).resolve().parent.parent


def find_root() -> Path:
    """The checkout of the book: the working folder or one above it, else the package's own.

    Raises:
        SteerlibError: there is none, as after a plain `pip install`.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE.parent):
        if (folder / "book" / "_toc.yml").is_file() and (folder / "_config.yml").is_file():
            return folder
    raise SteerlibError(
        "this needs a checkout of the book, and there is none here: run `git clone "
        "https://github.com/steerlib/steering-away-from-bias`, and then the command in its folder."
    )


def notebooks(root: Path) -> list[str]:
    """File stems of the chapters that are notebooks, in the order of book/_toc.yml.

    Raises:
        SteerlibError: the table of contents names a page that is not there, or is not valid YAML.
    """

    return [page.name for page in contents(root) if page.notebook]


def choose(names: Sequence[str], known: Sequence[str], root: Path | None = None) -> list[str]:
    """The chapters that the user's words mean: a file stem, or a number ("3" or "03", "a1" for an appendix).

    Args:
        names: the user's words; none means all chapters.
        known: the chapters to choose from, in the book's order.
        root: the checkout, whose table of contents says which number is whose; without it, `known` are chapters 1, 2 and so on.

    Returns:
        Chapters of `known`, in its order.

    Raises:
        SteerlibError: a word that means no chapter.

    >>> choose(["2"], ["words", "vectors"])
    ['vectors']
    """
    numbers = {str(number): stem for number, stem in enumerate(known, start=1)}
    if root is not None:
        numbers = {page.number.lower(): page.name for page in contents(root) if page.number}
    chosen = set()
    for name in names:
        stem = name.removesuffix(".ipynb")
        stem = numbers.get(stem.lower().lstrip("0"), stem)
        if stem not in known:
            raise SteerlibError(f"unknown chapter {name!r}: the known ones are {', '.join(known)}.")
        chosen.add(stem)
    return [stem for stem in known if stem in chosen or not names]


def read_ledger(root: Path) -> dict[str, Claim]:
    """The checkout's ledger, with the chapters it names compared to the table of contents.

    Raises:
        SteerlibError: as `load_ledger`, or a claim of a chapter that the book does not have.
    """
    ledger = load_ledger(root / "data" / "claims.yml")
    known = notebooks(root)
    for one in ledger.values():
        if one.chapter not in known:
            raise SteerlibError(f"claim {one.id} names the chapter {one.chapter}, no notebook of book/_toc.yml.")
    return ledger


def read_records(root: Path, names: Collection[str] | None = None, profile: str = USUAL) -> dict[str, Record]:
    """The records of the chapters that were run here, by chapter, in the book's order.

    Args:
        root: the checkout.
        names: the chapters of interest; all of them when left out.
        profile: that they were run with.

    Raises:
        SteerlibError: a record is damaged, or was changed after it was written.
    """
    paths = {name: record_path(root, name, profile) for name in notebooks(root) if names is None or name in names}
    return {name: read_record(path) for name, path in paths.items() if path.exists()}


def run_folder(root: Path, profile: str = USUAL) -> Path:
    """Where the runs of a profile are: the book's own in _build, of which the book is made, any other in a folder of its own."""
    return root / "_build" if profile == USUAL else root / "_build" / "profiles" / profile


def record_path(root: Path, name: str, profile: str = USUAL) -> Path:
    """Where the record of a chapter's run is."""
    return run_folder(root, profile) / "run" / f"{name}.json"


def executed_path(root: Path, name: str, profile: str = USUAL) -> Path:
    """Where the executed copy of a chapter is; the book shows those of its own profile."""
    return run_folder(root, profile) / "executed" / f"{name}.ipynb"


def expected_seconds(root: Path, profile: str = USUAL) -> dict[str, float]:
    """How long each chapter should take: as in its last whole run here, else as data/seconds.yml says of the book's own."""
    path = root / "data" / "seconds.yml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() and profile == USUAL else {}
    except (yaml.YAMLError, ValueError):
        found = {}  # only an estimate hangs on it
    seconds = {str(k): float(x) for k, x in found.items() if type(x) in (int, float)} if isinstance(found, dict) else {}
    for name in notebooks(root):
        try:
            record = read_record(record_path(root, name, profile))
        except SteerlibError:
            continue
        if record.get("status") == "ran":
            seconds[name] = record["seconds"]
    return seconds
