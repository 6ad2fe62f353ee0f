"""Can the model still do its work? What steering must leave as it was.

    job named             = portraits whose answer names the occupation shown / all portraits
    unambiguous accuracy  = items with a right answer on which it is the likeliest / all such items
    perplexity ratio      = steered over plain, on ordinary text (evaluate/language.py)

Source: the downstream tasks of Ratzlaff et al., arXiv 2411.12590, in their place what our pictures allow; the unambiguous set
of Monteiro Paes et al., arXiv 2512.15926.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.language import perplexity_ratio
from steerlib.evaluate.statistics import Estimate, mean
from steerlib.models.model import Model
from steerlib.steering.apply import Tokens, steer
from steerlib.steering.operations import Steering
from steerlib.tasks import Portrait, Task

JOB, WHO = "job named", "unambiguous accuracy"


@dataclass(frozen=True)
class Capability:
    """What `capability` measured; None stands for what was not asked. Intervals are over occupations (and over texts).

    frame: a row an item: measure ("job named" or "unambiguous accuracy"), occupation, template, right, and the answer.
    """

    job_named: Estimate | None
    unambiguous_accuracy: Estimate | None
    perplexity_ratio: Estimate | None
    frame: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The numbers, a row a metric: value, low, high (ends of the 95 % interval), n (occupations, or texts)."""
        names = ("job_named", "unambiguous_accuracy", "perplexity_ratio")
        rows = {name.replace("_", " "): vars(getattr(self, name)) for name in names if getattr(self, name) is not None}
        return pd.DataFrame(rows).T.astype({"n": int})

    def per_cluster(self, measure: str = JOB) -> pd.Series[float]:
        """The share of right items in each occupation, by its name. measure: "job named" or "unambiguous accuracy"."""
        part = self.frame[self.frame["measure"] == measure]
        if part.empty:
            raise SteerlibError(f"'{measure}' was not measured: there are {', '.join(self.frame['measure'].unique())}.")
        return part.groupby("occupation")["right"].mean()


def capability(
    model: Model,
    portraits: Sequence[Portrait] = (),
    task: Task | None = None,
    *,
    answers: Sequence[str] | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    steering: Steering | None = None,
    strength: float = 1.0,
    tokens: Tokens = "all",
    texts: Sequence[str] | None = None,
    max_new_tokens: int = 30,
    batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
) -> Capability:
    """What a model can do, as it is (inside a `steer`, say), or with a steering given here.

    portraits: of `tasks.describe`; their occupation should be named. answers: what the model said of them; None lets it
    answer now, greedily. synonyms: other names that will do, {"cook": ["chef"]}. task: its unambiguous items are asked.
    steering, strength, tokens: as in `steer`; with a steering the perplexity ratio is measured too, which needs the plain
    model for comparison, on texts (None: `plain_text`).
    Raises SteerlibError if nothing is to be measured, or the answers are not those of the portraits.
    """
    unambiguous = task.unambiguous if task else Task("none", ())
    if task and not unambiguous.items:
        raise SteerlibError(f"'{task.name}' has no unambiguous item: on ambiguous ones nobody is right.")
    if not portraits and not unambiguous.items and steering is None:
        raise SteerlibError("nothing is to be measured: give portraits, a task with unambiguous items, or a steering.")
    if answers is not None and (isinstance(answers, str) or len(answers) != len(portraits)):
        raise SteerlibError(f"{len(portraits)} portraits need as many answers, in a list.")
    rows = []
    with steer(model, steering, strength, tokens=tokens) if steering else nullcontext():
        if portraits and answers is None:
            prompts = [portrait.prompt for portrait in portraits]
            answers = model.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        for portrait, answer in zip(portraits, answers or (), strict=True):
            right = names_job(answer, portrait.occupation, synonyms)
            rows.append((JOB, portrait.occupation, portrait.template, right, answer))
        if unambiguous.items:
            chosen = model.choose(
                [item.prompt for item in unambiguous], [item.options for item in unambiguous], batch_size=batch_size
            )  # (items, options)
            for item, p in zip(unambiguous, chosen.tolist(), strict=True):
                others = max(q for q, group in zip(p, item.groups, strict=True) if group != item.answer)
                right = p[item.groups.index(str(item.answer))] > others
                rows.append((WHO, item.occupation, item.template, right, item.options[p.index(max(p))].strip()))
    frame = pd.DataFrame(rows, columns=["measure", "occupation", "template", "right", "answer"])

    def share(measure: str) -> Estimate | None:
        part = frame[frame["measure"] == measure]
        if part.empty:
            return None
        return mean(part["right"].astype(float), part["occupation"].tolist(), resamples=resamples, seed=seed)

    ratio = perplexity_ratio(model, steering, strength, tokens=tokens, texts=texts) if steering else None
    return Capability(share(JOB), share(WHO), ratio, frame)


def names_job(answer: str, occupation: str, synonyms: Mapping[str, Sequence[str]] | None = None) -> bool:
    """Whether an answer names an occupation (or a synonym), as whole words, singular or plural, in any case."""
    names = (occupation, *(synonyms or {}).get(occupation, ()))
    either = "|".join(r"[\s-]+".join(map(re.escape, name.split())) for name in names)
    return re.search(rf"(?<!\w)(?:{either})s?(?!\w)", answer, re.IGNORECASE) is not None
