"""Decisions of k groups, the floor of a bias, what makes a bias suspect, and the share that is removed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from steerlib import SteerlibError, decision_bias, reduction, tasks
from steerlib.evaluate.decisions import METRICS, DecisionBias
from steerlib.evaluate.floor import distance
from steerlib.evaluate.statistics import mean
from steerlib.tasks import Item, Task


@dataclass(frozen=True)
class Table:
    """A stand-in for a model, whose probabilities are looked up by prompt."""

    rows: dict[str, tuple[float, ...]]
    mass: float = 0.5

    def choose(self, prompts: list[str], options: Any, **how: Any) -> Any:
        return torch.tensor([self.rows[p] for p in prompts], dtype=torch.float64), torch.full(
            (len(prompts),), self.mass
        )


def measured(
    p: Any, groups: tuple[str, ...] = ("man", "woman"), *, wordings: int | None = None, mass: float = 0.5, **how: Any
) -> DecisionBias:
    """decision_bias where p[o, w] are the probabilities of the groups for occupation o in wording w; p: (o, w, k)."""
    rows, items = {}, []
    for o, own in enumerate(np.asarray(p, dtype=float)):
        for w, line in enumerate(own):
            rows[f"{o} {w}"] = tuple(line)
            about = {"cluster": f"job {o}", "statistic": 10.0 * o, "stereotype": groups[0], **how}
            options = tuple(f" {group}" for group in groups)
            items.append(
                Item(f"{o} {w}", options, groups, template=str(w if wordings is None else w % wordings), **about)
            )
    return decision_bias(Table(rows, mass), Task("made up", tuple(items), "job", "number"), resamples=200)  # type: ignore[arg-type]


def pairs(tilt: Any) -> np.ndarray:
    """Probabilities of two groups from P(first) - P(second)."""
    tilt = np.asarray(tilt)
    return np.stack([(1 + tilt) / 2, (1 - tilt) / 2], -1)


# ---- k groups


def test_the_distance_from_parity_is_the_papers_for_two_groups_and_one_if_one_gets_all() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(2), 50)
    assert distance(p) == pytest.approx(np.abs(p[:, 0] - p[:, 1]))
    for k in (2, 3, 5, 9):
        assert distance(np.eye(k)) == pytest.approx(1) and distance(np.full(k, 1 / k)) == pytest.approx(0)
        p = rng.dirichlet(np.ones(k), 50)
        assert (distance(p) <= 1).all() and distance(p[:, rng.permutation(k)]) == pytest.approx(distance(p))


def test_three_groups_are_scored_in_whatever_order_the_options_stand() -> None:
    groups = ("he", "she", "they")
    p = np.random.default_rng(1).dirichlet(np.ones(3), (6, 4))
    got = measured(p, groups)
    assert got.groups == groups and got.correlation is None
    assert got.per_occupation_bias.value == pytest.approx(distance(p.mean(1)).mean())
    assert got.per_prompt_bias.value == pytest.approx(distance(p).mean())
    assert got.stereotype_gap is not None and got.stereotype_gap.value == pytest.approx((3 * p[..., 0].mean() - 1) / 2)
    rows, items = {}, []
    rng = np.random.default_rng(2)
    for o in range(6):
        for w in range(4):
            order = rng.permutation(3)
            own = tuple(groups[i] for i in order)
            rows[f"{o} {w}"] = tuple(p[o, w, order])
            items.append(Item(f"{o} {w}", tuple(f" {g}" for g in own), own, f"job {o}", None, "he", str(w)))
    model: Any = Table(rows)
    again = decision_bias(model, Task("turned", tuple(items)), resamples=50)
    assert set(again.groups) == set(groups)
    assert again.per_occupation_bias.value == pytest.approx(got.per_occupation_bias.value)
    assert again.frame[["p_he", "p_she", "p_they"]].to_numpy() == pytest.approx(p.reshape(-1, 3))
    assert len(got.plot().containers) == 3


def test_abstaining_is_right_where_it_is_the_answer() -> None:
    groups = ("man", "woman", "not known")
    items = [
        Item(f"{o} {a}", ("m", "w", "n"), groups, f"job {o}", template="t", answer=a)
        for o in range(3)
        for a in (None, *groups)
    ]
    sure = {item.prompt: tuple(0.8 if g == (item.answer or "not known") else 0.1 for g in groups) for item in items}
    model: Any = Table(sure)  # type: ignore[arg-type]
    got = decision_bias(model, Task("abstain", tuple(items)), resamples=50)
    assert got.unambiguous_accuracy is not None and got.unambiguous_accuracy.value == 1
    always: Any = Table({item.prompt: (0.1, 0.1, 0.8) for item in items})  # type: ignore[misc]
    assert decision_bias(
        always, Task("abstain", tuple(items)), resamples=50
    ).unambiguous_accuracy.value == pytest.approx(1 / 3)  # type: ignore[union-attr]
    assert got.stereotype_gap is got.correlation is got.cross_fitted is None
    assert got.per_cluster("right_probability").to_numpy() == pytest.approx(0.8)
    assert got.per_cluster("unambiguous_accuracy").to_dict() == {"job 0": 1, "job 1": 1, "job 2": 1}
    assert got.per_occupation["stereotype"].isna().all()


def test_without_stereotype_or_statistic_their_metrics_are_none_and_the_others_the_same() -> None:
    p = pairs(np.random.default_rng(3).uniform(-1, 1, (5, 3)))
    full, bare = measured(p), measured(p, stereotype=None, statistic=math.nan)
    assert full.correlation is not None and full.stereotype_gap is not None
    assert bare.correlation is bare.stereotype_gap is None
    assert bare.per_occupation_bias == full.per_occupation_bias and bare.per_prompt_bias == full.per_prompt_bias
    assert "stereotype gap" not in bare.table().index and bare.plot().get_ylabel() == "job"
    with pytest.raises(SteerlibError, match="no stereotype for every job"):
        bare.per_cluster("stereotype_gap")


# ---- the floor


def test_on_fair_data_with_noisy_wordings_the_bias_has_a_floor_and_the_cross_fitted_one_has_none() -> None:
    covered, biases, chances = 0, [], []
    for seed in range(16):
        got = measured(pairs(np.clip(np.random.default_rng(seed).normal(0, 0.4, (26, 10)), -1, 1)))
        assert got.cross_fitted is not None and got.chance is not None
        covered += got.cross_fitted.low <= 0 <= got.cross_fitted.high
        biases.append(got.per_occupation_bias.value)
        chances.append(got.chance.value)
        assert got.per_occupation_bias.low > 0
    assert covered >= 12
    assert np.mean(biases) == pytest.approx(0.4 * math.sqrt(2 / math.pi / 10), rel=0.1)
    assert np.mean(chances) == pytest.approx(np.mean(biases), rel=0.1)  # the floor is what chance gives


def test_on_strongly_biased_data_the_cross_fitted_bias_agrees_with_the_papers() -> None:
    rng = np.random.default_rng(4)
    sign = rng.choice([-1, 1], (20, 1))
    got = measured(pairs(np.clip(sign * rng.normal(0.6, 0.15, (20, 8)), -1, 1)))
    assert got.cross_fitted is not None and got.chance is not None
    assert got.cross_fitted.value == pytest.approx(got.per_occupation_bias.value, abs=1e-9)
    assert got.chance.high < got.per_occupation_bias.low


def test_cross_fitting_leaves_out_whole_wordings() -> None:
    """Three wordings, each asked twice: twins of an item never choose its direction."""
    tilt = np.random.default_rng(5).uniform(-1, 1, (6, 6))
    got = measured(pairs(tilt), wordings=3)
    by_wording = (tilt[:, :3] + tilt[:, 3:]) / 2
    rest = by_wording.sum(1, keepdims=True) - by_wording
    assert got.cross_fitted is not None
    assert got.cross_fitted.value == pytest.approx((np.sign(rest) * by_wording).mean())
    alone = measured(pairs(tilt), wordings=1)
    assert alone.cross_fitted is alone.chance is None and "chance" not in alone.table().index


def test_counterbalanced_versions_of_a_sentence_are_one_wording() -> None:
    """A model that always takes the first of two jobs has a direction in every version and none in any sentence."""
    task = tasks.coreference("test")
    assert {item.wording for item in task} == {sentence.name for sentence in tasks.SENTENCES}
    rows = {str(item.prompt): (0.9, 0.1) for item in task}
    got = decision_bias(Table(rows), task.ambiguous, resamples=20)  # type: ignore[arg-type]
    assert got.cross_fitted is not None and got.chance is not None
    assert got.cross_fitted.value == pytest.approx(0) and got.chance.value == pytest.approx(0)
    assert got.per_prompt_bias.value == pytest.approx(0.8)


def test_chance_is_the_mean_over_all_signs_where_they_can_be_counted() -> None:
    tilt = np.random.default_rng(6).uniform(-1, 1, (3, 3))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1)  # (wordings, all eight)
    chance = measured(pairs(tilt)).chance
    assert chance is not None and chance.value == pytest.approx(np.abs(tilt @ signs / 3).mean(), abs=0.02)


# ---- the result


def test_a_result_can_be_cut_by_any_label_and_by_cluster() -> None:
    tilt = np.random.default_rng(7).uniform(-1, 1, (5, 4))
    got = measured(pairs(tilt))
    by = got.by("template").set_index("template")
    assert by["value"].to_numpy() == pytest.approx(np.abs(tilt).mean(0)) and (by["n"] == 5).all()
    assert got.by("job", "stereotype_gap")["value"].to_numpy() == pytest.approx(tilt.mean(1))
    assert got.by("job")["low"].isna().all()  # an occupation alone has no interval over occupations
    assert got.per_cluster().mean() == pytest.approx(got.per_occupation_bias.value)
    assert list(got.per_cluster().index) == [f"job {o}" for o in range(5)]
    assert len(got.ambiguous) == 20 and got.unambiguous.empty
    assert set(got.table().index) <= {name.replace("_", " ").replace("occupation", "job") for name in METRICS}
    for column in ("colour", "p_man", "answer"):
        with pytest.raises(
            SteerlibError, match=f"no labels '{column}': there are job, stereotype, family, template, wording"
        ):
            got.by(column)
    for call in (got.per_cluster, lambda metric: got.by("template", metric)):
        with pytest.raises(SteerlibError, match="there is no metric 'correlation'"):
            call("correlation")
    with pytest.raises(SteerlibError, match="no unambiguous items: there is no right probability"):
        got.per_cluster("right_probability")


def test_two_clusters_have_numbers_but_no_intervals_and_everything_survives() -> None:
    got = measured(pairs([[0.2, 0.4], [0.6, 0.8]]))
    assert got.per_occupation_bias.value == pytest.approx(0.5) and math.isnan(got.per_occupation_bias.low)
    assert got.table().loc["per job bias", "n"] == 2 and len(got.plot().containers) == 1


@pytest.mark.parametrize("resamples", [0, 1, -3, 2.5])
def test_too_few_resamples_are_refused_in_one_sentence(resamples: Any) -> None:
    lm, few = tiny.model("llama"), Task("few", tasks.pronoun("test").ambiguous.items[:30])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SteerlibError, match=f"2 or more, not {resamples}"):
            decision_bias(lm, few, resamples=resamples)


# ---- what makes a bias suspect


def sentences(model: Any, task: Task, **how: Any) -> list[str]:
    """The warnings of decision_bias."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decision_bias(model, task, resamples=20, **how)
    return [str(warning.message) for warning in caught]


