"""Steerings as vectors: scaled, added, mapped, looked up; operations of one's own; files and provenance that can be kept."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import PROMPTS
from torch import Tensor

from steerlib import Ablate, Add, Affine, Site, Steering, SteerlibError, controls, load_steering, steer
from steerlib.models.model import Model
from steerlib.steering.operations import Operation, provenance

OPTIONS = [" he", " she"]
WIDTH = tiny.WIDTH


def noise(seed: int) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def add(seed: int = 0) -> Steering:
    return Steering({"residual.0": Add(noise(seed)), "residual.1": Add(noise(seed + 1))}, {"strengths": [0, 1]})


def ablate() -> Steering:
    return Steering({"residual.1": Ablate(noise(5), noise(6))})


def affine(seed: int = 0) -> Steering:
    return Steering({"residual.1": Affine(0.2 * noise(seed), noise(seed + 1))})


ALL = {"add": add(), "ablate": ablate(), "affine": affine()}


def answers(lm: Model, *steerings: tuple[Steering, float]) -> Tensor:
    """(prompts, options) inside nested steerings."""
    if not steerings:
        return lm.choose(PROMPTS, OPTIONS)
    (first, strength), *others = steerings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with steer(lm, first, strength):
            return answers(lm, *others)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
def test_a_multiple_does_at_one_what_the_steering_does_at_the_factor(kind: str, factor: float) -> None:
    lm, s = tiny.model("llama"), ALL[kind]
    expected = answers(lm, (s, factor))
    for multiple in (s * factor, factor * s, s.scaled(factor)):
        assert torch.allclose(answers(lm, (multiple, 1.0)), expected, atol=1e-5)
    assert not torch.allclose(answers(lm).log(), expected.log(), atol=0.1)
    twice = (s * factor) * factor
    assert torch.allclose(answers(lm, (twice, 1.0)), answers(lm, (s, factor**2)), atol=1e-5)


@pytest.mark.parametrize(("one", "other"), [("add", "add"), ("affine", "add"), ("add", "affine"), ("affine", "affine")])
def test_a_sum_does_at_every_site_what_both_do_to_its_activation(one: str, other: str) -> None:
    s, t = ALL[one], {"add": add(7), "affine": affine(7)}[other]
    both = s + t
    h = torch.randn(3, WIDTH)
    for site in {*s.operations, *t.operations}:
        parts = [x[site](h, 0.7) - h for x in (s, t) if site in x.operations]
        assert torch.allclose(both[site](h, 0.7) - h, torch.stack(parts).sum(0), atol=1e-5)
    assert set(both.operations) == {*s.operations, *t.operations}


def test_what_no_single_operation_does_is_refused_and_nesting_is_offered() -> None:
    with pytest.raises(SteerlibError, match=r"residual\.1 no single operation .* two nested"):
        ablate() + add()
    apart = Steering({"residual.0": Ablate(noise(1))}) + Steering({"residual.1": Add(noise(2))})
    assert len(apart.operations) == 2


def test_a_range_of_strengths_moves_with_the_factor() -> None:
    assert (add() * 0.5).provenance["strengths"] == [0, 2]
    assert (-add()).provenance["strengths"] == [-1, 0]
    for factor in (0, float("nan"), float("inf"), "2", None):
        with pytest.raises(SteerlibError, match="multiplied by a finite number"):
            add().scaled(factor)  # type: ignore[arg-type]


def test_a_site_is_looked_up_by_itself_or_by_its_name() -> None:
    s = add()
    assert s["residual.1"] is s[Site("residual", 1)] is s.operations[Site("residual", 1)]
    with pytest.raises(SteerlibError, match=r"nothing at residual\.2: it has residual\.0, residual\.1"):
        s["residual.2"]


def test_map_changes_every_vector_but_the_centre_of_an_ablation() -> None:
    for s in ALL.values():
        turned = s.map(lambda v: v.flip(0))
        for site, operation in s.operations.items():
            for name, vector in operation.vectors().items():
                same = name in operation.fixed
                assert torch.equal(turned[site].vectors()[name], vector if same else vector.flip(0))


@pytest.mark.parametrize("kind", ALL)
def test_multiples_survive_a_file(kind: str, tmp_path: Path) -> None:
    s = ALL[kind] * 0.25
    s.save(tmp_path / "s.safetensors")
    loaded = load_steering(tmp_path / "s.safetensors")
    h = torch.randn(2, WIDTH)
    for site in s.operations:
        assert torch.equal(loaded[site](h, 1.0), s[site](h, 1.0))


@dataclass(frozen=True)
class Rescale(Operation):
    """An operation of one's own: multiply the activation by 1 + s g."""

    gain: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h * (1 + strength * self.gain)


