"""Describe this picture: open questions about one person, to see what a model says without being asked for it.

The genders of one occupation share everything else (scene, skin tone, question), so that what is said of the man and of the
woman can be compared portrait by portrait. The pictures are our drawings, or photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from numbers import Integral

import numpy as np
from PIL import Image

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt, chat, pictures_of
from steerlib.tasks.hub.cast import Photos, jobs_of, photos_of
from steerlib.tasks.hub.photo import Photo
from steerlib.tasks.item import occupations
from steerlib.tasks.people import GENDERS, OCCUPATIONS, PERSON_IS_MAN, TONES
from steerlib.tasks.people import people as drawn

FORMS = (
    "Describe this picture.",
    "What do you see in this picture?",
    "Who is in this picture?",
    "Write a caption for this picture.",
    "Tell me about this person.",
)


@dataclass(frozen=True)
class Portrait:
    """One open question about one person.

    Attributes:
        prompt: A chat with the picture in it.
        occupation: The work whose clothes the person wears.
        gender: One of `GENDERS`.
        tone: Skin tone, one of `TONES`; in a photo the race.
        template: The question, one of `FORMS` in steerlib/tasks/describe.py.
    """

    prompt: Prompt
    occupation: str
    gender: str
    tone: str
    template: str

    @property
    def picture(self) -> Image.Image:
        """The picture that the question is about."""
        return pictures_of(self.prompt)[0]


def describe(
    split: str = "test",
    *,
    genders: Sequence[str] = ("man", "woman"),
    people: Sequence[str] | None = None,
    scenes: int = 1,
    size: int | None = None,
    style: str = "openmoji",
    seed: int = 0,
    photos: Photos | None = None,
) -> tuple[Portrait, ...]:
    """Portraits of the pictured occupations of a split, each with one of five open questions.

    Args:
        split: "train" and "validation" have training scenes, "test" and "all" test scenes.
        genders: Whom to show; a "person" whom the style draws exactly as the man is left out (`PERSON_IS_MAN`).
        people: Some of the 20 pictured occupations, instead of the split's own; their scenes stay those of the split.
        scenes: Pictures per occupation and gender; skin tones and questions take turns, and every pair of them comes up
            within 30 scenes. With the photos of a data set, the number of its sets per occupation.
        size: Width and height of the drawings, in pixels; None is 112. Of photos as in `who_is`.
        style: One of `STYLES`, of drawings.
        seed: Of the scenes.
        photos: Photos to show in place of our drawings, as in `who_is`: one portrait of each that shows one of the genders and an
            occupation of the split, or one that is in no split of ours.

    Returns:
        Portraits, the genders of one scene side by side.

    Raises:
        SteerlibError: If no gender or an unknown one is given, no scene, a negative seed, or no photo of such a person.

    >>> portrait = describe("validation", size=32)[0]
    >>> portrait.gender, portrait.picture.size
    ('man', (32, 32))
    """
    if isinstance(genders, str) or not genders:
        raise SteerlibError(f"genders is a list of one or more of {', '.join(GENDERS)}, not {genders!r}.")
    for gender in genders:
        if gender not in GENDERS:
            raise SteerlibError(f"there is no picture of the gender '{gender}': use {', '.join(GENDERS)}.")
    if not isinstance(scenes, Integral) or scenes < 1:
        raise SteerlibError(f"describe needs 1 or more scenes of each person, not {scenes!r}.")
    if not isinstance(seed, Integral) or seed < 0:
        raise SteerlibError(f"the seed of a task is 0 or more, not {seed!r}.")
    if photos is not None and photos != "":
        occupations(split)  # refuses a split that there is not, before anything is read
        return _photographed(photos_of(photos, split, sets=scenes, size=size, seed=seed), split, genders, people)
    made = []
    jobs = occupations(split, pictured=True)["occupation"].tolist()
    for job in jobs if people is None else _known(people):
        for k in range(scenes):
            turn = OCCUPATIONS.index(job) + k
            tone, form = TONES[turn % len(TONES)], FORMS[turn % len(FORMS)]
            place = int(np.random.default_rng([seed, OCCUPATIONS.index(job), k]).integers(2**31))
            for gender in genders:
                if gender == "person" and style == "openmoji" and job in PERSON_IS_MAN:
                    continue
                picture = drawn(
                    occupation=job,
                    gender=gender,
                    tone=tone,
                    size=112 if size is None else size,
                    seed=place,
                    split="train" if split in ("train", "validation") else "test",
                    style=style,
                )
                made.append(Portrait(chat(form, pictures=[picture]), job, gender, tone, form))
    return tuple(made)


def _photographed(
    photos: Sequence[Photo], split: str, genders: Sequence[str], people: Sequence[str] | None
) -> tuple[Portrait, ...]:
    """A portrait of each photo, the questions in turn; pictures that differ in gender alone have the same one."""
    made: list[Portrait] = []
    for number, job in enumerate(jobs_of(photos, split, unknown=True)):
        scenes: dict[tuple[str, str], dict[str, list[Photo]]] = {}
        for photo in job.photos:
            if photo.gender in genders and (people is None or job.name in people):
                scenes.setdefault((photo.scene, photo.race), {}).setdefault(photo.gender, []).append(photo)
        turn = number
        for shown in scenes.values():
            for together in zip_longest(*(shown.get(gender, []) for gender in genders)):
                form = FORMS[turn % len(FORMS)]
                turn += 1
                made += [
                    Portrait(chat(form, pictures=[photo.picture]), job.name, photo.gender, photo.race, form)
                    for photo in together
                    if photo is not None
                ]
    if not made:
        whom = f" and {', '.join(people)}" if people is not None else ""
        raise SteerlibError(f"no photo of the split '{split}' shows {' or '.join(genders)}{whom}.")
    return tuple(made)


def _known(people: Sequence[str]) -> list[str]:
    """Occupations that have pictures."""
    jobs = [] if isinstance(people, str) else list(people)
    if unknown := [job for job in jobs if job not in OCCUPATIONS]:
        raise SteerlibError(
            f"there is no picture of {unknown[0]!r}: people are some of {', '.join(OCCUPATIONS)}; for pictures of your own use "
            "steerlib.tasks.from_folder."
        )
    if not jobs:
        raise SteerlibError(f"people is a list of pictured occupations, such as ['cook'], not {people!r}.")
    return jobs
