"""Choosing layers: the rule, on scores made up for the purpose; parts of a steering; nothing is read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from steerlib import Affine, Estimate, Steering, SteerlibError, contrastive, steer
from steerlib.evaluate.layers import LayerChoice, choose_layers
from steerlib.models.model import Model
from steerlib.models.sites import Site
from steerlib.steering.edits import subset

BIASED = ["The man said", "He was there", "His own brother, the uncle"]
NEUTRAL = ["A person said", "They were", "Somebody's relative"]
WINDOWS = ("early", "middle", "all")


def everywhere() -> Steering:
    """A steering at all three layers."""
    return contrastive(tiny.model("llama"), BIASED, NEUTRAL, layers="all")


def scripted(*scores: Any) -> Callable[[Model], Any]:
    """A score that says these things, one a call."""
    left = iter(scores)
    return lambda model: next(left)


def chosen(*scores: tuple[float, float], **how: Any) -> LayerChoice:
    """The choice among WINDOWS by scores of the unsteered model and of each."""
    return choose_layers(tiny.model("llama"), everywhere(), scripted(*scores), **{"candidates": WINDOWS, **how})


# ---- the rule


def test_the_lowest_bias_whose_capability_stays_is_chosen() -> None:
    choice = chosen((0.5, 0.9), (0.4, 0.9), (0.3, 0.871), (0.1, 0.86))
    assert choice.layers == (1,) and list(choice.steering.operations) == [Site("residual", 1)]
    assert list(choice.table["candidate"]) == ["unsteered", *WINDOWS]
    assert list(choice.table["allowed"]) == [False, True, True, False]  # the unsteered model is no candidate
    assert list(choice.table["chosen"]) == [False, False, True, False]
    assert list(choice.table["bias"]) == [0.5, 0.4, 0.3, 0.1] and list(choice.table["layers"]) == [0, 1, 1, 3]
    assert "lowest bias" in choice.rule and "0.03" in choice.rule
    assert choice.steering.provenance["chosen"] == choice.rule and choice.steering.provenance["subset"] == [1]


def test_the_floor_is_where_it_is_put_and_belongs_to_what_is_allowed() -> None:
    scores = ((0.5, 0.9), (0.4, 0.9), (0.3, 0.87), (0.1, 0.8))
    assert chosen(*scores).layers == (1,)  # exactly three points
    assert chosen(*scores, floor=0.0).layers == (0,)
    assert chosen(*scores, floor=0.1).layers == (0, 1, 2)
    assert chosen((0.5, 0.8), (0.4, 0.8), (0.3, 0.7), (0.4, 0.8), floor=0.1).layers == (1,)  # 0.8 - 0.1 is above 0.7


def test_of_equal_windows_the_smaller_is_chosen_and_then_the_first() -> None:
    assert chosen((0.5, 0.9), (0.3, 0.9), (0.1 + 0.2, 0.9), (0.3, 0.9), candidates=("all", "late", "early")).layers == (
        2,
    )
    assert chosen((0.5, 0.9), (0.3, 0.9), (0.3, 0.9), (0.2, 0.9)).layers == (0, 1, 2)


def test_a_window_may_be_given_in_any_way_and_is_named() -> None:
    candidates = ["last", range(1, 3), [0, 2], -3]
    choice = chosen((1, 1), (0.9, 1), (0.8, 1), (0.7, 1), (0.6, 1), candidates=candidates)
    assert list(choice.table["candidate"]) == ["unsteered", "last", "1-2", "0, 2", "0"]
    assert choice.layers == (0,)


def test_estimates_bring_their_intervals() -> None:
    def pair(bias: float) -> tuple[Estimate, float]:
        return Estimate(bias, bias - 0.1, bias + 0.1, 20), 0.9

    table = chosen(pair(0.5), pair(0.4), pair(0.3), pair(0.2)).table
    assert list(table["bias_high"]) == [0.6, 0.5, 0.4, pytest.approx(0.3)] and "capability_low" not in table


def test_what_a_score_returns_besides_is_kept_by_candidate() -> None:
    choice = chosen((0.5, 0.9, "plain"), (0.4, 0.9, "a"), (0.3, 0.9, "b"), (0.1, 0.86, "c"))  # type: ignore[arg-type]
    assert choice.results == {"unsteered": "plain", "early": "a", "middle": "b", "all": "c"} and choice.layers == (1,)
    assert set(chosen((0.5, 0.9), (0.4, 0.9), (0.3, 0.9), (0.2, 0.9)).results.values()) == {None}


# ---- what is run


def test_the_model_is_scored_once_plain_and_once_steered_at_each_window() -> None:
    lm, made, seen = tiny.model("llama"), everywhere(), []

    def score(model: Model) -> tuple[float, float]:
        assert model is lm
        seen.append(tiny.logits(model))
        return 1 / len(seen), 1.0

    choose_layers(lm, made, score, candidates=WINDOWS, strength=0.5)
    assert torch.equal(seen[0], tiny.logits(lm)) and len(seen) == 4
    for window, got in zip(WINDOWS, seen[1:], strict=True):
        with steer(lm, contrastive(lm, BIASED, NEUTRAL, layers=window), 0.5):
            assert torch.equal(got, tiny.logits(lm))
    assert not tiny.hooks(lm.hf)


def test_choosing_reads_no_activations_of_its_own() -> None:
    lm, passes, made = tiny.model("llama"), 0, everywhere()

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    handle = lm.hf.base_model.register_forward_hook(count)
    choose_layers(lm, made, scripted((1, 1), (0.5, 1), (0.4, 1), (0.3, 1)), candidates=WINDOWS)
    handle.remove()
    assert passes == 0


def test_a_score_that_fails_leaves_the_model_plain() -> None:
    lm, calls = tiny.model("llama"), []

    def score(model: Model) -> tuple[float, float]:
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 1.0, 1.0

    with pytest.raises(KeyboardInterrupt):
        choose_layers(lm, everywhere(), score)
    assert not tiny.hooks(lm.hf)


# ---- parts of a steering


def test_a_part_is_what_the_method_would_have_made_there() -> None:
    lm = tiny.model("llama")
    whole = everywhere()
    for window in ("early", [0, 2], -1, "all"):
        part, alone = subset(lm, whole, window), contrastive(lm, BIASED, NEUTRAL, layers=window)
        assert list(part.operations) == list(alone.operations)
        assert all(part.operations[site] is whole.operations[site] for site in part.operations)
        for site, operation in alone.operations.items():
            assert torch.equal(part.operations[site].direction, operation.direction)  # type: ignore[union-attr]
    assert "subset" not in whole.provenance and len(whole.operations) == 3


def test_the_norm_after_the_last_block_belongs_to_all_layers_only() -> None:
    lm, zero = tiny.model("llama"), torch.zeros(tiny.WIDTH)
    norms = [Site("norm", n, "input_layernorm") for n in range(3)] + [Site("norm", -1)]
    whole = Steering({site: Affine(zero, zero) for site in norms})
    assert list(subset(lm, whole, "all").operations) == norms
    assert list(subset(lm, whole, [1, 2]).operations) == norms[1:3]
    assert list(subset(lm, whole, -1).operations) == norms[2:3]


# ---- bad input


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"candidates": []}, "candidates are a list of windows"),
        ({"candidates": "early"}, "not 'early'"),
        ({"candidates": ["top"]}, "no layers are called 'top'"),
        ({"floor": -0.1}, "floor is how much capability may fall, 0 or more, not -0.1"),
        ({"strength": float("nan")}, "strength must be a finite number"),
        ({"score": scripted(0.5)}, r"two numbers, \(bias, capability\), and at most a result, not 0.5"),
        ({"score": scripted((0.5, 0.5, 0.5, 0.5))}, "two numbers"),
        ({"score": scripted((0.5, "high"))}, "two numbers"),
        ({"score": scripted((0.5, float("nan")))}, "the score of unsteered is not finite"),
        ({"score": scripted((0.5, 0.9), (float("inf"), 0.9))}, "the score of early is not finite"),
        (
            {"score": scripted((0.5, 0.9), (0.1, 0.8), (0.2, 0.85), (0.3, 0.7))},
            r"every candidate takes more than 0.03 from the capability 0.900 .*\(the best, middle, leaves 0.850\)",
        ),
        (
            {"score": scripted((0.5, 0.9), (0.6, 0.9), (0.55, 0.9), (0.1, 0.1))},
            r"lowers the bias 0.500 of the unsteered model \(the best, middle, has 0.550\)",
        ),
        ({"score": scripted(*[(0.0, 1.0)] * 4)}, "no candidate that keeps the capability lowers the bias 0.000"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(how: dict[str, Any], says: str) -> None:
    score = how.pop("score", scripted(*[(0.5, 0.5)] * 4))
    with pytest.raises(SteerlibError, match=says) as error:
        choose_layers(tiny.model("llama"), everywhere(), score, **{"candidates": WINDOWS, **how})
    assert "\n" not in str(error.value) and not tiny.hooks(tiny.model("llama").hf)


def test_a_part_that_the_steering_does_not_cover_is_refused() -> None:
    lm = tiny.model("llama")
    made = contrastive(lm, BIASED, NEUTRAL, layers=[0, 1])
    with pytest.raises(SteerlibError, match="nothing at layer 2: it was made at 0-1, make it with layers='all'"):
        subset(lm, made, [1, 2])
    with pytest.raises(SteerlibError, match="nothing at layer 2"):
        choose_layers(lm, made, scripted())
