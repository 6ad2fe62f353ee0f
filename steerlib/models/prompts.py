"""Prompts: plain text, or a chat with pictures. They are written, read and edited here, and nowhere else.

A chat is a list of messages `{"role": ..., "content": ...}`, whose last message may be an answer that the assistant has
already begun. The content of a message about pictures is a list of parts, `{"type": "image", "image": picture}` and
`{"type": "text", "text": ...}`. A chat of one message whose role is "plain" is a text with pictures that no template touches, for
models that were never trained to chat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from PIL import Image, ImageOps

from steerlib.errors import SteerlibError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


def chat(
    user: str,
    answer: str | None = None,
    *,
    pictures: Image.Image | Sequence[Image.Image] = (),
    system: str | None = None,
    plain: bool = False,
) -> list[Message]:
    """A chat prompt, or with `plain` a text with pictures for a model that has no chat template.

    Args:
        user: what the user says.
        answer: how the assistant's answer has begun, which the model then continues; None lets it begin.
        pictures: one picture, or several in order, before what the user says.
        system: the system message; None leaves it to the model's template.
        plain: no template is used: the model reads the pictures and then `user` as it stands, and continues it. So base models such
            as PaliGemma are asked: `chat("answer en who is this?", pictures=picture, plain=True)`. If the text itself has
            a placeholder for each picture (such as "<image>"), the pictures go there.

    Returns:
        A list of messages, `{"role": ..., "content": ...}`.

    Raises:
        SteerlibError: a picture is not a PIL image, or a plain text was given with an answer or a system message.

    Example:
        >>> chat("Who fixed the car?", "It was the")
        [{'role': 'user', 'content': 'Who fixed the car?'}, {'role': 'assistant', 'content': 'It was the'}]
    """
    if plain and (answer is not None or system is not None):
        raise SteerlibError(
            "a plain prompt has no roles: write the instruction and the begun answer into the text itself."
        )
    shown: list[Any] = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    for picture in shown:
        if not isinstance(picture, Image.Image):
            raise SteerlibError(f"a picture is a PIL image, not {type(picture).__name__}: open it with PIL.Image.open.")
    parts = [*({"type": "image", "image": picture} for picture in shown), {"type": "text", "text": user}]
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "plain" if plain else "user", "content": parts if len(parts) > 1 else user})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def as_list(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts in a list, and whether it was a single one.

    Args:
        prompts: a text, a chat, or several of them in any sequence: a list, a tuple, a column of a frame, an array of texts.

    Returns:
        The prompts, and True if a single text or chat was given.

    Raises:
        SteerlibError: there is no prompt, or something among them is neither a text nor a chat.

    >>> as_list("The nurse"), as_list(["The nurse", "The cook"])
    ((['The nurse'], True), (['The nurse', 'The cook'], False))
    """
    if isinstance(prompts, str):
        return [str(prompts)], True
    if isinstance(prompts, Mapping):
        raise SteerlibError("a single message was given: a chat is a list of messages, as steerlib.chat writes it.")
    many = listed(prompts)
    if not many:
        raise SteerlibError("no prompt was given: give a text, a chat, or a list of them.")
    if isinstance(many[0], Mapping):
        return [cast(Prompt, many)], True
    for i, prompt in enumerate(many):
        if not isinstance(prompt, str) and not (
            isinstance(prompt, Sequence) and all(isinstance(m, Mapping) for m in prompt)
        ):
            raise SteerlibError(
                f"prompt {i} is a {type(prompt).__name__}, not a text or a chat (a list of messages): {prompt!r:.60}."
            )
    return many, False


def listed(values: Any) -> list[Any]:
    """A list of the values in a sequence, an array or a column (or table, row by row), as plain Python objects."""
    if hasattr(values, "to_numpy"):  # pandas
        values = values.to_numpy()
    return list(values.tolist() if hasattr(values, "tolist") else values)


def check_chat(prompt: Sequence[Message]) -> None:
    """Raise SteerlibError unless every message has a role, and a content that is a text or a list of parts."""
    if not prompt:
        raise SteerlibError("an empty chat was given: a chat needs at least one message.")
    for message in prompt:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise SteerlibError("a message of a chat lacks its 'role' or its 'content'.")
        if message["role"] == "plain" and len(prompt) > 1:
            raise SteerlibError("a message with the role 'plain' stands alone: a plain prompt has no turns.")
        content = message["content"]
        if isinstance(content, str):
            continue
        if not isinstance(content, Sequence):
            raise SteerlibError(
                f"the content of a message is a text or a list of parts, not a {type(content).__name__}."
            )
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if (
                kind not in ("image", "text")
                or kind not in part
                or (kind == "text" and not isinstance(part["text"], str))
            ):
                raise SteerlibError(
                    "a part of a message is {'type': 'image', 'image': a picture} or {'type': 'text', 'text': ...}, "
                    f"not {str(part)[:60]}: write it with steerlib.chat(text, pictures=[...])."
                )


