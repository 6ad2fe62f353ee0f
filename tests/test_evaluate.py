"""Evaluations against arithmetic done another way, on models whose answers are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from steerlib import (
    Add,
    Steering,
    SteerlibError,
    decision_bias,
    distinct_n,
    perplexity,
    perplexity_ratio,
    plain_text,
    steer,
)
from steerlib.evaluate.statistics import bootstrap, correlation
from steerlib.tasks import Item, Task, Template, pronoun

PEOPLE = pd.DataFrame(
    {
        "occupation": ["plumber", "pilot", "nurse", "clerk"],
        "percent_women": [2.0, 10.0, 90.0, 70.0],
        "stereotype": ["man", "man", "woman", "woman"],
    }
)


@dataclass(frozen=True)
class Oracle:
    """A stand-in for a model, whose probability of "he" is a function of the item's prompt."""

    he: Any

    def choose(self, prompts: list[str], options: Any, *, batch_size: int) -> torch.Tensor:
        return torch.tensor([[self.he(p), 1 - self.he(p)] for p in prompts], dtype=torch.float64)


def task(*texts: str) -> Task:
    return pronoun("test", people=PEOPLE, templates=[Template(f"t{i}", text) for i, text in enumerate(texts)])


def test_a_fair_model_scores_zero_and_a_stereotyped_one_scores_one() -> None:
    fair = decision_bias(Oracle(lambda p: 0.5), task("The {occupation} sat, and"))  # type: ignore[arg-type]
    assert fair.per_occupation_bias.value == fair.per_prompt_bias.value == fair.stereotype_gap.value == 0
    biased = decision_bias(Oracle(lambda p: float("plumber" in p or "pilot" in p)), task("The {occupation} sat, and"))  # type: ignore[arg-type]
    assert biased.per_occupation_bias.value == biased.stereotype_gap.value == biased.per_prompt_bias.value == 1
    assert biased.correlation.value < -0.9


def test_the_gap_cancels_across_occupations_and_the_bias_across_prompts() -> None:
    always_he = decision_bias(Oracle(lambda p: 0.9), task("The {occupation} sat, and"))  # type: ignore[arg-type]
    assert always_he.stereotype_gap.value == pytest.approx(0)
    assert always_he.per_occupation_bias.value == pytest.approx(0.8)
    wordings = decision_bias(Oracle(lambda p: 0.9 if "sat" in p else 0.1), task("{occupation} sat", "{occupation} ran"))  # type: ignore[arg-type]
    assert wordings.per_occupation_bias.value == pytest.approx(0)
    assert wordings.per_prompt_bias.value == pytest.approx(0.8)


def test_the_three_measures_are_ordered_and_equal_to_plain_sums() -> None:
    rng = np.random.default_rng(0)
    drawn: dict[str, float] = {}
    he = lambda p: drawn.setdefault(p, float(rng.random()))
    got = decision_bias(
        Oracle(he), task("The {occupation} sat, and", "The {occupation} ran, and", "I saw the {occupation}, and")
    )  # type: ignore[arg-type]
    tilt = 2 * got.frame["p_pro"] - 1
    by_hand = tilt.groupby(got.frame["occupation"]).mean().abs().mean()
    assert got.per_occupation_bias.value == pytest.approx(by_hand)
    assert got.per_prompt_bias.value == pytest.approx(tilt.abs().mean())
    assert got.stereotype_gap.value == pytest.approx(tilt.mean())
    table = got.per_occupation
    assert got.correlation.value == pytest.approx(np.corrcoef(table["p_man"], table["percent_women"])[0, 1])
    assert abs(got.stereotype_gap.value) <= got.per_occupation_bias.value <= got.per_prompt_bias.value
    for estimate in (got.per_occupation_bias, got.per_prompt_bias, got.stereotype_gap):
        assert estimate.low <= estimate.value <= estimate.high and estimate.n == 4


def test_unambiguous_items_measure_accuracy_and_nothing_else() -> None:
    both = task("The {occupation} sat, and", "The {occupation}, a {person}, sat, and")
    knows = decision_bias(Oracle(lambda p: 0.9 if "a man" in p else 0.2 if "a woman" in p else 0.5), both)  # type: ignore[arg-type]
    assert knows.unambiguous_accuracy is not None and knows.unambiguous_accuracy.value == 1
    assert knows.per_occupation_bias.value == 0
    always = decision_bias(Oracle(lambda p: 0.9), both)  # type: ignore[arg-type]
    assert always.unambiguous_accuracy is not None and always.unambiguous_accuracy.value == 0.5
    assert decision_bias(Oracle(lambda p: 0.9), both.ambiguous).unambiguous_accuracy is None  # type: ignore[arg-type]


