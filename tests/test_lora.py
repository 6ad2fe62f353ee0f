"""A low-rank fine-tune at the same reward: it learns, and the model comes back as it was."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import families
import pytest
import tiny
import torch
from helpers import fire, letters, quick

from steerlib import SteerlibError, decision_bias, fluency, perplexity, perplexity_ratio
from steerlib.baselines.adapted import adapted
from steerlib.baselines.adapter import Adapter
from steerlib.baselines.lora import lora
from steerlib.methods.dso import dso
from steerlib.models.model import Model
from steerlib.models.sites import blocks

pytest.importorskip("peft")


def modules(lm: Model) -> dict[str, tuple[int, frozenset[str]]]:
    """Every module by its name: which object, and what hangs on it."""
    return {name: (id(module), frozenset(vars(module))) for name, module in lm.hf.named_modules()}


def same(a: Adapter, b: Adapter) -> bool:
    return a.weights.keys() == b.weights.keys() and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)


def test_it_lowers_the_bias_within_the_with_and_leaves_the_model_as_it_was() -> None:
    lm = tiny.fresh("qwen2")
    weights, plain, parts = tiny.weights(lm.hf), tiny.logits(lm), modules(lm)
    before = decision_bias(lm, letters(), resamples=10).per_occupation_bias.value
    made = lora(lm, letters(), quick(epochs=8), rank=2, progress=False)
    assert modules(lm) == parts and tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
    with adapted(lm, made):
        assert decision_bias(lm, letters(), resamples=10).per_occupation_bias.value < 0.5 * before
        assert not any(parameter.requires_grad for parameter in lm.hf.parameters())
        with pytest.raises(
            SteerlibError, match="fluency needs the model as it was loaded, and an adapter changes it now"
        ):
            fluency(lm, ["Once there"], [" was a judge"])
        inside = perplexity(lm, ["He was late."]).value
    plain_too = perplexity(lm, ["He was late."]).value
    assert perplexity_ratio(lm, adapted(lm, made), texts=["He was late."]).value == pytest.approx(inside / plain_too)
    assert modules(lm) == parts and tiny.same_weights(lm.hf, weights) and torch.equal(tiny.logits(lm), plain)
    assert not any(parameter.requires_grad for parameter in lm.hf.parameters())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_the_model_comes_back_however_it_ends(error: BaseException) -> None:
    lm = tiny.fresh("llama")
    made = lora(lm, letters(), quick(), rank=2, progress=False)
    weights, plain, parts = tiny.weights(lm.hf), tiny.logits(lm), modules(lm)
    with pytest.raises(type(error)), adapted(lm, made):
        raise error
    assert modules(lm) == parts
    handle = fire(lm, 14, error)
    with pytest.raises(type(error)):
        lora(lm, letters(), quick(), rank=2, progress=False)
    handle.remove()
    assert modules(lm) == parts and tiny.same_weights(lm.hf, weights)
    assert torch.equal(tiny.logits(lm), plain)


def test_it_takes_the_steps_of_dso_on_the_same_prompts() -> None:
    lm = tiny.model("llama")
    tuned, steered = lora(lm, letters(), quick(), rank=2, progress=False), dso(lm, letters(), quick(), progress=False)
    one, other = tuned.provenance["history"], steered.provenance["history"]
    assert len(one["bias"]) == len(other["bias"])
    assert one["bias"][0] == pytest.approx(other["bias"][0], abs=1e-5)  # both start as the plain model
    assert tuned.provenance["method"] == "lora" and tuned.provenance["rank"] == 2


def test_shapes_are_of_the_rank_and_only_blocks_are_touched() -> None:
    made = lora(tiny.model("llava"), letters(), quick(), rank=3, progress=False)
    assert len(made.weights) == 2 * 7 * tiny.LAYERS
    for name, value in made.weights.items():
        assert 3 in value.shape and value.isfinite().all(), name


def test_size_costs_nothing_unless_a_price_is_set() -> None:
    lm = tiny.model("llama")
    default, free, priced = (lora(lm, letters(), quick(l1=l1), rank=2, progress=False) for l1 in (None, 0.0, 0.1))
    assert same(default, free) and not same(default, priced) and default.provenance["l1"] == 0
    sizes = [sum(float(value.abs().sum()) for value in made.weights.values()) for made in (free, priced)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("name", ["gemma2", "gptj", "gpt2"])
def test_other_families_and_the_same_seed_give_the_same_bits(name: str) -> None:
    lm = tiny.model(name)
    one, again = (lora(lm, letters(), quick(estimator="reinforce"), rank=2, progress=False) for _ in range(2))
    assert same(one, again)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    lm, file = tiny.fresh("llama"), tmp_path / "run.safetensors"
    whole = lora(lm, letters(), quick(), rank=2, progress=False)
    handle = fire(lm, 15, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        lora(lm, letters(), quick(), rank=2, checkpoint=file, progress=False)
    handle.remove()
    assert file.is_file() and same(whole, lora(lm, letters(), quick(), rank=2, checkpoint=file, progress=False))
    with pytest.raises(SteerlibError, match="another method, places:"):
        lora(lm, letters(), quick(), rank=3, checkpoint=file, progress=False)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.model("llama")
    made = lora(lm, letters(), quick(), rank=2, progress=False)
    parts = modules(tiny.model("gptj"))
    with (
        pytest.raises(SteerlibError, match="made for another network than 'tiny-gptj'"),
        adapted(tiny.model("gptj"), made),
    ):
        pass
    assert modules(tiny.model("gptj")) == parts
    with pytest.raises(SteerlibError, match="rank of an update must be at least 1"):
        lora(lm, letters(), quick(), rank=0, progress=False)
    bare = tiny.fresh("gpt2")
    for block in blocks(bare.hf):
        for part in (block.attn, block.mlp):
            for name in [name for name, child in part.named_children() if name.startswith("c_")]:
                setattr(part, name, torch.nn.Identity())
    with pytest.raises(SteerlibError, match="no linear maps"), adapted(bare, made):
        pass
    missing: dict[str, Any] = {"peft": None}
    for name, value in missing.items():
        monkeypatch.setitem(sys.modules, name, value)
    with pytest.raises(SteerlibError, match="needs the package peft"):
        lora(lm, letters(), quick(), progress=False)


def test_the_transposed_maps_of_gpt_2_are_updated_too() -> None:
    lm = tiny.fresh("gpt2")
    parts, plain = modules(lm), tiny.logits(lm)
    made = lora(lm, letters(), quick(), rank=2, progress=False)
    assert len(made.weights) == 2 * 4 * tiny.LAYERS
    with adapted(lm, made):
        assert not torch.equal(tiny.logits(lm), plain)
    assert modules(lm) == parts and torch.equal(tiny.logits(lm), plain)


@pytest.mark.parametrize("family", ["qwen3-moe", "llama4"])
def test_weights_that_an_adapter_does_not_reach_are_said(family: str) -> None:
    lm = families.fresh(family)
    reached = sum(m.weight.numel() for m in blocks(lm.hf).modules() if type(m) is torch.nn.Linear)
    every = sum(w.numel() for w in blocks(lm.hf).parameters() if w.dim() > 1)
    with pytest.warns(UserWarning, match=f"the adapter reaches {reached / every:.0%} of the weights") as told:
        made = lora(lm, letters(), quick(epochs=1), rank=2, progress=False)
    assert len([w for w in told if "reaches" in str(w.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with adapted(lm, made):
            pass
        lora(tiny.model("llama"), letters(), quick(epochs=1), rank=2, progress=False)
