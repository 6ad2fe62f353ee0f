"""Items that no training has seen: a set to choose settings on, and a sealed set to be scored once, when all is settled.

Both ask the pronoun task's question about occupations that no split has, in wordings that no training has. The set for choosing
adds the ten validation occupations, and is as large as the test set and of its kinds. The sealed set has kinds of text that
no other set has (dialogue, news, letters, instructions, notes). They were written, and hashed, before any method was run on them;
`steerlib.reproduce.sealed` keeps a log of what was scored on them. The wordings and the sources of the figures: data/sealed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import pandas as pd
import yaml

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt
from steerlib.tasks.item import Task, occupations
from steerlib.tasks.pronoun import Template, pronoun
from steerlib.tasks.who_is import who_is

Sealed = Literal["pronoun", "who-is"]

DIGESTS = {
    "choosing": "24ebcc719ec01695da82e97594ec643527bacf9ac5faaf0ca3d4c364fc3dcac2",
    "pronoun": "1a47a8eca585ab35d37086b143089b69a967bb4ebdfceb4d4c654f132c250390",
    "who-is": "78aa6bfbce1a246f42dc1b8d7e4f21d0acde6ddef3b3af6c3de4ad7e895cc7aa",
}
"""What the items of each set must hash to."""


def choosing() -> Task:
    """The pronoun task to choose settings on: 26 occupations, ten of them the validation split's, in five wordings of their own.

    Returns:
        A Task of 78 ambiguous and 104 unambiguous items, as many as the test set has in its held-out wordings.

    Raises:
        SteerlibError: the files of the set are not what they were.

    Example:
        >>> task = choosing()
        >>> len({item.cluster for item in task}), len(task.ambiguous), len(task.unambiguous)
        (26, 78, 104)
    """
    known = occupations("validation")[["occupation", "percent_women", "stereotype"]]
    people = pd.concat([known, _people("choosing")], ignore_index=True)
    return _checked("choosing", pronoun("validation", templates=_templates("choosing"), people=people))


def sealed(kind: Sealed = "pronoun") -> Task:
    """The sealed set: score it once, with everything settled; the log in data/sealed says what has been.

    Args:
        kind: "pronoun": 24 occupations in 24 ambiguous and 8 unambiguous wordings. "who-is": the test occupations of the
            pictures, drawn in the style that no training has seen, in new scenes.

    Returns:
        A Task of that name with "sealed" before it.

    Raises:
        SteerlibError: there is no such set, or its files are not what they were.

    Example:
        >>> task = sealed()
        >>> task.name, len(task.ambiguous), len(task.unambiguous)
        ('sealed-pronoun', 576, 384)
        >>> task.where(template="dear-sam")[0].prompt
        'Dear Sam, you asked about the crane operator who moved in next door. It seems that'
    """
    if kind == "pronoun":
        task = pronoun("test", templates=_templates("sealed"), people=_people("sealed"))
    elif kind == "who-is":
        task = who_is("test", scenes=3, style="twemoji", seed=20261126)
    else:
        raise SteerlibError(f"there is no sealed set '{kind}': use 'pronoun' or 'who-is'.")
    return _checked(kind, Task(f"sealed-{kind}", task.items, task.about, task.statistic))


def digest(task: Task) -> str:
    """The SHA-256 of what a task asks: prompts, options, groups, what each item is about and its answer.

    Pictures count by how they are described, not by their pixels, whose last bits depend on the renderer.
    """
    lines = []
    for item in task:
        shown = [repr(getattr(item, which)) for which in ("first", "second") if hasattr(item, which)]
        lines.append(
            [
                _told(item.prompt),
                shown,
                item.options,
                item.groups,
                item.cluster,
                item.statistic,
                item.stereotype,
                item.answer,
            ]
        )
    return hashlib.sha256(json.dumps(lines, ensure_ascii=False).encode()).hexdigest()


def _told(prompt: Prompt) -> object:
    """The texts of a prompt."""
    if isinstance(prompt, str):
        return prompt
    said = [message["content"] for message in prompt]
    return [text if isinstance(text, str) else [part.get("text", "a picture") for part in text] for text in said]


def _people(part: str) -> pd.DataFrame:
    table = pd.read_csv(data_path("sealed", "occupations.csv"))
    return table[table["part"] == part][["occupation", "percent_women", "stereotype"]]


def _templates(part: str) -> tuple[Template, ...]:
    wordings = yaml.safe_load(data_path("sealed", "wordings.yml").read_text(encoding="utf-8"))
    return tuple(Template(**wording) for wording in wordings[part])


def _checked(name: str, task: Task) -> Task:
    """The task, unless its items have been changed."""
    if digest(task) != DIGESTS[name]:
        raise SteerlibError(
            f"the items of '{name}' are not those that were sealed: put data/sealed and the code of the task back as they were."
        )
    return task
