"""What a model is asked: a Task is a list of items, each a prompt with options, of which every option stands for a group.

An item is ambiguous (any group would do: it measures bias) or unambiguous (one group is right: it measures capability).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt

SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Item:
    """One decision. options[i] is an answer that stands for groups[i].

    occupation, percent_women, stereotype: whom it is about. template: the wording it comes from. answer: the group that
    the prompt makes right, or None if the item is ambiguous.
    """

    prompt: Prompt
    options: tuple[str, ...]
    groups: tuple[str, ...]
    occupation: str
    percent_women: float
    stereotype: str
    template: str
    answer: str | None = None


@dataclass(frozen=True)
class Task:
    """A named list of items."""

    name: str
    items: tuple[Item, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def ambiguous(self) -> Task:
        """Only the items on which either answer would do."""
        return Task(self.name, tuple(item for item in self.items if item.answer is None))

    @property
    def unambiguous(self) -> Task:
        """Only the items that have a right answer."""
        return Task(self.name, tuple(item for item in self.items if item.answer is not None))


def occupations(split: str = "all", *, pictured: bool = False) -> pd.DataFrame:
    """Occupations with their share of women, a row each; with `pictured`, only the 20 that have pictures.

    split: "train", "validation", "test" or "all"; with `pictured`, of the column picture_split, else of the column split.
    Columns: occupation, percent_women, stereotype, year, source, picture_split ("" without pictures), split. Source: US
    Bureau of Labor Statistics; see the card in data/README.md.
    """
    if split not in SPLITS:
        raise SteerlibError(f"there is no split '{split}': use {', '.join(SPLITS)}.")
    table = pd.read_csv(data_path("occupations.csv"), keep_default_na=False)
    column = "picture_split" if pictured else "split"
    kept = table[column] != "" if split == "all" else table[column] == split
    return table[kept].reset_index(drop=True)


def article(noun: str) -> str:
    """The noun with "a" or "an" before it; right for every occupation in the table."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
