"""Contrastive vectors: the formula, by hand; streams; every refusal. Controls: what they keep and what they change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch

from steerlib import Ablate, Add, Affine, Steering, SteerlibError, capture, contrastive, controls, sites, steer
from steerlib.sites import Site

BIASED = ["The man said", "He was there", "His own brother, the uncle"]
NEUTRAL = ["A person said", "They were", "Somebody's relative"]
SITE = Site("residual", 1)


def mean(lm: Any, prompts: list[str], site: Site = SITE) -> torch.Tensor:
    """The mean last-token activation, from the model's own hidden states, prompt by prompt."""
    states = [lm.hf(tiny.ids(lm, text), output_hidden_states=True).hidden_states[site.layer + 1] for text in prompts]
    return torch.stack([h[0, -1] for h in states]).mean(0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gemma3"])
def test_direction_and_centre_are_those_of_the_formula(family: str) -> None:
    lm = tiny.model(family)
    b, n = mean(lm, BIASED), mean(lm, NEUTRAL)
    centers = {"zero": None, "neutral": n, "midpoint": (b + n) / 2}
    for center, expected in centers.items():
        made = contrastive(lm, BIASED, NEUTRAL, layers=1, center=center).operations[SITE]  # type: ignore[arg-type]
        assert isinstance(made, Ablate)
        torch.testing.assert_close(made.direction, (b - n) / (b - n).norm(), atol=1e-4, rtol=1e-4)
        assert abs(float(made.direction.norm()) - 1) < 1e-5
        if expected is None:
            assert made.center is None
        else:
            assert made.center is not None
            torch.testing.assert_close(made.center, expected, atol=1e-4, rtol=1e-4)
    added = contrastive(lm, BIASED, NEUTRAL, layers=1, operation="add").operations[SITE]
    assert isinstance(added, Add)
    torch.testing.assert_close(added.vector, n - b, atol=1e-4, rtol=1e-4)


def test_adding_at_strength_one_carries_the_biased_mean_to_the_neutral_one() -> None:
    lm = tiny.model("llama")
    made = contrastive(lm, BIASED, NEUTRAL, layers=1, operation="add")
    with steer(lm, made):
        moved = torch.cat([got[SITE] for _, got in capture(lm, BIASED, [SITE])]).mean(0)
    torch.testing.assert_close(moved, mean(lm, NEUTRAL), atol=1e-4, rtol=1e-4)


def test_ablating_leaves_every_prompt_at_the_centre_along_the_direction() -> None:
    lm = tiny.model("gemma2")
    made = contrastive(lm, BIASED, NEUTRAL, layers=1, center="midpoint")
    operation = made.operations[SITE]
    assert isinstance(operation, Ablate) and operation.center is not None
    with steer(lm, made):
        there = torch.cat([got[SITE] for _, got in capture(lm, BIASED + NEUTRAL, [SITE])])
    along = there @ operation.direction
    torch.testing.assert_close(along, (operation.center @ operation.direction).expand(len(along)), atol=1e-4, rtol=1e-4)


def test_swapping_the_sides_flips_the_vector() -> None:
    lm = tiny.model("llama")
    one = contrastive(lm, BIASED, NEUTRAL, layers=1, operation="add").operations[SITE]
    other = contrastive(lm, NEUTRAL, BIASED, layers=1, operation="add").operations[SITE]
    assert isinstance(one, Add) and isinstance(other, Add)
    torch.testing.assert_close(one.vector, -other.vector)


def test_batch_size_and_order_do_not_matter() -> None:
    lm = tiny.model("qwen2")
    one = contrastive(lm, BIASED, NEUTRAL, layers="all", batch_size=1)
    other = contrastive(lm, BIASED[::-1], NEUTRAL[::-1], layers="all", batch_size=3)
    for site, operation in one.operations.items():
        assert isinstance(operation, Ablate)
        torch.testing.assert_close(operation.direction, other.operations[site].direction, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]


def test_a_stream_is_read_as_it_comes_and_no_more_than_some_batches_are_held() -> None:
    lm, given, seen = tiny.model("llama"), 0, 0
    most = 0

    def stream() -> Iterator[str]:
        nonlocal given
        for i in range(200):
            given += 1
            yield f"number {i} of them"

    for indices, _ in capture(lm, stream(), [SITE], batch_size=2):
        seen += len(indices)
        most = max(most, given - seen)
    assert seen == given == 200
    assert most <= 16 * 2


@pytest.mark.parametrize(
    ("biased", "neutral", "how", "says"),
    [
        ([], NEUTRAL, {}, "no biased prompts"),
        (BIASED, [], {}, "no neutral prompts"),
        (BIASED, BIASED, {}, "do not differ"),
        (BIASED, NEUTRAL, {"layers": "top"}, "no layers are called 'top'"),
        (BIASED, NEUTRAL, {"layers": 99}, "not all in this network"),
        (BIASED, NEUTRAL, {"operation": "project"}, "'project'"),
        (BIASED, NEUTRAL, {"center": "mean"}, "'mean' is no centre"),
        (BIASED, NEUTRAL, {"read": "first"}, "'first' is no way to read"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(biased: Any, neutral: Any, how: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        contrastive(tiny.model("llama"), biased, neutral, **how)
    assert "\n" not in str(error.value)


def test_a_steering_says_where_it_comes_from() -> None:
    lm = tiny.model("llama")
    made = contrastive(lm, BIASED, NEUTRAL, layers=[0, 2]).provenance
    assert made["method"] == "contrastive" and made["biased"] == made["neutral"] == 3
    assert made["architecture"] == "llama" and made["width"] == sites.width(lm.hf) and len(made["weights"]) == 64


def test_random_control_keeps_sizes_and_centres_and_changes_directions() -> None:
    lm = tiny.model("llama")
    for operation in ("add", "ablate"):
        made = contrastive(lm, BIASED, NEUTRAL, layers="all", operation=operation)  # type: ignore[arg-type]
        one, again, other = (controls.random_like(made, seed=s) for s in (0, 0, 1))
        for site, op in made.operations.items():
            a, b, c = (x.operations[site] for x in (one, again, other))
            name = "vector" if operation == "add" else "direction"
            torch.testing.assert_close(getattr(a, name).norm(), getattr(op, name).norm())
            assert torch.equal(getattr(a, name), getattr(b, name)) and not torch.equal(
                getattr(a, name), getattr(c, name)
            )
            if isinstance(op, Ablate) and isinstance(a, Ablate):
                assert op.center is not None and a.center is not None and torch.equal(a.center, op.center)


def test_flipped_control_undoes_an_addition_and_refuses_an_ablation() -> None:
    v = tiny.vector(3)
    made = Steering({SITE: Add(v), Site("residual", 0): Affine(v, -v)})
    back = controls.flipped(made).operations
    assert torch.equal(back[SITE].vector, -v)  # type: ignore[union-attr]
    assert torch.equal(back[Site("residual", 0)].shift, v)  # type: ignore[union-attr]
    with pytest.raises(SteerlibError, match="negative strength"):
        controls.flipped(Steering({SITE: Ablate(v)}))


def test_wrong_layer_control_moves_every_site_and_refuses_to_move_nothing() -> None:
    lm = tiny.model("llama")
    made = contrastive(lm, BIASED, NEUTRAL, layers=[0, 2])
    moved = controls.wrong_layer(lm, made, by=2)
    assert [site.layer for site in moved.operations] == [2, 1]
    assert moved.operations[Site("residual", 2)] is made.operations[Site("residual", 0)]
    with pytest.raises(SteerlibError, match="moves nothing"):
        controls.wrong_layer(lm, made, by=3)


def test_shuffled_control_deals_the_same_prompts() -> None:
    a, b = controls.shuffled(BIASED, NEUTRAL, seed=1)
    assert sorted([*a, *b]) == sorted(BIASED + NEUTRAL) and len(a) == len(BIASED) and a != BIASED
