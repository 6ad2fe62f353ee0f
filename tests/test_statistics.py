"""Means, gaps, pairs and trends against arithmetic done another way, and against what theory says of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerlib import SteerlibError
from steerlib.evaluate import statistics
from steerlib.evaluate.statistics import (
    bootstrap,
    gap,
    labels,
    mean,
    minimum_detectable_effect,
    monotone,
    paired,
    ratio,
)


def drawn(clusters: int, each: int, *, between: float, within: float, seed: int) -> tuple[np.ndarray, list[str]]:
    """Items in clusters, with a spread between and one within; and their clusters' names."""
    rng = np.random.default_rng(seed)
    middle = np.repeat(rng.normal(0, between, clusters), each)
    return middle + rng.normal(0, within, clusters * each), [f"c{i}" for i in range(clusters) for _ in range(each)]


def test_mean_weighs_items_and_draws_clusters() -> None:
    got = mean([1, 0, 0, 1, 1], ["a", "a", "a", "b", "b"])
    assert got.value == pytest.approx(3 / 5) and got.n == 2
    assert got.low == pytest.approx(1 / 3) and got.high == 1  # one cluster twice
    assert mean([1.0, 0.0, 1.0]).n == 3


def test_items_that_share_a_cluster_widen_the_interval_but_do_not_move_the_mean() -> None:
    values, names = drawn(20, 10, between=1, within=0.2, seed=3)
    by_cluster, by_item = mean(values, names), mean(values)
    assert by_cluster.value == pytest.approx(by_item.value)
    assert by_cluster.high - by_cluster.low > 2 * (by_item.high - by_item.low)


def test_the_order_of_items_does_not_matter() -> None:
    values, names = drawn(7, 3, between=1, within=1, seed=0)
    order = np.random.default_rng(1).permutation(len(values))
    again = mean(values[order], [names[i] for i in order])
    assert again.value == pytest.approx(mean(values, names).value) and again.low == pytest.approx(
        mean(values, names).low
    )


def test_gap_is_the_difference_of_two_means_and_turns_its_sign_round() -> None:
    values, names = drawn(12, 4, between=1, within=1, seed=2)
    first = np.arange(len(values)) % 2 == 0
    got, back = gap(values, first, ~first, names), gap(values, ~first, first, names)
    assert got.value == pytest.approx(values[first].mean() - values[~first].mean())
    assert (back.value, back.low, back.high) == pytest.approx((-got.value, -got.high, -got.low))


def test_gap_cancels_what_a_cluster_gives_to_both_groups() -> None:
    values, names = drawn(15, 2, between=5, within=0, seed=4)
    first = np.arange(len(values)) % 2 == 0
    got = gap(values + first, first, ~first, names)
    assert (got.value, got.low, got.high) == pytest.approx((1, 1, 1))


def test_a_group_that_is_not_in_every_cluster_still_has_an_interval() -> None:
    got = gap([1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], ["a", "b", "c", "d"])
    assert math.isfinite(got.low) and math.isfinite(got.high) and got.low < got.value < got.high


def test_paired_sees_a_change_that_two_intervals_would_hide() -> None:
    values, names = drawn(20, 5, between=3, within=1, seed=5)
    got = paired(values, values + 0.5, names)
    assert (got.value, got.low, got.high) == pytest.approx((0.5, 0.5, 0.5))
    apart = mean(values, names), mean(values + 0.5, names)
    assert apart[0].high > apart[1].low
    still = paired(values, values, names)
    assert still.value == still.low == still.high == 0


def test_the_interval_of_a_paired_difference_holds_the_truth_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        change, names = drawn(25, 4, between=1, within=1, seed=seed)
        got = paired(np.zeros(len(change)), change + 0.3, names, resamples=400)
        hits += got.low <= 0.3 <= got.high
    assert 0.88 <= hits / 200 <= 0.99


def test_minimum_detectable_effect_is_2_8_standard_errors_and_falls_with_the_root_of_n() -> None:
    before = np.zeros(400)
    after = np.random.default_rng(6).normal(size=400)
    got = minimum_detectable_effect(before, after)
    assert got.value == pytest.approx((1.959964 + 0.841621) * after.std(ddof=1) / 20, rel=1e-4)
    assert got.low < got.value < got.high
    many = minimum_detectable_effect(np.zeros(1600), np.tile(after, 4))
    assert many.value == pytest.approx(got.value / 2, rel=0.01)
    assert minimum_detectable_effect(before, after, power=0.9).value > got.value
    assert minimum_detectable_effect(before, after, level=0.01).value > got.value


