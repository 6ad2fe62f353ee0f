"""Cosines of steerings: by hand, and beside what chance gives."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from steerlib import Ablate, Add, Affine, Steering, SteerlibError, contrastive, controls
from steerlib.models.sites import Site
from steerlib.steering.edits import cosines

BIASED, NEUTRAL = ["The man said", "He was there"], ["A person said", "They were"]
SITES = [Site("residual", n) for n in (0, 2)]


def made(seed: int, width: int = tiny.WIDTH, sites: list[Site] = SITES) -> Steering:
    """Additions of random vectors."""
    return Steering({site: Add(tiny.vector(10 * seed + site.layer, width)) for site in sites})


def test_the_cosine_is_that_of_the_vectors_at_the_sites_they_share() -> None:
    a, b = made(1), made(2, sites=[Site("residual", n) for n in (2, 0, 1)])
    frame = cosines(a, b)
    assert list(frame.columns) == ["site", "layer", "cosine", "null_low", "null_high"]
    assert list(frame["site"]) == ["residual.0", "residual.2"] and list(frame["layer"]) == [0, 2]
    for site, cosine in zip(SITES, frame["cosine"], strict=True):
        u, v = a.operations[site].vector, b.operations[site].vector  # type: ignore[union-attr]
        assert cosine == pytest.approx(float(torch.cosine_similarity(u, v, dim=0)), abs=1e-6)


def test_additions_and_ablations_of_one_contrast_point_the_same_way() -> None:
    lm = tiny.model("llama")
    ablated = contrastive(lm, BIASED, NEUTRAL, layers="all")
    added = contrastive(lm, BIASED, NEUTRAL, layers="all", operation="add")
    assert cosines(ablated, added)["cosine"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert cosines(ablated, ablated)["cosine"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert cosines(added, controls.flipped(added))["cosine"].to_numpy() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("width", [32, 512])
def test_the_null_range_is_where_random_directions_lie(width: int) -> None:
    """For a wide space the cosine is nearly normal with a deviation of 1 / sqrt(width)."""
    frame = cosines(made(1, width), made(2, width), draws=20_000)
    low, high = frame["null_low"].iloc[0], frame["null_high"].iloc[0]
    assert high == pytest.approx(1.96 / width**0.5, rel=0.05) and low == pytest.approx(-high, rel=0.05)
    one = made(1, width)
    others = [cosines(one, controls.random_like(one, seed=s), draws=40)["cosine"] for s in range(100)]
    inside = sum(int(((cosine > low) & (cosine < high)).sum()) for cosine in others)
    assert 178 <= inside <= 200  # 190 of 200 expected, four deviations either way


def test_the_null_range_follows_its_seed() -> None:
    a, b = made(1), made(2)
    assert cosines(a, b, seed=3).equals(cosines(a, b, seed=3))
    assert not cosines(a, b, seed=3).equals(cosines(a, b, seed=4))


@pytest.mark.parametrize(
    ("b", "how", "says"),
    [
        (made(2, sites=[Site("residual", 1)]), {}, "share no site: one has residual.0, the other residual.1"),
        (made(2, width=16), {}, "32 and 16 wide at residual.0"),
        (Steering({SITES[0]: Affine(*[torch.ones(tiny.WIDTH)] * 2)}), {}, "the affine at residual.0 has no single"),
        (Steering({SITES[0]: Add(torch.zeros(tiny.WIDTH))}), {}, "the addition at residual.0 has length 0"),
        (made(2), {"draws": 5}, "5 draws cannot show"),
    ],
)
def test_steerings_that_cannot_be_compared_are_refused(b: Steering, how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        cosines(made(1), b, **how)
    assert "\n" not in str(error.value)


def test_an_ablation_is_compared_whatever_its_centre() -> None:
    vector = tiny.vector(5)
    a = Steering({SITES[0]: Ablate(vector, tiny.vector(6))})
    b = Steering({SITES[0]: Add(-3 * vector)})
    assert cosines(a, b)["cosine"].iloc[0] == pytest.approx(1, abs=1e-6)
