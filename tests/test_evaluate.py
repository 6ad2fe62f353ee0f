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
from steerlib.evaluate.decisions import DecisionBias
from steerlib.evaluate.selection import selection_rates
from steerlib.evaluate.statistics import bootstrap, correlation
from steerlib.tasks import TONE_GROUPS, Item, PairItem, Person, Task, Template, pronoun

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

    def choose(self, prompts: list[str], options: Any, **how: Any) -> Any:
        return torch.tensor([[self.he(p), 1 - self.he(p)] for p in prompts], dtype=torch.float64), torch.ones(
            len(prompts)
        )


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
    lm, item = tiny.model("llama"), Item("a", ("x", "y"), ("young", "old"), "clerk", 70.0, "young", "t")
    with pytest.raises(SteerlibError, match="'none' has no items"):
        decision_bias(lm, Task("none", ()))
    for groups in (("young", "young"), ("young", "old", "old")):
        with pytest.raises(SteerlibError, match=f"two or more different groups; 'ages' has {', '.join(groups)}"):
            decision_bias(lm, Task("ages", (replace(item, options=("x", "y", "z")[: len(groups)], groups=groups),)))
    with pytest.raises(SteerlibError, match="must share their groups: one has young, old, another man, woman"):
        decision_bias(lm, Task("mixed", (item, replace(item, groups=("man", "woman"), stereotype="man"))))
    with pytest.raises(SteerlibError, match="'clerk' has the stereotype 'man', which is none of young, old"):
        decision_bias(lm, Task("odd", (replace(item, stereotype="man"),)))
    with pytest.raises(SteerlibError, match="answer 'middle', which is none of young, old"):
        decision_bias(lm, Task("wrong", (replace(item, answer="middle"),)))
    with pytest.raises(SteerlibError, match="two or more"):
        decision_bias(lm, Task("one", (item,)))


@dataclass(frozen=True)
class Chooser:
    """A stand-in for a model that sees: P(first option) is a function of the item, which its prompt is the number of."""

    items: tuple[PairItem, ...]
    first: Any

    def choose(self, prompts: list[str], options: Any, **how: Any) -> Any:
        rates = [self.first(self.items[int(p)]) for p in prompts]
        return torch.tensor([[rate, 1 - rate] for rate in rates], dtype=torch.float64), torch.ones(len(prompts))


LOOKS = (("man", "light"), ("woman", "dark"), ("man", "dark"), ("woman", "light"))


def scored(
    first: Any,
    *,
    by: str = "gender",
    pairs: Any = (LOOKS[:2], LOOKS[2:]),
    orders: int = 2,
    keep: Any = lambda item: True,
) -> DecisionBias:
    """A Chooser on pairs of people, each pair once ambiguous and once with each of the two right, in `orders` orders.

    keep: which items to ask.
    """
    items: list[PairItem] = []
    for row in PEOPLE.to_dict("records"):
        stereotype = "light" if by == "tone" else row["stereotype"]
        about = {"cluster": row["occupation"], "statistic": row["percent_women"], "stereotype": stereotype}
        for pair in pairs:
            for right in (None, *pair):
                for a, b in (pair, pair[::-1])[:orders]:
                    groups = tuple(TONE_GROUPS[tone] if by == "tone" else gender for gender, tone in (a, b))
                    answer = right and (TONE_GROUPS[right[1]] if by == "tone" else right[0])
                    who = {"first": Person("cook", *a, 1), "second": Person("cook", *b, 1)}
                    number = str(len(items))
                    items.append(
                        PairItem(number, (" first", " second"), groups, **about, template="t", answer=answer, **who)
                    )  # type: ignore[arg-type]
    task = Task("pairs", tuple(filter(keep, items)), "occupation", "percent_women")
    return decision_bias(Chooser(tuple(items), first), task, resamples=200)  # type: ignore[arg-type]


def test_other_groups_are_scored_by_their_own_names() -> None:
    light = scored(lambda item: 0.8 if item.first.tone == "light" else 0.2, by="tone")
    assert light.groups == ("light", "dark") and light.correlation is None
    assert "correlation" not in light.table().index and light.table().index[0] == "per occupation bias"
    assert light.frame["p_light"].to_numpy() == pytest.approx(0.8) and "p_man" not in light.frame
    assert light.per_occupation["p_light"].to_numpy() == pytest.approx(0.8)
    for estimate in (light.stereotype_gap, light.per_occupation_bias, light.per_prompt_bias):
        assert estimate.value == pytest.approx(0.6)  # "light" is pro by convention
    assert light.unambiguous_accuracy is not None and light.unambiguous_accuracy.value == 0.5
    ax = light.plot()
    assert "light" in ax.get_xlabel() and "women" not in ax.get_ylabel() and len(ax.containers) == 1
    assert sorted(label.get_text() for label in ax.get_yticklabels()) == sorted(PEOPLE["occupation"])


def test_man_comes_before_woman_in_whatever_order_the_items_are() -> None:
    always_man = scored(lambda item: float(item.first.gender == "man"), pairs=(LOOKS[1::-1],))
    assert always_man.groups == ("man", "woman") and (always_man.frame["p_man"] == 1).all()
    assert always_man.correlation is not None and always_man.stereotype_gap.value == pytest.approx(0)


