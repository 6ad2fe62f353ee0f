"""Erasure in closed form, and the fine-tunes that a steering is compared with: biases only, and one full linear map."""

from __future__ import annotations

import pytest
import tiny
import torch
from helpers import letters, quick

from steerlib import Site, Steering, SteerlibError, activations, decision_bias, leace, load_steering, steer
from steerlib.baselines.adapted import adapted
from steerlib.baselines.bitfit import bitfit
from steerlib.baselines.reft import reft
from steerlib.models.model import Model
from steerlib.steering.maps import Erase, Linear

BIASED = [
    f"{name} said he {verb}" for name in ("A cook", "The nurse", "No one") for verb in ("ran", "sat", "left", "saw")
]
NEUTRAL = [line.replace(" he ", " they ") + "." for line in BIASED]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_after_erasure_no_direction_tells_the_two_sides_apart(family: str) -> None:
    lm = tiny.model(family)
    site = Site("residual", 1)
    made = leace(lm, BIASED, NEUTRAL, layers=1)
    sides = [activations(lm, side, [site])[site].double() for side in (BIASED, NEUTRAL)]
    erase = made[site].map(lambda v: v.double(), fixed=True)
    after = [erase(side, 1.0).mean(0) for side in sides]
    apart = (sides[0].mean(0) - sides[1].mean(0)).norm()
    assert float((after[0] - after[1]).norm()) < 1e-4 * apart
    twice = erase(erase(sides[0], 1.0), 1.0)
    assert torch.allclose(twice, erase(sides[0], 1.0), atol=1e-5)


def test_no_other_erasure_of_rank_one_changes_the_activations_less() -> None:
    lm, site = tiny.model("llama"), Site("residual", 1)
    made = leace(lm, BIASED, NEUTRAL, layers=1)[site]
    assert isinstance(made, Erase)
    h = torch.cat([activations(lm, side, [site])[site] for side in (BIASED, NEUTRAL)])
    best = float((made(h, 1.0) - h).square().sum())
    for seed in range(20):  # any other reading v with v . u = 1 erases the mean difference as well
        other = made.reading + 0.1 * made.reading.norm() * tiny.vector(seed)
        other = other / (other @ made.direction)
        assert best <= float((Erase(made.direction, other, made.center)(h, 1.0) - h).square().sum())


def test_it_says_what_cannot_be_erased() -> None:
    lm = tiny.model("llama")
    with pytest.raises(SteerlibError, match=r"there are no neutral prompts: give at least one on each side\.$"):
        leace(lm, BIASED, [], layers=1)
    with pytest.raises(SteerlibError, match=r"do not differ at residual\.1: there is nothing to erase\.$"):
        leace(lm, BIASED, BIASED, layers=1)


def fine_tunes(lm: Model):  # type: ignore[no-untyped-def]
    """What each learns, and how it is applied."""
    biases = bitfit(lm, letters(), quick(epochs=8), progress=False)
    full = reft(lm, letters(), quick(epochs=8), where=Site("residual", 1), progress=False)
    return [(biases, lambda: adapted(lm, biases)), (full, lambda: steer(lm, full))]


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_they_lower_the_bias_within_the_with_and_leave_the_model_as_it_was(family: str) -> None:
    lm = tiny.fresh(family)
    weights, plain = tiny.weights(lm.hf), tiny.logits(lm)
    before = decision_bias(lm, letters(), resamples=10).per_occupation_bias.value
    for made, applied in fine_tunes(lm):
        assert tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
        with applied():
            assert decision_bias(lm, letters(), resamples=10).per_occupation_bias.value < 0.7 * before
        assert tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
        assert made.provenance["history"]["bias"][0] == pytest.approx(before, abs=0.2)


def test_biases_are_one_per_output_of_every_linear_map_of_the_blocks() -> None:
    lm = tiny.model("llava")
    made = bitfit(lm, letters(), quick(), progress=False)
    names = {name.rpartition(".")[2] for name in made.weights}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(bias.dim() == 1 and bias.abs().sum() > 0 for bias in made.weights.values())
    with pytest.raises(SteerlibError, match="was made for another network"), adapted(tiny.model("gpt2"), made):
        pass


def test_matrices_are_kept_in_files_and_held_to_their_shape(tmp_path) -> None:  # type: ignore[no-untyped-def]
    lm = tiny.model("llama")
    matrix = torch.randn(tiny.WIDTH, tiny.WIDTH, generator=torch.Generator().manual_seed(0))
    steering = Steering(
        {"residual.1": Linear(matrix, tiny.vector(1)), "residual.0": Erase(*map(tiny.vector, range(3)))}
    )
    steering.save(tmp_path / "maps.safetensors")
    again = load_steering(tmp_path / "maps.safetensors")
    with steer(lm, steering):
        one = tiny.logits(lm)
    with steer(lm, again):
        assert torch.equal(tiny.logits(lm), one)
    with pytest.raises(
        SteerlibError, match=r"matrix of residual\.1 must be one square matrix of finite numbers: it has shape"
    ):
        Steering({"residual.1": Linear(matrix[:3], tiny.vector(1))})
    with (
        pytest.raises(SteerlibError, match="has shape"),
        steer(lm, Steering({"residual.1": Linear(matrix[:3, :3], tiny.vector(1, 3))})),
    ):
        pass
