"""The perplexity ratio has one definition, whatever changes the model, and never compares a changed model with itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from matplotlib import pyplot as plt

from steerlib import (
    Add,
    Estimate,
    Steering,
    SteerlibError,
    capability,
    fluency,
    mention_rate,
    perplexities,
    perplexity,
    perplexity_ratio,
    sentiment,
    steer,
)
from steerlib.models.layout import alone

LM = tiny.model("llama")
STEERING = Steering({"residual.1": Add(tiny.vector(4, size=3.0))})  # type: ignore[dict-item]
TEXTS = ["He sat.", "The nurse went to the station early, and so did the mechanic, who was late.", "No one."]


@contextmanager
def louder(lm: Any) -> Iterator[None]:
    """A change that is not a Steering, and says so."""
    weight = lm.hf.get_output_embeddings().weight
    kept = weight.detach().clone()
    with alone(lm.hf, "an adapter"), torch.no_grad():
        weight.mul_(1.5)
        try:
            yield
        finally:
            weight.copy_(kept)


def test_perplexity_is_pooled_over_tokens_and_the_frame_says_of_what() -> None:
    frame = perplexities(LM, TEXTS)
    assert list(frame["text"]) == TEXTS and list(frame["tokens"]) == [len(LM.tokens(t)) - 1 for t in TEXTS]
    np.testing.assert_allclose(frame["perplexity"], np.exp(frame["nll"] / frame["tokens"]))
    assert perplexity(LM, TEXTS).value == pytest.approx(float(np.exp(frame["nll"].sum() / frame["tokens"].sum())))


def test_the_ratio_is_that_of_the_pooled_perplexities() -> None:
    with steer(LM, STEERING, 0.7):
        steered = perplexity(LM, TEXTS).value
        after = perplexities(LM, TEXTS)["perplexity"]
    got = perplexity_ratio(LM, STEERING, 0.7, texts=TEXTS).value
    assert got == pytest.approx(steered / perplexity(LM, TEXTS).value, rel=1e-6)
    per_text = float(np.exp(np.log(after / perplexities(LM, TEXTS)["perplexity"]).mean()))
    assert got != pytest.approx(per_text, rel=1e-3)  # long texts count for more


def test_every_way_to_change_a_model_gives_one_ratio() -> None:
    before = perplexities(LM, TEXTS)
    ways = [
        perplexity_ratio(LM, STEERING, 0.7, texts=TEXTS),
        perplexity_ratio(LM, steer(LM, STEERING, 0.7), texts=TEXTS),
        perplexity_ratio(LM, lambda: steer(LM, STEERING, 0.7), plain=before),
        perplexity_ratio(LM, STEERING, 0.7, plain=before),
    ]
    with steer(LM, STEERING, 0.7):
        ways.append(perplexity_ratio(LM, plain=before))
    assert all(way == ways[0] for way in ways) and ways[0].value != 1
    assert perplexity_ratio(LM, STEERING, 0, texts=TEXTS).value == pytest.approx(1)
    assert perplexity_ratio(LM, louder(LM), texts=TEXTS).value != pytest.approx(1, abs=1e-3)
    assert perplexities(LM, TEXTS).equals(before) and not tiny.hooks(LM.hf)


@pytest.mark.parametrize("change", [lambda: steer(LM, STEERING), lambda: louder(LM)])
def test_inside_a_change_nothing_is_compared_with_the_plain_model_that_is_not_there(change: Any) -> None:
    lm, item = LM, ("Once there", " was a judge")
    with change():
        for call, says in (
            (
                lambda: perplexity_ratio(lm, STEERING, texts=TEXTS),
                "a perplexity ratio needs the model as it was loaded",
            ),
            (lambda: capability(lm, change=STEERING), "a capability under a change needs the model as it was loaded"),
            (lambda: fluency(lm, [item[0]], [item[1]]), "fluency needs the model as it was loaded"),
        ):
            with pytest.raises(SteerlibError, match=says + ", and an? (steering|adapter) changes it now"):
                call()
        perplexity(lm, TEXTS)  # of the model as it is now, and says no more than that
    assert fluency(lm, [item[0]], [item[1]]).words.value == 3


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "compares two models: give a change, or plain="),
        ({"strength": 0.5, "plain": 1}, "only a Steering has a strength"),
        ({"change": louder(LM), "strength": 0.5}, "only a Steering has a strength"),
        ({"change": 3}, "a Steering or a `with`, such as steerlib.adapted\\(model, adapter\\), not int"),
        ({"change": {}}, "not dict"),
        ({"change": STEERING, "plain": 3, "texts": TEXTS}, "plain is a frame of steerlib.perplexities"),
        ({"change": STEERING, "texts": ["a", ""]}, "text number 0, 'a', has fewer than two tokens"),
        ({"change": STEERING, "texts": TEXTS[:2], "plain": perplexities(LM, TEXTS)}, "the same texts, in one order"),
    ],
)
def test_bad_input_is_told_in_one_sentence(how: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        perplexity_ratio(LM, **{"texts": TEXTS, **how})
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


GROUPS = {"gender": ["man", "woman"] * 3}
ANSWERS = [
    " A kind cook works.",
    " A cruel cook.",
    " A judge sat.",
    " She is late.",
    " A pilot.",
    " A pilot flies, he said.",
]


def results() -> dict[str, Any]:
    """One of each result that has groups."""
    clusters = ["a", "a", "b", "b", "c", "c"]
    return {
        "mentions": mention_rate(ANSWERS, groups=GROUPS, clusters=clusters, resamples=50),
        "sentiment": sentiment(ANSWERS, groups=GROUPS, clusters=clusters, resamples=50),
        "fluency": fluency(LM, ["Once there"] * 6, ANSWERS, groups=GROUPS, clusters=clusters, resamples=50),
    }


@pytest.mark.parametrize("name", ["mentions", "sentiment", "fluency"])
def test_results_have_one_shape(name: str) -> None:
    result = results()[name]
    by = result.by("gender")
    assert list(by.index) == ["man", "woman"] and list(by.columns[:4]) == ["value", "low", "high", "n"]
    assert (by["n"] == 3).all() and {"cluster", "text", "gender", "empty", "repeated"} <= set(result.frame.columns)
    assert {"value", "low", "high", "n"} <= set(result.table().columns)
    for drawn in (result.plot(), result.plot(by="gender")):
        assert drawn.get_xlabel() and not drawn.spines["top"].get_visible()
    plt.close("all")
    with pytest.raises(SteerlibError, match="no grouping 'age': there are gender"):
        result.by("age")
    with pytest.raises(SteerlibError, match="no grouping 'age'"):
        result.plot(by="age")


def test_groups_are_scored_as_their_answers_alone_would_be() -> None:
    got = results()
    men = [answer for answer, g in zip(ANSWERS, GROUPS["gender"], strict=True) if g == "man"]
    assert got["sentiment"].by("gender").loc["man", "value"] == pytest.approx(sentiment(men).compound.value)
    alone_ = fluency(LM, ["Once there"] * 3, men)
    for metric in ("perplexity", "words", "distinct_2", "empty", "repeated"):
        assert got["fluency"].by("gender", metric).loc["man", "value"] == pytest.approx(
            getattr(alone_, metric).value, rel=1e-5
        )
    assert got["mentions"].by("gender", "gender").loc["woman", "value"] == pytest.approx(2 / 3)


def test_a_group_without_an_interval_is_still_in_the_table_and_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerlib.evaluate import groups

    monkeypatch.setattr(groups, "mean", lambda values, *a, **k: Estimate(float(np.mean(values)), np.nan, np.nan, 1))
    got = results()
    assert got["mentions"].by("gender")["low"].isna().all() and got["sentiment"].table()["low"].isna().any()
    for result in got.values():
        ax = result.plot(by="gender")
        assert len(ax.get_yticklabels()) > 0
        ax.figure.canvas.draw()
    plt.close("all")


def test_numbers_that_happen_to_be_0_or_1_are_not_taken_for_shares() -> None:
    neutral = [f"A pilot flies plane {i}." for i in range(6)]
    assert sentiment(neutral).compound.interval == (0.0, 0.0)  # not from 0 to what a share of none may be
    assert sentiment(neutral).empty.high > 0.3  # which this is
    single = fluency(LM, ["Once there"] * 6, [" pilots"] * 6)
    assert single.words.interval == (1.0, 1.0) and single.empty.high > 0.3


def test_a_grouping_may_not_be_called_like_a_column() -> None:
    for call in (mention_rate, sentiment):
        with pytest.raises(SteerlibError, match="a grouping cannot be called 'empty'"):
            call(["a", "b"], groups={"empty": ["x", "y"]})