def test_copies_of_an_item_do_not_make_an_effect_easier_to_see() -> None:
    change = np.random.default_rng(7).normal(size=30)
    once = minimum_detectable_effect(np.zeros(30), change)
    names = [str(i) for i in range(30) for _ in range(8)]
    copied = minimum_detectable_effect(np.zeros(240), np.repeat(change, 8), names)
    assert copied.value == pytest.approx(once.value)


def test_an_effect_of_that_size_is_found_with_that_power() -> None:
    found, runs = 0, 300
    for seed in range(runs):
        noise, names = drawn(40, 3, between=0.6, within=1, seed=seed)
        effect = (1.959964 + 0.841621) * math.sqrt(0.6**2 + 1 / 3) / math.sqrt(40)  # from the true spread
        got = paired(np.zeros(len(noise)), noise + effect, names, resamples=400, seed=seed)
        found += got.low > 0
    assert 0.72 <= found / runs <= 0.9


def test_monotone_is_exact_on_few_points() -> None:
    rising = monotone([0, 0.25, 0.5, 0.75, 1], [1, 2, 3, 4, 5])
    assert rising.value == pytest.approx(1) and rising.p == pytest.approx(2 / math.factorial(5)) and rising.n == 5
    assert monotone([0, 0.5, 1], [9, 5, 1]).value == pytest.approx(-1)
    assert monotone([0, 0.5, 1, 2], [0.1, 30, 400, 5000]).value == pytest.approx(1)  # ranks only
    level = monotone([0, 1, 2, 3], [7, 7, 7, 7])
    assert level.value == 0 and level.p == 1


def test_monotone_p_is_the_share_of_orders_counted_by_hand() -> None:
    x, y = [0.0, 1.0, 2.0, 3.0, 4.0], [3.0, 1.0, 1.0, 0.5, 2.0]
    ranks = [5.0, 2.5, 2.5, 1.0, 4.0]
    got = monotone(x, y)
    assert got.value == pytest.approx(np.corrcoef(x, ranks)[0, 1])
    far = [abs(np.corrcoef(x, order)[0, 1]) >= abs(got.value) - 1e-9 for order in itertools.permutations(ranks)]
    assert got.p == pytest.approx(np.mean(far))


def test_monotone_of_many_points_is_nearly_what_all_orders_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    y = list(np.random.default_rng(8).normal(size=8))
    exact = monotone(range(8), y)
    monkeypatch.setattr(statistics, "EXACT", 5)
    drawn_orders = monotone(range(8), y)
    assert drawn_orders.value == exact.value and drawn_orders.p == pytest.approx(exact.p, abs=0.01)
    assert drawn_orders.p != exact.p


def test_labels_takes_one_grouping_or_several() -> None:
    one = labels(2, ["man", "woman"], ["nurse", "cook"])
    assert one.to_dict("list") == {"cluster": ["nurse", "cook"], "group": ["man", "woman"]}
    for several in (
        {"gender": ["man", "woman"], "age": [1, 2]},
        pd.DataFrame({"gender": ["man", "woman"], "age": [1, 2]}),
    ):
        assert labels(2, several).to_dict("list") == {
            "cluster": ["0", "1"],
            "gender": ["man", "woman"],
            "age": ["1", "2"],
        }


def test_ratio_is_nan_where_there_is_nothing_to_divide_by() -> None:
    got = ratio(np.array([1.0, 2.0]), np.array([2.0, 0.0]))
    assert got[0] == 0.5 and np.isnan(got[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean([]), "nothing to estimate"),
        (lambda: mean([], []), "nothing to estimate"),
        (lambda: mean([1.0, math.nan]), "NaN"),
        (lambda: mean([1, 2], ["a"]), "2 items need as many clusters: there are 1"),
        (lambda: gap([1, 2], [1, 1], [0, 0]), "a group of the items is empty"),
        (lambda: bootstrap(lambda x: x[..., 0].sum(-1) / 0.0, np.ones((2, 1))), "not finite"),
        (lambda: paired([1, 2], [1]), "2 before and 1 after"),
        (lambda: minimum_detectable_effect([1, 2], [1, 2], ["a", "a"]), "two clusters or more"),
        (lambda: minimum_detectable_effect([1, 2], [1, 2], power=80), "between 0 and 1, such as 0.8"),
        (lambda: monotone([0, 1], [1, 2]), "three points or more"),
        (lambda: monotone([0, 1, 2], [1, 2]), "3 strengths and 2 values"),
        (lambda: labels(2, ["a"]), "2 items need 2 labels: 'group' has 1"),
        (lambda: labels(2, None, ["a"]), "'cluster' has 1"),
        (lambda: labels(1, {"text": ["a"]}), "cannot be called 'text'"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_refused_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