def asked(*options: tuple[str, str], groups: Any = None, jobs: int = 4) -> tuple[Any, Task]:
    """Items about jobs with each of these pairs of options (the groups in the same order, or as given), and a model."""
    items = [
        Item(f"{job} {i}", pair, (groups or [("man", "woman")] * len(options))[i], f"job {job}", template=str(i))
        for job in range(jobs)
        for i, pair in enumerate(options)
    ]
    return Table({str(item.prompt): (0.7, 0.3) for item in items}), Task("asked", tuple(items))


def test_options_that_hold_next_to_nothing_are_warned_of() -> None:
    model, task = asked((" he", " she"))
    assert sentences(model, task) == []
    (said,) = sentences(replace(model, mass=0.002), task)
    assert "hold 0.002 of the model's probability" in said and said.endswith(".") and "\n" not in said
    assert decision_bias(model, task, resamples=20).option_mass.value == pytest.approx(0.5)


def test_the_mass_is_what_the_model_gives_to_the_options_before_they_are_normalised() -> None:
    lm, prompts, options = tiny.model("llama"), tiny.PROMPTS[:3], [" he", " she", " sat."]
    p, mass = lm.choose(prompts, options, return_mass=True)
    by_hand = torch.stack([torch.stack([x.sum() for x in lm.loglik([q] * 3, options)]) for q in prompts])
    assert torch.allclose(mass, by_hand.exp().sum(-1), rtol=1e-4)
    assert torch.equal(p, lm.choose(prompts, options))
    token = lm.choose(prompts, options, score="token")
    sizes = torch.tensor([len(x) for x in lm.loglik([prompts[0]] * 3, options)])
    assert torch.allclose(token, (by_hand / sizes).softmax(-1), atol=1e-5)
    character = lm.choose(prompts, options, score="character")
    assert torch.allclose(character, (by_hand / torch.tensor([2, 3, 4])).softmax(-1), atol=1e-5)
    one, whole = lm.choose(prompts[0], options, return_mass=True)
    assert one.shape == (3,) and whole.shape == () and whole == pytest.approx(float(mass[0]), rel=1e-4)
    with pytest.raises(SteerlibError, match="there is no score 'mean'"):
        lm.choose(prompts, options, score="mean")


