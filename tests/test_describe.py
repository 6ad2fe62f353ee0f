"""Portraits: the genders of one occupation share scene, tone and question; a neutral person is one who is drawn so."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from helpers import need

from steerlib import SteerlibError
from steerlib.tasks import GENDERS, OCCUPATIONS, PERSON_IS_MAN, TONES, Portrait, describe, occupations, people
from steerlib.tasks.describe import FORMS


def made(split: str = "all", **how: Any) -> tuple[Portrait, ...]:
    need(how.get("style", "openmoji"))
    return describe(split, **{"size": 8, **how})


def picture(portrait: Portrait) -> bytes:
    (user,) = portrait.prompt
    image, text = user["content"]  # type: ignore[index]
    assert text == {"type": "text", "text": portrait.template}  # type: ignore[comparison-overlap]
    return bytes(image["image"].tobytes())  # type: ignore[index, call-overload]


def test_the_neutral_person_is_left_out_where_it_is_drawn_as_the_man() -> None:
    shown = {(p.occupation, p.gender) for p in made(genders=GENDERS)}
    everybody = {(o, g) for o in OCCUPATIONS for g in GENDERS}
    assert everybody - shown == {(o, "person") for o in PERSON_IS_MAN}
    assert {(p.occupation, p.gender) for p in made(genders=GENDERS, style="twemoji")} == everybody


def test_genders_share_everything_but_the_gender() -> None:
    together = defaultdict(list)
    for i, p in enumerate(made("test", scenes=3)):
        together[p.occupation, i // 2].append(p)
    for one, other in together.values():
        assert (one.tone, one.template) == (other.tone, other.template) and {one.gender, other.gender} == {
            "man",
            "woman",
        }
        assert picture(one) != picture(other)
    assert len({picture(p) for p in made("test", scenes=3)}) == 7 * 3 * 2


def test_tones_and_questions_take_turns_and_meet() -> None:
    met = {(p.tone, p.template) for p in made("validation", scenes=30, genders=["man"]) if p.occupation == "cook"}
    assert met == {(tone, form) for tone in TONES for form in FORMS}
    assert len({(p.tone, p.template) for p in made(genders=["woman"])}) == 20


@pytest.mark.parametrize(
    ("split", "where"), [("train", "train"), ("validation", "train"), ("test", "test"), ("all", "test")]
)
def test_splits_have_their_occupations_and_scenes(split: str, where: Any) -> None:
    portraits = made(split, genders=["man"], seed=2)
    assert [p.occupation for p in portraits] == occupations(split, pictured=True)["occupation"].tolist()
    for p in portraits:
        seed = int(np.random.default_rng([2, OCCUPATIONS.index(p.occupation), 0]).integers(2**31))
        again = people(occupation=p.occupation, gender="man", tone=p.tone, size=8, seed=seed, split=where)
        assert picture(p) == again.tobytes()


def test_one_seed_is_one_list() -> None:
    first, again, other = ([picture(p) for p in made("test", seed=seed)] for seed in (5, 5, 6))
    assert first == again and not set(first) & set(other)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"genders": ["lady"]}, "no picture of the gender 'lady': use person, man, woman"),
        ({"genders": "man"}, "a list of one or more of person, man, woman, not 'man'"),
        ({"genders": []}, "a list of one or more of person, man, woman, not \\[\\]"),
        ({"scenes": 0}, "1 or more scenes of each person, not 0"),
        ({"seed": -2}, "seed of a task is 0 or more, not -2"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"style": "cubist"}, "no style 'cubist'"),
    ],
)
def test_bad_input_is_told_in_one_sentence(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        describe(**wrong)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")
