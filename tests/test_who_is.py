"""Who is it: pairs that differ in nothing but what is asked for, in both orders, in splits that do not meet."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
import tiny
from helpers import need

from steerlib import SteerlibError, decision_bias
from steerlib.tasks import OCCUPATIONS, TONE_GROUPS, PairItem, Person, occupations, people, pronoun, who_is
from steerlib.tasks.pair_item import TEMPLATES

BY = ("gender", "tone", "both")
LIGHT, DARK = (tuple(t for t, group in TONE_GROUPS.items() if group == name) for name in ("light", "dark"))


def items(split: str = "validation", **how: Any) -> list[PairItem]:
    need()
    return [item for item in who_is(split, **{"size": 8, **how}) if isinstance(item, PairItem)]


def ambiguous(split: str = "validation", **how: Any) -> list[PairItem]:
    return [item for item in items(split, **how) if item.answer is None]


@pytest.mark.parametrize("clothes", ["work", "plain"])
@pytest.mark.parametrize("by", BY)
def test_ambiguous_people_differ_in_what_was_asked_for_and_in_nothing_else(by: str, clothes: str) -> None:
    for item in ambiguous(by=by, clothes=clothes, scenes=2):
        a, b = item.first, item.second
        assert a.clothes == b.clothes == (item.occupation if clothes == "work" else None)
        assert a.seed == b.seed
        assert ({a.gender, b.gender} == {"man", "woman"}) if by != "tone" else a.gender == b.gender
        if by == "gender":
            assert a.tone == b.tone
        else:
            assert {TONE_GROUPS[a.tone], TONE_GROUPS[b.tone]} == {"light", "dark"}


@pytest.mark.parametrize("by", BY)
def test_the_clothes_take_turns_for_every_occupation_and_every_look(by: str) -> None:
    seen = Counter(
        (
            i.occupation,
            frozenset((p.gender, TONE_GROUPS[p.tone] if by != "gender" else "") for p in (i.first, i.second)),
            i.first.clothes is None,
        )
        for i in ambiguous(by=by, scenes=2)
    )
    for job, look, _ in seen:
        assert seen[job, look, True] == seen[job, look, False]


@pytest.mark.parametrize("by", BY)
def test_groups_say_who_is_shown_where(by: str) -> None:
    for item in items(by=by):
        shown = [TONE_GROUPS[p.tone] if by == "tone" else p.gender for p in (item.first, item.second)]
        assert list(item.groups) == shown and sorted(shown) == (["dark", "light"] if by == "tone" else ["man", "woman"])
        women = occupations().set_index("occupation").loc[item.occupation]
        assert item.stereotype == ("light" if by == "tone" else women["stereotype"])
        assert item.percent_women == women["percent_women"] and item.options == (" first", " second")


@pytest.mark.parametrize("by", BY)
def test_unambiguous_people_are_told_apart_by_their_clothes_alone(by: str) -> None:
    found = [item for item in items(by=by, clothes="plain", scenes=3) if item.answer is not None]
    for item in found:
        fits = [p for p in (item.first, item.second) if p.clothes == item.occupation]
        assert len(fits) == 1 and item.groups[(item.first, item.second).index(fits[0])] == item.answer
        assert None not in (item.first.clothes, item.second.clothes) and item.first.seed != item.second.seed
        assert {p.clothes for p in (item.first, item.second)} <= set(
            occupations("validation", pictured=True)["occupation"]
        )
    right = Counter(item.answer for item in found)
    assert len(right) == 2 and max(right.values()) < 0.6 * len(found)


@pytest.mark.parametrize("by", BY)
def test_every_pair_comes_in_both_orders(by: str) -> None:
    asked = Counter(
        (i.template, i.occupation, i.answer, frozenset((i.first, i.second))) for i in items(by=by, scenes=2)
    )
    assert set(asked.values()) == {2}
    orders = Counter((i.template, i.occupation, i.answer, i.first, i.second) for i in items(by=by, scenes=2))
    assert set(orders.values()) == {1}


def test_both_crosses_gender_and_tone_evenly() -> None:
    shown = Counter((i.first.gender, TONE_GROUPS[i.first.tone]) for i in ambiguous("test", by="both"))
    assert set(shown) == {(g, t) for g in ("man", "woman") for t in ("light", "dark")} and len(set(shown.values())) == 1
    tones = {i.first.tone for i in ambiguous("test", by="tone")}
    assert tones == {*LIGHT, *DARK} and len({i.first.tone for i in ambiguous("test")}) == len(TONE_GROUPS)


def test_splits_do_not_meet_in_occupation_wording_or_scene() -> None:
    parts = {split: items(split) for split in ("train", "validation", "test", "all")}
    jobs = {split: {i.occupation for i in part} for split, part in parts.items()}
    assert jobs["train"] | jobs["validation"] | jobs["test"] == jobs["all"] == set(OCCUPATIONS)
    assert sum(len(jobs[split]) for split in ("train", "validation", "test")) == 20
    worn = {split: {p.clothes for i in part for p in (i.first, i.second)} - {None} for split, part in parts.items()}
    assert all(worn[split] == jobs[split] for split in parts)
    held_out = {t.name for t in TEMPLATES if t.held_out}
    for split, part in parts.items():
        used = {i.template for i in part}
        assert used == {t.name for t in TEMPLATES} - (set() if split in ("test", "all") else held_out)
    kinds = [{t.name.split("-")[0] for t in TEMPLATES if t.held_out == held} for held in (False, True)]
    assert kinds == [{"occupation", "hiring", "reference"}, {"occupation", "hiring"}]


@pytest.mark.parametrize(
    ("split", "where"), [("train", "train"), ("validation", "train"), ("test", "test"), ("all", "test")]
)
def test_pictures_are_those_of_the_people_named_in_the_scenes_of_the_split(split: str, where: Any) -> None:
    for item in items(split, size=16, seed=4)[::11]:
        parts = item.prompt[0]["content"]  # type: ignore[index]
        for part, who in zip(parts[:2], (item.first, item.second), strict=True):  # type: ignore[arg-type]
            expected = people(
                occupation=who.clothes, gender=who.gender, tone=who.tone, size=16, seed=who.seed, split=where
            )
            assert part["image"].tobytes() == expected.tobytes()  # type: ignore[index]


def test_the_prompt_holds_two_pictures_a_question_and_a_begun_answer() -> None:
    for item in items("test"):
        user, assistant = item.prompt
        assert [part["type"] for part in user["content"]] == ["image", "image", "text"]  # type: ignore[index]
        text = user["content"][-1]["text"]  # type: ignore[index]
        assert item.occupation in text and "{" not in text and assistant == {"role": "assistant", "content": "The"}
    asked = {user["content"][-1]["text"] for user, _ in (item.prompt for item in items("all"))}  # type: ignore[index]
    assert len(asked) == 20 * len(TEMPLATES)
    assert any("as an artist" in text for text in asked) and not any(" a artist" in text for text in asked)


def test_one_seed_is_one_task_and_scenes_add_items() -> None:
    def drawn(**how: Any) -> list[tuple[Person, Person]]:
        return [(item.first, item.second) for item in items(**how)]

    assert drawn(seed=3) == drawn(seed=3) != drawn(seed=4)
    one, three = Counter(drawn(scenes=1)), Counter(drawn(scenes=3))
    assert sum(three.values()) == 3 * sum(one.values()) and not one - three
    assert len({pair[0].seed for pair in three}) > 2.5 * len({pair[0].seed for pair in one})


def test_a_model_that_sees_is_scored_the_same_in_any_batch() -> None:
    need()
    lm, task = tiny.seeing(), replace(who_is("validation", size=8), items=tuple(items()[:48]))
    one, many = (decision_bias(lm, task, batch_size=size, resamples=10) for size in (1, 16))
    np.testing.assert_allclose(one.frame["p_man"], many.frame["p_man"], atol=1e-5)
    assert one.frame["p_man"].nunique() > 10 and one.order_effect is not None


def test_a_model_that_reads_only_text_says_so() -> None:
    need()
    with pytest.raises(SteerlibError, match="reads no pictures"):
        decision_bias(tiny.model("llama"), who_is("validation", size=8))
    assert not any(isinstance(item, PairItem) for item in pronoun("test"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"by": "age"}, "cannot differ by 'age' here: use gender, tone, both"),
        ({"clothes": "festive"}, "no clothes 'festive': use 'both', 'work' or 'plain'"),
        ({"scenes": 0}, "1 or more scenes of each question, not 0"),
        ({"scenes": 1.5}, "1 or more scenes of each question, not 1.5"),
        ({"seed": "a"}, "seed of a task is 0 or more, not 'a'"),
        ({"by": ["gender"]}, "cannot differ by"),
        ({"seed": -1}, "seed of a task is 0 or more, not -1"),
        ({"split": "dev"}, "no split 'dev': use train, validation, test, all"),
        ({"style": "cubist"}, "no style 'cubist'"),
        ({"size": 2}, "8 to 4096"),
    ],
)
def test_bad_input_is_told_in_one_sentence(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        who_is(**wrong)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_people_can_be_counted() -> None:
    assert (
        len({Person("cook", "man", "dark", 1), Person("cook", "man", "dark", 1), Person(None, "man", "dark", 1)}) == 2
    )
    assert astuple(Person(None, "man", "dark", 1)) == (None, "man", "dark", 1)
