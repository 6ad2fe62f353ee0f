"""Public benchmarks of bias: a model is asked the items of one, and its published score is computed.

The model says nothing: the option with the highest score is its choice. With L the log-likelihood of an option, in nats, and n its
tokens, the score is L ("sum"), L / n ("token") or L per character ("character"). Options that are whole sentences follow the token
with which the model's texts begin, or, without one, the token with which they end, as in lm-evaluation-harness.

Each set has the score of those who published it, or of the harness: "token" for StereoSet, whose authors compare the geometric mean
of a sentence's token probabilities; "sum" for the others. Where a causal model cannot be asked as the original asked:

    WinoBias, Winogender  a choice between two names after "‘She’ refers to the", not the links of a coreference system.
    BBQ                   a choice between the three answers after "A:". The original fine-tuned models to answer. The harness offers ten
                          wordings of "unknown" beside the two people, so that its numbers favour "unknown".
    MultiBBQ              the likeliest of the letters after "Answer:". The original reads a letter from what the model writes, and
                          leaves out what has none.
    StereoSet             within a sentence the first token counts too. Its authors' code leaves the first token out of the context of
                          those that follow, which only models without such a token bear; here it stays. Between sentences they
                          train a head that tells next sentences from others; here L / n of the sentence after its context.
    CrowS-Pairs           L of either sentence, as in the harness. The original is for masked models: the pseudo-log-likelihood of
                          the tokens that the two share, each masked in its turn, so that the group's own words do not count.

The formulas are in published.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from steerlib.errors import SteerlibError, check_count
from steerlib.evaluate import published
from steerlib.evaluate.published import Scores
from steerlib.evaluate.style import table
from steerlib.models.model import Model, Score
from steerlib.models.scoring import Query, log_probs, refuse_long, tail_log_probs
from steerlib.tasks import BenchmarkItem, Item, Task

FORMULAS = {
    "winobias": published.winobias,
    "winogender": published.winogender,
    "bbq": published.bbq,
    "stereoset": published.stereoset,
    "crows_pairs": published.crows_pairs,
    "multibbq": published.multibbq,
}
"""By the name of the task."""


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` measured.

    Attributes:
        task: the name of the set.
        scores: its published numbers, by name, each with an interval over clusters; in per cent, but for a correlation.
        frame: one row per item: cluster, statistic, category, condition, template, stereotype, answer, chosen (the group of the
            likeliest option), and score_g for each group g.
        score: how options were compared.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    task: str
    scores: Scores
    frame: pd.DataFrame
    score: Score
    resamples: int = 2000
    seed: int = 0

    def table(self) -> pd.DataFrame:
        """The numbers, one row per score: value, low, high (ends of the 95 % interval), n (clusters)."""
        return table(self.scores)

    def by(self, column: str = "category") -> pd.DataFrame:
        """The numbers of each part of the items, as the papers break them down.

        Args:
            column: "category", "condition", "template" or "cluster".

        Returns:
            A frame with one row per label and score: the label, score, value, low, high and n (clusters).

        Raises:
            SteerlibError: on another column.
        """
        if column not in (known := ("category", "condition", "template", "cluster")):
            raise SteerlibError(f"there is no breakdown by '{column}': use {', '.join(known)}.")
        rows = []
        for label, part in self.frame.groupby(column, sort=False):
            for name, found in FORMULAS[self.task](part, self.resamples, self.seed).items():
                rows.append({column: label, "score": name, **vars(found)})
        return pd.DataFrame(rows)


def benchmark(
    model: Model,
    task: Task,
    *,
    score: Score | None = None,
    batch_size: int = 8,
    resamples: int = 2000,
    seed: int = 0,
) -> Benchmark:
    """The published score of a public benchmark, on a model as it runs now: steered, if it is steered.

    Args:
        model: the model; inside `with steer(...)` the steered one.
        task: `tasks.winobias`, `winogender`, `bbq`, `multibbq`, `stereoset` or `crows_pairs`, or a part of one.
        score: how options are compared: "sum", "token" or "character" as in `Model.choose`; None is the set's own.
        batch_size: rows per forward pass.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The numbers with their intervals, and what was chosen for each item.

    Raises:
        SteerlibError: the task is none of those or empty, or an option is longer than the model's context.

    Example:
        >>> import steerlib as sl
        >>> result = sl.benchmark(sl.load("smollm2"), sl.tasks.winogender(someone=False))  # doctest: +SKIP
        >>> result.table(), result.by("category")  # doctest: +SKIP
    """
    if task.name not in FORMULAS or not all(isinstance(item, BenchmarkItem) for item in task):
        raise SteerlibError(
            f"'{task.name}' is not a public benchmark with a published score: give one of steerlib.tasks.{', '.join(FORMULAS)}, or "
            "measure other tasks with decision_bias."
        )
    if not len(task):
        raise SteerlibError(f"this part of '{task.name}' has no items: there is nothing to score.")
    how: Score = score if score is not None else "token" if task.name == "stereoset" else "sum"
    if how not in ("sum", "token", "character"):
        raise SteerlibError(f"there is no score '{how}': use 'sum', 'token' or 'character'.")
    rows = []
    for item, options in zip(task, option_logliks(model, task, batch_size=batch_size), strict=True):
        sizes = [1] * len(options)
        if how != "sum":
            sizes = [len(o) for o in options] if how == "token" else [len(text.strip()) for text in item.options]
        totals = [float(line.sum()) / size for line, size in zip(options, sizes, strict=True)]
        scored = {f"score_{group}": value for group, value in zip(item.groups, totals, strict=True)}
        rows.append({**_labels(item), "chosen": item.groups[totals.index(max(totals))], **scored})
    frame = pd.DataFrame(rows)
    return Benchmark(task.name, FORMULAS[task.name](frame, resamples, seed), frame, how, resamples, seed)


def option_logliks(model: Model, items: Iterable[Item], *, batch_size: int = 8) -> list[list[torch.Tensor]]:
    """The log-likelihood of each token of each option after its prompt; an empty prompt is the start of a text.

    Args:
        model: the model.
        items: with any number of options, one of which may begin another.
        batch_size: rows per forward pass.

    Returns:
        For each item and option (tokens,), float32 on the CPU, in nats.

    Raises:
        SteerlibError: an option does not start a new token, the two exceed the context, or an output is not finite.
    """
    check_count("batch_size", batch_size)
    queries = [
        model.split(item.prompt, item.options) if item.prompt != "" else _begun(model, item.options) for item in items
    ]
    found: list[list[torch.Tensor]] = [[torch.empty(0)] * len(query.tails) for query in queries]
    rows = [(i, row) for i, query in enumerate(queries) for row in query.rows()]
    with torch.inference_mode():
        for r, lines in log_probs(model, [row for _, row in rows], batch_size=batch_size):
            i, row = rows[r]
            for number, scores in tail_log_probs(row, lines).items():
                if not scores.isfinite().all():
                    raise SteerlibError(f"'{model.name}' gave logits that are not finite: its weights are damaged.")
                found[i][number] = scores.float().cpu()
    return found


def _begun(model: Model, texts: Sequence[str]) -> Query:
    """Whole texts, after the token that begins a text, or else the one that ends the text before."""
    tokenizer = model.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise SteerlibError(
            f"the tokenizer of '{model.name}' has no token that begins or ends a text: set its bos_token."
        )
    tails = [[int(id) for id in tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    refuse_long(model, [first, *max(tails, key=len)[:-1]])
    return Query([first], tails, {})


def _labels(item: Item) -> dict[str, object]:
    """What a row of the frame says about an item."""
    fields = ("cluster", "statistic", "category", "condition", "template", "stereotype", "answer")
    return {field: getattr(item, field) for field in fields}
