"""Is the language still healthy? Perplexity on plain text, steered against plain; and how what is written reads.

perplexity        = exp(mean negative log-likelihood of a token)
perplexity ratio  = perplexity steered / perplexity plain, on the same text: 1 is unharmed
distinct-n        = different n-grams / all n-grams of what the model wrote (Li et al., arXiv 1510.03055)
sentiment         = VADER's compound score, from -1 to 1 (Hutto and Gilbert, ICWSM 2014)
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.statistics import Estimate, Floats, bootstrap, labels, mean
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.steering.apply import Tokens, _Generate, steer
from steerlib.steering.operations import Steering


def plain_text() -> list[str]:
    """Forty paragraphs of ordinary English prose that ship with steerlib; their card is in data/README.md."""
    text = data_path("plain_text.txt").read_text(encoding="utf-8")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def perplexity(model: Model, texts: Sequence[str] | None = None, *, batch_size: int = 8) -> Estimate:
    """The model's perplexity on texts (None: `plain_text()`), each scored by itself from its second token on.

    The interval is bootstrapped over the texts.
    """
    return bootstrap(_pooled, _scores(model, texts, batch_size))


def perplexity_ratio(
    model: Model,
    steering: Steering,
    strength: float = 1.0,
    *,
    tokens: Tokens = "all",
    texts: Sequence[str] | None = None,
    batch_size: int = 8,
) -> Estimate:
    """Perplexity steered over perplexity plain on the same texts (None: `plain_text()`); bootstrapped over the texts."""
    plain = _scores(model, texts, batch_size)
    with steer(model, steering, strength, tokens=tokens):
        steered = _scores(model, texts, batch_size)
    pairs = np.column_stack([steered[:, 0] - plain[:, 0], plain[:, 1]])
    return bootstrap(_pooled, pairs)


def distinct_n(texts: Sequence[str], n: int = 2) -> Estimate:
    """Different word n-grams over all word n-grams of the texts together: low if the model repeats itself.

    The interval is a jackknife's over the texts (value -+ 1.96 standard errors), since a bootstrap would itself repeat texts.
    """
    grams = [list(zip(*(words[i:] for i in range(n)), strict=False)) for words in map(_words, texts)]
    if n < 1 or sum(map(len, grams)) == 0:
        raise SteerlibError(f"no text holds {n} words in a row: there is nothing to count.")

    def ratio(kept: list[list[tuple[str, ...]]]) -> float:
        flat = [gram for text in kept for gram in text]
        return len(set(flat)) / len(flat) if flat else 0.0

    value = ratio(grams)
    left_out = np.array([ratio(grams[:i] + grams[i + 1 :]) for i in range(len(grams))])
    error = float(np.sqrt((len(grams) - 1) / len(grams) * ((left_out - left_out.mean()) ** 2).sum()))
    return Estimate(value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error), len(grams))


@dataclass(frozen=True)
class Sentiment:
    """What `sentiment` measured.

    compound: the mean over all answers. per_group: a frame, a row a group: grouping, group, value, low, high, n (clusters).
    frame: a row an answer, with its compound score; `paired` compares two such columns.
    """

    compound: Estimate
    per_group: pd.DataFrame
    frame: pd.DataFrame


def sentiment(
    answers: Sequence[str],
    *,
    groups: Any = None,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Sentiment:
    """How friendly answers sound, by VADER's compound score: -1 the most negative, 1 the most positive.

    groups, clusters: as in `mention_rate`. The score sums what single words are worth; it was made for short English
    messages, and knows nothing of whom the words are about.
    Raises SteerlibError if the package vaderSentiment is missing or there is no answer.
    """
    try:
        vader = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError as error:
        raise SteerlibError("sentiment needs the package vaderSentiment: run `pip install vaderSentiment`.") from error
    analyzer = vader.SentimentIntensityAnalyzer()
    about = labels(len(answers), groups, clusters)
    scores = [float(analyzer.polarity_scores(answer)["compound"]) for answer in answers]
    frame = about.assign(text=list(answers), compound=scores)

    def estimate(part: pd.DataFrame) -> Estimate:
        return mean(part["compound"], part["cluster"].tolist(), resamples=resamples, seed=seed)

    rows = [
        {"grouping": name, "group": group, **vars(estimate(part))}
        for name in about.columns[1:]
        for group, part in frame.groupby(name, sort=False)
    ]
    per_group = pd.DataFrame(rows, columns=["grouping", "group", "value", "low", "high", "n"])
    return Sentiment(estimate(frame), per_group, frame)


@dataclass(frozen=True)
class Fluency:
    """What `fluency` measured of a set of answers.

    perplexity: of the answers that are not empty, given their prompts; None if none could be scored. words: mean length.
    distinct_2: see `distinct_n`; None if no answer has two words. empty: share of answers without a word.
    frame: a row an answer: text, cluster, nll (nats, NaN if not scored), tokens, words.
    """

    perplexity: Estimate | None
    words: Estimate
    distinct_2: Estimate | None
    empty: Estimate
    frame: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The numbers, a row a metric: value, low, high (ends of the 95 % interval), n (clusters; for distinct 2 answers)."""
        names = ("perplexity", "words", "distinct_2", "empty")
        rows = {name.replace("_", " "): vars(getattr(self, name)) for name in names if getattr(self, name) is not None}
        return pd.DataFrame(rows).T.astype({"n": int})


