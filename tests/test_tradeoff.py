"""The Pareto front by its properties, the area by hand, and long runs that are killed and go on."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from steerlib import Ablate, Add, Site, Steering, SteerlibError
from steerlib.evaluate.statistics import Estimate
from steerlib.evaluate.tradeoff import pareto, tradeoff
from steerlib.models.model import Model

SITE = Site("residual", 1)
VEC, RANDOM = Steering({SITE: Add(tiny.vector(1))}), Steering({SITE: Add(tiny.vector(2))})
STEERINGS = {"vec": VEC, "random": RANDOM}
JOBS = ("cook", "judge", "nurse", "pilot")


def test_no_point_of_the_front_is_dominated_and_every_other_is() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 12))
        frame = pd.DataFrame(rng.integers(0, 5, (n, 2)), columns=["bias", "capability"])  # many ties
        front = pareto(frame)
        assert front.any() and list(front.index) == list(frame.index)

        def dominated(a: Any, rows: pd.DataFrame = frame) -> bool:
            return any(
                b.bias <= a.bias and b.capability >= a.capability and (b.bias < a.bias or b.capability > a.capability)
                for b in rows.itertuples()
            )

        for row, on in zip(frame.itertuples(), front, strict=True):
            assert on == (not dominated(row))
        shuffled = frame.sample(frac=1, random_state=1)
        assert pareto(shuffled).sort_index().equals(front)
        falling = frame.rename(columns={"bias": "b", "capability": "c"})
        assert list(pareto(falling, bias="b", capability="c")) == list(front)


def test_a_front_needs_numbers() -> None:
    with pytest.raises(SteerlibError, match="finite numbers"):
        pareto(pd.DataFrame({"bias": [0.1, np.nan], "capability": [1, 1]}))


def activation(model: Model) -> torch.Tensor:
    """At the site, on one token."""
    with tiny.watch(model, SITE) as seen, torch.inference_mode():
        model.hf(tiny.ids(model, "A"))
    return seen[0][0, -1]


@cache
def plain() -> torch.Tensor:
    """The same of the model before anything steers it."""
    return activation(tiny.model("llama"))


class Played:
    """Measures of a stand-in: what they return is read off how far a steering has moved the model's activation."""

    def __init__(self, bias: Any, capability: Any, *, stop_at: int | None = None) -> None:
        plain()
        self.results = {"bias": bias, "capability": capability}
        self.calls: list[tuple[str, float]] = []
        self.stop_at = stop_at

    def at(self, model: Model) -> float:
        """The strength times a sign, 1 for VEC and -1 for RANDOM, from what the model does."""
        moved = activation(model) - plain()
        along = [float(moved @ v / (v @ v)) for v in (tiny.vector(1), tiny.vector(2))]
        pair = max(zip(along, (1, -1), strict=True), key=lambda p: abs(p[0]))
        return round(pair[0] * pair[1], 3)

    def measure(self, what: str, model: Model) -> Any:
        if self.stop_at is not None and len(self.calls) >= self.stop_at:
            raise KeyboardInterrupt
        strength = self.at(model)
        self.calls.append((what, strength))
        return self.results[what](strength)

    def bias(self, model: Model) -> Any:
        return self.measure("bias", model)

    def capability(self, model: Model) -> Any:
        return self.measure("capability", model)


def spread(value: float) -> dict[str, float]:
    """A value a cluster, with this mean."""
    return {job: value * factor for job, factor in zip(JOBS, (0.5, 1.5, 0.8, 1.2), strict=True)}


def played(**how: Any) -> Played:
    """VEC takes bias away for little; RANDOM costs capability and takes nothing away."""
    return Played(
        lambda s: spread(0.4 * (1 - 0.5 * max(s, 0))),
        lambda s: spread(0.8 - 0.1 * abs(s) - 0.2 * max(-s, 0)),
        **how,
    )


def run(play: Played, **how: Any) -> Any:
    arguments = {"controls": ["random"], "resamples": 200, **how}
    steerings, strengths = arguments.pop("steerings", STEERINGS), arguments.pop("strengths", [0.5, 1])
    lm = arguments.pop("model", tiny.model("llama"))
    return tradeoff(lm, steerings, strengths, bias=play.bias, capability=play.capability, **arguments)


