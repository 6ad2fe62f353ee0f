"""Capability: which answers name the work, which choices are right, and that a steering given here is a `steer` outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch

from steerlib import Add, Steering, SteerlibError, chat, perplexity_ratio, steer
from steerlib.evaluate.capability import capability, names_job
from steerlib.tasks import Item, Portrait, Task

STEERING = Steering({"residual.1": Add(tiny.vector(4, size=3.0))})  # type: ignore[dict-item]
TEXTS = ["one text here", "another, longer text over there"]


def portrait(job: str, number: int = 0, gender: str = "man") -> Portrait:
    return Portrait(chat("Who is it?", pictures=tiny.picture(number)), job, gender, "medium", "who")


def item(job: str, options: tuple[str, str], answer: str | None, prompt: Any = "Who?") -> Item:
    """Two options that stand for a man and a woman, in this order."""
    return Item(prompt, options, ("man", "woman"), job, 50.0, "man", "which", answer)


@dataclass(frozen=True)
class Oracle:
    """A stand-in for a model that gives the first option this probability."""

    first: float

    def choose(self, prompts: list[str], options: Any, *, batch_size: int) -> torch.Tensor:
        return torch.tensor([[self.first, 1 - self.first]] * len(prompts), dtype=torch.float64)


@pytest.mark.parametrize(
    ("answer", "job", "right"),
    [
        ("A woman with dark skin who works as a doctor.", "doctor", True),
        ("An ARTIST.", "artist", True),
        ("Two police officers.", "police officer", True),
        ("A police-officer's hat.", "police officer", True),
        ("A police\nofficer", "police officer", True),
        ("An officer of the police.", "police officer", False),
        ("A worker in a factory.", "factory worker", False),
        ("A cookie.", "cook", False),
        ("A lifeguard.", "guard", False),
        ("A judgement.", "judge", False),
        ("", "judge", False),
    ],
)
def test_an_answer_names_an_occupation_as_whole_words(answer: str, job: str, right: bool) -> None:
    assert names_job(answer, job) is right


def test_synonyms_count_for_their_own_occupation_only() -> None:
    synonyms = {"cook": ["chef", "head chef"]}
    assert names_job("Some chefs.", "cook", synonyms) and not names_job("Some chefs.", "judge", synonyms)
    assert not names_job("Some chefs.", "cook")


def test_the_share_of_named_jobs_is_counted_over_given_answers() -> None:
    shown = [portrait("cook"), portrait("cook"), portrait("judge"), portrait("judge")]
    got = capability(tiny.seeing(), shown, answers=["A cook.", "A chef.", "A judge.", "A cook."])
    assert got.job_named is not None and got.job_named.value == 0.5 and got.job_named.n == 2
    assert got.unambiguous_accuracy is None and got.perplexity_ratio is None
    assert got.per_cluster().to_dict() == {"cook": 0.5, "judge": 0.5}
    assert list(got.frame["right"]) == [True, False, True, False]
    more = capability(tiny.seeing(), shown, answers=["A cook.", "A chef.", "A judge.", ""], synonyms={"cook": ["chef"]})
    assert more.job_named is not None and more.job_named.value == 0.75
    assert list(more.table().index) == ["job named", "empty", "repeated"]


def test_without_answers_the_model_is_asked() -> None:
    lm, shown = tiny.seeing(), [portrait("cook", 1), portrait("judge", 2)]
    got = capability(lm, shown, max_new_tokens=5)
    assert list(got.frame["answer"]) == lm.generate([p.prompt for p in shown], max_new_tokens=5)


def test_unambiguous_accuracy_counts_the_right_group_whatever_its_place() -> None:
    items = (
        item("cook", (" first", " second"), "man"),
        item("cook", (" first", " second"), "woman"),
        item("judge", (" first", " second"), None),
    )
    swapped = tuple(Item(i.prompt, i.options, ("woman", "man"), *_rest(i)) for i in items)
    for first, expected in (
        (0.9, [True, False]),
        (0.2, [False, True]),
        (0.5, [False, False]),
    ):  # a tie is not an answer
        got = capability(Oracle(first), (), Task("who", items))  # type: ignore[arg-type]
        assert list(got.frame["right"]) == expected and got.job_named is None
        assert got.unambiguous_accuracy is not None and got.unambiguous_accuracy.value == sum(expected) / 2
        turned = capability(Oracle(first), (), Task("who", swapped))  # type: ignore[arg-type]
        assert list(turned.frame["right"]) == ([False, False] if first == 0.5 else [not right for right in expected])
    assert got.per_cluster("unambiguous accuracy").to_dict() == {"cook": 0.0}


def _rest(i: Item) -> tuple[Any, ...]:
    return (i.occupation, i.percent_women, i.stereotype, i.template, i.answer)


def test_a_steering_given_here_is_that_of_a_with_outside_and_adds_the_perplexity() -> None:
    lm, shown = tiny.seeing(), [portrait("cook", 1), portrait("judge", 2)]
    pictured = chat("Who is it?", "The", pictures=tiny.picture(3))
    task = Task("who", tuple(item(j, (" first", " second"), "man", pictured) for j in ("cook", "judge")))
    got = capability(lm, shown, task, change=steer(lm, STEERING, 0.7), texts=TEXTS, max_new_tokens=5)
    with steer(lm, STEERING, 0.7):
        outside = capability(lm, shown, task, max_new_tokens=5)
    assert got.frame.equals(outside.frame)
    assert not got.frame.equals(capability(lm, shown, task, max_new_tokens=5).frame)
    assert got.perplexity_ratio == perplexity_ratio(lm, STEERING, 0.7, texts=TEXTS)
    assert outside.perplexity_ratio is None
    assert list(got.table().index)[:3] == ["job named", "unambiguous accuracy", "perplexity ratio"]
    assert not tiny.hooks(lm.hf)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "nothing is to be measured"),
        ({"task": Task("open", (item("cook", ("a", "b"), None),))}, "'open' has no unambiguous item"),
        ({"portraits": [portrait("cook")], "answers": []}, "1 portraits need as many answers"),
        ({"portraits": [portrait("cook")], "answers": "A"}, "not one text"),
        ({"answers": ["A cook."]}, "nothing is to be measured"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(how: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        capability(tiny.seeing(), **how)
    assert "\n" not in str(error.value)


def test_a_measure_that_was_not_taken_is_named() -> None:
    got = capability(tiny.seeing(), [portrait("cook")], answers=["A cook."])
    with pytest.raises(SteerlibError, match="'unambiguous accuracy' was not measured: there are job named"):
        got.per_cluster("unambiguous accuracy")


def test_rights_are_counted_by_group_and_drawn() -> None:
    shown = [portrait("cook", gender="man"), portrait("cook", gender="woman"), portrait("judge"), portrait("judge")]
    task = Task("who", tuple(item(job, (" first", " second"), "man") for job in ("cook", "judge")))
    got = capability(Oracle(0.9), shown, task, answers=["A cook.", "A judge.", "A judge.", "A judge."])  # type: ignore[arg-type]
    assert got.by("gender")["value"].to_dict() == {"man": 1.0, "woman": 0.0}
    assert got.by("occupation", "unambiguous accuracy")["value"].to_dict() == {"cook": 1.0, "judge": 1.0}
    ax = got.plot(by="gender")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["job named", "unambiguous accuracy"]
    with pytest.raises(SteerlibError, match="no grouping 'age': there are occupation, template, gender, tone"):
        got.by("age")


def test_empty_answers_are_told_apart_from_wrong_ones() -> None:
    shown = [portrait("cook"), portrait("judge"), portrait("judge")]
    with pytest.warns(UserWarning, match="2 of 3 answers are empty or repeat one phrase"):
        got = capability(tiny.seeing(), shown, answers=["A cook.", "", "judge judge judge judge"])
    assert got.empty is not None and got.empty.value == pytest.approx(1 / 3)
    assert got.repeated is not None and got.repeated.value == pytest.approx(1 / 3)
    assert list(got.frame["empty"]) == [False, True, False] and list(got.frame["right"]) == [True, False, True]
