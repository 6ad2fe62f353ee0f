"""Means, gaps, pairs and trends against arithmetic done another way, and against what theory says of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from steerlib import SteerlibError
from steerlib.evaluate import trend
from steerlib.evaluate.intervals import reach
from steerlib.evaluate.reduction import reduction
from steerlib.evaluate.statistics import (
    bootstrap,
    correlated,
    gap,
    labels,
    mean,
    minimum_detectable_effect,
    paired,
    ratio,
)
from steerlib.evaluate.trend import monotone


def drawn(clusters: int, each: int, *, between: float, within: float, seed: int) -> tuple[np.ndarray, list[str]]:
    """Items in clusters, with a spread between and one within; and their clusters' names."""
    rng = np.random.default_rng(seed)
    middle = np.repeat(rng.normal(0, between, clusters), each)
    return middle + rng.normal(0, within, clusters * each), [f"c{i}" for i in range(clusters) for _ in range(each)]


def test_mean_weighs_items_and_counts_clusters() -> None:
    got = mean([1, 0, 0, 1, 1], ["a", "a", "a", "b", "b"])
    assert got.value == pytest.approx(3 / 5) and got.n == 2
    assert mean([1.0, 0.0, 1.0]).n == 3


def test_the_interval_of_a_mean_is_students() -> None:
    for n, t in ((3, 4.3027), (5, 2.7764), (26, 2.0595)):
        values = np.random.default_rng(n).normal(size=n)
        values = np.concatenate([values, -values]) if n == 26 else values  # symmetric, so that both sides are alike
        got, half = mean(values, resamples=20_000), t * values.std(ddof=1) / math.sqrt(len(values))
        if n != 26:
            assert got.high - got.low == pytest.approx(2 * half, rel=0.03)
    assert (got.low, got.high) == pytest.approx((-half, half), rel=0.06)