def test_every_method_is_measured_steered_at_every_strength_and_the_plain_model_once() -> None:
    play = played()
    got = run(play)
    expected = [0.0, 0.5, 1.0, -0.5, -1.0]
    assert play.calls == [(what, s) for s in expected for what in ("bias", "capability")]  # bias first, each time
    frame = got.frame
    assert list(zip(frame["method"], frame["strength"], strict=True)) == [
        ("vec", 0), ("vec", 0.5), ("vec", 1), ("random", 0), ("random", 0.5), ("random", 1),
    ]  # fmt: skip
    assert list(frame["bias"]) == pytest.approx([0.4, 0.3, 0.2, 0.4, 0.4, 0.4])
    assert list(frame["capability"]) == pytest.approx([0.8, 0.75, 0.7, 0.8, 0.65, 0.5])
    assert list(frame["control"]) == [False] * 3 + [True] * 3
    assert list(frame["pareto"]) == [True, True, True, True, False, False]
    assert ((frame["bias_low"] < frame["bias"]) & (frame["bias"] < frame["bias_high"])).all()
    assert not tiny.hooks(tiny.model("llama").hf)


def test_strengths_may_differ_by_method_and_be_negative() -> None:
    frame = run(played(), strengths={"vec": [1, 0, 0.25], "random": [-2]}).frame
    assert list(frame["strength"]) == [0, 0.25, 1, -2, 0]


def test_only_the_tokens_asked_for_are_steered() -> None:
    play = played()
    run(play, tokens="generated")  # the measures here read a prompt, of which nothing is generated
    assert {strength for _, strength in play.calls} == {0.0}


def test_the_area_is_that_of_the_rectangles_by_hand() -> None:
    areas = run(played()).area()
    # from a bias of 0.2 to 0.3 the best capability is 0.7, from there to 0.4 it is 0.75
    assert areas["vec"].value == pytest.approx((0.1 * 0.7 + 0.1 * 0.75) / (0.4 * 0.8))
    assert areas["random"].value == areas["random"].high == pytest.approx(0)
    assert areas["vec"].low <= areas["vec"].value <= areas["vec"].high and areas["vec"].n == 4
    floored = run(played()).area(floor=0.5)["vec"]
    assert floored.value == pytest.approx((0.1 * 0.2 + 0.1 * 0.25) / (0.4 * 0.3))
    high = run(Played(lambda s: spread(0.4 - 0.1 * s), lambda s: spread(0.8 - 0.3 * abs(s)))).area(floor=0.7)["vec"]
    assert high.value == 0  # below the floor there is nothing, and not less than nothing
    minus = run(played()).area(minus="random")
    assert list(minus) == ["vec"] and minus["vec"].value == pytest.approx(areas["vec"].value)


def test_removing_all_bias_for_free_has_area_one_and_more_bias_adds_nothing() -> None:
    free = run(Played(lambda s: spread(0.4 if s <= 0 else 0.0), lambda s: spread(0.8))).area()
    assert free["vec"].value == free["vec"].low == pytest.approx(1) and free["random"].value == 0
    worse = run(Played(lambda s: spread(0.4 + 0.3 * abs(s)), lambda s: spread(0.8 + abs(s)))).area()
    assert worse["vec"].value == worse["random"].value == 0


def test_points_that_are_scaled_alike_in_every_cluster_have_an_area_without_doubt() -> None:
    """Clusters are drawn for all points together: what a hard cluster does to all of them cancels."""
    got = run(Played(lambda s: spread(0.4 * (1 - 0.5 * max(s, 0))), lambda s: spread(0.8)))
    area = got.area()["vec"]
    assert area.low == pytest.approx(area.value) == pytest.approx(area.high)
    assert got.frame["bias_high"][0] - got.frame["bias_low"][0] > 0.05


def test_estimates_are_kept_as_they_are_but_have_no_area() -> None:
    estimate = Estimate(0.3, 0.1, 0.4, 7)
    got = run(Played(lambda s: estimate, lambda s: spread(0.8)))
    assert (got.frame[["bias", "bias_low", "bias_high"]] == [0.3, 0.1, 0.4]).all(axis=None)
    with pytest.raises(SteerlibError, match="one value per cluster, over the same clusters"):
        got.area()


@pytest.mark.parametrize(
    ("bias", "capability", "how", "says"),
    [
        (spread(0.4), {"cook": 1.0}, {}, "over the same clusters"),
        (spread(-0.4), spread(1), {}, "0 when fair"),
        (spread(0.0), spread(1), {}, "0 when fair"),
        (spread(0.4), spread(0.5), {"floor": 0.5}, "not above the floor of 0.5"),
        (spread(0.4), spread(0.5), {"minus": "iti"}, "no method 'iti': there are vec, random"),
    ],
)
def test_an_area_that_means_nothing_is_refused(bias: Any, capability: Any, how: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says):
        run(Played(lambda s: bias, lambda s: capability)).area(**how)