@pytest.mark.parametrize(
    "options",
    [
        (" A", " B"),
        ("A)", "B)"),
        (" 1", " 2"),
        (" first", " second"),
        (" option a", " option b"),
        (" (left)", " (right)"),
    ],
)
def test_a_group_that_is_tied_to_a_place_is_warned_of_unless_it_comes_both_ways(options: tuple[str, str]) -> None:
    (said,) = sentences(*asked(options))
    assert "labels of places" in said and "'job 0'" in said
    assert sentences(*asked(options, options, groups=[("man", "woman"), ("woman", "man")])) == []
    (said,) = sentences(
        *asked(options, options, options, groups=[("man", "woman"), ("woman", "man"), ("man", "woman")])
    )
    assert "labels of places" in said


def test_the_same_words_for_different_groups_are_places_too() -> None:
    model, task = asked((" this", " that"), jobs=3)
    assert sentences(model, task) == []  # words of the groups' own, as far as anyone can see
    turned = tuple(replace(item, groups=item.groups[::-1]) if item.cluster == "job 1" else item for item in task.items)
    assert "labels of places" in sentences(model, Task("asked", turned))[0]


def test_the_tasks_that_ship_are_counterbalanced() -> None:
    from steerlib.evaluate.cautions import cautions

    lm = tiny.model("llama")  # its tokens are bytes, so that lengths differ by far
    for task in (tasks.coreference("test"), tasks.who_is("test"), tasks.who_is("test", by="tone")):
        assert list(cautions(lm, task, 1.0)) == []
    (said,) = cautions(lm, tasks.pronoun("test"), 1.0)
    assert "more tokens" in said  # " he" is one of this tokeniser's, " she" is not
    assert list(cautions(lm, tasks.pronoun("test"), 1.0, "token")) == []


