"""Can the model still do its work? What steering must leave as it was.

    job named             = portraits whose answer names the occupation shown / all portraits
    unambiguous accuracy  = items with a right answer on which it is the likeliest / all such items
    perplexity ratio      = changed over plain, on ordinary text (evaluate/language.py)

Source: the downstream tasks of Ratzlaff et al., arXiv 2411.12590, in their place what our pictures allow; the unambiguous set
of Monteiro Paes et al., arXiv 2512.15926.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from steerlib.errors import SteerlibError
from steerlib.evaluate.answers import condition, texts_of, warn_of
from steerlib.evaluate.change import Change, applied, refuse_changed
from steerlib.evaluate.groups import ALL, dots, grouped, rows, share
from steerlib.evaluate.language import compared, perplexities
from steerlib.evaluate.mentions import portraits_of
from steerlib.evaluate.statistics import Estimate
from steerlib.evaluate.style import table
from steerlib.evaluate.words import bounds, compiled, composed, spelled
from steerlib.models.model import Model
from steerlib.tasks import TONE_GROUPS, Portrait, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

JOB, WHO = "job named", "unambiguous accuracy"
GROUPINGS = ("occupation", "template", "gender", "tone")


@dataclass(frozen=True)
class Capability:
    """What `capability` measured; None stands for what was not asked. Intervals are over occupations (and over texts).

    Attributes:
        job_named: the share of portraits whose occupation the answer names.
        unambiguous_accuracy: the share of items with a right answer on which that is the likeliest.
        perplexity_ratio: of the changed model, if a change was given.
        frame: one row per portrait or item: measure ("job named" or "unambiguous accuracy"), occupation, template, right, the
            answer, gender and tone (of a portrait: whom it shows; of an item: the group that is right, and ""), and whether
            an answer about a portrait is empty or repeats itself.
        empty: the share of answers about portraits without a letter or a digit.
        repeated: the share of answers about portraits that say one word or phrase over and over.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    job_named: Estimate | None
    unambiguous_accuracy: Estimate | None
    perplexity_ratio: Estimate | None
    frame: pd.DataFrame
    empty: Estimate | None = None
    repeated: Estimate | None = None
    resamples: int = 2000
    seed: int = 0

    def table(self) -> pd.DataFrame:
        """The numbers, one row per metric: value, low, high (ends of the 95 % interval), n (occupations, or texts)."""
        names = ("job_named", "unambiguous_accuracy", "perplexity_ratio", "empty", "repeated")
        return table({name: getattr(self, name) for name in names})

    def by(self, grouping: str, measure: str = JOB) -> pd.DataFrame:
        """The share of right answers by group: one row per group, with value, low, high and n (occupations).

        Args:
            grouping: "occupation", "template", "gender" or "tone".
            measure: "job named" or "unambiguous accuracy".
        """
        parts = grouped(self._part(measure), grouping, GROUPINGS)
        return rows({group: self._right(part) for group, part in parts.items()}, grouping)

    def per_cluster(self, measure: str = JOB) -> pd.Series[float]:
        """The share of right answers in each occupation, by its name.

        Args:
            measure: "job named" or "unambiguous accuracy".
        """
        return self._part(measure).groupby("occupation")["right"].mean()

    def plot(self, ax: Axes | None = None, *, by: str | None = None) -> Axes:
        """One row per measure, one marker per group with its interval.

        Args:
            ax: where to draw; None makes a figure.
            by: a grouping, as in `by`; None takes everything together.
        """
        measures = [measure for measure in (JOB, WHO) if (self.frame["measure"] == measure).any()]
        if not measures:
            raise SteerlibError("no share was measured that could be drawn: give portraits or a task to `capability`.")
        parts = [grouped(self._part(m), by, GROUPINGS) if by else {ALL: self._part(m)} for m in measures]
        names = dict.fromkeys(group for part in parts for group in part)
        series = {name: [self._right(part[name]) if name in part else None for part in parts] for name in names}
        ax = dots(measures, series, ax, xlabel="share that is right")
        ax.set_xlim(-0.02, 1.02)
        return ax

    def _part(self, measure: str) -> pd.DataFrame:
        part = self.frame[self.frame["measure"] == measure]
        if part.empty:
            known = ", ".join(self.frame["measure"].unique()) or "none"
            raise SteerlibError(f"'{measure}' was not measured: there are {known}.")
        return part

    def _right(self, part: pd.DataFrame) -> Estimate:
        return share(part.assign(cluster=part["occupation"]), "right", resamples=self.resamples, seed=self.seed)


