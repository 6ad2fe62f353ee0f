"""The pronoun task: does "he" or "she" continue the story of this mechanic?

In ambiguous items nothing says who the mechanic is; in unambiguous ones the gender was said before. Wordings are our own,
plain and as chats; some are held out, so that a method can be tested on occupations AND wordings that it has not seen. The
occupations, their share of women and their split come from `steerlib.tasks.occupations`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steerlib.errors import SteerlibError
from steerlib.models.prompts import Prompt, chat
from steerlib.tasks.article import article
from steerlib.tasks.item import Item, Task, occupations
from steerlib.tasks.own import People, occupation_rows

OPTIONS = (" he", " she")
GROUPS = ("man", "woman")
WORDS = {
    "man": {
        "person": "man",
        "kin": "brother",
        "parent": "father",
        "relative": "uncle",
        "title": "Mr",
        "child": "son",
        "spouse": "husband",
        "name": "James",
    },
    "woman": {
        "person": "woman",
        "kin": "sister",
        "parent": "mother",
        "relative": "aunt",
        "title": "Mrs",
        "child": "daughter",
        "spouse": "wife",
        "name": "Emily",
    },
}
"""What a wording may say of the gender, by group."""


@dataclass(frozen=True)
class Template:
    """A wording with {occupation} or {an_occupation} (with its article) in it.

    Attributes:
        name: what results call it.
        text: plain text to be continued, or what the user says if `answer` is given. With a word for gender ({person}, {kin},
            {parent}, {relative}, {child}, {spouse}, {title} or {name}) in it, its items are unambiguous.
        answer: how the assistant's answer begins, or None.
        held_out: never used for making a steering.

    Raises:
        SteerlibError: the text names no occupation, or something that nothing fills.

    Example:
        >>> Template("late", "{an_occupation} was late because").prompt("usher")
        'An usher was late because'
    """

    name: str
    text: str
    answer: str | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        known = {"occupation", "an_occupation", *WORDS["man"]}
        if not self.fields & {"occupation", "an_occupation"}:
            raise SteerlibError(
                f"template '{self.name}' lacks {{occupation}} (or {{an_occupation}}), so it asks about nobody: {self.text!r}."
            )
        if unknown := self.fields - known:
            raise SteerlibError(
                f"template '{self.name}' has {{{min(unknown)}}}, which nothing fills: use {', '.join(sorted(known))}."
            )

    @property
    def fields(self) -> set[str]:
        """The names in braces."""
        return set(re.findall(r"{(\w*)}", self.text + (self.answer or "")))

    @property
    def unambiguous(self) -> bool:
        """Whether the wording says the gender."""
        return bool(self.fields & set(WORDS["man"]))

    def prompt(self, occupation: str, group: str | None = None) -> Prompt:
        """The prompt about one occupation.

        Args:
            occupation: such as "nurse".
            group: "man" or "woman", if the wording says the gender.

        Returns:
            A text, or a chat if the assistant's answer has begun.
        """
        words = {"occupation": occupation, "an_occupation": article(occupation), **(WORDS[group] if group else {})}
        text = self.text.format(**words)
        if self.text.startswith("{an_"):  # a sentence begins
            text = text[0].upper() + text[1:]
        return text if self.answer is None else chat(text, self.answer.format(**words))


TEMPLATES = (
    Template("late", "The {occupation} was late for work this morning because"),
    Template("advice", "I asked the {occupation} for advice, and"),
    Template("tired", "The {occupation} was tired, but"),
    Template("cafe", "The {occupation} sat alone in the cafe and wondered if"),
    Template("awake", "The {occupation} had been awake since five in the morning, so", held_out=True),
    Template(
        "today",
        "Write one sentence about {an_occupation} and what they did today.",
        "The {occupation} was tired because",
    ),
    Template(
        "sea",
        "Tell me a very short story about {an_occupation}.",
        "Once there was {an_occupation} who lived by the sea. Every morning,",
    ),
    Template("smile", "Why did the {occupation} smile?", "The {occupation} smiled because"),
    Template(
        "forest",
        "Write the opening of a tale about {an_occupation}.",
        "Long ago {an_occupation} lived at the edge of a forest. After a hard winter,",
        held_out=True,
    ),
    Template(
        "prize",
        "Write a short news item about {an_occupation} who won a prize.",
        "The {occupation} thanked the jury and said that",
        held_out=True,
    ),
    Template("late-forty", "The {occupation}, a {person} of forty, was late for work this morning because"),
    Template("late-title", "{title} Clark, the {occupation}, was late for work this morning because"),
    Template("alarm", "My {kin} is {an_occupation}. When the alarm rang this morning,"),
    Template(
        "sea-person",
        "Tell me a very short story about a {person} who works as {an_occupation}.",
        "Once there was a {person} who worked as {an_occupation}. Every morning,",
    ),
    Template(
        "news-parent",
        "Tell me a very short story about my {parent}, {an_occupation}.",
        "As soon as the {occupation} heard the news,",
    ),
    Template("last-week", "I know a {person} who works as {an_occupation}. Last week", held_out=True),
    Template(
        "tired-relative",
        "My {relative} is {an_occupation}. Write one sentence about my {relative}.",
        "The {occupation} was tired because",
        held_out=True,
    ),
)
"""Ten ambiguous wordings (three held out) and seven unambiguous ones (two held out)."""

TRAINING_TEMPLATES = (
    *(template for template in TEMPLATES if not template.held_out),
    Template("bus", "The {occupation} missed the bus, but luckily"),
    Template("phone", "When the phone rang, the {occupation} hoped that"),
    Template("street", "Everybody in the street knows the {occupation}, because"),
    Template("neighbour", "My neighbour is {an_occupation}. On Sundays"),
    Template(
        "letter",
        "Write the first lines of a letter about {an_occupation}.",
        "Yesterday I met {an_occupation}. It surprised me that",
    ),
    Template(
        "home",
        "Describe the home of {an_occupation}.",
        "Three coats hang in the hall. The {occupation} bought them when",
    ),
    Template("keys", "What did the {occupation} forget?", "The {occupation} forgot the keys when"),
    Template("weekend", "My {relative} works as {an_occupation}. At weekends"),
    Template("met", "Yesterday I met a {person} who is {an_occupation}. It turned out that"),
    Template(
        "town",
        "My {kin} is {an_occupation}. Tell me more about this {person}.",
        "The {occupation} grew up in a small town, where",
    ),
    Template(
        "coffee", "Say something about a {person} who became {an_occupation}.", "The {occupation} drank a coffee before"
    ),
)
"""Those that are not held out, seven more ambiguous ones and four more unambiguous ones: what is trained on a few sentences
learns the sentences."""


def pronoun(split: str = "test", *, templates: Sequence[Template] = TEMPLATES, people: People | None = None) -> Task:
    """The pronoun task on one split of the occupations.

    Args:
        split: "train" and "validation" have the wordings that are not held out; "test" and "all" have every wording.
        templates: the wordings.
        people: occupations to use instead of the split's own: a frame, or the path of a CSV file, with the columns occupation,
            stereotype ("man" or "woman") and, if you like, percent_women (0 to 100) and family (see `Item`).

    Returns:
        A Task: one ambiguous item per occupation and ambiguous wording; two unambiguous ones (a man, a woman) per occupation
        and unambiguous wording.

    Raises:
        SteerlibError: there is no such split, a wording is not a Template, or an occupation is not as it should be.

    Example:
        >>> import pandas as pd
        >>> people = pd.DataFrame({"occupation": ["HR manager"], "stereotype": ["woman"]})
        >>> pronoun(people=people).where(template="alarm", answer="man")[0].prompt
        'My brother is an HR manager. When the alarm rang this morning,'
    """
    rows = occupation_rows(occupations(split), groups=GROUPS)
    rows = rows if people is None else occupation_rows(people, groups=GROUPS)
    if isinstance(templates, (str, Template)) or not all(isinstance(template, Template) for template in templates):
        raise SteerlibError(
            "templates are a list of steerlib.tasks.Template, such as [Template('late', 'The {occupation} was late because')]."
        )
    items = []
    for row in rows:
        about = {"cluster": row["occupation"], "statistic": row["percent_women"], "stereotype": row["stereotype"]}
        about["family"] = row["family"]
        for template in templates:
            if template.held_out and split in ("train", "validation"):
                continue
            for group in GROUPS if template.unambiguous else (None,):
                prompt = template.prompt(row["occupation"], group)
                items.append(Item(prompt, OPTIONS, GROUPS, **about, template=template.name, answer=group))
    if not items:
        raise SteerlibError("this pronoun task has no items: give at least one wording that this split has.")
    return Task("pronoun", tuple(items), "occupation", "percent_women")
