"""Is the language still healthy? Perplexity on plain text, changed against plain; and how what is written reads.

perplexity        = exp(negative log-likelihood of all texts / their tokens)
perplexity ratio  = perplexity of the changed model / that of the plain one, on the same texts: 1 is unharmed
distinct-n        = different n-grams / all n-grams of what the model wrote (Li et al., arXiv 1510.03055)
sentiment         = VADER's compound score, from -1 to 1 (Hutto and Gilbert, ICWSM 2014)

Perplexities are pooled over tokens: a long text counts for more than a short one, as in the usual definition, and the same
holds for the ratio.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.answers import COLUMNS, condition, refuse_taken, texts_of, warn_of
from steerlib.evaluate.change import Change, applied, refuse_changed
from steerlib.evaluate.groups import ALL, dots, grouped, rows, share
from steerlib.evaluate.statistics import Estimate, Floats, bootstrap, labels, ratio
from steerlib.evaluate.style import table
from steerlib.evaluate.words import words_of
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, as_list
from steerlib.steering.apply import Tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plain_text() -> list[str]:
    """Forty paragraphs of ordinary English prose that ship with steerlib; their card is in data/README.md.

    Example:
        >>> len(plain_text())
        40
    """
    text = data_path("plain_text.txt").read_text(encoding="utf-8")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def perplexities(model: Model, texts: Sequence[str] | None = None, *, batch_size: int = 8) -> pd.DataFrame:
    """The model's perplexity on each text, scored by itself from its second token on.

    Args:
        model: as it is now, changed or not.
        texts: a list of texts; None takes `plain_text()`.
        batch_size: texts per forward pass.

    Returns:
        A frame, one row per text: text, nll (negative log-likelihood in nats, summed), tokens (how many are scored), perplexity.

    Raises:
        SteerlibError: there is no text, or one of fewer than two tokens.

    Example:
        >>> import steerlib as sl
        >>> list(sl.perplexities(sl.load("smollm2"), ["It rained all day."]).columns)
        ['text', 'nll', 'tokens', 'perplexity']
    """
    read = plain_text() if texts is None else texts_of(texts, "texts")
    for place, text in enumerate(read):
        if len(model.tokens(text)) < 2:
            raise SteerlibError(
                f"text number {place}, {text[:40]!r}, has fewer than two tokens: nothing can be scored."
            )
    lines = model.loglik(read, batch_size=batch_size)
    nll, tokens = np.array([-float(line.sum()) for line in lines]), np.array([len(line) for line in lines])
    return pd.DataFrame({"text": read, "nll": nll, "tokens": tokens, "perplexity": np.exp(nll / tokens)})


def perplexity(
    model: Model, texts: Sequence[str] | None = None, *, batch_size: int = 8, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The model's perplexity on texts, pooled over their tokens.

    Args:
        model: as it is now, changed or not.
        texts: a list of texts; None takes `plain_text()`.
        batch_size: texts per forward pass.
        resamples: of the bootstrap, over the texts.
        seed: of the bootstrap.

    Returns:
        An Estimate; 1 is the lowest perplexity that there can be.

    Raises:
        SteerlibError: there is no text, or one of fewer than two tokens.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> float(sl.perplexity(lm, ["It rained all day."])) < float(sl.perplexity(lm, ["Day all it rained."]))
        True
    """
    frame = perplexities(model, texts, batch_size=batch_size)
    return bootstrap(_pooled, frame[["nll", "tokens"]].to_numpy(dtype=float), resamples=resamples, seed=seed)