def capability(
    model: Model,
    portraits: Sequence[Portrait] = (),
    task: Task | None = None,
    *,
    answers: Sequence[str] | None = None,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    change: Change | None = None,
    texts: Sequence[str] | None = None,
    max_new_tokens: int = 30,
    batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
) -> Capability:
    """What a model can do, as it is now (inside a `steer`, say), or under a change given here.

    Args:
        model: the model; with a change, outside of every other one.
        portraits: of `tasks.describe`; their occupation should be named.
        task: its unambiguous items are asked.
        answers: what the model said of the portraits; None lets it answer now, greedily.
        synonyms: other names that will do, such as {"cook": ["chef"]}.
        change: a Steering at strength 1, or a `with` such as `steerlib.steer(model, steering, 0.5)` or
            `steerlib.adapted(model, adapter)`. The perplexity ratio is measured too, which needs the plain model.
        texts: for the perplexity ratio; None takes `plain_text()`.
        max_new_tokens: of each answer.
        batch_size: portraits, items or texts per forward pass.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A Capability.

    Raises:
        SteerlibError: nothing is to be measured, the answers are not as many as the portraits, or a change is given for a model
            that is changed already.

    Warns:
        UserWarning: more than a tenth of the answers are empty or repeat one phrase.

    Example:
        >>> import steerlib as sl
        >>> task = sl.tasks.pronoun("test").where(template="last-week", cluster=["mechanic", "hygienist"])
        >>> sl.capability(sl.load("smollm2"), task=task).unambiguous_accuracy.value
        1.0
    """
    shown = portraits_of(portraits) if isinstance(portraits, (str, Portrait)) or len(portraits) else []
    unambiguous = task.unambiguous if task is not None else Task("none", ())
    if task is not None and not unambiguous.items:
        raise SteerlibError(f"'{task.name}' has no unambiguous item, and an ambiguous one has no right answer.")
    if not shown and not unambiguous.items and change is None:
        raise SteerlibError("nothing is to be measured: give portraits, a task with unambiguous items, or a change.")
    said = None if answers is None else texts_of(answers, some=False)
    if said is not None and len(said) != len(shown):
        raise SteerlibError(f"{len(shown)} portraits need as many answers, in a list, and there are {len(said)}.")
    if isinstance(synonyms, str) or any(isinstance(names, str) for names in (synonyms or {}).values()):
        raise SteerlibError("synonyms are lists of names by occupation, such as {'cook': ['chef']}.")
    found, ratio = [], None
    if change is not None:
        refuse_changed(model, "a capability under a change")
    plain = None if change is None else perplexities(model, texts, batch_size=batch_size)
    with nullcontext() if change is None else applied(model, change):
        if shown and said is None:
            prompts = [portrait.prompt for portrait in shown]
            said = model.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        for portrait, answer in zip(shown, said or (), strict=True):
            right = names_job(answer, portrait.occupation, synonyms)
            tone = TONE_GROUPS.get(portrait.tone, portrait.tone)
            found.append((JOB, portrait.occupation, portrait.template, right, answer, portrait.gender, tone))
        if unambiguous.items:
            chosen = model.choose(
                [item.prompt for item in unambiguous], [item.options for item in unambiguous], batch_size=batch_size
            )  # (items, options)
            for item, p in zip(unambiguous, chosen.tolist(), strict=True):
                others = max(q for q, group in zip(p, item.groups, strict=True) if group != item.answer)
                right = p[item.groups.index(str(item.answer))] > others
                best = item.options[p.index(max(p))].strip()
                found.append((WHO, item.cluster, item.template, right, best, str(item.answer), ""))
        if plain is not None:
            after = perplexities(model, texts, batch_size=batch_size)
            ratio = compared(plain, after, resamples=resamples, seed=seed)
    columns = ["measure", "occupation", "template", "right", "answer", "gender", "tone"]
    frame = pd.DataFrame(found, columns=columns)
    jobs = frame[frame["measure"] == JOB]
    state = condition(jobs["answer"].tolist())
    if len(state):
        warn_of(state, stacklevel=2)
    for name, column in state.items():
        frame[name] = [*column, *[False] * (len(frame) - len(column))]  # portraits come first

    def part(measure: str, column: str = "right") -> Estimate | None:
        some = frame[frame["measure"] == measure]
        if some.empty:
            return None
        return share(some.assign(cluster=some["occupation"]), column, resamples=resamples, seed=seed)

    return Capability(part(JOB), part(WHO), ratio, frame, part(JOB, "empty"), part(JOB, "repeated"), resamples, seed)


def names_job(answer: str, occupation: str, synonyms: Mapping[str, Sequence[str]] | None = None) -> bool:
    """Whether an answer names an occupation (or a synonym), as whole words, singular or plural, in any case.

    Example:
        >>> names_job("Two police-officers.", "police officer"), names_job("A cookie.", "cook")
        (True, False)
    """
    if not occupation.strip():
        raise SteerlibError("an answer cannot name an occupation that is empty.")
    text = composed(answer)
    for name in (occupation, *(synonyms or {}).get(occupation, ())):
        before, after = bounds(name)
        words = r"[\s-]+".join(spelled(word.lower()) for word in name.split())
        if compiled(f"(?i:{before}{words}s?{after})").search(text):
            return True
    return False