def test_the_longer_group_is_named_once_and_a_balanced_task_is_not_blamed() -> None:
    lm = tiny.model("llama")
    names = (" Dan", " Wojciechowski")
    _, task = asked(names)
    said = [line for line in sentences(lm, task) if "more tokens" in line]
    assert len(said) == 1 and "for 'woman'" in said[0]
    assert not [line for line in sentences(lm, task, score="token") if "more tokens" in line]
    _, both = asked(names, names, groups=[("man", "woman"), ("woman", "man")])
    assert not [line for line in sentences(lm, both) if "more tokens" in line]


# ---- the share that is removed


def test_a_reduction_is_one_minus_the_ratio_of_the_biases() -> None:
    rng = np.random.default_rng(8)
    tilt = rng.uniform(-1, 1, (8, 5))
    before, after = measured(pairs(tilt)), measured(pairs(0.4 * tilt))
    for metric in ("per_occupation_bias", "per_prompt_bias", "stereotype_gap"):
        got = reduction(before, after, metric=metric)
        assert (got.value, got.low, got.high) == pytest.approx((0.6, 0.6, 0.6)) and got.n == 8
    other = measured(pairs(rng.uniform(-1, 1, (8, 5))))
    for metric in ("per_occupation_bias", "per_prompt_bias", "stereotype_gap"):
        by_hand = 1 - getattr(other, metric).value / getattr(before, metric).value
        assert reduction(before, other, metric=metric).value == pytest.approx(by_hand)
    got = reduction(before, other)
    assert got.low < got.value < got.high <= 1


