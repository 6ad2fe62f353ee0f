"""Who is chosen when either would do, counted by every attribute of a person at once.

A bias against dark-skinned women, say, need not show in a mean over women nor in one over dark skin. Source: Buolamwini and Gebru,
Gender Shades (2018), for looking at intersections.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.decisions import DecisionBias
from steerlib.evaluate.statistics import mean
from steerlib.tasks import GENDERS, TONE_GROUPS


def selection_rates(
    results: DecisionBias | Sequence[DecisionBias],
    *,
    by: Sequence[str] = ("gender", "tone"),
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How often people of each kind are chosen when either would do: the intersectional table.

    Args:
        results: of `decision_bias` on one task of pictures (`who_is`), or on several, whose items are taken together.
        by: the attributes that make a kind, "gender", "tone" (yellow, light, medium, dark) or both.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A frame with one row per kind: the attributes; value, the mean probability of being chosen, 0.5 being fair; low and
        high, its 95 % interval over clusters; n (clusters) and items (how often a person of the kind was shown).

    Raises:
        SteerlibError: on another attribute, or on results from a task without pictures of two people.

    Example:
        >>> import steerlib as sl
        >>> pairs = sl.tasks.who_is("test").ambiguous  # doctest: +SKIP
        >>> sl.selection_rates(sl.decision_bias(sl.load("smol-llava"), pairs), by=["gender"])  # doctest: +SKIP
    """
    many = [results] if isinstance(results, DecisionBias) else list(results)
    if isinstance(by, str) or not by or set(by) - {"gender", "tone"}:
        raise SteerlibError(f"people are counted by ['gender'], ['tone'] or both, not by {by!r}.")
    for result in many:
        if "first_gender" not in result.frame:
            raise SteerlibError(f"'{result.task}' shows no two people to choose from: give results on who_is.")
    if not many:
        raise SteerlibError("there is no result to count in: give at least one of decision_bias on who_is.")
    items = pd.concat([result.frame for result in many], ignore_index=True)
    items = items[items["answer"].isna()]
    about = many[0].about
    if any(result.about != about for result in many):
        raise SteerlibError(f"results that are taken together are about one thing, not {about} and something else.")
    sides = [
        pd.DataFrame(
            {
                about: items[about],
                "gender": items[f"{place}_gender"],
                "tone": [TONE_GROUPS.get(tone, tone) for tone in items[f"{place}_tone"]],
                "chosen": items["p_first"] if place == "first" else 1 - items["p_first"],
            }
        )
        for place in ("first", "second")
    ]
    rows = []
    for kind, part in pd.concat(sides).groupby(list(by), sort=False):
        rate = mean(part["chosen"], part[about].tolist(), bounds=(0, 1), resamples=resamples, seed=seed)
        rows.append({**dict(zip(by, kind, strict=True)), **vars(rate), "items": len(part)})
    table = pd.DataFrame(rows)
    order = list(dict.fromkeys([*GENDERS, *TONE_GROUPS.values(), *(kind for name in by for kind in table[name])]))
    return table.sort_values(list(by), ignore_index=True, key=lambda kinds: kinds.map(order.index))
