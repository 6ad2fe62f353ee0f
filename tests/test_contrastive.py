"""Contrastive vectors: the formula, by hand; streams; every refusal. Controls: what they keep and what they change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch

from steerlib import Ablate, Add, Affine, Steering, SteerlibError, capture, chat, contrastive, controls, steer
from steerlib.methods.contrastive import split_answers
from steerlib.models import sites
from steerlib.models.sites import Site

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
        (BIASED, NEUTRAL, {"center": "mean"}, "unknown centre 'mean'"),
        (BIASED, NEUTRAL, {"read": "first"}, "'first' is not a way to read"),
        (BIASED, NEUTRAL, {"operation": "add", "center": "midpoint"}, "adding has no centre"),
        (BIASED, NEUTRAL, {"operation": "add", "center": "neutral"}, "adding has no centre"),
        (BIASED, NEUTRAL, {"direction": "svd"}, "unknown direction 'svd'"),
        (BIASED, BIASED, {"direction": "pca"}, "do not differ"),
        ([], [], {"direction": "pca"}, "no biased prompts"),
        ([], NEUTRAL, {"direction": "pca"}, "more neutral prompts than biased ones"),
        (BIASED, NEUTRAL[:2], {"direction": "pca"}, "more biased prompts than neutral ones"),
        (BIASED[:1], NEUTRAL, {"direction": "pca", "batch_size": 1}, "more neutral prompts than biased ones"),
        (iter(BIASED * 20), iter(NEUTRAL), {"direction": "pca", "batch_size": 1}, "more biased prompts than neutral"),
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


def test_contrastive_activation_addition_is_the_mean_of_paired_differences() -> None:
    """CAA by hand: for each pair the difference of the last tokens, and the mean of these."""
    lm = tiny.model("qwen2")
    pairs = [mean(lm, [b]) - mean(lm, [n]) for b, n in zip(BIASED, NEUTRAL, strict=True)]
    made = contrastive(lm, BIASED, NEUTRAL, layers=1, operation="add")
    operation = made.operations[SITE]
    assert isinstance(operation, Add)
    torch.testing.assert_close(operation.vector, -torch.stack(pairs).mean(0), atol=1e-4, rtol=1e-4)
    assert made.provenance["center"] is None


# ---- the principal direction


MANY = [
    f"{who} said {what}" for who in ("The man", "His brother, once,", "He") for what in ("so", "nothing at all", "it")
]
FEW = [
    f"{who} said {what}" for what in ("so, twice", "nothing", "it") for who in ("Someone", "A person we know", "They")
]


def paired(lm: Any, biased: list[str], neutral: list[str]) -> torch.Tensor:
    """(pairs, width): the differences, prompt by prompt."""
    return torch.stack([mean(lm, [b]) - mean(lm, [n]) for b, n in zip(biased, neutral, strict=True)])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_principal_direction_is_that_of_the_differences_as_they_are(family: str) -> None:
    lm = tiny.model(family)
    differences = paired(lm, MANY, FEW).double()
    first = torch.linalg.svd(differences).Vh[0]
    first = first * (first @ differences.mean(0)).sign()
    operation = contrastive(lm, MANY, FEW, layers=1, direction="pca", batch_size=2).operations[SITE]
    assert isinstance(operation, Ablate)
    torch.testing.assert_close(operation.direction.double(), first, atol=1e-3, rtol=1e-3)
    centred = torch.linalg.svd(differences - differences.mean(0)).Vh[0]
    assert not torch.allclose((centred @ first).sign() * centred, first, atol=1e-2)  # which loses the shared shift
    assert float(operation.direction.double() @ differences.mean(0)) > 0


def test_of_one_pair_the_principal_direction_is_the_difference() -> None:
    lm = tiny.model("llama")
    for operation in ("ablate", "add"):
        one = contrastive(lm, BIASED[:1], NEUTRAL[:1], layers="all", direction="pca", operation=operation)  # type: ignore[arg-type]
        other = contrastive(lm, BIASED[:1], NEUTRAL[:1], layers="all", operation=operation)  # type: ignore[arg-type]
        for site in one.operations:
            a, b = one.operations[site], other.operations[site]
            for name, value in vars(a).items():
                torch.testing.assert_close(value, getattr(b, name), atol=1e-4, rtol=1e-4)


def test_adding_along_the_principal_direction_carries_the_biased_mean_to_the_neutral_one_there_only() -> None:
    lm = tiny.model("llama")
    added = contrastive(lm, MANY, FEW, layers=1, direction="pca", operation="add").operations[SITE]
    ablated = contrastive(lm, MANY, FEW, layers=1, direction="pca").operations[SITE]
    assert isinstance(added, Add) and isinstance(ablated, Ablate)
    gap = mean(lm, FEW) - mean(lm, MANY)
    torch.testing.assert_close(added.vector, (gap @ ablated.direction) * ablated.direction, atol=1e-4, rtol=1e-4)


def test_pairs_are_kept_together_however_they_are_batched_and_streamed() -> None:
    lm = tiny.model("llama")
    one = contrastive(lm, MANY, FEW, layers=1, direction="pca", batch_size=1).operations[SITE]
    other = contrastive(lm, iter(MANY[::-1]), iter(FEW[::-1]), layers=1, direction="pca", batch_size=4).operations[SITE]
    mixed = contrastive(lm, MANY, FEW[::-1], layers=1, direction="pca").operations[SITE]
    assert isinstance(one, Ablate) and isinstance(other, Ablate) and isinstance(mixed, Ablate)
    torch.testing.assert_close(one.direction, other.direction, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.direction, mixed.direction, atol=1e-2)


def test_pairs_are_read_as_they_come_and_no_more_than_some_batches_are_held() -> None:
    lm, given, most = tiny.model("llama"), [0, 0], 0

    def stream(side: int, words: str) -> Iterator[str]:
        nonlocal most
        for i in range(100):
            given[side] += 1
            most = max(most, abs(given[0] - given[1]))
            yield f"{words} {i}"

    contrastive(lm, stream(0, "he did"), stream(1, "they did"), layers=1, direction="pca", batch_size=1)
    assert given == [100, 100] and most <= 16


def test_a_stream_whose_partner_has_ended_is_not_read_on() -> None:
    given = 0

    def endless() -> Iterator[str]:
        nonlocal given
        while True:
            given += 1
            yield f"he did {given}"

    with pytest.raises(SteerlibError, match="more biased prompts than neutral ones"):
        contrastive(tiny.model("llama"), endless(), NEUTRAL, layers=1, direction="pca", batch_size=1)
    assert given <= 2 * 16


def test_a_steering_says_which_direction_it_is() -> None:
    lm = tiny.model("llama")
    for direction in ("mean", "pca"):
        made = contrastive(lm, BIASED, NEUTRAL, layers=1, direction=direction)  # type: ignore[arg-type]
        assert made.provenance["direction"] == direction and made.provenance["biased"] == 3


# ---- pictures


@pytest.mark.parametrize("direction", ["mean", "pca"])
def test_prompts_with_pictures_are_contrasted_like_others(direction: Any) -> None:
    lm = tiny.seeing()
    sides: list[list[Any]] = [
        [chat(text, pictures=[tiny.picture(seed + 10 * k) for k in range(number)]) for seed, number, text in side]
        for side in ([(0, 1, "Who?"), (1, 2, "Who are they?")], [(2, 1, "Who is it?"), (3, 1, "Who?")])
    ]

    def read(prompt: Any) -> torch.Tensor:
        ids, seen = lm.read(prompt)
        with torch.inference_mode():
            return lm.hf(**lm.batch([ids], [seen]), output_hidden_states=True).hidden_states[SITE.layer + 1][0, -1]

    differences = torch.stack([read(b) - read(n) for b, n in zip(*sides, strict=True)])
    expected = differences.mean(0) if direction == "mean" else torch.linalg.svd(differences).Vh[0]
    expected = expected / expected.norm() * (expected @ differences.mean(0)).sign()
    operation = contrastive(lm, iter(sides[0]), iter(sides[1]), layers=1, direction=direction).operations[SITE]
    assert isinstance(operation, Ablate)
    torch.testing.assert_close(operation.direction, expected, atol=1e-3, rtol=1e-3)


# ---- a model's own answers


def test_answers_are_split_by_what_they_mention_and_read_where_they_end() -> None:
    picture = tiny.picture()
    prompts = [
        "The nurse said",
        chat("Who?"),
        chat("Who?", "It is a"),
        chat("Who?", "It", pictures=picture),
        chat("And?"),
    ]
    answers = [" he would", "A person.", " man", " is she", "Nobody"]
    biased, neutral = split_answers(prompts, answers, lambda text: bool({"he", "man", "she"} & set(text.split())))
    assert biased == [
        "The nurse said he would",
        chat("Who?", "It is a man"),
        chat("Who?", "It is she", pictures=picture),
    ]
    assert neutral == [chat("Who?", "A person."), chat("And?", "Nobody")]
    assert prompts[1] == chat("Who?") and prompts[2] == chat("Who?", "It is a")  # left as they were
    parts: Any = [*chat("Who?"), {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    (answered,), _ = split_answers([parts, "a"], [" he", ""], bool)
    assert answered[-1]["content"] == [{"type": "text", "text": "It is he"}]  # type: ignore[index]
    lm = tiny.seeing()
    assert lm.render(biased[1]) == lm.render(prompts[2]) + " man"
    contrastive(lm, biased, neutral, layers=1)


@pytest.mark.parametrize(
    ("prompts", "answers", "says"),
    [
        (["a", "b"], ["he", "he"], "all of the 2 answers mention"),
        (["a", "b"], ["", "she"], "none of the 2 answers mention"),
        ([], [], "no prompt was given"),
        (["a", "b"], ["he"], "2 prompts need as many answers, in a list"),
        ("ab", ["he", "she"], "1 prompts need as many answers"),
        (chat("Who?"), "he", "1 prompts need as many answers"),
    ],
)
def test_answers_that_make_no_contrast_are_refused(prompts: Any, answers: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        split_answers(prompts, answers, lambda text: text == "he")
    assert "\n" not in str(error.value)


# ---- controls


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


@pytest.mark.parametrize("direction", ["mean", "pca"])
def test_no_bar_is_shown_where_none_is_wanted(direction: Any, capfd: pytest.CaptureFixture[str]) -> None:
    lm = tiny.model("llama")
    contrastive(lm, BIASED, NEUTRAL, direction=direction, progress=False)
    assert capfd.readouterr().err == ""
    contrastive(lm, BIASED, NEUTRAL, direction=direction)
    assert "reading" in capfd.readouterr().err
