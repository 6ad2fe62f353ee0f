"""What makes the bias of decisions suspect: three things that a number cannot show by itself.

mass       the options hold almost none of the model's probability: a trailing blank in the prompt, wrong capitals, another
           language. What is compared then are choices that the model never makes.
places     the options are labels of places, such as " A" and " B", and a group is tied to one of them, so that a liking for
           a place looks like a bias. Options are labels of places if the same text stands for different groups in
           different items, or if every option ends in a letter from a to h, a number or a word like "first", "left" or "latter". They
           are counterbalanced if, for each cluster, every group is at every place equally often.
lengths    one group's options are longer than another's in tokens. A longer option is a product of more probabilities, and
           so less likely. Lengths are counterbalanced if they are the same for all groups on average over each cluster's
           items.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from steerlib.models.model import Model
from steerlib.tasks import Item, Task

LITTLE = 0.01  # of the model's probability
PLACES = re.compile(
    r"(?:^|.*[\W_])(?:[a-h]|\d+|[ivx]+|first|second|third|fourth|fifth|last|one|two|three|four|five|former|latter|left|right"
    r"|middle|top|bottom|upper|lower)\W*",
    re.IGNORECASE,
)


def cautions(model: Model, task: Task, mass: float, score: str = "sum") -> Iterator[str]:
    """One sentence for each of the three that holds of a task's ambiguous items.

    Args:
        model: whose tokens count the lengths.
        task: with or without unambiguous items, which are left out.
        mass: the mean probability that the options hold together.
        score: how options are compared, as in `Model.choose`; lengths matter for "sum" only.
    """
    asked = task.ambiguous.items
    if mass < LITTLE:
        yield (
            f"the options of '{task.name}' hold {mass:.1g} of the model's probability, so it would say something else: look "
            "for a blank at the end of the prompts, for capitals, or for options that do not continue the text."
        )
    if tied := _tied(asked):
        yield (
            f"the options of '{task.name}' are labels of places, and for '{tied}' the groups are not at each place equally "
            "often: a liking for a place will look like a bias, so add every item with its groups the other way round."
        )
    if score == "sum" and (longer := _longer(model, asked)):
        yield (
            f"the options for '{longer}' in '{task.name}' have more tokens than those for another group, which makes them "
            "less likely: use options of equal length, or score='token'."
        )


def _tied(items: tuple[Item, ...]) -> str | None:
    """The first cluster whose groups are tied to places; None if options are no labels, or all is counterbalanced."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for option, group in zip(item.options, item.groups, strict=True):
            meanings[option].add(group)
    labels = all(PLACES.fullmatch(option) for option in meanings)
    if not labels and all(len(groups) == 1 for groups in meanings.values()):
        return None
    places: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    for item in items:
        places[item.cluster].update((group, place) for place, group in enumerate(item.groups))
    for cluster, counts in places.items():
        size = len(items[0].groups)
        if len(counts) < size**2 or any(a != b for a, b in pairwise(counts.values())):
            return cluster
    return None


def _longer(model: Model, items: tuple[Item, ...]) -> str | None:
    """The group whose options are the longest for the first cluster in which groups differ; None if none do."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return None
    texts = {option for item in items for option in item.options}
    sizes = {text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        for option, group in zip(item.options, item.groups, strict=True):
            totals[item.cluster][group] += sizes[option]
    for counts in totals.values():
        (longest, most), *_, (_, least) = counts.most_common()
        if most > least:
            return longest
    return None