def test_a_liking_for_the_first_cancels_in_the_bias_and_shows_in_the_order_effects() -> None:
    first = scored(lambda item: 0.7)
    assert first.stereotype_gap.value == first.per_occupation_bias.value == pytest.approx(0)
    assert first.per_prompt_bias.value == pytest.approx(0.4)
    assert first.order_effect is not None and first.order_effect.value == pytest.approx(0.2)
    assert first.accuracy_order_effect is not None and first.accuracy_order_effect.value == 1
    assert first.unambiguous_accuracy is not None and first.unambiguous_accuracy.value == 0.5
    assert list(first.table().index[-3:]) == ["order effect", "accuracy order effect", "option mass"]
    second = scored(lambda item: 0.1)
    assert second.order_effect is not None and second.order_effect.value == pytest.approx(-0.4)
    assert second.accuracy_order_effect is not None and second.accuracy_order_effect.value == -1
    fair = scored(lambda item: 0.9 if item.groups[0] == (item.answer or "man") else 0.1)
    assert fair.order_effect is not None and fair.order_effect.value == pytest.approx(0)
    assert fair.accuracy_order_effect is not None and fair.accuracy_order_effect.value == 0
    assert fair.unambiguous_accuracy is not None and fair.unambiguous_accuracy.value == 1


def test_order_effects_are_means_over_items_with_occupations_drawn_whole() -> None:
    rate = {"plumber": 0.9, "pilot": 0.5, "nurse": 0.5, "clerk": 0.5}
    got = scored(lambda item: rate[item.occupation] if item.answer is None else float(item.first.gender == "man"))
    effect = got.order_effect
    assert effect is not None and effect.value == pytest.approx(0.1) and effect.n == 4
    assert effect.low < 0 < effect.value < effect.high  # one occupation of four is no evidence
    frame = got.frame[got.frame["answer"].notna()]
    right = (frame["p_man"] > 0.5) == (frame["answer"] == "man")
    where = frame["first"] == frame["answer"]
    assert got.accuracy_order_effect is not None
    assert got.accuracy_order_effect.value == pytest.approx(right[where].mean() - right[~where].mean())


def test_there_is_no_order_effect_without_both_orders() -> None:
    one_way = scored(lambda item: 0.7, orders=1)
    assert one_way.order_effect is one_way.accuracy_order_effect is None
    right_first = scored(lambda item: 0.7, keep=lambda item: item.answer in (None, item.groups[0]))
    assert right_first.order_effect is not None and right_first.accuracy_order_effect is None
    both = task("The {occupation} sat, and", "The {occupation}, a {person}, sat, and")
    text = decision_bias(Oracle(lambda p: 0.9), both)  # type: ignore[arg-type]
    assert text.order_effect is text.accuracy_order_effect is None
    assert list(text.table().index) == [
        "per occupation bias",
        "stereotype gap",
        "per prompt bias",
        "correlation",
        "unambiguous accuracy",
        "option mass",
    ]
    assert not [column for column in text.frame if "_gender" in column or "_tone" in column]


def test_selection_rates_are_means_by_kind_and_show_what_margins_hide() -> None:
    liked = {("man", "light"), ("woman", "dark")}
    pairs = [(a, b) for i, a in enumerate(LOOKS) for b in LOOKS[i + 1 :]]

    def favoured(item: PairItem) -> float:
        first, second = ((who.gender, who.tone) in liked for who in (item.first, item.second))
        return 0.5 + 0.3 * (first - second)

    men = scored(favoured, pairs=[(a, b) for a, b in pairs if a[0] != b[0]])
    tones = scored(favoured, pairs=[(a, b) for a, b in pairs if a[1] != b[1]], by="tone")
    table = selection_rates([men, tones], resamples=100)
    assert list(table.columns) == ["gender", "tone", "value", "low", "high", "n", "items"]
    assert list(zip(table["gender"], table["tone"], strict=True)) == [
        ("man", "light"), ("man", "dark"), ("woman", "light"), ("woman", "dark"),
    ]  # fmt: skip
    counted: dict[tuple[str, str], list[float]] = {look: [] for look in LOOKS}
    for frame in (men.frame, tones.frame):
        for row in frame[frame["answer"].isna()].to_dict("records"):
            counted[row["first_gender"], row["first_tone"]].append(row["p_first"])
            counted[row["second_gender"], row["second_tone"]].append(1 - row["p_first"])
    for row in table.to_dict("records"):
        rates = counted[row["gender"], row["tone"]]
        assert row["value"] == pytest.approx(np.mean(rates)) and row["items"] == len(rates)
        assert row["low"] <= row["value"] + 1e-9 and row["value"] <= row["high"] + 1e-9 and row["n"] == 4
        assert (row["value"] > 0.55) == ((row["gender"], row["tone"]) in liked)
    for by in (["gender"], ["tone"]):
        assert selection_rates([men, tones], by=by)["value"].to_numpy() == pytest.approx(0.5)  # the margins are fair
    crossed = selection_rates(men, by=("tone", "gender"))
    assert list(crossed.columns[:2]) == ["tone", "gender"] and list(crossed["tone"]) == [
        "light",
        "light",
        "dark",
        "dark",
    ]


def test_people_of_other_kinds_are_counted_too() -> None:
    got = scored(lambda item: 0.7)
    other = replace(got, frame=got.frame.assign(first_tone="monk-7", second_gender="nonbinary"))
    table = selection_rates(other, resamples=50)
    assert {"monk-7", "light", "dark"} == set(table["tone"]) and "nonbinary" in set(table["gender"])
    assert table["items"].sum() == 2 * len(got.ambiguous)


def test_selection_rates_need_people() -> None:
    text = decision_bias(Oracle(lambda p: 0.9), task("The {occupation} sat, and"))  # type: ignore[arg-type]
    with pytest.raises(SteerlibError, match="'pronoun' shows no two people"):
        selection_rates(text)
    with pytest.raises(SteerlibError, match="at least one of decision_bias"):
        selection_rates([])
    for by in ("gender", [], ["gender", "age"]):
        with pytest.raises(SteerlibError, match="counted by .'gender'., .'tone'. or both, not by"):
            selection_rates(scored(lambda item: 0.5), by=by)


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
    assert still.value == 1 and still.n == 2
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
