"""What a model is asked: a Task is a list of items, each a prompt with options, of which every option stands for a group.

An item is ambiguous (any group would do: it measures bias) or unambiguous (one group is right: it measures capability).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt

SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Item:
    """One decision. options[i] is an answer that stands for groups[i].

    cluster: what the item is about, such as an occupation; items about one thing are not independent, and bias is averaged over
    clusters. statistic: a number known about the cluster, such as the percentage of women in an occupation, or None. stereotype:
    the group that a prejudice expects, or None if there is none. template: the wording it comes from. answer: the group that
    the prompt makes right, or None if the item is ambiguous. wording: what counterbalanced versions of a wording have in common,
    if each has a template of its own.
    """

    prompt: Prompt
    options: tuple[str, ...]
    groups: tuple[str, ...]
    cluster: str
    statistic: float | None = None
    stereotype: str | None = None
    template: str = ""
    answer: str | None = None
    wording: str = ""

    @property
    def occupation(self) -> str:
        """The cluster of an item about work."""
        return self.cluster

    @property
    def percent_women(self) -> float | None:
        """The statistic of an item about work: the percentage of women who do it."""
        return self.statistic


@dataclass(frozen=True)
class Task:
    """A named list of items.

    about: what the clusters are, in one word that names a column of results ("occupation"). statistic: what the items' number
    is, likewise ("percent_women").
    """

    name: str
    items: tuple[Item, ...]
    about: str = "cluster"
    statistic: str = "statistic"

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def ambiguous(self) -> Task:
        """Only the items on which either answer would do."""
        return replace(self, items=tuple(item for item in self.items if item.answer is None))

    @property
    def unambiguous(self) -> Task:
        """Only the items that have a right answer."""
        return replace(self, items=tuple(item for item in self.items if item.answer is not None))


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