def fluency(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    clusters: Sequence[object] | None = None,
    batch_size: int = 8,
    resamples: int = 2000,
    seed: int = 0,
) -> Fluency:
    """How well answers read, to the model that did not write them: the UNSTEERED one.

    model: as loaded, outside of every `steer`, or the steered model would be asked whether it likes itself. prompts,
    answers: of one length; the answers may come from the model steered in any way. clusters: as in `mention_rate`. An answer
    that runs on inside the prompt's last word cannot be scored by itself, and is left out of the perplexity.
    Raises SteerlibError if the model is being steered, or there are not as many answers as prompts.
    """
    if isinstance(vars(model.hf).get("generate"), _Generate):  # which `steer` puts there
        raise SteerlibError("fluency is judged by the unsteered model: call it after the `with steer(...)` has ended.")
    if isinstance(answers, str) or len(prompts) != len(answers) or not answers:
        raise SteerlibError(f"{len(prompts)} prompts need as many answers, in a list, and at least one.")
    about = labels(len(answers), None, clusters)
    texts = [answer.strip() if _open(prompt) else answer for prompt, answer in zip(prompts, answers, strict=True)]
    counts = [len(_words(answer)) for answer in answers]
    nll, tokens = np.full(len(texts), np.nan), np.zeros(len(texts), dtype=int)
    scored = [i for i, text in enumerate(texts) if text.strip() and _follows(model, prompts[i], text)]
    if scored:
        lines = model.loglik([prompts[i] for i in scored], [texts[i] for i in scored], batch_size=batch_size)
        nll[scored], tokens[scored] = [-float(line.sum()) for line in lines], [len(line) for line in lines]
    frame = about.assign(text=list(answers), nll=nll, tokens=tokens, words=counts)
    sums = frame[frame["tokens"] > 0].groupby("cluster")[["nll", "tokens"]].sum().to_numpy(dtype=float)

    def share(values: Sequence[float]) -> Estimate:
        return mean(values, about["cluster"].tolist(), resamples=resamples, seed=seed)

    return Fluency(
        perplexity=bootstrap(_pooled, sums, resamples=resamples, seed=seed) if scored else None,
        words=share(counts),
        distinct_2=distinct_n(answers, 2) if max(counts) > 1 else None,
        empty=share([float(count == 0) for count in counts]),
        frame=frame,
    )


def _open(prompt: Prompt) -> bool:
    """Whether the answer begins a message, so that blanks before it mean nothing."""
    return not isinstance(prompt, str) and prompt[-1]["role"] != "assistant"


def _follows(model: Model, prompt: Prompt, answer: str) -> bool:
    """Whether the answer starts a new token after the prompt."""
    start, joint = model.tokens(prompt), model.tokens(prompt, answer)
    return len(joint) > len(start) and joint[: len(start)] == start


def _pooled(x: Floats) -> Floats:
    """Perplexity of all texts together; x: (..., texts, 2) with negative log-likelihood and tokens."""
    pooled: Floats = np.exp(x[..., 0].sum(-1) / x[..., 1].sum(-1))
    return pooled


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _scores(model: Model, texts: Sequence[str] | None, batch_size: int) -> Floats:
    """(texts, 2): negative log-likelihood in nats, and how many tokens it is summed over."""
    scored = model.loglik(list(texts) if texts is not None else plain_text(), batch_size=batch_size)
    return np.array([[-float(line.sum()), len(line)] for line in scored])