def as_text(prompt: Sequence[Message]) -> list[Message]:
    """A chat without pictures, with every content one text, as a template for text alone wants it."""
    flat: list[Message] = []
    for message in prompt:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part["text"] for part in content if part["type"] == "text")
        flat.append({**message, "content": content})
    return flat


def is_plain(prompt: Prompt) -> bool:
    """Whether a prompt is a text with pictures that no template touches."""
    return not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].get("role") == "plain"


def plain_text(prompt: Sequence[Message], mark: str) -> str:
    """The text of a plain prompt, with the mark of a picture where each one is, unless the text has these marks itself."""
    (message,) = prompt
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = unnumbered("".join(part["text"] for part in parts if part["type"] == "text"), mark)
    if mark and mark in text:
        return text
    return "".join(part["text"] if part["type"] == "text" else mark for part in parts)


def unnumbered(text: str, mark: str) -> str:
    """The text with the mark of a picture where it says <|image_1|>, <|image_2|>, as Phi's models count their pictures.

    >>> unnumbered("<|user|><|image_1|>Who is it?", "<|image|>")
    '<|user|><|image|>Who is it?'
    """
    return re.sub(r"<\|image_\d+\|>", lambda _: mark, text) if mark and mark not in text else text


def with_marks(prompt: Sequence[Message], mark: str) -> list[Message]:
    """A chat with every content one text, in which a mark stands for each picture."""
    flat: list[Message] = []
    for message in prompt:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(part["text"] if part["type"] == "text" else mark for part in content)
        flat.append({**message, "content": content})
    return flat


def pictures_of(prompt: Prompt) -> list[Image.Image]:
    """The pictures of a chat, in order, upright and as RGB."""
    if isinstance(prompt, str):
        return []
    check_chat(prompt)
    parts = [part for message in prompt if not isinstance(message["content"], str) for part in message["content"]]
    return [_rgb(part["image"]) for part in parts if part["type"] == "image"]


def _rgb(picture: Any) -> Image.Image:
    """A picture in RGB, if it is clear what that would look like; a photograph is turned as its camera was held."""
    if not isinstance(picture, Image.Image):
        raise SteerlibError(f"a picture is a PIL image, not {type(picture).__name__}: open it with PIL.Image.open.")
    wide, high = picture.size
    if min(wide, high) < 8 or wide * high > 50_000_000:
        raise SteerlibError(
            f"a picture of {wide} x {high} pixels cannot be read: give at least 8 on each side and 50 million in all."
        )
    if picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "PA", "1", "CMYK"):
        raise SteerlibError(f"a picture of mode {picture.mode} has no clear RGB form: convert it to RGB first.")
    try:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode != "CMYK" and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise SteerlibError(
                "a picture has transparent places: paste it on a background first, and convert it to RGB."
            )
        made: Image.Image = picture if picture.mode == "RGB" else picture.convert("RGB")
        return made
    except SteerlibError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:100]
        raise SteerlibError(
            f"a picture cannot be read ({reason}): its file is cut short or damaged, or was closed before it was read."
        ) from error


def answered(prompt: Prompt, answer: str) -> Prompt:
    """The prompt with its answer given: text goes on, plain or with pictures, and so does an answer that a chat has begun.

    In a chat without a begun answer the template starts a fresh turn, so that blanks before the answer are dropped.
    """
    if isinstance(prompt, str):
        return prompt + answer
    *before, last = prompt
    if last["role"] not in ("assistant", "plain"):
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
    users = [i for i, message in enumerate(prompt) if message.get("role") in ("user", "plain") and "content" in message]
    if count_pictures(prompt) or not users:
        raise SteerlibError(
            "a prompt that has a picture, or no user's message to put one in, was given with pictures: give pictures=None."
        )
    first = prompt[users[0]]
    said = [{"type": "text", "text": first["content"]}] if isinstance(first["content"], str) else first["content"]
    put = {**first, "content": [{"type": "image", "image": picture}, *said]}
    return [*prompt[: users[0]], put, *prompt[users[0] + 1 :]]


def repainted(prompt: Prompt, pictures: Sequence[Image.Image]) -> Prompt:
    """The prompt with other pictures in the places of its own, in order."""
    if isinstance(prompt, str):
        return prompt
    left = iter(pictures)
    messages: list[Message] = []
    for message in prompt:
        content = message["content"]
        if not isinstance(content, str):
            content = [{**part, "image": next(left)} if part["type"] == "image" else part for part in content]
        messages.append({**message, "content": content})
    return messages


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
