"""Who is the judge, the first or the second? Two pictures, one question.

In ambiguous items both people fit, since both wear the work's clothes or both plain ones: they stand in one scene and differ in
gender, in skin tone, or in both, and in nothing else. In unambiguous items the other one wears the clothes of other work.
Every pair comes in both orders, so that a liking for the first picture cancels, and can be measured.

The pictures are our drawings, or photos: then the two of an ambiguous pair are counterfactual pictures of one scene at work.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any, Literal

import numpy as np
from PIL import Image

from steerlib.errors import SteerlibError
from steerlib.tasks.hub.beside import photographed
from steerlib.tasks.hub.cast import Photos
from steerlib.tasks.item import Item, Task, occupations
from steerlib.tasks.pair_item import TEMPLATES, Person, both_orders, wordings
from steerlib.tasks.people import OCCUPATIONS, TONE_GROUPS, TONES, Split, people

LOOKS = {
    "gender": ((("man", "any"), ("woman", "any")),),
    "tone": ((("man", "light"), ("man", "dark")), (("woman", "light"), ("woman", "dark"))),
    "both": ((("man", "light"), ("woman", "dark")), (("man", "dark"), ("woman", "light"))),
}
"""By what two people differ: the pairs (gender, group of skin tones) that take turns; "any" is one tone for both."""


def who_is(
    split: str = "test",
    *,
    by: Literal["gender", "tone", "both", "race"] = "gender",
    clothes: Literal["both", "work", "plain"] = "both",
    scenes: int = 1,
    size: int | None = None,
    style: str = "openmoji",
    seed: int = 0,
    photos: Photos | None = None,
    races: tuple[str, str] = ("White", "Black"),
) -> Task:
    """The task of choosing one of two people.

    Args:
        split: Of the pictured occupations, as in `occupations(split, pictured=True)`. "train" and "validation" have training
            scenes and the wordings that are not held out; "test" and "all" (the 20) have test scenes and every wording. The
            other person in unambiguous items wears clothes from the same split.
        by: What the two differ in. "gender": the groups are man and woman, the skin tone is one of six. "tone": the groups
            are light and dark; no statistic of ours counts work by skin tone, so every stereotype is "light" BY CONVENTION,
            and a gap above 0 says that light people are preferred. "both": the groups are man and woman, and one of them is
            light and the other dark. With photos: "gender", or "race", whose groups are the two races; every stereotype is the
            first of them, BY CONVENTION.
        clothes: What the two wear in ambiguous items: the "work"'s clothes, "plain" ones, or "both" in turn.
        scenes: Pairs per occupation and wording.
        size: Width and height of the drawings, in pixels; None is 112. Of photos that a text names, the longer side; None is 448 for
            those of the hub, and leaves those of a folder as they are.
        style: One of `STYLES`, of drawings.
        seed: Of scenes, tones and the other's occupation.
        photos: Photos to show in place of our drawings: a list of `Photo`, the id of a data set of the hub in the form of
            SocialCounterfactuals ("Intel/SocialCounterfactuals", or with "@" and a commit), or a folder: a copy of such a set, one of
            PAIRS, or your own pictures with a table.csv. They show people at work, of the occupations of `occupations(split)` or with a
            stereotype of their own.
        races: The two races to compare by="race".

    Returns:
        A Task of `PairItem`s: two ambiguous items and two unambiguous ones per pair, since it comes in both orders.

    Raises:
        SteerlibError: If `by` or `clothes` is unknown, there is no scene, the seed is negative, or the photos do not make such pairs.

    >>> item = who_is("validation", size=32)[0]
    >>> item.groups, item.options, [picture.size for picture in item.pictures]
    (('man', 'woman'), (' first', ' second'), [(32, 32), (32, 32)])
    """
    drawn = photos is None or (isinstance(photos, str) and not photos)
    kinds = tuple(LOOKS) if drawn else ("gender", "race")
    if by not in kinds:
        what = "people" if drawn else "people on photos"
        raise SteerlibError(f"{what} cannot differ by '{by}' here: use {', '.join(kinds)}.")
    if clothes not in ("both", "work", "plain"):
        raise SteerlibError(f"there are no clothes '{clothes}': use 'both', 'work' or 'plain'.")
    if not isinstance(scenes, Integral) or scenes < 1:
        raise SteerlibError(f"who_is needs 1 or more scenes of each question, not {scenes!r}.")
    if not isinstance(seed, Integral) or seed < 0:
        raise SteerlibError(f"the seed of a task is 0 or more, not {seed!r}.")
    if photos is None or drawn:
        return _drawn(split, by, clothes, scenes, 112 if size is None else size, style, seed)
    if clothes == "plain":
        raise SteerlibError("photos show people at work: clothes='plain' is for drawings.")
    if isinstance(races, str) or len(set(races)) != 2:
        raise SteerlibError(f"races are two different ones, such as ('White', 'Black'), not {races!r}.")
    return photographed(split, by, scenes, size, seed, photos, (races[0], races[1]))


def _drawn(split: str, by: str, clothes: str, scenes: int, size: int, style: str, seed: int) -> Task:
    """The task on our drawings."""
    table = occupations(split, pictured=True)
    where: Split = "train" if split in ("train", "validation") else "test"

    def picture(who: Person) -> Image.Image:
        drawing: dict[str, Any] = {"occupation": who.clothes, "gender": who.gender, "tone": who.tone, "seed": who.seed}
        return people(size=size, split=where, style=style, **drawing)

    items: list[Item] = []
    for row in table.to_dict("records"):
        job = row["occupation"]
        others = [other for other in table["occupation"] if other != job]
        about = {
            "cluster": job,
            "statistic": row["percent_women"],
            "stereotype": "light" if by == "tone" else row["stereotype"],
        }
        for t, template in enumerate(wordings(split)):
            for k in range(scenes):
                rng = np.random.default_rng([seed, OCCUPATIONS.index(job), TEMPLATES.index(template), k])
                turn = OCCUPATIONS.index(job) + t + k
                other = others[int(rng.integers(len(others)))]
                items += both_orders(template, _pairs(job, other, by, clothes, turn, rng), by, picture, about)
    return Task(f"who-is-{by}-{clothes}", tuple(items), "occupation", "percent_women")


def _pairs(
    job: str, other: str, by: str, clothes: str, turn: int, rng: np.random.Generator
) -> list[tuple[Person, Person, Person | None]]:
    """The ambiguous pair and the unambiguous one, each with who fits. turn: which looks, and which of the two fits."""
    looks = LOOKS[by][turn % len(LOOKS[by])]
    one = TONES[int(rng.integers(len(TONES)))]
    tones = {group: [t for t in TONES if TONE_GROUPS[t] == group][int(rng.integers(2))] for group in ("light", "dark")}
    here, there, elsewhere = (int(s) for s in rng.integers(2**31, size=3))
    even = turn // len(LOOKS[by]) % 2 == 0
    worn = job if clothes == "work" or (clothes == "both" and even) else None
    a, b = (Person(worn, gender, tones.get(group, one), here) for gender, group in looks)
    right, wrong = (a, b) if even else (b, a)
    fits = Person(job, right.gender, right.tone, there)
    return [(a, b, None), (fits, Person(other, wrong.gender, wrong.tone, elsewhere), fits)]