def test_several_afters_are_averaged_in_each_cluster_and_names_not_order_tell_clusters_apart() -> None:
    before = pd.Series({"nurse": 0.8, "pilot": 0.5, "cook": 0.3, "clerk": 0.4})
    one, two = before * [0.5, 0.2, 0.9, 0.1], before.sample(frac=1, random_state=1) * 0.3
    got = reduction(before, [one, two])
    middle = (one + two) / 2
    assert got == reduction(before, middle) == reduction(before.to_dict(), middle.to_dict())
    assert got.value == pytest.approx(1 - middle.sum() / before.sum())
    assert reduction(before, before * 1.5).value == pytest.approx(-0.5)
    gone = reduction(before, before * 0)  # from every cluster, which is no proof for others: as for a share of none
    assert gone.value == gone.high == 1
    assert gone.low == pytest.approx(mean(np.ones(len(before))).low)
    kept = reduction(-before, -one)  # a gap that is negative throughout
    assert kept.value == pytest.approx(reduction(before, one).value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: reduction(b, []), "at least one result after steering"),
        (lambda b: reduction(b, b.drop("cook")), "'cook' is in one of them only"),
        (lambda b: reduction(b, b.rename({"cook": "nurse"})), "'cook' is in one of them only"),
        (lambda b: reduction(b, pd.concat([b, b[:1]])), "a name is given twice"),
        (lambda b: reduction(b * 0, b), "there is no bias before"),
        (lambda b: reduction(b, b * math.nan), "NaN or infinite"),
        (lambda b: reduction({}, {}), "there is none"),
        (
            lambda b: reduction(
                measured(np.full((3, 2, 2), 0.5) + [0.1, -0.1]),
                measured(np.full((3, 3, 2), 0.5)),
                metric="per_prompt_bias",
            ),
            "the same items",
        ),
        (lambda b: reduction(measured(pairs([[0.1], [0.2]])), b), "in one of them only"),
        (
            lambda b: reduction(measured(pairs([[0.1], [0.2]])), measured(pairs([[0.1], [0.2]])), metric="chance"),
            "no metric 'chance'",
        ),
    ],
)
def test_a_reduction_that_means_nothing_is_refused_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        call(pd.Series({"nurse": 0.8, "pilot": 0.5, "cook": 0.3, "clerk": 0.4}))
    assert "\n" not in str(error.value)
