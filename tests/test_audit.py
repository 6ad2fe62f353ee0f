"""An audit finds the steering that was merged, says when there is none, and does not take other changes for one."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from test_merge import HELD, NAMES, affine, make, model, norms, steered

import steerlib as sl
from steerlib.models.holds import difference, matrix
from steerlib.models.model import Model
from steerlib.models.sites import find, sites

WIDE_HEADS = ("gemma", "gemma3_text", "qwen3")
EXACT = [
    (family, kind)
    for family in HELD
    for kind in ("scale", "attention", "mlp", "final", "add", "heads", "no map reads")
    if NAMES.get(kind, kind) in HELD[family].split() and (family, kind) != ("qwen3_moe", "heads")
]


@pytest.mark.parametrize(("family", "kind"), EXACT)
def test_what_was_merged_is_what_is_found(family: str, kind: str) -> None:
    lm = model(family)
    steering = make(lm, kind)
    strength = 1.0 if kind == "no map reads" else 0.5
    found = sl.audit(sl.merge(lm, steering, strength), lm)
    assert found.verdict == "a steering and nothing else", (found.verdict, dict(found.others))
    assert found.steering is not None
    assert difference(steered(lm, found.steering, 1.0), steered(lm, steering, strength)) < 1e-4
    if kind == "heads" and family in WIDE_HEADS:  # other vectors do the same
        return
    assert set(found.steering.operations) == set(steering.operations)
    x = torch.randn(4, 32)
    for site, operation in steering.operations.items():
        h = x[:, : len(next(iter(operation.vectors().values())))]
        off = 2e-4
        if kind == "heads":  # solved from a bias in float32: its rounding grows by the condition of the map
            condition = float(torch.linalg.cond(matrix(find(lm.hf, site).module)))
            off = max(off, torch.finfo(torch.float32).eps * condition)
        torch.testing.assert_close(found.steering[site](h, 1.0), operation(h, strength), atol=off, rtol=1e-3)
    assert set(found.table()["where"]) == {str(site) for site in steering.operations}


@pytest.mark.parametrize("family", sorted(HELD))
def test_a_plain_copy_carries_nothing(family: str) -> None:
    lm = model(family)
    found = sl.audit(replace(lm, hf=copy.deepcopy(lm.hf)), lm)
    assert found.verdict == "none" and found.steering is None and found.table().empty


def test_a_plain_model_with_biases_of_zero_carries_nothing() -> None:
    lm = model("llama")
    other = sl.merge(lm, make(lm, "add") * 1e-12)
    assert other.hf.config.mlp_bias and sl.audit(other, lm).verdict == "none"


def damaged(lm: Model, name: str) -> Model:
    hf = copy.deepcopy(lm.hf)
    with torch.no_grad():
        hf.state_dict()[name].add_(0.1 * torch.randn_like(hf.state_dict()[name]))
    return replace(lm, hf=hf)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ],
)
def test_another_change_is_no_steering(name: str) -> None:
    lm = model("llama")
    found = sl.audit(damaged(lm, name), lm)
    assert found.verdict == "other changes" and found.steering is None and list(found.others) == [name]
    both = sl.audit(damaged(sl.merge(lm, affine(norms(lm, "mlp"))), name), lm)
    assert both.verdict == "a steering and other changes" and name in both.others
    assert both.steering is not None and len(both.steering.operations) == 3
    assert list(both.table()["what"]).count("other") == 1


def test_a_fine_tune_of_everything_is_no_steering() -> None:
    lm = model("llama")
    hf = copy.deepcopy(lm.hf)
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.dim() > 1:
                weight.add_(0.01 * torch.randn_like(weight))
    found = sl.audit(replace(lm, hf=hf), lm)
    assert found.verdict == "other changes" and found.steering is None


def test_biases_that_no_shift_gives_are_other_changes() -> None:
    lm = model("llama")
    merged = sl.merge(lm, affine(norms(lm, "mlp"), scale=False))
    moved = damaged(merged, "model.layers.0.mlp.gate_proj.bias")
    found = sl.audit(moved, lm)
    assert found.verdict == "a steering and other changes"
    assert max(found.unexplained.values()) > 0.01


def test_rounding_to_bfloat16_is_not_a_change() -> None:
    lm = tiny.fresh("llama", dtype=torch.bfloat16)
    steering = affine(norms(lm, "mlp"))
    found = sl.audit(sl.merge(lm, steering), lm)
    assert found.verdict == "a steering and nothing else" and found.steering is not None
    for site, operation in steering.operations.items():
        ours, theirs = operation.vectors(), found.steering[site].vectors()
        assert float((ours["scale"] - theirs["scale"]).norm() / ours["scale"].norm()) < 0.05
    wide = Model(lm.name, copy.deepcopy(lm.hf).float(), lm.tokenizer)
    assert sl.audit(lm, wide).verdict == "none"


def test_models_of_other_shapes_or_steered_now_are_refused() -> None:
    lm = model("llama")
    with pytest.raises(sl.SteerlibError, match="are not of one shape"):
        sl.audit(model("gpt2"), lm)
    with pytest.raises(sl.SteerlibError, match="a steering changes"), sl.steer(lm, make(lm, "add")):
        sl.audit(model("llama"), lm)
    assert sites(lm.hf, "norm")
