"""Prompts: plain text, or a chat with pictures. They are written, read and edited here, and nowhere else.

A chat is a list of messages `{"role": ..., "content": ...}`, whose last message may be an answer that the assistant has
already begun. The content of a message about pictures is a list of parts, `{"type": "image", "image": picture}` and
`{"type": "text", "text": ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from PIL import Image

from steerlib.errors import SteerlibError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


def chat(
    user: str,
    answer: str | None = None,
    *,
    pictures: Image.Image | Sequence[Image.Image] = (),
    system: str | None = None,
) -> list[Message]:
    """A chat prompt: the pictures (one, or several in order), what the user says, and how the assistant's answer has begun."""
    shown = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    parts = [*({"type": "image", "image": picture} for picture in shown), {"type": "text", "text": user}]
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": parts if shown else user})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def as_list(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts in a list, and whether it was a single one (a text, or one chat).

    Several may be in a list, a NumPy array or a column of a table. Raises SteerlibError if there is none, or one is neither a
    text nor a chat.
    """
    if isinstance(prompts, str):
        return [str(prompts)], True
    many = listed(prompts)
    if many and isinstance(many[0], Mapping):
        return [cast(Prompt, prompts)], True
    if not many:
        raise SteerlibError("no prompt was given: give a text, a chat, or a list of them.")
    for number, prompt in enumerate(many):
        if not isinstance(prompt, (str, Sequence)):
            raise SteerlibError(f"prompt {number} is a {type(prompt).__name__}, not a text or a chat: {prompt!r:.60}.")
    return many, False


def listed(values: Any) -> list[Any]:
    """A list of the values in a sequence, an array or a column (or table, row by row), as plain Python objects."""
    if hasattr(values, "to_numpy"):  # pandas
        values = values.to_numpy()
    return list(values.tolist() if hasattr(values, "tolist") else values)


def pictures_of(prompt: Prompt) -> list[Image.Image]:
    """The pictures of a chat, in order, as RGB."""
    if isinstance(prompt, str):
        return []
    found = []
    for message in prompt:
        if isinstance(message["content"], str):
            continue
        for part in message["content"]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in ("image", "text") or kind not in part:
                raise SteerlibError(
                    "a part of a message is {'type': 'image', 'image': a picture} or {'type': 'text', 'text': ...}, "
                    f"not {str(part)[:60]}: write it with steerlib.chat(text, pictures=[...])."
                )
            if kind == "image":
                found.append(_rgb(part["image"]))
    return found


def _rgb(picture: Any) -> Image.Image:
    """A picture in RGB, if it is clear what that would look like."""
    if not isinstance(picture, Image.Image):
        raise SteerlibError(f"a picture is a PIL image, not {type(picture).__name__}: open it with PIL.Image.open.")
    wide, high = picture.size
    if min(wide, high) < 8 or wide * high > 50_000_000:
        raise SteerlibError(
            f"a picture of {wide} x {high} pixels cannot be read: give at least 8 on each side and 50 million in all."
        )
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK"):
        raise SteerlibError(f"a picture of mode {picture.mode} has no clear RGB form: convert it to RGB first.")
    if picture.mode != "CMYK" and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise SteerlibError("a picture has transparent places: paste it on a background first, and convert it to RGB.")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def answered(prompt: Prompt, answer: str) -> Prompt:
    """The prompt with its answer given: text goes on, and so does an answer that a chat has begun.

    In a chat without a begun answer the template starts a fresh turn, so that blanks before the answer are dropped.
    """
    if isinstance(prompt, str):
        return prompt + answer
    *before, last = prompt
    if last["role"] != "assistant":
        return [*prompt, {"role": "assistant", "content": answer.lstrip()}]
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": content + answer}]
    parts: list[Message] = list(content)
    if parts and parts[-1].get("type") == "text":
        parts[-1] = {**parts[-1], "text": parts[-1]["text"] + answer}
    else:
        parts.append({"type": "text", "text": answer})
    return [*before, {**last, "content": parts}]


def with_picture(picture: Image.Image, prompt: Prompt) -> Prompt:
    """The prompt with a picture before what the user says first."""
    if isinstance(prompt, str):
        return chat(prompt, pictures=picture)
    users = [i for i, message in enumerate(prompt) if message.get("role") == "user" and "content" in message]
    if count_pictures(prompt) or not users:
        raise SteerlibError(
            "a prompt that has a picture, or no user's message to put one in, was given with pictures: give pictures=None."
        )
    first = prompt[users[0]]
    said = [{"type": "text", "text": first["content"]}] if isinstance(first["content"], str) else first["content"]
    put = {**first, "content": [{"type": "image", "image": picture}, *said]}
    return [*prompt[: users[0]], put, *prompt[users[0] + 1 :]]


def count_pictures(prompt: Prompt) -> int:
    """How many pictures a prompt has."""
    if isinstance(prompt, str):
        return 0
    parts = [part for message in prompt for part in message.get("content", "") if isinstance(part, Mapping)]
    return sum(part.get("type") == "image" for part in parts)


def preceded(content: Any, instruction: str) -> Any:
    """A message's content, a text or a list of parts, with a sentence before its first text."""
    if isinstance(content, str):
        return f"{instruction} {content}"
    parts = cast(list[Message], list(content))
    for number, part in enumerate(parts):
        if isinstance(part, Mapping) and part.get("type") == "text":
            parts[number] = {**part, "text": f"{instruction} {part['text']}"}
            return parts
    return [*parts, {"type": "text", "text": instruction}]
