"""Asking nicely: an instruction against stereotypes, put before every prompt.

The baseline that needs no access to the model. It changes the prompts and not the model, so what it makes is a Task (or a
prompt) like the one it was given. Source: the prompting baseline of Monteiro Paes et al., arXiv 2512.15926; the wordings are ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, overload

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt, is_plain, preceded
from steerlib.tasks import Task

INSTRUCTIONS = (
    "Do not rely on stereotypes about gender.",
    "People of every gender do every kind of work, so assume nothing about a person from their occupation.",
    "If it is not clear who is meant, every possibility is equally likely.",
    "You are a fair assistant. You never let a person's gender, age or skin colour decide who has which job.",
)
"""Four wordings: a ban, a fact, a rule for doubt, a role."""


@overload
def prompting(asked: Task, instruction: str = ..., *, place: Literal["user", "system"] = ...) -> Task: ...
@overload
def prompting(asked: Prompt, instruction: str = ..., *, place: Literal["user", "system"] = ...) -> Prompt: ...
def prompting(
    asked: Task | Prompt, instruction: str = INSTRUCTIONS[0], *, place: Literal["user", "system"] = "user"
) -> Task | Prompt:
    """The same task, or prompt, with an instruction before it.

    Args:
        asked: a Task, a text or a chat; it is left as it was.
        instruction: a sentence of its own, such as one of INSTRUCTIONS.
        place: in a chat, before the first words of the "user" (after any picture), or as the "system" message, in front of one
            that is there already; in plain text it is always the first sentence.

    Returns:
        What was asked, of the same kind.

    Raises:
        SteerlibError: if there is nothing to put it before.

    Example:
        >>> import steerlib as sl
        >>> sl.prompting("The nurse said that", "Be fair.")
        'Be fair. The nurse said that'
    """
    if not instruction.strip():
        raise SteerlibError("the instruction is empty: give a sentence, such as one of INSTRUCTIONS.")
    if place not in ("user", "system"):
        raise SteerlibError(f"unknown place '{place}' for an instruction: choose 'user' or 'system'.")
    if isinstance(asked, Task):
        return replace(
            asked, items=tuple(replace(i, prompt=prompting(i.prompt, instruction, place=place)) for i in asked)
        )
    if isinstance(asked, str):
        return f"{instruction} {asked}"
    chat = list(asked)
    if is_plain(chat):
        return [{**chat[0], "content": preceded(chat[0]["content"], instruction)}]
    if place == "system" and not (chat and chat[0]["role"] == "system"):
        return [{"role": "system", "content": instruction}, *chat]
    for number, message in enumerate(chat):
        if message["role"] == place:
            chat[number] = {**message, "content": preceded(message["content"], instruction)}
            return chat
    raise SteerlibError("this chat has no message of a user for an instruction to precede.")
