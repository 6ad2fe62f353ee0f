"""Instructions before prompts: where they stand, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from steerlib import SteerlibError, chat
from steerlib.baselines.prompting import INSTRUCTIONS, prompting
from steerlib.models.prompts import Prompt
from steerlib.tasks import pronoun

SAY = "Be fair."


def test_plain_text_gets_a_first_sentence() -> None:
    assert prompting("The nurse said that", SAY) == "Be fair. The nurse said that"
    assert prompting("The nurse said that", SAY, place="system") == "Be fair. The nurse said that"


def test_a_chat_gets_it_before_the_user_s_words_or_as_the_system() -> None:
    given = chat("Who?", "It was")
    assert prompting(given, SAY) == chat("Be fair. Who?", "It was")
    assert prompting(given, SAY, place="system") == chat("Who?", "It was", system="Be fair.")
    ruled = chat("Who?", system="You are a clerk.")
    assert prompting(ruled, SAY, place="system") == chat("Who?", system="Be fair. You are a clerk.")
    assert prompting(ruled, SAY) == chat("Be fair. Who?", system="You are a clerk.")
    assert given == chat("Who?", "It was")


def test_pictures_stay_where_they_are_and_come_first() -> None:
    pair = [tiny.picture(1), tiny.picture(2)]
    assert prompting(chat("Who?", "The", pictures=pair), SAY) == chat("Be fair. Who?", "The", pictures=pair)
    alone: list[Any] = [{"role": "user", "content": [{"type": "image", "image": pair[0]}]}]
    assert prompting(alone, SAY)[0]["content"][1] == {"type": "text", "text": SAY}  # type: ignore[index]
    lm = tiny.seeing()
    plain, told = (lm.render(p) for p in (chat("Who?", pictures=pair), prompting(chat("Who?", pictures=pair), SAY)))
    assert told == plain.replace("Who?", "Be fair. Who?")


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_task_keeps_everything_but_its_prompts(instruction: str) -> None:
    given = pronoun("validation")
    made = prompting(given, instruction)
    assert made.name == given.name and len(made) == len(given)
    for one, other in zip(given, made, strict=True):
        assert {**vars(one), "prompt": None} == {**vars(other), "prompt": None}
        assert other.prompt == prompting(one.prompt, instruction) != one.prompt


def test_the_wordings_are_several_sentences_and_name_no_group() -> None:
    assert len(set(INSTRUCTIONS)) == len(INSTRUCTIONS) >= 3
    for sentence in INSTRUCTIONS:
        assert sentence.endswith(".") and not {"he", "she", "man", "woman"} & set(sentence.lower().split())


@pytest.mark.parametrize(
    ("asked", "how", "says"),
    [
        ("A", {"instruction": " "}, "instruction is empty"),
        ("A", {"place": "assistant"}, "unknown place 'assistant'"),
        ([{"role": "assistant", "content": "A"}], {}, "no message of a user"),
    ],
)
def test_bad_input_is_refused(asked: Prompt, how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says):
        prompting(asked, **how)
