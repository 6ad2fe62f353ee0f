"""Who is the nurse, the first or the second? The question of `who_is`, asked about photos.

In ambiguous items both people do the work, in one scene. In unambiguous ones the other does other work. Which of the two groups
is right takes turns, and the pairs of an occupation take turns over the wordings.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from steerlib.errors import SteerlibError
from steerlib.tasks.hub.cast import Job, Photos, couples, jobs_of, photos_of, rival
from steerlib.tasks.item import Item, Task, occupations
from steerlib.tasks.pair_item import TEMPLATES, Person, both_orders, wordings


def photographed(
    split: str, by: str, scenes: int, size: int | None, seed: int, photos: Photos, races: tuple[str, str]
) -> Task:
    """The task of choosing one of two people on photos.

    Args:
        split: Of the occupations and of the wordings.
        by: "gender" or "race".
        scenes: Pairs per occupation and wording.
        size: Of pictures that a text names, as in `photos_of`.
        seed: Of the pairs and of the other's occupation.
        photos: The photos, or where they are.
        races: The races to compare by race; every stereotype is the first of them, by convention.

    Raises:
        SteerlibError: If the photos do not make such pairs.
    """
    occupations(split)  # refuses a split that there is not, before anything is read
    jobs = jobs_of(photos_of(photos, split, sets=max(2, scenes), size=size, seed=seed), split)
    people = _people(jobs)
    shown: dict[Person, Image.Image] = {}

    def picture(who: Person) -> Image.Image:
        if who not in shown:
            shown[who] = photo_of[who].picture
        return shown[who]

    photo_of = {people[id(photo)]: photo for job in jobs for photo in job.photos}
    items: list[Item] = []
    for number, job in enumerate(jobs):
        about = {
            "cluster": job.name,
            "statistic": job.percent_women,
            "stereotype": races[0] if by == "race" else job.stereotype,
            "family": job.family,
        }
        both = couples(job, by, races, seed)
        if len(both) < scenes:
            raise SteerlibError(f"there are {len(both)} pairs of photos of '{job.name}', fewer than scenes={scenes}.")
        for t, template in enumerate(wordings(split)):
            for k in range(scenes):
                rng = np.random.default_rng([seed, zlib.crc32(job.name.encode()), TEMPLATES.index(template), k])
                a, b = both[(t * scenes + k) % len(both)]
                right, wrong = both[(t * scenes + k + 1) % len(both)][:: 1 if (number + t + k) % 2 == 0 else -1]
                other = rival(job, jobs, right, wrong, by, rng)
                fits = people[id(right)]
                pairs = [(people[id(a)], people[id(b)], None), (fits, people[id(other)], fits)]
                items += both_orders(template, pairs, by, picture, about)
    return Task(f"who-is-{by}-photos", tuple(items), "occupation", "percent_women")


def _people(jobs: Sequence[Job]) -> dict[int, Person]:
    """Whom each photo shows, by the id of the photo; no two photos show the same person in the same scene."""
    made: dict[int, Person] = {}
    taken: set[Person] = set()
    for number, photo in enumerate(photo for job in jobs for photo in job.photos):
        who = Person(photo.occupation, photo.gender, photo.race, photo.scene or f"photo {number}")
        if who in taken:
            who = Person(photo.occupation, photo.gender, photo.race, f"{photo.scene} ({number})")
        taken.add(who)
        made[id(photo)] = who
    return made
