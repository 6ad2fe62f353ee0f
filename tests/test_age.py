"""The age task: both orders, splits that do not meet, and items that say the age only where they should."""

from __future__ import annotations

from collections import Counter

import pytest

from steerlib import SteerlibError
from steerlib.tasks import AGE_WORDINGS, AgeWording, activities, age

OPEN = [w for w in AGE_WORDINGS if not w.unambiguous]
TOLD = [w for w in AGE_WORDINGS if w.unambiguous]


def test_activities_are_many_and_half_of_each_split_is_expected_of_either_age() -> None:
    table = activities()
    assert len(table) >= 20 and table["activity"].is_unique and table["did"].is_unique and not table.isna().any().any()
    parts = {split: activities(split) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(table)
    for part in parts.values():
        assert Counter(part["stereotype"])["young"] == Counter(part["stereotype"])["old"] >= 2
    assert not table["did"].str.contains(r"\b(?:young|old|he|she|his|her|age)\b").any()


def test_every_question_comes_in_both_orders_with_its_options_in_the_order_named() -> None:
    for item in age("all"):
        text = item.prompt if isinstance(item.prompt, str) else str(item.prompt[0]["content"])
        first, second = (text.lower().index(f"{group} ") for group in item.groups)
        assert first < second and item.options == tuple(f" {group}" for group in item.groups)
    seen = Counter((i.template, i.cluster, i.answer, frozenset(i.groups)) for i in age("all"))
    assert set(seen.values()) == {2}


def test_only_unambiguous_items_say_who_it_was() -> None:
    task = age("test")
    assert {i.template for i in task.ambiguous} == {w.name for w in OPEN}
    for item in task.unambiguous:
        text = item.prompt if isinstance(item.prompt, str) else str(item.prompt[0]["content"])
        assert f"the {item.answer} " in text.lower()
    assert Counter(i.answer for i in task.unambiguous)["young"] == len(task.unambiguous) // 2
    assert len(task) == 10 * (2 * len(OPEN) + 4 * len(TOLD))


def test_splits_do_not_meet_in_activity_or_held_out_wording() -> None:
    held_out = {w.name for w in AGE_WORDINGS if w.held_out}
    clusters = [{i.cluster for i in age(split)} for split in ("train", "validation", "test")]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == len(activities())
    for split in ("train", "validation"):
        assert not held_out & {i.template for i in age(split)}
    assert held_out <= {i.template for i in age("test")} and any(w.held_out for w in TOLD)


def test_prompts_begin_with_a_capital_and_have_their_articles() -> None:
    for item in age("all"):
        text = item.prompt if isinstance(item.prompt, str) else str(item.prompt[0]["content"])
        assert (
            text[0].isupper() and "{" not in text and " a old" not in text.lower() and " an young" not in text.lower()
        )


def test_bad_input_is_refused() -> None:
    with pytest.raises(SteerlibError, match="no split 'dev'"):
        age("dev")
    with pytest.raises(SteerlibError, match="no items"):
        age(wordings=[])
    with pytest.raises(SteerlibError, match="a list of AgeWording"):
        age(wordings=["The {first} and the {second} {did}"])  # type: ignore[list-item]
    with pytest.raises(SteerlibError, match="must have {first}, {second} and {did}"):
        AgeWording("mine", "The {first} one {did}")
