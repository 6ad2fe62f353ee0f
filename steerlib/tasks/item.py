"""What a model is asked: a Task is a list of items, each a prompt with options, of which every option stands for a group.

An item is ambiguous (any group would do: it measures bias) or unambiguous (one group is right: it measures capability). Tasks
are cut and joined as lists are: `task[:10]`, `task.where(template="late")`, `task + other`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any, SupportsIndex, overload

import pandas as pd
from PIL import Image

from steerlib.assets import data_path
from steerlib.errors import SteerlibError, check_count
from steerlib.models.prompts import Prompt, as_text, pictures_of
from steerlib.tasks.sample import even_sample, same_but_for_order

SPLITS = ("train", "validation", "test", "all")


@dataclass(frozen=True)
class Item:
    """One decision: options[i] is an answer that stands for groups[i].

    Attributes:
        prompt: A text, or a chat as `steerlib.chat` writes it.
        options: The answers, two or more, with the blank that comes before them in the text.
        groups: The group that each option stands for.
        cluster: What the item is about, such as an occupation. Items about one thing are not independent, so bias is averaged
            over clusters.
        statistic: A number known about the cluster, such as the percentage of women in an occupation, or None.
        stereotype: The group that a prejudice expects, or None if there is none.
        template: The wording it comes from.
        answer: The group that the prompt makes right, or None if the item is ambiguous.
        wording: What counterbalanced versions of a wording have in common, if each has a template of its own.
        family: What clusters have in common that are not independent evidence, such as doctor and surgeon, whose statistic is
            one published figure: intervals treat them as one cluster. "" where a cluster stands alone.

    Raises:
        SteerlibError: If there are not as many groups as options, or fewer than two.

    >>> item = Item("The pilot said that", (" he", " she"), ("man", "woman"), "pilot", stereotype="man")
    >>> item.answer is None
    True
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
    family: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or isinstance(self.groups, str):
            raise SteerlibError(f"options and groups are tuples of texts, not {self.options!r} and {self.groups!r}.")
        if len(self.options) != len(self.groups) or len(self.options) < 2:
            raise SteerlibError(
                f"an item has two options or more and a group for each: {len(self.options)} options and "
                f"{len(self.groups)} groups were given about '{self.cluster}'."
            )

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The pictures that the prompt shows, in order."""
        return tuple(pictures_of(self.prompt))

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

    Attributes:
        name: What results are called.
        items: The items, in order.
        about: What the clusters are, in one word that names a column of results ("occupation").
        statistic: What the items' number is, likewise ("percent_women").

    >>> from steerlib.tasks import pronoun
    >>> task = pronoun("test")
    >>> len(task.where(template=["late", "tired"])) == 2 * len(task.where(template="late"))
    True
    >>> len(task[:3] + task[3:]) == len(task)
    True
    """

    name: str
    items: tuple[Item, ...]
    about: str = "cluster"
    statistic: str = "statistic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", tuple(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @overload
    def __getitem__(self, which: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, which: slice) -> Task: ...

    def __getitem__(self, which: SupportsIndex | slice) -> Item | Task:
        """The item at a place, or the task of the items in a slice."""
        if isinstance(which, slice):
            return replace(self, items=self.items[which])
        try:
            return self.items[index(which)]
        except TypeError:
            raise SteerlibError(
                f"an item of '{self.name}' is named by its place or a slice, such as task[3] or task[2:5], not by "
                f"{which!r}: choose by a field with task.where(...)."
            ) from None
        except IndexError:
            raise SteerlibError(f"'{self.name}' has {len(self)} items: there is no item {index(which)}.") from None

    def __add__(self, other: Task) -> Task:
        """The items of both, if they can be scored together."""
        if not isinstance(other, Task):
            return NotImplemented
        for what in ("about", "statistic"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise SteerlibError(
                    f"'{self.name}' and '{other.name}' cannot be added: their {what} is '{mine}' and '{theirs}'."
                )
        sets = [sorted({group for item in task for group in item.groups}) for task in (self, other)]
        if self.items and other.items and sets[0] != sets[1]:
            raise SteerlibError(
                f"'{self.name}' and '{other.name}' cannot be added: their groups are {', '.join(sets[0])} and "
                f"{', '.join(sets[1])}."
            )
        name = self.name if self.name == other.name else f"{self.name} + {other.name}"
        return replace(self, name=name, items=self.items + other.items)

    @property
    def ambiguous(self) -> Task:
        """Only the items on which either answer would do."""
        return replace(self, items=tuple(item for item in self.items if item.answer is None))

    @property
    def unambiguous(self) -> Task:
        """Only the items that have a right answer."""
        return replace(self, items=tuple(item for item in self.items if item.answer is not None))

    def as_text(self) -> Task:
        """The same questions for a model without a chat template: each chat as one text, a message per line.

        Returns:
            A task of the same items, whose prompts are texts.

        Raises:
            SteerlibError: If a chat shows pictures.

        >>> from steerlib.tasks import pronoun
        >>> pronoun("test").where(template="prize", cluster="mechanic").as_text()[0].prompt
        'Write a short news item about a mechanic who won a prize.\\nThe mechanic thanked the jury and said that'
        """
        return replace(self, items=tuple(replace(item, prompt=_text(item)) for item in self.items))

    def where(self, test: Callable[[Item], object] | None = None, /, **wanted: Any) -> Task:
        """Only the items that pass a test, or whose fields have certain values.

        Args:
            test: Called with each item; those for which it is true stay.
            **wanted: A field of the items (cluster, template, answer, stereotype, ...) and its value, or a list of values.

        Returns:
            A task with the items that pass all of it, in order.

        Raises:
            SteerlibError: If no item has such a field or such a value, which is more often a slip than a wish.

        >>> from steerlib.tasks import pronoun
        >>> sorted({item.cluster for item in pronoun("all").where(cluster=["nurse", "pilot"], answer=None)})
        ['nurse', 'pilot']
        >>> min(item.statistic for item in pronoun("all").where(lambda item: item.statistic > 97)) > 97
        True
        """
        kept = [item for item in self.items if test is None or test(item)]
        for field, value in wanted.items():
            if not self.items or not all(_has(item, field) for item in self.items):
                known = (
                    ", ".join(f.name for f in fields(self.items[0])) if self.items else "none, for there are no items"
                )
                raise SteerlibError(f"the items of '{self.name}' have no field '{field}': the fields are {known}.")
            there = [getattr(item, field) for item in self.items]
            values = _several(value, there)
            for one in values:
                if not any(_same(had, one) for had in there):
                    seen = list(dict.fromkeys(map(str, there)))
                    raise SteerlibError(
                        f"no item of '{self.name}' has the {field} {one!r}: there are {', '.join(seen[:12])}"
                        f"{', ...' * (len(seen) > 12)}."
                    )
            kept = [item for item in kept if any(_same(getattr(item, field), one) for one in values)]
        return replace(self, items=tuple(kept))

    def sample(self, n: int, *, seed: int = 0) -> Task:
        """Some of the items, drawn so that every cluster has as many as any other, up to one.

        Items that differ only in the order of what they show or name, and follow each other, are drawn together: where all come so,
        clusters are equal up to one such pair. A cluster that has fewer items than its share gives them all.

        Args:
            n: How many items.
            seed: Of the draw; the same seed gives the same items.

        Returns:
            A task of n items, in the order that they have here.

        Raises:
            SteerlibError: If there are not as many items, or n would part two orders of one question.

        >>> from steerlib.tasks import pronoun
        >>> few = pronoun("validation").ambiguous.sample(20)
        >>> len(few), {len(few.where(cluster=item.cluster)) for item in few}
        (20, {2})
        """
        size = check_count("n", n)
        if size > len(self):
            raise SteerlibError(f"'{self.name}' has {len(self)} items: a sample of {size} cannot be drawn from it.")
        follows = [False] * len(self)
        for i in range(1, len(self)):
            follows[i] = not follows[i - 1] and _other_order(self.items[i - 1], self.items[i])
        places = even_sample([item.cluster for item in self], follows, size, seed)
        if places is None:
            raise SteerlibError(
                f"a sample of {size} would part two orders of one question of '{self.name}': ask for {size - 1} or {size + 1}."
            )
        return replace(self, items=tuple(self.items[place] for place in places))


def _other_order(one: Item, other: Item) -> bool:
    """Whether two items are one question in two orders."""
    return (
        (one.cluster, one.answer, one.stereotype) == (other.cluster, other.answer, other.stereotype)
        and one.groups == other.groups[::-1]
        and one.options in (other.options, other.options[::-1])
        and same_but_for_order(one.prompt, other.prompt)
    )


def _text(item: Item) -> str:
    """The texts of a prompt, a message per line."""
    if isinstance(item.prompt, str):
        return item.prompt
    if item.pictures:
        raise SteerlibError(f"a question about '{item.cluster}' shows pictures: it cannot become a text.")
    return "\n".join(message["content"] for message in as_text(item.prompt))


def _has(item: Item, field: str) -> bool:
    return not field.startswith("_") and hasattr(item, field)


def _several(value: Any, there: list[Any]) -> list[Any]:
    """The values asked for: one, or those of a list, a set, a Series; a tuple that an item has, as of groups, is one."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") or any(_same(had, value) for had in there):
        return [value]
    return list(value)


def _same(had: Any, wanted: Any) -> bool:
    try:
        return bool(had == wanted)
    except ValueError:  # an array or a Series: several values, not one
        return False


def occupations(split: str = "all", *, pictured: bool = False) -> pd.DataFrame:
    """Occupations with their share of women, one row each.

    Args:
        split: "train", "validation", "test" or "all"; of the column picture_split with `pictured`, else of the column split.
        pictured: Only the 20 that have pictures.

    Returns:
        A frame with the columns occupation, percent_women (0 to 100), stereotype ("man" or "woman"), year, source,
        picture_split ("" without pictures), split and family ("" for most; see `Item`). Source: US Bureau of Labor Statistics; the card is in data/README.md.

    Raises:
        SteerlibError: If there is no such split.

    >>> occupations("test").sort_values("percent_women")["occupation"].iloc[-1]
    'hygienist'
    """
    if split not in SPLITS:
        raise SteerlibError(f"there is no split '{split}': use {', '.join(SPLITS)}.")
    table = pd.read_csv(data_path("occupations.csv"), keep_default_na=False)
    column = "picture_split" if pictured else "split"
    kept = table[column] != "" if split == "all" else table[column] == split
    return table[kept].reset_index(drop=True)
