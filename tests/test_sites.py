"""Sites are found by structure, in the text decoder only, and every way to miss one is a sentence."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as tf
from tiny import FAMILIES, HEADS, LAYERS, WIDTH
from torch import nn

from steerlib.errors import SteerlibError
from steerlib.models.sites import Site, blocks, decoder, find, layers, parse, sites, width

ALL = [*FAMILIES, "llava"]
NORMS = {"llama": 2, "qwen2": 2, "gemma2": 4, "gemma3": 4, "gpt2": 2, "gptj": 1, "llava": 2}


def sentence(error: pytest.ExceptionInfo[SteerlibError]) -> str:
    """The message, which is one line that ends like a sentence."""
    text = str(error.value)
    assert "\n" not in text and text.rstrip().endswith("."), text
    return text


@pytest.mark.parametrize("family", ALL)
def test_every_site_of_a_family_is_found_inside_its_text_decoder(family: str) -> None:
    hf = tiny.model(family).hf
    inside = {id(module) for module in decoder(hf).modules()}
    assert len(blocks(hf)) == LAYERS and width(hf) == WIDTH
    expected = {"residual": LAYERS, "norm": NORMS[family] * LAYERS + 1, "head": HEADS * LAYERS}
    for kind, number in expected.items():
        found = sites(hf, kind)
        assert len(found) == len(set(found)) == number
        for site in found:
            place = find(hf, site)
            assert id(place.module) in inside, site
            assert parse(str(site)) == site
            assert place.width == (WIDTH if kind != "head" else {"gemma2": 16, "gemma3": 16}.get(family, 8))


def test_a_vision_tower_deeper_than_the_text_decoder_is_never_touched() -> None:
    hf = tiny.model("llava").hf
    tower = {id(module) for module in hf.model.vision_tower.modules()}
    assert len(hf.config.vision_config.to_dict()) and hf.config.vision_config.num_hidden_layers > LAYERS
    assert decoder(hf) is hf.model.language_model
    for kind in ("residual", "norm", "head"):
        assert not tower & {id(find(hf, site).module) for site in sites(hf, kind)}
    with pytest.raises(SteerlibError):
        find(hf, Site("residual", LAYERS))  # the tower has such a block


@pytest.mark.parametrize("family", ALL)
def test_heads_tile_the_input_of_the_output_projection(family: str) -> None:
    hf = tiny.model(family).hf
    for layer in range(LAYERS):
        places = [find(hf, site) for site in sites(hf, "head", layer)]
        assert len({id(place.module) for place in places}) == 1
        ends = [(place.start, (place.start or 0) + place.width) for place in places]
        assert ends[0][0] == 0 and all(a[1] == b[0] for a, b in itertools.pairwise(ends))
        weight = places[0].module.weight
        assert ends[-1][1] == (weight.shape[0] if family == "gpt2" else weight.shape[1])
        assert weight.numel() == ends[-1][1] * WIDTH


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_norms_of_a_block_are_those_of_the_hidden_width_and_come_in_order(family: str) -> None:
    found = [str(site) for site in sites(tiny.model(family).hf, "norm", 1)]
    names = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    assert found == [f"norm.1.{name}_layernorm" for name in names]


def test_the_final_norm_belongs_to_all_layers_only() -> None:
    hf = tiny.model("llama").hf
    assert sites(hf, "norm")[-1] == Site("norm", -1) == parse("norm.final")
    assert Site("norm", -1) not in sites(hf, "norm", range(LAYERS))
    assert find(hf, Site("norm", -1)).module is hf.model.norm
    assert find(tiny.model("gpt2").hf, Site("norm", -1)).module is tiny.model("gpt2").hf.transformer.ln_f


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ("all", [0, 1, 2]),
        ("early", [0]),
        ("middle", [1]),
        ("late", [2]),
        ("last", [2]),
        (1, [1]),
        (-1, [2]),
        ([2, 0, -1, 0], [0, 2]),
        (range(1, 3), [1, 2]),
    ],
)
def test_layers_by_number_range_or_name(which: object, numbers: list[int]) -> None:
    assert layers(tiny.model("llama").hf, which) == numbers


@pytest.mark.parametrize("number", [np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), np.argmax([0.1, 0.9])])
def test_layer_numbers_may_come_from_an_argmax(number: Any) -> None:
    hf = tiny.model("llama").hf
    assert layers(hf, number) == layers(hf, [number]) == layers(hf, (number, 1)) == [1]
    assert layers(hf, np.array([2, 0])) == layers(hf, torch.tensor([0, 2])) == [0, 2]  # type: ignore[arg-type]
    assert all(type(n) is int for n in layers(hf, np.array([2, 0])))  # type: ignore[arg-type]
    for wrong in (np.int64(9), [1.0], 1.0, None, [True], ["1"], torch.tensor([0.5])):
        with pytest.raises(SteerlibError) as error:
            layers(hf, wrong)  # type: ignore[arg-type]
        sentence(error)


@pytest.mark.parametrize("which", [3, -4, [], [0, 3], range(2, 5), range(0), "centre", ""])
def test_layers_outside_the_network_or_without_a_meaning_are_refused(which: object) -> None:
    with pytest.raises(SteerlibError) as error:
        layers(tiny.model("llama").hf, which)
    assert "3" in sentence(error) or "early" in sentence(error)


@pytest.mark.parametrize("depth", [3, 4, 5, 12, 29, 30, 32])
def test_early_middle_and_late_split_a_network_of_any_depth(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = tiny.model("llama").hf
    monkeypatch.setattr(sys.modules["steerlib.models.sites"], "blocks", lambda _: range(depth))
    parts = [layers(hf, name) for name in ("early", "middle", "late")]
    assert [n for part in parts for n in part] == list(range(depth))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "text",
    ["residual", "residual.", "residual.x", "residual.-1", "residual.1.2", "residual.1.5", "norm", "norm.1"]
    + [
        "norm.last",
        "head.1",
        "head",
        "mlp.1",
        "",
        ".",
        "final",
        "residual 1",
        "Residual.1",
        "residual.²",
        "norm.final.x",
    ],
)
def test_texts_that_name_no_site_are_refused(text: str) -> None:
    with pytest.raises(SteerlibError) as error:
        parse(text)
    assert repr(text) in sentence(error) and "residual.12" in str(error.value)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        (Site("residual", LAYERS), "0 to 2"),
        (Site("residual", -1), "0 to 2"),
        (Site("norm", 1, "q_norm"), "input_layernorm"),
        (Site("norm", 7, "input_layernorm"), "0 to 2"),
        (Site("head", 1, "4"), "0 to 3"),
        (Site("head", 1, "-1"), "0 to 3"),
        (Site("head", 1, "²"), "0 to 3"),
        (Site("head", 1, ""), "0 to 3"),
        (Site("neuron", 1, "0"), "residual"),  # type: ignore[arg-type]
    ],
)
def test_sites_that_a_model_lacks_are_refused_with_what_it_has(site: Site, says: str) -> None:
    with pytest.raises(SteerlibError) as error:
        find(tiny.model("llama").hf, site)
    assert str(site) in sentence(error) and says in str(error.value)


def test_an_unknown_kind_of_site_is_refused() -> None:
    with pytest.raises(SteerlibError, match="'neuron' is not a kind of site"):
        sites(tiny.model("llama").hf, "neuron")  # type: ignore[arg-type]


def test_models_that_have_no_text_decoder_are_refused_in_a_sentence() -> None:
    with pytest.raises(SteerlibError) as error:
        decoder(nn.Linear(2, 2))
    assert "Linear" in sentence(error)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
    }
    for odd in (tf.BertForMaskedLM(tf.BertConfig(**small)), tf.MambaForCausalLM(tf.MambaConfig(**small))):
        with pytest.raises(SteerlibError) as error:
            find(odd, Site("head", 1, "0"))
        assert "block" in sentence(error)


def test_blocks_that_hold_two_attentions_and_lists_of_norms_are_found() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4}
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    experts = {"ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "n_routed_experts": 4, "moe_topk": 2}
    config: Any = tf.LongcatFlashConfig(**sizes, **ranks, **experts, num_layers=3, head_dim=8, zero_expert_num=1)
    assert config.num_hidden_layers == 6, "attentions are counted, not blocks"
    hf = tf.LongcatFlashForCausalLM(config)
    assert blocks(hf) is hf.model.layers and layers(hf, "all") == [0, 1, 2]
    names = [f"{name}.{number}" for name in ("input_layernorm", "post_attention_layernorm") for number in (0, 1)]
    found = sites(hf, "norm")
    assert [site.part for site in found if site.layer == 1] == names and found[-1] == Site("norm", -1)
    for site in found:
        assert parse(str(site)) == site
    assert find(hf, parse("norm.1.input_layernorm.1")).module is hf.model.layers[1].input_layernorm[1]
    assert find(hf, Site("norm", -1)).module is hf.model.norm


def test_a_site_is_a_value() -> None:
    a, b = Site("residual", 2), parse("residual.2")
    assert a == b and hash(a) == hash(b) and min([Site("residual", 10), b]) == b
    with pytest.raises(AttributeError):
        a.layer = 3  # type: ignore[misc]


@pytest.mark.parametrize("family", ALL)
def test_finding_sites_leaves_nothing_behind(family: str) -> None:
    hf = tiny.model(family).hf
    before = tiny.weights(hf)
    for kind in ("residual", "norm", "head"):
        for site in sites(hf, kind):
            find(hf, site)
    assert tiny.hooks(hf) == [] and tiny.same_weights(hf, before)
    assert not torch.is_grad_enabled() or all(not p.requires_grad for p in hf.parameters())