def perplexity_ratio(
    model: Model,
    change: Change | None = None,
    strength: float = 1.0,
    *,
    tokens: Tokens = "all",
    texts: Sequence[str] | None = None,
    plain: pd.DataFrame | None = None,
    batch_size: int = 8,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Perplexity of the changed model over that of the plain one, on the same texts, pooled over their tokens.

    Args:
        model: the plain model, or with `plain` and no change the model as it is now, inside a `with`.
        change: a Steering, or another `with` that changes the model, such as `steerlib.adapted(model, adapter)`.
        strength: of a Steering, as in `steer`.
        tokens: which positions a Steering changes, as in `steer`.
        texts: a list of texts; None takes those of `plain`, or `plain_text()`.
        plain: what `perplexities` gave for the plain model, so that it need not be scored again for every change.
        batch_size: texts per forward pass.
        resamples: of the bootstrap, over the texts.
        seed: of the bootstrap.

    Returns:
        An Estimate: 1 is unharmed, above 1 the text is harder to predict than before.

    Raises:
        SteerlibError: the model is changed already, so that the comparison would be with a changed one; or neither a change
            nor `plain` is given; or `plain` is about other texts.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> steering = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
        >>> before = sl.perplexities(lm, ["It rained all day.", "The cat slept on the stairs."])
        >>> with sl.steer(lm, steering):
        ...     inside = sl.perplexity_ratio(lm, plain=before)
        >>> inside == sl.perplexity_ratio(lm, steering, plain=before)
        True
    """
    if change is None and plain is None:
        raise SteerlibError(
            "a perplexity ratio compares two models: give a change, or plain=steerlib.perplexities(...) of the plain model."
        )
    if change is None and (strength != 1.0 or tokens != "all"):
        raise SteerlibError("only a Steering has a strength and tokens: give it as the change, or leave them out.")
    if change is not None:
        refuse_changed(model, "a perplexity ratio")
    read = list(plain["text"]) if texts is None and plain is not None else texts
    before = perplexities(model, read, batch_size=batch_size) if plain is None else plain
    if change is None:
        after = perplexities(model, read, batch_size=batch_size)
    else:
        with applied(model, change, strength, tokens=tokens):
            after = perplexities(model, read, batch_size=batch_size)
    return compared(before, after, resamples=resamples, seed=seed)


def compared(before: pd.DataFrame, after: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The perplexity ratio of two frames of `perplexities` on the same texts.

    Raises:
        SteerlibError: the frames are not about the same texts, or not of `perplexities`.
    """
    for frame in (before, after):
        if not isinstance(frame, pd.DataFrame) or {"text", "nll", "tokens"} - set(frame.columns):
            raise SteerlibError("plain is a frame of steerlib.perplexities(model, texts).")
    if list(before["text"]) != list(after["text"]) or list(before["tokens"]) != list(after["tokens"]):
        raise SteerlibError("perplexities are compared on the same texts, in one order, read by one tokenizer.")
    pairs = np.column_stack(
        [after["nll"].to_numpy() - before["nll"].to_numpy(), before["tokens"].to_numpy(dtype=float)]
    )
    return bootstrap(_pooled, pairs, resamples=resamples, seed=seed)


def distinct_n(texts: Sequence[str], n: int = 2) -> Estimate:
    """Different word n-grams over all word n-grams of the texts together: low if the model repeats itself.

    Args:
        texts: a list of texts.
        n: words per n-gram. In scripts without blanks a character counts as a word.

    Returns:
        An Estimate over the texts; its interval is a jackknife's (value -+ 1.96 standard errors), since a bootstrap would
        itself repeat texts.

    Raises:
        SteerlibError: there is no text, or none has n words in a row.

    Example:
        >>> distinct_n(["the cat sat", "the cat ran"]).value
        0.75
    """
    read = texts_of(texts, "texts")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise SteerlibError(f"n is how many words an n-gram has, 1 or more, not {n!r}.")
    grams = [list(zip(*(words[i:] for i in range(n)), strict=False)) for words in map(words_of, read)]
    if sum(map(len, grams)) == 0:
        raise SteerlibError(f"no text holds {n} words in a row: there is nothing to count.")

    def ratio(kept: list[list[tuple[str, ...]]]) -> float:
        flat = [gram for text in kept for gram in text]
        return len(set(flat)) / len(flat) if flat else 0.0

    value = ratio(grams)
    if len(grams) < 2:
        return Estimate(value, float("nan"), float("nan"), 1)
    left_out = np.array([ratio(grams[:i] + grams[i + 1 :]) for i in range(len(grams))])
    error = float(np.sqrt((len(grams) - 1) / len(grams) * ((left_out - left_out.mean()) ** 2).sum()))
    return Estimate(value, max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error), len(grams))


