"""Text comes from the model's own distribution, whatever its checkpoint suggests and whoever else is in the batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import PROMPTS

from steerlib import SteerlibError
from steerlib.models.model import Model

PROMPT = PROMPTS[0]
DRAWS = 4000


def next_token(lm: Model) -> torch.Tensor:
    """(vocabulary,) the probabilities of the first token after PROMPT."""
    with torch.no_grad():
        logits: torch.Tensor = lm.hf(tiny.ids(lm, PROMPT)).logits[0, -1]
    return logits.double().softmax(-1)


def first_tokens(lm: Model, **how: Any) -> Counter[str]:
    return Counter(lm.generate([PROMPT] * DRAWS, max_new_tokens=1, temperature=1.0, batch_size=500, **how))


def misled(repetition_penalty: float = 1.8, top_k: int = 3, top_p: float = 0.5) -> Model:
    """A model whose checkpoint asks for penalties and cut-offs."""
    lm = tiny.fresh("llama")
    config = lm.hf.generation_config
    config.repetition_penalty, config.top_k, config.top_p, config.do_sample = repetition_penalty, top_k, top_p, True
    return lm


@pytest.mark.parametrize("make", [lambda: tiny.model("llama"), misled], ids=["plain", "with a generation_config"])
def test_at_temperature_one_tokens_are_as_frequent_as_they_are_probable(make: Any) -> None:
    lm = make()
    p = next_token(lm)
    counts = first_tokens(lm)
    texts = [lm.tokenizer.decode([i], skip_special_tokens=True) for i in range(len(p))]
    expected: Counter[str] = Counter()
    for text, mass in zip(texts, p.tolist(), strict=True):
        expected[text] += mass * DRAWS  # type: ignore[assignment]
    common = [text for text, n in expected.items() if n >= 5]
    rest = DRAWS - sum(counts[text] for text in common), DRAWS - sum(expected[text] for text in common)
    seen = np.array([counts[text] for text in common] + [rest[0]], dtype=float)
    wanted = np.array([expected[text] for text in common] + [rest[1]], dtype=float)
    wanted = np.maximum(wanted, 1.0)
    chi2 = ((seen - wanted) ** 2 / wanted).sum()
    assert len(common) > 20 and chi2 < len(common) + 4 * np.sqrt(2 * len(common))  # mean and spread of a fair draw
    unlikely = [text for text, _ in expected.most_common()[50:]]
    assert sum(counts[text] for text in unlikely) > 0.5 * sum(
        expected[text] for text in unlikely
    )  # beyond a top_k of 50


def test_greedy_text_does_not_depend_on_the_generation_config() -> None:
    for family in ("llama", "gpt2"):
        plain, other = tiny.fresh(family), tiny.fresh(family)
        other.hf.generation_config.repetition_penalty = 1.8
        assert plain.generate(PROMPTS, max_new_tokens=10) == other.generate(PROMPTS, max_new_tokens=10)
        assert other.hf.generation_config.repetition_penalty == 1.8  # and is left as it was


def test_top_k_and_top_p_cut_where_they_say() -> None:
    lm = tiny.model("llama")
    p = next_token(lm)
    order = p.argsort(descending=True)
    texts = [lm.tokenizer.decode([int(i)], skip_special_tokens=True) for i in order]
    assert set(first_tokens(lm, top_k=3)) == set(texts[:3])
    kept = int((p[order].cumsum(0) < 0.3).sum()) + 1
    assert set(first_tokens(lm, top_p=0.3)) == set(texts[:kept])


def test_a_sampled_text_does_not_depend_on_its_neighbours_or_on_the_global_generator() -> None:
    lm = tiny.model("llama")
    how: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 8, "seed": 3}
    together = lm.generate(PROMPTS, batch_size=5, **how)
    torch.manual_seed(99)
    assert [lm.generate(prompt, **how) for prompt in PROMPTS] == together
    assert lm.generate(PROMPTS[::-1], batch_size=2, **how) == together[::-1]
    assert lm.generate(PROMPTS, **{**how, "seed": 4}) != together
    state = torch.get_rng_state()
    lm.generate(PROMPT, **how)
    assert torch.equal(state, torch.get_rng_state())
    twice = lm.generate(PROMPTS * 2, **how)
    assert twice[: len(PROMPTS)] == together != twice[len(PROMPTS) :]  # a prompt that is asked again gets another draw


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(how: dict[str, Any], word: str) -> None:
    with pytest.raises(SteerlibError, match=word):
        tiny.model("llama").generate(PROMPT, **how)


@pytest.mark.parametrize("damage", ["nan", "inf", "zero"])
def test_a_destroyed_model_is_refused_rather_than_silent(damage: str) -> None:
    lm = tiny.fresh("llama")
    head = lm.hf.get_output_embeddings().weight.data
    if damage == "zero":
        head.zero_()
    else:
        head[3] = float(damage)
    with pytest.raises(SteerlibError, match="not finite, or all equal"):
        lm.generate(PROMPT)