def test_a_real_tiny_model_is_scored_the_same_in_any_batch() -> None:
    lm, some = tiny.model("llama"), task("The {occupation} sat, and", "I saw the {occupation} today, and")
    one, many = (decision_bias(lm, some, batch_size=size, resamples=10).frame["p_man"] for size in (1, 8))
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_the_figure_shows_every_occupation() -> None:
    ax = decision_bias(Oracle(lambda p: 0.7), task("The {occupation} sat, and")).plot()  # type: ignore[arg-type]
    assert [label.get_text().split(" (")[0] for label in ax.get_yticklabels()] == ["plumber", "pilot", "clerk", "nurse"]
    assert len(ax.containers) == 2 and ax.get_xlabel() and ax.get_ylabel()


def test_tasks_that_cannot_be_scored_are_refused() -> None:
    item = Item("a", ("x", "y"), ("young", "old"), "clerk", 70.0, "young", "t")
    with pytest.raises(SteerlibError, match="young, old"):
        decision_bias(tiny.model("llama"), Task("ages", (item,)))
    odd = replace(item, groups=("man", "woman"))
    with pytest.raises(SteerlibError, match="no stereotype"):
        decision_bias(tiny.model("llama"), Task("odd", (odd,)))
    one = replace(odd, stereotype="man")
    with pytest.raises(SteerlibError, match="two or more"):
        decision_bias(tiny.model("llama"), Task("one", (one,)))


def test_bootstrap_interval_of_a_mean_is_that_of_theory_and_narrows_with_n() -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(400, 1))
    got = bootstrap(lambda x: x[..., 0].mean(-1), data, resamples=4000)
    error = float(data.std() / math.sqrt(400))
    assert got.low == pytest.approx(data.mean() - 1.96 * error, abs=0.3 * error)
    assert got.high == pytest.approx(data.mean() + 1.96 * error, abs=0.3 * error)
    fewer = bootstrap(lambda x: x[..., 0].mean(-1), data[:25])
    assert fewer.high - fewer.low > 2 * (got.high - got.low)
    assert bootstrap(lambda x: x[..., 0].mean(-1), data, seed=5) == bootstrap(
        lambda x: x[..., 0].mean(-1), data, seed=5
    )


def test_bootstrap_refuses_nothing_and_nan() -> None:
    with pytest.raises(SteerlibError, match="nothing to estimate"):
        bootstrap(lambda x: x[..., 0].mean(-1), np.empty((0, 1)))
    with pytest.raises(SteerlibError, match="NaN"):
        bootstrap(lambda x: x[..., 0].mean(-1), np.array([[np.nan]]))


def test_correlation_is_numpys() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 9))
    assert float(correlation(x, y)) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert correlation(np.ones(4), y[:4]) == 0  # what does not vary goes along with nothing


def test_perplexity_is_that_of_the_models_own_loss() -> None:
    lm, texts = tiny.model("llama"), ["one text here", "another, longer text over there"]
    total, count = 0.0, 0
    for text in texts:
        ids = tiny.ids(lm, text)
        total += float(lm.hf(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert perplexity(lm, texts).value == pytest.approx(math.exp(total / count), rel=1e-4)


def test_perplexity_ratio_is_the_ratio_and_one_at_strength_zero() -> None:
    lm, texts = tiny.model("llama"), ["one text here", "another, longer text over there"]
    steering = Steering({"residual.1": Add(tiny.vector(4, size=2.0))})  # type: ignore[dict-item]
    still = perplexity_ratio(lm, steering, 0.0, texts=texts)
    assert still.value == still.low == still.high == 1
    with steer(lm, steering):
        steered = perplexity(lm, texts).value
    assert perplexity_ratio(lm, steering, texts=texts).value == pytest.approx(
        steered / perplexity(lm, texts).value, rel=1e-5
    )


def test_distinct_n_counts_different_over_all() -> None:
    assert distinct_n(["a b a b a b"], 2).value == pytest.approx(2 / 5)
    assert distinct_n(["one two three", "four five six"], 2).value == 1
    assert distinct_n(["one two three", "one two three"], 1).value == 0.5
    got = distinct_n(["the cat sat on the mat", "the dog sat on the mat", "a bird flew"], 2)
    assert got.low <= got.value <= got.high and got.n == 3
    with pytest.raises(SteerlibError, match="nothing to count"):
        distinct_n(["word"], 2)


def test_the_plain_text_that_ships_is_prose() -> None:
    texts = plain_text()
    assert len(texts) == 40 and all(60 <= len(text.split()) <= 90 and text.isascii() for text in texts)
    assert len(set(texts)) == 40