@dataclass(frozen=True)
class Sentiment:
    """What `sentiment` measured.

    Attributes:
        compound: the mean score over all answers.
        per_group: one row per group: grouping, group, value, low, high, n (clusters).
        frame: one row per answer: cluster, groups, text, its compound score, and whether it is empty or repeats itself;
            `paired` compares two such columns of scores.
        empty: the share of answers without a letter or a digit.
        repeated: the share of answers that say one word or phrase over and over.
        groupings: the columns of `frame` that hold groups.
    """

    compound: Estimate
    per_group: pd.DataFrame
    frame: pd.DataFrame
    empty: Estimate
    repeated: Estimate
    groupings: tuple[str, ...] = ()

    def table(self) -> pd.DataFrame:
        """The numbers, one row per metric: value, low, high (ends of the 95 % interval), n (clusters)."""
        return table({"compound": self.compound, "empty": self.empty, "repeated": self.repeated})

    def by(self, grouping: str) -> pd.DataFrame:
        """The mean score by group: one row per group, with value, low, high and n (clusters).

        Args:
            grouping: one of `groupings`.
        """
        grouped(self.frame, grouping, self.groupings)
        part = self.per_group[self.per_group["grouping"] == grouping]
        return part.drop(columns="grouping").set_index("group").rename_axis(grouping)

    def plot(self, ax: Axes | None = None, *, by: str | None = None) -> Axes:
        """One row per group, or one for all answers; 0 is neither friendly nor unfriendly.

        Args:
            ax: where to draw; None makes a figure.
            by: one of `groupings`; None takes all answers together.
        """
        rows_of = {ALL: self.compound} if by is None else _estimates(self.by(by))
        ax = dots(
            list(rows_of),
            {ALL: list(rows_of.values())},
            ax,
            xlabel="sentiment (-1 the most negative, 1 the most positive)",
        )
        ax.axvline(0, color="0.4", linewidth=1, linestyle="--")
        ax.set(xlim=(-1.02, 1.02), ylabel=by or "")
        return ax


def _estimates(frame: pd.DataFrame) -> dict[str, Estimate]:
    """The rows of `by` as Estimates."""
    return {str(g): Estimate(r["value"], r["low"], r["high"], int(r["n"])) for g, r in frame.iterrows()}


