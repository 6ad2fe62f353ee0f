"""From a chat to the text that a model reads: its own chat template, held to what it was given.

Templates differ in what they take. Some read the content of a message as a list of parts and print nothing for a plain text
(LLaVA, SmolVLM), others want a text wherever there is no picture and print a list as Python would show it (Llama 3.2 Vision), and
some take nothing but texts, in which the places for pictures are written by hand (Phi-4-multimodal). So a chat is offered in one form
after the other, until a rendering has every text of every message in it. If none does, the chat is refused: a question or an
instruction that silently goes missing would look like a model that does not mind it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from jinja2.exceptions import TemplateError

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Message, as_text, count_pictures, unnumbered, with_marks

ROLES = ("user", "assistant", "system")


def rendered(
    name: str, reader: Any, prompt: Sequence[Message], switches: Mapping[str, Any], *, parts: bool, mark: str = ""
) -> str:
    """The text that a chat becomes.

    Args:
        name: of the model, for errors.
        reader: the tokenizer or the processor that has the template.
        prompt: a chat; an answer that it has begun is left open.
        switches: what the template is told besides, such as {"enable_thinking": False}; {"date_string": "26 Jul 2024"} is today's
            date for every template that asks for one.
        parts: whether the template is that of a processor, which is offered lists of parts first.
        mark: what stands for a picture in a text; "" for a model that reads no pictures.

    Returns:
        The text, with a placeholder for every picture.

    Raises:
        SteerlibError: there is no template, it refuses the chat, it drops or changes one of its texts, or it has no such switch.
    """
    own = reader.chat_template if isinstance(reader.chat_template, str) else (reader.chat_template or {}).get("default")
    if not own:
        raise SteerlibError(
            f"'{name}' has no chat template: give plain text instead of messages, and pictures with a text as "
            "steerlib.chat(text, pictures=..., plain=True)."
        )
    how = _switched(name, own, switches)
    how["continue_final_message" if prompt[-1]["role"] == "assistant" else "add_generation_prompt"] = True
    refused: Exception | None = None
    dropped: str | None = None
    pictured = bool(mark) and count_pictures(prompt) > 0
    for flat, messages in _forms(prompt, parts, mark if pictured else ""):
        if flat and isinstance(refused, TemplateError):
            break  # the template has read the pictures, and takes no such chat
        try:
            text = str(reader.apply_chat_template(deepcopy(messages), tokenize=False, **how))
        except (TemplateError, ValueError, TypeError) as error:
            refused = refused or error
            continue
        lost = _lost(prompt, text)
        if lost is None:
            if "strftime_now" in own and "date_string" not in switches and name not in _told:
                other = reader.apply_chat_template(messages, tokenize=False, **how, chat_template=_dated(own, "?"))
                if other != text:
                    _warn_of_date(name)
            return unnumbered(text, mark) if pictured else text
        dropped = dropped or lost
    if dropped is not None and not isinstance(refused, TemplateError):  # a template's own words say more
        raise SteerlibError(
            f"the chat template of '{name}' drops or changes the text {dropped[:60]!r} of a message: put it into a message that the "
            "template prints, such as the user's."
        )
    reason = " ".join(str(refused).split())[:150]
    raise SteerlibError(f"the chat template of '{name}' does not take this chat: {reason}.") from refused


def _forms(prompt: Sequence[Message], parts: bool, mark: str) -> Iterator[tuple[bool, Sequence[Message]]]:
    """The chat in every form, and whether the form has a mark in place of each picture.

    In the others, the messages of some roles are lists of parts, and the rest are texts where they have no picture.
    """
    forms = (ROLES, ("user",), ())
    for roles in forms if parts else () if mark else reversed(forms):
        messages: list[dict[str, Any]] = []
        for message, flat in zip(prompt, as_text(prompt), strict=True):
            content: Any = [] if isinstance(message["content"], str) else message["content"]
            pictured = parts and any(part["type"] == "image" for part in content)
            if pictured or message["role"] in roles:
                given = content or [{"type": "text", "text": message["content"]}]
                # a template asks for places, so that the pictures themselves need not be copied
                content = [{"type": "image"} if part["type"] == "image" else dict(part) for part in given]
            else:
                content = flat["content"]
            messages.append({**message, "content": content})
        yield False, messages
    if mark:
        yield True, with_marks(prompt, mark)


def _lost(prompt: Sequence[Message], text: str) -> str | None:
    """The first text of a chat that is not in its rendering as often as it should be, or only as a printed list; None if all are.

    Blanks around a text do not count, nor does the reasoning before the last </think> of an answer, which templates leave out.
    """
    given: list[str] = []
    for message in prompt:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
        if message["role"] == "assistant":
            texts = [said.rpartition("</think>")[2] for said in texts]
        given += [said.strip() for said in texts if said.strip()]
    for said in given:
        if text.count(said) < sum(other.count(said) for other in given):
            return said
        shown = (f"'text': {said!r}", f'"text": "{said}"')
        if any(form in text and not any(form in other for other in given) for form in shown):
            return said
    return None


def _switched(name: str, template: str, switches: Mapping[str, Any]) -> dict[str, Any]:
    """What a template is told. Raises SteerlibError if it has no such switch."""
    dated = "strftime_now" in template
    known = {key: value for key, value in switches.items() if re.search(rf"\b{re.escape(key)}\b", template)}
    for key in switches:
        if key not in known and not (key == "date_string" and dated):
            raise SteerlibError(f"the chat template of '{name}' has no switch '{key}': leave it out of `template`.")
    return (
        {**known, "chat_template": _dated(template, switches["date_string"])}
        if dated and "date_string" in switches
        else known
    )


def _dated(template: str, date: Any) -> str:
    """A template for which it is always the same day, in whatever form it asks for the date."""
    return "{% macro strftime_now(form) %}{{ " + json.dumps(str(date)) + " }}{% endmacro %}{{ '' }}" + template


_told: set[str] = set()  # of the date in which models' prompts


def _warn_of_date(name: str) -> None:
    """Say once that a model's prompts are others tomorrow."""
    _told.add(name)
    warnings.warn(
        f"the chat template of '{name}' writes today's date into every prompt, so that results differ from day to day: fix it with "
        "template={'date_string': '26 Jul 2024'}.",
        stacklevel=4,
    )
