"""Is the language still healthy? Perplexity on plain text, steered against plain, and repetition in what is written.

perplexity        = exp(mean negative log-likelihood of a token)
perplexity ratio  = perplexity steered / perplexity plain, on the same text: 1 is unharmed
distinct-n        = different n-grams / all n-grams of what the model wrote (Li et al., arXiv 1510.03055)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.evaluate.statistics import Estimate, Floats, bootstrap
from steerlib.models import Model
from steerlib.steering import Steering, Tokens, steer


def plain_text() -> list[str]:
    """Forty paragraphs of ordinary English prose that ship with steerlib; their card is in data/README.md."""
    text = data_path("plain_text.txt").read_text(encoding="utf-8")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]


def perplexity(model: Model, texts: Sequence[str] | None = None, *, batch_size: int = 8) -> Estimate:
    """The model's perplexity on texts (None: `plain_text()`), each scored by itself from its second token on.

    The interval is bootstrapped over the texts.
    """
    return bootstrap(lambda x: np.exp(x[..., 0].sum(-1) / x[..., 1].sum(-1)), _scores(model, texts, batch_size))


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
    return bootstrap(lambda x: np.exp(x[..., 0].sum(-1) / x[..., 1].sum(-1)), pairs)


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


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _scores(model: Model, texts: Sequence[str] | None, batch_size: int) -> Floats:
    """(texts, 2): negative log-likelihood in nats, and how many tokens it is summed over."""
    scored = model.loglik(list(texts) if texts is not None else plain_text(), batch_size=batch_size)
    return np.array([[-float(line.sum()), len(line)] for line in scored])
