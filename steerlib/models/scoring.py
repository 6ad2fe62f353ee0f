"""Rows of token ids to log-probabilities of the texts that may follow them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt

Seen = Mapping[str, Tensor]
"""What a model wants of a prompt's pictures, as its processor names it: pixel_values (pictures, 3, height, width) and kin."""

Row = tuple[list[int], list[list[int]], Seen]
"""A prompt's token ids, those of texts that may follow it, and its pictures."""


def options_for(prompts: Sequence[Prompt], options: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """One list of options for every prompt."""
    if isinstance(options, str) or len(options) == 0:
        raise SteerlibError(
            "no options were given: `options` is a list of at least two texts, such as [' he', ' she']."
        )
    if isinstance(options[0], str):
        each = [[str(option) for option in options]] * len(prompts)
    else:
        each = [list(line) for line in options]
    if len(each) != len(prompts) or len({len(line) for line in each}) != 1:
        raise SteerlibError(f"{len(prompts)} prompts need {len(prompts)} lists of options, all of one length.")
    if len(each[0]) < 2:
        raise SteerlibError(f"only the option {each[0]} was given: a choice needs at least two.")
    return each


def refuse_prefixes(options: Sequence[str], tails: Sequence[Sequence[int]]) -> None:
    """Refuse an option whose tokens begin another's: it would win by including it."""
    for i, a in enumerate(tails):
        for j, b in enumerate(tails):
            if i != j and list(b[: len(a)]) == list(a):
                raise SteerlibError(
                    f"option {options[i]!r} is the beginning of option {options[j]!r}, so it includes it: "
                    "end the options so that they differ (with a full stop, say)."
                )


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in batches of `size`, rows of like length together, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]
