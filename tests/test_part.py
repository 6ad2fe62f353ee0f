"""A step that is taken in portions is the step that would have been taken at once, and keeps fewer activations."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from helpers import letters, quick, vectors

from steerlib import Site, SteerlibError, Training, lora
from steerlib.methods.dso import dso
from steerlib.training.part import portions

EVERYTHING = 1000


@pytest.mark.parametrize("estimator", ["exact", "reinforce", "ppo"])
@pytest.mark.parametrize("anchors", [None, (), ["The rain began", "A"]])
def test_portions_of_any_size_learn_what_a_whole_step_learns(estimator: Any, anchors: Any) -> None:
    lm = tiny.model("llama")
    about: dict[str, Any] = {"estimator": estimator, "l1": 1e-4, "kl_target": 0.05}

    def learn(size: int | None) -> Any:
        how = quick(**about, micro_batch_size=size)
        return dso(lm, letters(), how, anchors=anchors, where=[Site("norm", -1)], progress=False)

    whole = learn(None)
    moved = max(float(v.abs().max()) for v in vectors(whole).values())
    assert moved > 0.01
    for size in (1, 3, 8, EVERYTHING):
        made = learn(size)
        for name, value in vectors(made).items():
            torch.testing.assert_close(value, vectors(whole)[name], atol=2e-4 * moved, rtol=1e-3)
        for key, numbers in whole.provenance["history"].items():
            assert made.provenance["history"][key] == pytest.approx(numbers, abs=1e-4)
    assert all(torch.equal(value, vectors(whole)[name]) for name, value in vectors(learn(EVERYTHING)).items())


def test_every_norm_gets_its_gradient_and_a_fine_tune_too() -> None:
    lm = tiny.model("qwen2")
    one, other = (dso(lm, letters(), quick(micro_batch_size=size), progress=False) for size in (None, 3))
    for name, value in vectors(one).items():
        torch.testing.assert_close(vectors(other)[name], value, atol=1e-4, rtol=1e-2)
    pytest.importorskip("peft")
    whole, parts = (lora(lm, letters(), quick(micro_batch_size=size), rank=2, progress=False) for size in (None, 3))
    assert whole.provenance["history"]["bias"] == pytest.approx(parts.provenance["history"]["bias"], abs=1e-3)


def test_fewer_activations_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd saves at a time, in bytes, with portions of two rows and without portions."""
    lm, most = tiny.model("llama"), {}
    for size in (None, 2):
        kept, largest = 0, 0

        class Saved:
            def __init__(self, tensor: Any) -> None:
                nonlocal kept, largest
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                kept += self.size
                largest = max(largest, kept)

            def __del__(self) -> None:
                nonlocal kept
                kept -= self.size

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            dso(lm, letters(), quick(batch_size=16, epochs=1, micro_batch_size=size), progress=False)
        most[size] = largest
    assert most[2] < most[None] / 4


def test_a_size_must_be_a_whole_number_of_one_or_more() -> None:
    for size in (0, -1, 1.5):
        with pytest.raises(SteerlibError, match="micro_batch_size must be a whole number of at least 1"):
            Training(micro_batch_size=size)  # type: ignore[arg-type]
    assert [portions(rows, 8) for rows in (0, 1, 8, 9, 16, 17)] == [1, 1, 1, 2, 2, 3]
