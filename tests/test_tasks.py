"""The pronoun task and the occupations: what is in them, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_people import need

from steerlib import SteerlibError, chat
from steerlib.tasks import (
    OCCUPATIONS,
    PERSON_IS_MAN,
    Item,
    PairItem,
    Task,
    Template,
    coreference,
    describe,
    occupations,
    pronoun,
    who_is,
)
from steerlib.tasks.pronoun import GROUPS, TEMPLATES, TRAINING_TEMPLATES, WORDS


def test_occupations_are_many_sourced_and_agree_with_their_shares() -> None:
    table = occupations()
    assert len(table) >= 60 and table["occupation"].is_unique and not table.isna().any().any()
    assert table["percent_women"].between(0, 100).all()
    assert ((table["percent_women"] > 50) == (table["stereotype"] == "woman")).all()
    assert (table["source"].str.len() > 10).all() and table["year"].between(2015, 2026).all()


def test_no_occupation_stands_in_two_splits_and_each_split_has_both_stereotypes() -> None:
    parts = {split: set(occupations(split)["occupation"]) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(occupations()) == len(set.union(*parts.values()))
    for split in parts:
        assert set(occupations(split)["stereotype"]) == {"man", "woman"}


def test_pictured_occupations_have_a_split_of_their_own() -> None:
    parts = {split: occupations(split, pictured=True) for split in ("train", "validation", "test")}
    assert [len(part) for part in parts.values()] == [9, 4, 7]
    everybody = occupations(pictured=True)
    assert set(everybody["occupation"]) == set(OCCUPATIONS) == set(pd.concat(parts.values())["occupation"])
    assert len(everybody) == 20 and set(occupations()["picture_split"]) == {*parts, ""}
    for split, part in parts.items():
        assert set(part["stereotype"]) == {"man", "woman"} and set(part["picture_split"]) == {split}
        assert (
            abs(part["percent_women"].mean() - everybody["percent_women"].mean()) < 5
        )  # stratified by the share of women
    assert (
        len(set(parts["train"]["occupation"]) - set(PERSON_IS_MAN)) == 6
    )  # enough neutral people to make a steering with
    with pytest.raises(SteerlibError, match="no split 'dev'"):
        occupations("dev", pictured=True)


def test_held_out_wordings_are_only_in_the_test_split() -> None:
    held_out = {t.name for t in TEMPLATES if t.held_out}
    ambiguous = [t for t in TEMPLATES if not t.unambiguous]
    assert len(ambiguous) >= 6 and sum(t.held_out for t in ambiguous) >= 2
    assert {t.answer is None for t in ambiguous} == {True, False}  # plain text and chats
    for split in ("train", "validation"):
        assert not held_out & {item.template for item in pronoun(split)}
    assert held_out <= {item.template for item in pronoun("test")}


def test_training_wordings_are_more_than_the_usual_ones_and_none_is_held_out() -> None:
    new = [t for t in TRAINING_TEMPLATES if t not in TEMPLATES]
    assert sum(not t.unambiguous for t in new) == 7 and sum(t.unambiguous for t in new) == 4
    assert not any(t.held_out for t in TRAINING_TEMPLATES)
    assert len({t.name for t in (*TEMPLATES, *new)}) == len(TEMPLATES) + len(new)
    # nothing that a held-out wording asks is asked here in nearly the same words
    last = {t.name: (t.answer or t.text).split()[-3:] for t in (*TEMPLATES, *new)}
    assert all(last[t.name] != last[h.name] for t in new for h in TEMPLATES if h.held_out)
    assert {item.template for item in pronoun("train", templates=TRAINING_TEMPLATES)} == {
        t.name for t in TRAINING_TEMPLATES
    }


def test_ambiguous_items_say_no_gender_and_unambiguous_ones_say_the_right_one() -> None:
    gendered = {
        word: group for group in GROUPS for word in [*WORDS[group].values(), *({"he"} if group == "man" else {"she"})]
    }
    for item in pronoun("all"):
        text = item.prompt if isinstance(item.prompt, str) else " ".join(m["content"] for m in item.prompt)
        said = {gendered[w] for w in text.replace(",", " ").replace(".", " ").split() if w in gendered}
        assert said == (set() if item.answer is None else {item.answer}), text


def test_articles_agree() -> None:
    texts = [str(item.prompt) for item in pronoun("all")]
    assert any("an engineer" in text for text in texts) and any("a nurse" in text for text in texts)
    assert not any(" a engineer" in text or " an nurse" in text for text in texts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Somebody was late because", "lacks {occupation}"),
        ("The {occupation} met {pet}, and", "{pet}, which nothing fills"),
    ],
)
def test_a_template_without_its_place_is_refused(text: str, says: str) -> None:
    with pytest.raises(SteerlibError, match=says):
        Template("mine", text)


def test_an_occupation_without_stereotype_is_refused() -> None:
    people = pd.DataFrame({"occupation": ["juggler"], "percent_women": [40.0], "stereotype": [None]})
    with pytest.raises(SteerlibError, match="juggler"):
        pronoun("test", people=people)
    with pytest.raises(SteerlibError, match="lacks the column 'stereotype'"):
        pronoun("test", people=people.drop(columns="stereotype"))
    with pytest.raises(SteerlibError, match="no split 'dev'"):
        pronoun("dev")
    with pytest.raises(SteerlibError, match="no items"):
        pronoun("test", templates=[])


def test_own_templates_and_people_make_a_task() -> None:
    people = pd.DataFrame({"occupation": ["juggler"], "percent_women": [40.0], "stereotype": ["man"]})
    task = pronoun("test", people=people, templates=[Template("mine", "The {occupation} fell, and")])
    assert [item.prompt for item in task] == ["The juggler fell, and"]


def test_where_keeps_what_has_the_values_in_order() -> None:
    task = pronoun("all")
    late = task.where(template="late")
    assert late.items == tuple(item for item in task if item.template == "late") and late.about == "occupation"
    two = task.where(cluster=["pilot", "nurse"], answer=None)
    assert two.items == tuple(i for i in task.ambiguous if i.cluster in ("nurse", "pilot"))
    assert task.where(answer=None) == task.ambiguous and task.where(answer=["man", "woman"]) == task.unambiguous
    assert (
        task.where(occupation=pd.Series(["pilot"])) == task.where(cluster={"pilot"}) == task.where(cluster=("pilot",))
    )
    assert task.where(groups=("man", "woman")) == task  # a tuple that the items have is one value
    assert task.where(lambda item: item.statistic > 50, template="late") == late.where(stereotype="woman")
    assert task.where(lambda item: False).items == ()


def test_a_task_is_cut_and_joined_as_a_list_is() -> None:
    task = pronoun("test")
    assert task[3] is task.items[3] and task[-1] is task.items[-1] and task[np.int64(2)] is task.items[2]
    assert task[2:5].items == task.items[2:5] and task[2:5].name == task.name
    assert (task[:7] + task[7:]) == task
    other = coreference("test")
    both = task + other
    assert both.items == task.items + other.items and both.name == "pronoun + coreference"
    assert (replace(task, items=()) + task).items == task.items
    with pytest.raises(TypeError):
        task + [1]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda t: t.where(tempalte="late"),
            "the items of 'pronoun' have no field 'tempalte': the fields are prompt, options",
        ),
        (lambda t: t.where(template="lat"), "no item of 'pronoun' has the template 'lat': there are late, advice"),
        (lambda t: t.where(cluster=["nurse", "wizard"]), "has the cluster 'wizard'"),
        (lambda t: t[:0].where(cluster="nurse"), "no field 'cluster'"),
        (lambda t: t["late"], "choose by a field with task.where"),
        (lambda t: t[10_000], "there is no item 10000"),
        (lambda t: t + who_is("validation", size=8, by="tone"), "their groups are man, woman and dark, light"),
        (lambda t: t + Task("mine", t.items), "their about is 'occupation' and 'cluster'"),
        (lambda t: Item("Who?", (" he", " she"), ("man",), "nurse"), "2 options and 1 groups were given about 'nurse'"),
        (lambda t: Item("Who?", "he", "man", "nurse"), "options and groups are tuples of texts"),
    ],
)
def test_what_cannot_be_cut_or_joined_is_told_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=re.escape(says)) as told:
        call(pronoun("all"))
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_portraits_and_pairs_hand_out_their_pictures() -> None:
    need()
    portrait = describe("validation", size=8)[0]
    assert portrait.picture.tobytes() == portrait.prompt[0]["content"][0]["image"].tobytes()  # type: ignore[index]
    item = who_is("validation", size=8)[0]
    assert isinstance(item, PairItem)
    for picture, part in zip(item.pictures, item.prompt[0]["content"][:2], strict=True):  # type: ignore[index]
        assert picture.tobytes() == part["image"].tobytes()  # type: ignore[index]


def test_chats_become_texts_for_a_model_that_has_no_template_for_them() -> None:
    task = pronoun("test")
    plain = task.as_text()
    assert len(plain) == len(task) and all(isinstance(item.prompt, str) for item in plain)
    for item, text in zip(task, plain, strict=True):
        said = [item.prompt] if isinstance(item.prompt, str) else [message["content"] for message in item.prompt]
        assert text.prompt == "\n".join(said)  # type: ignore[arg-type]
        assert replace(item, prompt=text.prompt) == text
    shown = chat("Who?", "The", pictures=[Image.new("RGB", (8, 8))])
    pictured = Task("pictured", (replace(task[0], prompt=shown),))
    with pytest.raises(SteerlibError, match="shows pictures"):
        pictured.as_text()