def test_a_series_does_as_well_as_a_mapping() -> None:
    series = Played(lambda s: pd.Series(spread(0.4)), lambda s: pd.Series(spread(0.8)))
    mapping = Played(lambda s: spread(0.4), lambda s: spread(0.8))
    assert run(series).frame.equals(run(mapping).frame)


def test_the_figure_has_a_line_a_method_and_a_dotted_one_a_control() -> None:
    ax = run(played()).plot()
    lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
    assert [(line.get_label(), line.get_linestyle()) for line in lines] == [("vec", "-"), ("random (control)", ":")]
    assert lines[0].get_color() != lines[1].get_color() and lines[0].get_marker() != lines[1].get_marker()
    assert list(lines[0].get_xdata()) == pytest.approx([0.4, 0.3, 0.2])
    written = [text.get_text() for text in ax.texts]
    assert written == ["0.5", "1", "0.5", "1", "unsteered"] and ax.get_xlabel() and ax.get_ylabel()


def test_one_measure_does_as_well_as_two_and_keeps_its_whole_result(tmp_path: Path) -> None:
    play, two = played(), run(played())

    def measure(model: Model) -> Any:
        return play.bias(model), play.capability(model), {"strength": play.calls[-1][1]}

    path = tmp_path / "points.jsonl"
    got = tradeoff(
        tiny.model("llama"), STEERINGS, [0.5, 1], measure=measure, controls=["random"], resamples=200, path=path
    )
    assert got.frame.equals(two.frame) and list(got.results) == list(got.clusters or ())
    assert {key: kept["strength"] for key, kept in got.results.items()} == {
        ("", 0.0): 0, ("vec", 0.5): 0.5, ("vec", 1.0): 1, ("random", 0.5): -0.5, ("random", 1.0): -1,
    }  # fmt: skip
    again = tradeoff(
        tiny.model("llama"), STEERINGS, [0.5, 1], measure=measure, controls=["random"], resamples=200, path=path
    )
    assert again.frame.equals(two.frame) and set(again.results.values()) == {None}
    assert set(two.results.values()) == {None}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "either measure, or both"),
        ({"bias": lambda m: spread(1)}, "either measure, or both"),
        ({"measure": lambda m: spread(1), "bias": lambda m: spread(1)}, "either measure, or both"),
        (
            {"measure": lambda m: spread(1)},
            r"must return \(bias, capability\) or \(bias, capability, result\), not dict",
        ),
        ({"measure": lambda m: (spread(1),)}, "not tuple"),
        ({"measure": lambda m: (spread(1), 0.5)}, "capability must return an Estimate or a mapping"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(how: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        tradeoff(tiny.model("llama"), STEERINGS, [1], **how)
    assert "\n" not in str(error.value) and not tiny.hooks(tiny.model("llama").hf)


def test_a_tradeoff_of_two_clusters_has_numbers_but_no_intervals_and_everything_survives(tmp_path: Path) -> None:
    few = Played(lambda s: {"cook": 0.4 - 0.1 * s, "nurse": 0.3}, lambda s: {"cook": 0.9, "nurse": 0.8})
    got = run(few)
    assert got.frame["bias_low"].isna().all() and got.frame["bias"].notna().all() and np.isnan(got.area()["vec"].low)
    assert len([line for line in got.plot().get_lines() if not line.get_label().startswith("_")]) == 2
    nan = float("nan")
    path = tmp_path / "points.jsonl"
    whole = run(Played(lambda s: Estimate(0.3, nan, nan, 2), lambda s: spread(0.8)), path=path)
    assert run(played(stop_at=0), path=path).frame.equals(whole.frame)


def test_the_tables_hold_the_points_and_the_areas() -> None:
    got = run(played())
    assert got.table().loc[("vec", 1.0), "bias"] == pytest.approx(0.2)
    by = got.by("method").set_index("method")
    assert by.loc["vec", "value"] == got.area()["vec"].value and list(by.columns) == ["value", "low", "high", "n"]
    with pytest.raises(SteerlibError, match="by 'method', not by 'strength'"):
        got.by("strength")


@pytest.mark.parametrize("kind", ["clusters", "estimates"])
@pytest.mark.parametrize("stop_at", [0, 1, 2, 5, 9])
def test_a_run_that_is_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, stop_at: int, kind: str) -> None:
    def play(**how: Any) -> Played:
        if kind == "clusters":
            return played(**how)
        return Played(lambda s: Estimate(1 / 3 + s, s, 1, 3), lambda s: Estimate(2 / 3 - s, -1, 1, 3), **how)

    path = tmp_path / "new" / "points.jsonl"
    whole = run(play())
    with pytest.raises(KeyboardInterrupt):
        run(play(stop_at=stop_at), path=path)
    assert not tiny.hooks(tiny.model("llama").hf)
    rest = play()
    assert run(rest, path=path).frame.equals(whole.frame)
    assert len(rest.calls) == 10 - 2 * (stop_at // 2)
    idle = play(stop_at=0)
    assert run(idle, path=path).frame.equals(whole.frame) and not idle.calls  # nothing is left to be done


def test_a_file_cut_at_any_byte_is_taken_up_with_its_whole_lines(tmp_path: Path) -> None:
    path, whole = tmp_path / "points.jsonl", run(played(), path=tmp_path / "points.jsonl")
    text = path.read_bytes()
    for cut in sorted({0, 1, 30, *(text.index(b"\n") + k for k in (0, 1, 2)), len(text) - 40, len(text) - 1}):
        path.write_bytes(text[:cut])
        rest = played()
        assert run(rest, path=path).frame.equals(whole.frame)
        lines = text[:cut].count(b"\n")
        assert len(rest.calls) == 2 * (5 - max(0, lines - 1))
        assert path.read_bytes() == text


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"steerings": {"vec": VEC, "random": Steering({SITE: Add(tiny.vector(3))})}},
            "holds points of other steerings",
        ),
        ({"steerings": {"vec": VEC, "random": Steering({SITE: Ablate(tiny.vector(2))})}}, "of other steerings"),
        ({"steerings": {"vec": VEC, "random": VEC}}, "of other steerings"),
        ({"strengths": [0.5, 0.9]}, "of other strengths"),
        ({"tokens": "last"}, "of other tokens"),
        ({"model": tiny.fresh("llama", seed=3)}, "of another model"),
    ],
)
def test_a_file_of_another_run_is_refused_and_left_alone(tmp_path: Path, how: Any, says: str) -> None:
    path = tmp_path / "points.jsonl"
    run(played(), path=path)
    before = path.read_bytes()
    with pytest.raises(SteerlibError, match=says):
        run(played(), path=path, **how)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["my notes", "a\nb\n", '{"format": "other"}\n', "[1]\n", "{}\nx", "\ufeff\n"])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SteerlibError, match="is not a file of tradeoff points") as error:
        run(played(), path=path)
    assert path.read_text(encoding="utf-8") == text and "\n" not in str(error.value)