@pytest.mark.parametrize(
    ("estimate", "truth", "n"),
    [
        (lambda rng: mean(rng.normal(size=4), resamples=200), 0.0, 4),
        (lambda rng: mean(rng.normal(size=7), resamples=200), 0.0, 7),
        (
            lambda rng: mean(np.abs(rng.normal(0, 0.2, 5)), bounds=(0, 1), resamples=200),
            0.2 * math.sqrt(2 / math.pi),
            5,
        ),
        (lambda rng: mean(rng.beta(19, 1, 8), bounds=(0, 1), resamples=200), 0.95, 8),
        (lambda rng: mean(right(rng, 8, 6, 0.95), [i // 6 for i in range(48)], resamples=200), 0.95, 8),
        (lambda rng: paired(rng.normal(size=5), rng.normal(size=5), resamples=200), 0.0, 5),
        (lambda rng: paired(right(rng, 8, 1, 0.9), right(rng, 8, 1, 0.9), resamples=200), 0.0, 8),
        (lambda rng: gap(rng.normal(size=12), np.arange(12) < 3, np.arange(12) >= 3, resamples=200), 0.0, 3),
        (lambda rng: gap(right(rng, 12, 1, 0.9), np.arange(12) < 4, np.arange(12) >= 4, resamples=200), 0.0, 4),
        (lambda rng: correlated(*rng.normal(size=(2, 6)), resamples=200), 0.0, 6),
    ],
)
def test_an_interval_holds_the_truth_as_often_as_it_says_even_with_few_clusters(
    estimate: Any, truth: float, n: int
) -> None:
    found = [estimate(np.random.default_rng(seed)) for seed in range(400)]
    assert {one.n for one in found} == {n}
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.915


def right(rng: np.random.Generator, clusters: int, each: int, p: float) -> np.ndarray:
    """Whether items are right, 0 or 1; each cluster has its own rate about p. (clusters * each,)"""
    return rng.binomial(1, np.repeat(rng.beta(20 * p, 20 * (1 - p), clusters), each)).astype(float)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_clusters_have_no_interval(n: int) -> None:
    names = [f"c{i % n}" for i in range(8)]
    ones, values = np.ones(8), np.arange(8.0)
    first = np.arange(8) < 4
    for got in (
        mean(values, names),
        mean(ones, names),
        paired(ones, values, names),
        paired(ones, ones - 1, names),
        gap(values, first, ~first, names),
        gap(ones, first, ~first, names),
        bootstrap(lambda x: x[..., 0].mean(-1), values[:n, None]),
    ):
        assert math.isfinite(got.value) and all(map(math.isnan, got.interval)) and got.n == n
        assert str(got) == f"{got.value:.3f}, no interval (n = {n})"


def test_none_and_all_of_n_are_not_certain() -> None:
    names = [f"c{i}" for i in range(7) for _ in range(3)]
    none, every = mean(np.zeros(21), names), mean(np.ones(21), names)
    assert (none.low, none.high) == (0, reach(7)) and (every.low, every.high) == (1 - reach(7), 1)
    assert reach(7) > 1 - 0.025 ** (1 / 7) and reach(74) < 0.06  # the exact (Clopper and Pearson) end, and few percent
    first = np.arange(21) % 3 == 0
    for got in (
        paired(np.ones(21), np.ones(21), names),
        gap(np.ones(21), first, ~first, names),
        paired(np.zeros(21), np.ones(21), names),
        mean([1, 0] * 7, [i // 2 for i in range(14)]),  # the same in every cluster
    ):
        assert got.high - got.low > 0.3


def rates(seed: int, changed: float, *, start: float) -> tuple[pd.Series[float], pd.Series[float]]:
    """Seven clusters of which each was all `start` before, and with probability `changed` is the other thing after."""
    after = np.where(np.random.default_rng(seed).random(7) < changed, 1 - start, start)
    return pd.Series(start, range(7), dtype=float), pd.Series(after)


@pytest.mark.parametrize(
    ("estimate", "truth", "start"),
    [
        (lambda before, after: mean(after), 0.05, 0.0),
        (lambda before, after: mean(after), 0.95, 1.0),
        (lambda before, after: paired(before, after), 0.05, 0.0),
        (lambda before, after: paired(before, after), -0.05, 1.0),
        (lambda before, after: gap(np.append(before, after), np.arange(14) > 6, np.arange(14) < 7), 0.05, 0.0),
        (lambda before, after: reduction(before, after), 0.05, 1.0),
        (lambda before, after: reduction(before, 1 - after), 0.95, 1.0),
    ],
)
def test_seven_clusters_that_all_agree_leave_room_for_the_one_in_twenty_that_does_not(
    estimate: Any, truth: float, start: float
) -> None:
    found = [estimate(*rates(seed, 0.05, start=start)) for seed in range(60)]
    alike = [one for one in found if one.value in (-1.0, 0.0, 1.0)]
    assert 30 < len(alike) < 55  # 0.95 ** 7 is 0.70
    assert np.mean([one.low <= truth <= one.high for one in alike]) >= 0.9
    assert all(one.low <= one.value <= one.high and one.high - one.low > 0.3 for one in alike)


def test_an_interval_stays_within_known_bounds_and_leans_away_from_the_nearer() -> None:
    values = [0.99, 0.98, 0.97, 0.8]
    got = mean(values, bounds=(0, 1))
    assert 0 < got.low < got.value < got.high < 1 and got.value - got.low > 2 * (got.high - got.value)
    back = mean([1 - v for v in values], bounds=(0, 1))
    assert (1 - back.high, 1 - back.low) == pytest.approx(got.interval)
    wide = mean([10 * v - 5 for v in values], bounds=(-5, 5))
    assert wide.interval == pytest.approx((10 * got.low - 5, 10 * got.high - 5))
    assert mean(values).high > 1
    with pytest.raises(SteerlibError, match="between 0 and 1 cannot be 2.0"):
        mean([2.0, 2.5, 1.5], bounds=(0, 1))


def test_correlated_is_pearsons_with_an_interval_no_narrower_than_fishers() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 12))
    got = correlated(x, y)
    assert got.value == pytest.approx(np.corrcoef(x, y)[0, 1]) and got.n == 12
    assert math.atanh(got.high) - math.atanh(got.low) >= 2 * 1.96 / 3
    assert correlated([1, 2, 3], [1, 2, 3]).interval == (-1, 1)
    assert correlated([1, 1, 1, 1], [1, 2, 3, 4]).value == 0


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


def test_a_gap_rests_on_the_clusters_of_its_rarer_group() -> None:
    values, names = drawn(12, 4, between=1, within=1, seed=9)
    for few in (2, 3, 5):
        first = np.array([int(name[1:]) < few and i % 2 == 0 for i, name in enumerate(names)])
        got = gap(values, first, ~first, names)
        assert got.n == few and math.isnan(got.low) == (few < 3)


def test_paired_sees_a_change_that_two_intervals_would_hide() -> None:
    values, names = drawn(20, 5, between=3, within=1, seed=5)
    got = paired(values, values + 0.5, names)
    assert (got.value, got.low, got.high) == pytest.approx((0.5, 0.5, 0.5))
    apart = mean(values, names), mean(values + 0.5, names)
    assert apart[0].high > apart[1].low
    still = paired(values, values, names)
    assert still.value == still.low == still.high == 0


def test_a_paired_comparison_of_series_goes_by_their_index() -> None:
    before = pd.Series({"nurse": 0.9, "pilot": 0.2, "cook": 0.5, "clerk": 0.7})
    after = before.sample(frac=1, random_state=2) - 0.1
    got = paired(before, after)
    assert list(after.index) != list(before.index)
    assert (got.value, got.low, got.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert paired(before.to_numpy(), before.to_numpy() - 0.1).value == pytest.approx(-0.1)
    again = minimum_detectable_effect(before, after)
    assert again.value == pytest.approx(0)
    with pytest.raises(SteerlibError, match="'cook' is in the index of one Series only"):
        paired(before, after.drop("cook"))
    with pytest.raises(SteerlibError, match="repeat index labels, and not in one order"):
        paired(before.rename({"cook": "nurse"}), after)
    repeated = before.rename({"cook": "nurse"})
    assert paired(repeated, repeated + 0.5).value == pytest.approx(0.5)


def test_minimum_detectable_effect_is_2_8_standard_errors_and_falls_with_the_root_of_n() -> None:
    assert minimum_detectable_effect([0] * 3, [1, 2, 3]).value == pytest.approx((4.30265 + 1.06066) / math.sqrt(3))
    before = np.zeros(400)
    after = np.random.default_rng(6).normal(size=400)
    got = minimum_detectable_effect(before, after)
    assert got.value == pytest.approx((1.959964 + 0.841621) * after.std(ddof=1) / 20, rel=3e-3)
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
    monkeypatch.setattr(trend, "EXACT", 5)
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
        (lambda: monotone([0, 1, 2], [1, math.nan, 2]), "a trend needs finite numbers"),
        (lambda: monotone([0, math.inf, 2], [1, 1, 2]), "a trend needs finite numbers"),
        (lambda: mean([1, 2, 3], resamples=0), "resamples is how often the clusters are drawn, 2 or more, not 0"),
        (lambda: bootstrap(lambda x: x[..., 0].mean(-1), np.ones((3, 1)), resamples=1.5), "not 1.5"),
        (lambda: correlated([1, 2], [1]), "there are 2 and 1"),
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