def test_an_operation_of_ones_own_steers_is_saved_scaled_and_controlled(tmp_path: Path) -> None:
    lm, s = tiny.model("llama"), Steering({"residual.1": Rescale(noise(3))})
    same = Steering({"residual.1": Affine(noise(3), torch.zeros(WIDTH))})
    assert torch.allclose(answers(lm, (s, 0.5)), answers(lm, (same, 0.5)), atol=1e-5)
    s.save(tmp_path / "own.safetensors")
    assert torch.equal(load_steering(tmp_path / "own.safetensors")["residual.1"].vectors()["gain"], noise(3))
    random = controls.random_like(s)["residual.1"].vectors()["gain"]
    assert torch.allclose(random.norm(), noise(3).norm()) and not torch.allclose(random, noise(3))
    assert torch.equal(controls.flipped(s)["residual.1"].vectors()["gain"], -noise(3))


def test_a_steering_for_other_weights_warns_once_or_is_refused() -> None:
    made_for, other = tiny.fresh("llama", seed=0), tiny.fresh("llama", seed=5)
    s = Steering({"residual.1": Add(noise(0))}, provenance(made_for, "by hand"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with steer(made_for, s, strict=True):
            pass
    with pytest.warns(UserWarning, match="other weights"), steer(other, s):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with steer(other, s, 0.5):  # said once
            pass
    with pytest.raises(SteerlibError, match="other weights"), steer(other, s, strict=True):
        pass


def test_facts_that_numpy_and_torch_hold_are_kept_as_numbers_and_others_are_refused_at_once(tmp_path: Path) -> None:
    facts = {
        "score": np.float32(0.5),
        "layers": range(3),
        "path": tmp_path,
        "n": np.int64(3),
        "all": [np.arange(2)],
        "t": torch.ones(2),
    }
    s = Steering(add().operations, facts)
    s.save(tmp_path / "s.safetensors")
    kept = load_steering(tmp_path / "s.safetensors").provenance
    assert json.loads(json.dumps(dict(kept))) == dict(s.provenance)
    assert kept["score"] == 0.5 and kept["layers"] == [0, 1, 2] and kept["all"] == [[0, 1]]
    with pytest.raises(SteerlibError, match="provenance 'what.inside' is a set"):
        Steering(add().operations, {"what": {"inside": {1}}})
    for wrong in ([0, 0.5, 1], [1, 0], "all", [0, "x"]):
        with pytest.raises(SteerlibError, match="strengths"):
            Steering(add().operations, {"strengths": wrong})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Steering({3: Add(torch.ones(4))}), "not 3"),
        (lambda: Steering([]), "at least one site"),
        (lambda: Steering({"residual.1": torch.ones(4)}), "holds a Tensor"),
        (lambda: add().save("no-such-folder/s.safetensors"), "folder that exists"),
        (lambda: load_steering("~/no-such-file.safetensors"), "there is no steering file"),
    ],
)
def test_wrong_steerings_are_refused_in_one_sentence(make: Any, said: str) -> None:
    with pytest.raises(SteerlibError, match=said):
        make()


def test_vectors_from_numpy_are_taken() -> None:
    s = Steering({"residual.1": Add(np.ones(WIDTH))})  # type: ignore[arg-type]
    assert torch.equal(s["residual.1"].vectors()["vector"], torch.ones(WIDTH))
