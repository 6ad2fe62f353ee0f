"""A sample of a task in which every cluster has as many items as any other, and both orders of a pair stay together.

Items that follow each other and differ only in the order of what they show, or name, are one unit: the first and the second picture
changed places, or the two occupations of a sentence. Units are dealt out one by one, always to the cluster that has the fewest
items so far, until there are n. A cluster that runs out gives all that it has, and the others go on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from steerlib.models.prompts import Prompt, as_text


def same_but_for_order(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts show the same pictures and say the same words, in whatever order.

    >>> same_but_for_order("The pilot met an usher.", "An usher met the pilot."), same_but_for_order("he sang", "she sang")
    (True, False)
    """
    mine, theirs = _shown(one), _shown(other)
    if len(mine) != len(theirs) or _words(one) != _words(other):
        return False
    if sorted(map(id, mine)) == sorted(
        map(id, theirs)
    ):  # as in tasks of ours, which draw a picture once for both orders
        return True
    return sorted(picture.tobytes() for picture in mine) == sorted(picture.tobytes() for picture in theirs)


def even_sample(clusters: Sequence[str], follows: Sequence[bool], n: int, seed: int) -> list[int] | None:
    """The places of n items.

    Args:
        clusters: Of each item.
        follows: For each item, whether it belongs to the unit of the item before it.
        n: How many; at most as many as there are.
        seed: Of the order in which units are dealt out.

    Returns:
        The places in ascending order, or None if no set of whole units has n items.

    >>> even_sample(["a", "a", "b", "b"], [False, True, False, True], 2, seed=0) in ([0, 1], [2, 3])
    True
    >>> even_sample(["a", "a", "b", "b"], [False, True, False, True], 3, seed=0) is None
    True
    """
    rng = np.random.default_rng(seed)
    units: list[list[int]] = []
    for place, goes_on in enumerate(follows):
        if goes_on:
            units[-1].append(place)
        else:
            units.append([place])
    left: dict[str, list[list[int]]] = {cluster: [] for cluster in dict.fromkeys(clusters)}
    for u in rng.permutation(len(units)):
        left[clusters[units[u][0]]].append(units[u])
    ties = {cluster: float(rng.random()) for cluster in left}
    taken: list[list[int]] = []
    size = Counter({cluster: 0 for cluster in left})
    while (rest := n - sum(size.values())) > 0:
        open_to = [cluster for cluster in left if any(len(unit) <= rest for unit in left[cluster])]
        if not open_to:
            return _mended(taken, left, rest)
        cluster = min(open_to, key=lambda c: (size[c], ties[c]))
        unit = next(unit for unit in left[cluster] if len(unit) <= rest)
        left[cluster].remove(unit)
        taken.append(unit)
        size[cluster] += len(unit)
    return sorted(place for unit in taken for place in unit)


def _mended(taken: list[list[int]], left: dict[str, list[list[int]]], rest: int) -> list[int] | None:
    """One unit of those taken exchanged for one that is longer by what is missing."""
    for mine in taken:
        for unit in (unit for units in left.values() for unit in units):
            if len(unit) - len(mine) == rest:
                return sorted(place for one in [*taken, unit] if one is not mine for place in one)
    return None


def _words(prompt: Prompt) -> list[str]:
    said = prompt if isinstance(prompt, str) else " ".join(message["content"] for message in as_text(prompt))
    words = (re.sub(r"^an$", "a", word) for word in re.findall(r"\w+", said.lower()))
    return sorted(words)


def _shown(prompt: Prompt) -> list[Image.Image]:
    """The pictures as they were given, neither turned nor converted."""
    contents = [] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return [
        part["image"] for content in contents if not isinstance(content, str) for part in content if "image" in part
    ]
