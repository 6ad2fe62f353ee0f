"""Intervals over wordings as well as clusters, and clusters that are not independent evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_decisions import Table, pairs

from steerlib import DecisionBias, SteerlibError, decision_bias, over_wordings, reduction, tasks
from steerlib.evaluate.statistics import correlated, correlation
from steerlib.tasks import Item, Task

METRICS = ("per_occupation_bias", "per_prompt_bias", "stereotype_gap")


def measured(tilt: Any, *, copies: int = 1, family: bool = False, resamples: int = 400, seed: int = 0) -> DecisionBias:
    """decision_bias on P(man) - P(woman) = tilt[o, w]; each occupation in so many copies, which may be one family."""
    rows, items = {}, []
    for o, own in enumerate(np.asarray(tilt, dtype=float)):
        for copy in range(copies):
            for w, p in enumerate(pairs(own)):
                rows[f"{o} {copy} {w}"] = tuple(p)
                about: dict[str, Any] = {"cluster": f"job {o:03d} {copy}", "statistic": 10.0 * o, "stereotype": "man"}
                about["family"] = f"job {o:03d}" if family else ""
                for answer in (None, "man"):
                    items.append(
                        Item(
                            f"{o} {copy} {w}",
                            (" he", " she"),
                            ("man", "woman"),
                            template=str(w),
                            answer=answer,
                            **about,
                        )
                    )
    task = Task("made up", tuple(items), "job", "number")
    return decision_bias(Table(rows), task, resamples=resamples, seed=seed)  # type: ignore[arg-type]


# ---- families


@pytest.mark.parametrize("seed", range(5))
def test_copies_that_are_one_family_add_no_evidence_and_copies_that_are_not_do(seed: int) -> None:
    tilt = np.random.default_rng(seed).uniform(-0.9, 0.9, (12, 4))
    once, family, naive = (measured(tilt, **how) for how in ({}, {"copies": 2, "family": True}, {"copies": 2}))
    for name in [*METRICS, "cross_fitted", "correlation", "option_mass"]:
        a, b, c = (getattr(bias, name) for bias in (once, family, naive))
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), abs=1e-9), name
        assert b.n == a.n == 12 and c.n == 24, name
        if name != "option_mass":
            assert c.high - c.low < 0.9 * (a.high - a.low), name
    after = [measured(tilt / 3 + 0.1, **how) for how in ({}, {"copies": 2, "family": True})]
    one, two = reduction(once, after[0]), reduction(family, after[1])
    assert (two.value, two.low, two.high, two.n) == pytest.approx((one.value, one.low, one.high, 12), abs=1e-9)


def test_a_correlation_from_sums_is_the_usual_one_and_its_interval_that_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    for size in (4, 9, 40):
        x, y = rng.normal(100, 3, size), rng.normal(size=size)
        assert correlated(x, y).value == pytest.approx(float(correlation(x, y)), abs=1e-9)
        assert correlated(x, x).value == pytest.approx(1) and correlated(x, 0 * y).value == 0
        twice = correlated(np.tile(x, 2), np.tile(y, 2), [*range(size)] * 2)
        once = correlated(x, y, [*range(size)])
        assert (twice.low, twice.high, twice.n) == pytest.approx((once.low, once.high, size))


def test_occupations_that_share_a_published_figure_are_families() -> None:
    table = tasks.occupations()
    several = table[table["family"] != ""]
    assert set(several["occupation"]) >= {"doctor", "physician", "surgeon", "accountant", "auditor"}
    assert (several.groupby("family")[["percent_women", "source", "split"]].nunique() == 1).all(axis=None)
    assert (several.groupby("family").size() > 1).all()
    assert {item.cluster for item in tasks.pronoun("all") if item.family} == set(several["occupation"])
    assert {item.family for item in tasks.coreference("test") if item.cluster == "surgeon"} == {"physicians"}


def test_a_table_of_ones_own_may_say_what_is_a_family() -> None:
    people = pd.DataFrame(
        {"occupation": ["medic", "nurse"], "stereotype": ["man", "woman"], "family": ["health", None]}
    )
    assert [item.family for item in tasks.pronoun(people=people).where(template="late")] == ["health", ""]
    frame = people.rename(columns={"occupation": "cluster"}).assign(prompt="Who?", man="he", woman="she")
    assert [item.family for item in tasks.from_frame(frame)] == ["health", ""]


# ---- wordings


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_the_metrics_own_and_wordings_that_agree_add_nothing(metric: str) -> None:
    rng = np.random.default_rng(1)
    mixed = measured(rng.uniform(-0.9, 0.9, (15, 8)))
    assert over_wordings(mixed, metric=metric).value == pytest.approx(getattr(mixed, metric).value)
    assert over_wordings(mixed, metric=metric).n == 8
    alike = measured(np.tile(rng.uniform(-0.9, 0.9, (15, 1)), (1, 40)))
    one, two = getattr(alike, metric), over_wordings(alike, metric=metric)
    assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.1)


def test_the_two_way_interval_covers_what_other_wordings_would_give_where_the_usual_one_does_not() -> None:
    """Wordings lean each its own way: the truth is over all wordings, of which ten were asked."""
    rng = np.random.default_rng(2)
    truth, hits = 0.3, {"both": 0, "clusters": 0}
    for trial in range(60):
        tilt = truth + rng.normal(0, 0.15, (20, 1)) + rng.normal(0, 0.25, (1, 10)) + rng.normal(0, 0.05, (20, 10))
        bias = measured(np.clip(tilt, -1, 1), resamples=200, seed=trial)
        both = over_wordings(bias, metric="stereotype_gap", resamples=400, seed=trial)
        hits["both"] += both.low <= truth <= both.high
        hits["clusters"] += bias.stereotype_gap.low <= truth <= bias.stereotype_gap.high  # type: ignore[union-attr]
    assert hits["both"] >= 54 and hits["clusters"] <= 48, hits


def test_the_share_that_is_removed_compares_the_same_draws() -> None:
    tilt = np.random.default_rng(3).uniform(-0.9, 0.9, (12, 6))
    plain, half = measured(tilt), measured(tilt / 2)
    found = over_wordings(half, unsteered=plain)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
    mixed = over_wordings([half, plain], unsteered=plain, metric="per_prompt_bias")
    assert mixed.value == pytest.approx(0.25) and mixed.high < 1
    assert over_wordings([half, plain], unsteered=plain).value == pytest.approx(reduction(plain, [half, plain]).value)


def test_what_cannot_be_drawn_is_refused_in_a_sentence() -> None:
    bias = measured(np.random.default_rng(0).uniform(-0.9, 0.9, (6, 4)))
    two = measured(np.random.default_rng(0).uniform(-0.9, 0.9, (6, 2)))
    assert math.isnan(over_wordings(two).low) and over_wordings(two).n == 2
    for call, said in (
        (lambda: over_wordings([]), "nothing to estimate"),
        (lambda: over_wordings(bias, metric="correlation"), "no metric 'correlation'"),
        (lambda: over_wordings(bias, unsteered=two), "same items"),
        (lambda: over_wordings(bias, resamples=1), "2 or more"),
        (lambda: over_wordings(bias, unsteered=measured(np.zeros((6, 4)))), "no bias before"),
    ):
        with pytest.raises(SteerlibError, match=said):
            call()
    rows = {f"{o} {w}": (0.7, 0.3) for o in range(4) for w in range(3)}
    items = [
        Item(key, (" he", " she"), ("man", "woman"), key[0], template=key[-1], stereotype="man")
        for key in rows
        if key != "3 2"
    ]
    ragged = decision_bias(Table(rows), Task("ragged", tuple(items), "job"), resamples=50)  # type: ignore[arg-type]
    with pytest.raises(SteerlibError, match="every job equally often in every wording"):
        over_wordings(ragged)