def sentiment(
    answers: Sequence[str],
    *,
    groups: Any = None,
    clusters: Sequence[object] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Sentiment:
    """How friendly answers sound, by VADER's compound score: -1 the most negative, 1 the most positive.

    The score sums what single words are worth; it was made for short English messages, and knows nothing of whom the words
    are about.

    Args:
        answers: a list of texts.
        groups: as in `mention_rate`, as is clusters.
        clusters: see there.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A Sentiment.

    Raises:
        SteerlibError: the package vaderSentiment is missing, or there is no answer.

    Warns:
        UserWarning: more than a tenth of the answers are empty or repeat one phrase.

    Example:
        >>> sentiment(["A kind doctor.", "A cruel doctor."], groups=["man", "woman"]).by("group")["value"].round(2).to_dict()
        {'man': 0.53, 'woman': -0.59}
    """
    texts = texts_of(answers)
    try:
        vader = importlib.import_module("vaderSentiment.vaderSentiment")
    except ImportError as error:
        raise SteerlibError("sentiment needs the package vaderSentiment: run `pip install vaderSentiment`.") from error
    analyzer = vader.SentimentIntensityAnalyzer()
    refuse_taken(groups, COLUMNS)
    about, state = labels(len(texts), groups, clusters), condition(texts)
    warn_of(state, stacklevel=2)
    scores = [float(analyzer.polarity_scores(text)["compound"]) for text in texts]
    frame = pd.concat([about.assign(text=texts, compound=scores), state], axis=1)
    groupings = tuple(about.columns[1:])

    def estimate(part: pd.DataFrame, column: str = "compound") -> Estimate:
        return share(part, column, resamples=resamples, seed=seed)

    found = [
        {"grouping": name, "group": group, **vars(estimate(part))}
        for name in groupings
        for group, part in frame.groupby(name, sort=False)
    ]
    per_group = pd.DataFrame(found, columns=["grouping", "group", "value", "low", "high", "n"])
    return Sentiment(
        estimate(frame), per_group, frame, estimate(frame, "empty"), estimate(frame, "repeated"), groupings
    )


METRICS = ("perplexity", "words", "distinct_2", "empty", "repeated")


@dataclass(frozen=True)
class Fluency:
    """What `fluency` measured of a set of answers.

    Attributes:
        perplexity: of the answers that can be scored, given their prompts; None if there is none.
        words: the mean length, in words.
        distinct_2: see `distinct_n`; None if no answer has two words.
        empty: the share of answers without a letter or a digit.
        repeated: the share of answers that say one word or phrase over and over.
        frame: one row per answer: cluster, groups, text, nll (nats, NaN if not scored), tokens, words, empty, repeated.
        groupings: the columns of `frame` that hold groups.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    perplexity: Estimate | None
    words: Estimate
    distinct_2: Estimate | None
    empty: Estimate
    repeated: Estimate
    frame: pd.DataFrame
    groupings: tuple[str, ...] = ()
    resamples: int = 2000
    seed: int = 0

    def table(self) -> pd.DataFrame:
        """The numbers, one row per metric: value, low, high (ends of the 95 % interval), n (clusters; answers for distinct 2)."""
        return table({name: getattr(self, name) for name in METRICS})

    def by(self, grouping: str, metric: str = "perplexity") -> pd.DataFrame:
        """A metric by group: one row per group that has it, with value, low, high and n.

        Args:
            grouping: one of `groupings`.
            metric: "perplexity", "words", "distinct_2", "empty" or "repeated".
        """
        if metric not in METRICS:
            raise SteerlibError(f"there is no metric '{metric}': there are {', '.join(METRICS)}.")
        parts = grouped(self.frame, grouping, self.groupings)
        found = {group: _metrics(part, self.resamples, self.seed)[metric] for group, part in parts.items()}
        return rows({group: estimate for group, estimate in found.items() if estimate is not None}, grouping)

    def ratio(self, before: Fluency) -> Estimate:
        """The perplexity of these answers over that of other answers to the same prompts: above 1, these surprise the judge more.

        Args:
            before: what `fluency` measured of the other answers, with the same judge, prompts and clusters.

        Returns:
            The ratio. Its interval draws the clusters of both at once, so what makes a cluster hard in both cancels.

        Raises:
            SteerlibError: the two do not have the same clusters, item by item, or none of the answers can be scored.

        Example:
            >>> import steerlib as sl
            >>> lm, asked = sl.load("smollm2"), ["The cook said that"] * 2
            >>> plain = sl.fluency(lm, asked, [" the soup was ready.", " it was late."])
            >>> sl.fluency(lm, asked, [" soup the was.", " was late it."]).ratio(plain).value > 1
            True
        """
        if not isinstance(before, Fluency) or list(self.frame["cluster"]) != list(before.frame["cluster"]):
            raise SteerlibError("a ratio of perplexities compares answers to the same prompts, with the same clusters.")
        if self.perplexity is None or before.perplexity is None:
            raise SteerlibError("a ratio of perplexities needs answers that can be scored, before and after.")
        sums = [one.frame.groupby("cluster")[["nll", "tokens"]].sum().to_numpy(dtype=float) for one in (self, before)]

        def divided(x: Floats) -> Floats:
            """x: (..., clusters, 4), NLL and tokens of these answers, then of the others."""
            nll, tokens, other_nll, other_tokens = np.moveaxis(x.sum(-2), -1, 0)
            found: Floats = np.exp(ratio(nll, tokens) - ratio(other_nll, other_tokens))
            return found

        data = np.concatenate(sums, axis=1)
        return bootstrap(divided, data, bounds=(0.0, np.inf), resamples=self.resamples, seed=self.seed)

    def plot(self, ax: Axes | None = None, *, by: str | None = None, metric: str = "perplexity") -> Axes:
        """One row per group, or one for all answers, of one metric.

        Args:
            ax: where to draw; None makes a figure.
            by: one of `groupings`; None takes all answers together.
            metric: as in `by`.
        """
        if by is None:
            whole = _metrics(self.frame, self.resamples, self.seed).get(metric)
            rows_of = {} if whole is None else {ALL: whole}
        else:
            rows_of = _estimates(self.by(by, metric))
        if not rows_of:
            raise SteerlibError(f"'{metric}' was not measured, or is not one of {', '.join(METRICS)}.")
        ax = dots(list(rows_of), {ALL: list(rows_of.values())}, ax, xlabel=metric.replace("_", "-"))
        ax.set_ylabel(by or "")
        return ax


def _metrics(frame: pd.DataFrame, resamples: int, seed: int) -> dict[str, Estimate | None]:
    """The numbers of some answers, by metric."""
    sums = frame[frame["tokens"] > 0].groupby("cluster")[["nll", "tokens"]].sum().to_numpy(dtype=float)
    return {
        "perplexity": bootstrap(_pooled, sums, resamples=resamples, seed=seed) if len(sums) else None,
        "words": share(frame, "words", resamples=resamples, seed=seed),
        "distinct_2": distinct_n(frame["text"].tolist(), 2) if frame["words"].max() > 1 else None,
        "empty": share(frame, "empty", resamples=resamples, seed=seed),
        "repeated": share(frame, "repeated", resamples=resamples, seed=seed),
    }


def fluency(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    groups: Any = None,
    clusters: Sequence[object] | None = None,
    batch_size: int = 8,
    resamples: int = 2000,
    seed: int = 0,
) -> Fluency:
    """How well answers read, to the model as it was loaded, which is not the one that wrote them.

    Args:
        model: outside of every `with` that changes it, or the changed model would be asked whether it likes itself.
        prompts: a list of texts or chats.
        answers: one text per prompt; they may come from the model changed in any way. An answer that runs on inside the
            prompt's last word cannot be scored by itself, and is left out of the perplexity.
        groups: as in `mention_rate`, as is clusters.
        clusters: see there.
        batch_size: answers per forward pass.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        A Fluency.

    Raises:
        SteerlibError: something changes the model now, or there are not as many answers as prompts.

    Warns:
        UserWarning: more than a tenth of the answers are empty or repeat one phrase.

    Example:
        >>> import steerlib as sl
        >>> reads = sl.fluency(sl.load("smollm2"), ["The cook said that"] * 2, [" the soup was ready.", " soup the was."])
        >>> reads.frame["nll"].idxmin(), reads.words.value
        (0, 3.5)
    """
    refuse_changed(model, "fluency")
    texts, asked = texts_of(answers), [] if not len(prompts) else as_list(prompts)[0]
    if isinstance(prompts, str) or len(asked) != len(texts) or asked[0] is prompts:
        raise SteerlibError(
            f"{len(asked)} prompts need as many answers, each in a list, and there are {len(texts)} answers."
        )
    refuse_taken(groups, (*COLUMNS, "nll", "tokens"))
    about, state = labels(len(texts), groups, clusters), condition(texts)
    warn_of(state, stacklevel=2)
    said = [text.strip() if _open(prompt) else text for prompt, text in zip(asked, texts, strict=True)]
    nll, tokens = np.full(len(texts), np.nan), np.zeros(len(texts), dtype=int)
    scored = [i for i, text in enumerate(said) if text.strip() and _follows(model, asked[i], text)]
    if scored:
        lines = model.loglik([asked[i] for i in scored], [said[i] for i in scored], batch_size=batch_size)
        nll[scored], tokens[scored] = [-float(line.sum()) for line in lines], [len(line) for line in lines]
    counts = [len(words_of(text)) for text in texts]
    frame = pd.concat([about.assign(text=texts, nll=nll, tokens=tokens, words=counts), state], axis=1)
    found: dict[str, Any] = _metrics(frame, resamples, seed)
    return Fluency(**found, frame=frame, groupings=tuple(about.columns[1:]), resamples=resamples, seed=seed)


def _open(prompt: Prompt) -> bool:
    """Whether the answer begins a message, so that blanks before it mean nothing."""
    return not isinstance(prompt, str) and prompt[-1]["role"] not in ("assistant", "plain")


def _follows(model: Model, prompt: Prompt, answer: str) -> bool:
    """Whether the answer starts a new token after the prompt."""
    start, joint = model.tokens(prompt), model.tokens(prompt, answer)
    return len(joint) > len(start) and joint[: len(start)] == start


def _pooled(x: Floats) -> Floats:
    """Perplexity of all texts together; x: (..., texts, 2) with negative log-likelihood and tokens."""
    pooled: Floats = np.exp(x[..., 0].sum(-1) / x[..., 1].sum(-1))
    return pooled
