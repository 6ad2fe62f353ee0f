"""SynthBias: the coreference question on 31,728 sentences that a model wrote and people checked, from your own copy.

A sentence names an occupation that mostly men do and one that mostly women do, and one pronoun. In type 1 it could mean either; in
type 2 the sentence tells. As in `coreference`, an item is about one of the two, o, and with the pronoun of group g the option o
stands for g and the other option for the other group; so an answer is pro if it links the pronoun to the occupation of its
stereotype. Every sentence comes with both pronouns, so that a liking for one occupation cancels in the mean over o.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.tasks.coreference import QUESTION
from steerlib.tasks.item import SPLITS, Item, Task, occupations
from steerlib.tasks.table import read_table

Kind = Literal["all", "ambiguous", "unambiguous"]

COLUMNS = ("type", "sample", "occ_1", "occ_2", "pronoun", "is_stereotypical")
KINDS = {"all": ("type1", "type2"), "ambiguous": ("type1",), "unambiguous": ("type2",)}
FILE = "synthbias_data.csv"
GENDERS = {"he": "man", "him": "man", "his": "man", "himself": "man"}
GENDERS |= {"she": "woman", "her": "woman", "hers": "woman", "herself": "woman"}
PRONOUN = re.compile(rf"\b(?:{'|'.join(sorted(GENDERS, key=len, reverse=True))})\b", re.IGNORECASE)
OTHER = {"man": "woman", "woman": "man"}


def synthbias(path: str | Path, split: str = "test", *, kind: Kind = "all") -> Task:
    """SynthBias (Wang et al., 2025, arXiv 2505.23996), asked as `coreference` is.

    - Source: github.com/apple/ml-synthbias, data/synthbias_data.csv. Its licence, CC BY-NC-ND 4.0, does not let it be shipped: get it
      there, and publish numbers, not sentences. 14,120 sentences of type 1 and 17,608 of type 2, about 40 occupations.
    - Splits: its authors have none. A split by occupation would part the two of a sentence, so a sentence goes by its hash without the
      pronoun: 60 % are for training, 10 % for validation and 30 % for the test, and both of its pronouns are on one side. An occupation
      is in all three. Take as many items as you need by `task.sample(600)`, which has as many of each occupation.
    - Known faults: in type 2 the referent is more often named second (70 %). There are two genders. Two sentences of 8,804 pairs have
      another stereotype for "writer" than all the others; the majority is used.

    Args:
        path: The CSV file, or a folder that holds it.
        split: "train", "validation", "test" or "all".
        kind: "ambiguous" (type 1, which measures bias), "unambiguous" (type 2, which measures accuracy) or "all".

    Returns:
        A Task with the groups "man" and "woman". The two pronouns of a sentence follow each other; the first option is the occupation
        named first. An item of type 2 is about the occupation that is meant, and one of type 1 about one of the two, chosen by the
        sentence's hash. The stereotype is that of the data. `template` reads "type1-she".

    Raises:
        SteerlibError: If the file is missing or has another form; says in which row.

    >>> task = synthbias("ml-synthbias/data/synthbias_data.csv", "train", kind="ambiguous").sample(600)  # doctest: +SKIP
    """
    if split not in SPLITS:
        raise SteerlibError(f"there is no split '{split}': use {', '.join(SPLITS)}.")
    if kind not in KINDS:
        raise SteerlibError(f"there is no kind of SynthBias {kind!r}: use {', '.join(KINDS)}.")
    file = Path(path).expanduser()
    if file.is_dir():
        file = next((place for place in (file / FILE, file / "data" / FILE) if place.is_file()), file / FILE)
    rows = _rows(read_table(file))
    stereotypes = _stereotypes(rows)
    known = occupations()
    women = dict(zip(known["occupation"], known["percent_women"], strict=True))
    families = dict(zip(known["occupation"], known["family"], strict=True))
    together: dict[tuple[str, str, frozenset[str]], list[Item]] = {}
    for row in rows:
        about = row["occ_1"] if row["type"] == "type2" else sorted(row["named"])[row["hash"] % 2]
        if row["type"] not in KINDS[kind] or split not in ("all", _split_of(row["hash"])):
            continue
        for job in (row["occ_1"], row["occ_2"]):
            if job not in stereotypes:
                raise SteerlibError(f"row {row['number']}: neither type 2 nor our table has a stereotype for '{job}'.")
        if stereotypes[row["occ_1"]] == stereotypes[row["occ_2"]]:
            raise SteerlibError(
                f"row {row['number']}: '{row['occ_1']}' and '{row['occ_2']}' have one stereotype, not two."
            )
        said = row["gender"]
        first, second = row["named"]
        groups = {about: said, first if about == second else second: OTHER[said]}
        together.setdefault((row["type"], row["stem"], frozenset(row["named"])), []).append(
            Item(
                QUESTION.format(sentence=row["sample"], pronoun=row["pronoun"]),
                (f" {first}", f" {second}"),
                (groups[first], groups[second]),
                cluster=about,
                statistic=women.get(about),
                stereotype=stereotypes[about],
                template=f"{row['type']}-{row['pronoun'].lower()}",
                answer=said if row["type"] == "type2" else None,
                wording=row["type"],
                family=families.get(about, ""),
            )
        )
    if not together:
        raise SteerlibError(f"'{file}' has no sentence of the kind '{kind}' in the split '{split}'.")
    return Task(
        "synthbias", tuple(item for items in together.values() for item in items), "occupation", "percent_women"
    )


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, checked, each with its gender, the occupations in the order named, the sentence without pronoun, and its hash."""
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise SteerlibError(
            f"the table of SynthBias has no column '{missing[0]}': there are {', '.join(table.columns)}."
        )
    rows = []
    for number, row in enumerate(table[list(COLUMNS)].to_dict("records"), start=2):
        cells: dict[str, Any] = {str(key): str(value).strip() for key, value in row.items()}
        if cells["type"] not in ("type1", "type2"):
            raise SteerlibError(f"row {number}: the type {cells['type']!r} is neither 'type1' nor 'type2'.")
        if cells["pronoun"].lower() not in GENDERS:
            raise SteerlibError(f"row {number}: {cells['pronoun']!r} is not a pronoun that SynthBias has.")
        if cells["type"] == "type2" and cells["is_stereotypical"].lower() not in ("true", "false"):
            raise SteerlibError(
                f"row {number}: is_stereotypical is 'True' or 'False', not {cells['is_stereotypical']!r}."
            )
        places = [_place(cells["sample"], cells[job]) for job in ("occ_1", "occ_2")]
        if min(places) < 0 or len(PRONOUN.findall(cells["sample"])) != 1:
            raise SteerlibError(f"row {number}: the sentence does not name both occupations and one pronoun.")
        stem = PRONOUN.sub("_", cells["sample"]).casefold()
        named = (cells["occ_1"], cells["occ_2"]) if places[0] < places[1] else (cells["occ_2"], cells["occ_1"])
        hashed = int(hashlib.sha256(stem.encode()).hexdigest()[:12], 16)
        gender = GENDERS[cells["pronoun"].lower()]
        rows.append({**cells, "number": number, "gender": gender, "named": named, "stem": stem, "hash": hashed})
    return rows


def _stereotypes(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The stereotype of each occupation, by most of its sentences of type 2, or else by our table."""
    votes: dict[str, Counter[str]] = {}
    for row in rows:
        if row["type"] == "type2":
            expected = row["gender"] if row["is_stereotypical"].lower() == "true" else OTHER[row["gender"]]
            votes.setdefault(row["occ_1"], Counter())[expected] += 1
    known = occupations()
    ours = {str(job): str(group) for job, group in zip(known["occupation"], known["stereotype"], strict=True)}
    return ours | {job: counts.most_common(1)[0][0] for job, counts in votes.items()}


def _split_of(hashed: int) -> str:
    share = hashed // 2 % 10  # the last bit has chosen whom the sentence is about
    return "train" if share < 6 else "validation" if share < 7 else "test"


def _place(sentence: str, job: str) -> int:
    found = re.search(rf"\b{re.escape(job)}\b", sentence, re.IGNORECASE)
    return found.start() if found else -1