def test_the_lines_of_the_file_can_be_read_by_anybody(tmp_path: Path) -> None:
    run(played(), path=tmp_path / "points.jsonl")
    header, *points = map(json.loads, (tmp_path / "points.jsonl").read_text().splitlines())
    assert header["format"] == "steerlib.tradeoff/1" and len(points) == 5
    assert points[1]["method"] == "vec" and points[1]["scores"][0]["clusters"] == pytest.approx(spread(0.3))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"steerings": {}}, "steerings are given by name"),
        ({"steerings": {"": VEC}}, "steerings are given by name"),
        ({"controls": ["iti"]}, r"controls is a list of names of steerings \(vec, random\), not 'iti'"),
        ({"controls": "random"}, "controls is a list"),
        ({"strengths": []}, "'vec' needs at least one finite strength"),
        ({"strengths": [0.0]}, "other than 0"),
        ({"strengths": [float("nan")]}, "finite strength"),
        ({"strengths": {"vec": [1]}}, "must name each of vec, random"),
        ({"tokens": "first"}, "'first' names no tokens"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_before_anything_is_measured(how: Any, says: str) -> None:
    play = played()
    with pytest.raises(SteerlibError, match=says) as error:
        run(play, **how)
    assert not play.calls and "\n" not in str(error.value)


def test_a_steering_that_does_not_fit_is_refused_before_anything_is_measured() -> None:
    play = played()
    with pytest.raises(SteerlibError, match="has shape"):
        run(play, steerings={"vec": VEC, "random": Steering({SITE: Add(torch.ones(5))})})
    assert not play.calls


@pytest.mark.parametrize(
    ("bias", "says"),
    [
        (lambda s: 0.3, "bias must return an Estimate or a mapping with one value per cluster, not float"),
        (lambda s: {}, "not dict"),
        (lambda s: {"cook": float("nan")}, "bias returned a value that is NaN"),
        (lambda s: Estimate(float("nan"), 0, 1, 3), "NaN or infinite"),
        (
            lambda s: spread(0.3) if s == 0 else {"cook": 0.3},
            "bias returned other clusters for 'vec' at 0.5 than unsteered",
        ),
        (lambda s: spread(0.3) if s == 0 else Estimate(0.3, 0, 1, 3), "other clusters"),
    ],
)
def test_a_measure_that_returns_something_else_is_refused(bias: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        run(Played(bias, lambda s: spread(0.8)))
    assert "\n" not in str(error.value) and not tiny.hooks(tiny.model("llama").hf)
