"""A merged model does by its weights what hooks did, in a class of transformers, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families
import pytest
import tiny
import torch
import transformers as tf
from helpers import letters, quick
from torch import Tensor

import steerlib as sl
from steerlib.deploy.fold import fold
from steerlib.methods.dso import dso
from steerlib.models.holds import difference, logits, matrix, offset, probes, writer
from steerlib.models.mergeable import mergeable_sites
from steerlib.models.model import Model
from steerlib.models.retype import as_llama
from steerlib.models.sites import Site, find, sites

W = tiny.WIDTH
COMMON: dict[str, Any] = {
    **tiny.SIZES,
    "initializer_range": 0.25,
    "tie_word_embeddings": False,
}
PLAIN = {key: value for key, value in COMMON.items() if key != "num_key_value_heads"}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": tiny.WINDOW, "layer_types": WINDOWS}
CONFIGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llama": lambda ids: tf.LlamaConfig(**COMMON, **ids),
    "llama-tied": lambda ids: tf.LlamaConfig(**{**COMMON, "tie_word_embeddings": True}, **ids),
    "qwen2": lambda ids: tf.Qwen2Config(**COMMON, **ids),
    "mistral": lambda ids: tf.MistralConfig(**COMMON, sliding_window=None, **ids),
    "mistral-window": lambda ids: tf.MistralConfig(**COMMON, sliding_window=6, **ids),
    "phi3": lambda ids: tf.Phi3Config(**COMMON, **ids),
    "granite": lambda ids: tf.GraniteConfig(**COMMON, residual_multiplier=0.3, **ids),
    "gemma": lambda ids: tf.GemmaConfig(**COMMON, head_dim=16, **ids),
    "gemma3_text": lambda ids: tf.Gemma3TextConfig(**COMMON, **GEMMA, **ids),
    "olmo2": lambda ids: tf.Olmo2Config(**COMMON, **ids),
    "qwen3": lambda ids: tf.Qwen3Config(**COMMON, head_dim=16, **ids),
    "qwen3_moe": lambda ids: tf.Qwen3MoeConfig(
        **COMMON, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **ids
    ),
    "gpt2": lambda ids: tf.GPT2Config(n_embd=W, n_layer=3, n_head=4, n_positions=256, **ids),
    "gpt_neox": lambda ids: tf.GPTNeoXConfig(**PLAIN, **ids),
    "opt": lambda ids: tf.OPTConfig(
        hidden_size=W, word_embed_proj_dim=W, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, **ids
    ),
    "phi": lambda ids: tf.PhiConfig(**COMMON, **ids),
}
TO_LLAMA = ("qwen2", "mistral", "phi3")


def model(family: str) -> Model:
    """A tiny model of a family, with norms, biases and weights that all differ."""
    tokens = tiny.tokenizer()
    ids = {"vocab_size": len(tokens), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    hf = tf.AutoModelForCausalLM.from_config(CONFIGS[family](ids))
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return Model(f"tiny-{family}", hf.eval().requires_grad_(False), tokens)


def affine(where: list[Site], *, scale: bool = True, shift: bool = True) -> sl.Steering:
    zero = torch.zeros(W)
    pairs = enumerate(where)
    return sl.Steering(
        {
            s: sl.Affine(tiny.vector(i, size=0.3 * scale), tiny.vector(99 + i, size=0.3) if shift else zero)
            for i, s in pairs
        }
    )


def norms(lm: Model, which: str) -> list[Site]:
    """The first norm of every block, the others, or the final one."""
    every = sites(lm.hf, "norm")
    first = {site.layer: site for site in reversed(every) if site.layer >= 0}
    if which == "final":
        return [site for site in every if site.layer < 0]
    return (
        sorted(first.values())
        if which == "attention"
        else [s for s in every if s.layer >= 0 and s not in first.values()]
    )


def steered(lm: Model, steering: sl.Steering, strength: float) -> Tensor:
    with sl.steer(lm, steering, strength):
        return logits(lm.hf)


def make(lm: Model, what: str) -> sl.Steering:
    heads = sites(lm.hf, "head")[:6]
    size = find(lm.hf, heads[0]).width
    residual, every = sites(lm.hf, "residual"), sites(lm.hf, "norm")
    return {
        "scale": lambda: affine(every, shift=False),
        "attention": lambda: affine(norms(lm, "attention")),
        "mlp": lambda: affine(norms(lm, "mlp")),
        "final": lambda: affine(norms(lm, "final")),
        "add": lambda: sl.Steering({s: sl.Add(tiny.vector(i)) for i, s in enumerate(residual)}),
        "heads": lambda: sl.Steering({s: sl.Add(tiny.vector(i, size)) for i, s in enumerate(heads)}),
        "no head reads": lambda: sl.Steering({s: sl.Ablate(tiny.vector(i, size)) for i, s in enumerate(heads)}),
        "no map reads": lambda: sl.Steering({s: sl.Ablate(tiny.vector(i)) for i, s in enumerate(every)}),
        "ablate": lambda: sl.Steering({s: sl.Ablate(tiny.vector(0)) for s in residual}),
    }[what]()


HELD = {  # by family: all that is exact; what is not in it must be refused
    "llama": "scale attention mlp add heads no-head no-map",
    "llama-tied": "scale attention mlp add heads no-head no-map",
    "qwen2": "scale attention mlp add heads no-head no-map",
    "mistral": "scale attention mlp add heads no-head no-map",
    "mistral-window": "scale no-head no-map",
    "phi3": "scale attention mlp add heads no-head no-map",
    "granite": "scale attention mlp add heads no-head no-map",
    "gemma": "scale attention heads no-head no-map",
    "gemma3_text": "scale attention heads no-head",
    "olmo2": "scale heads no-head",
    "qwen3": "scale attention heads no-head no-map",
    "qwen3_moe": "scale attention heads no-head",
    "gpt2": "scale attention mlp final add heads no-head no-map",
    "gpt_neox": "scale attention mlp final add heads no-head no-map",
    "opt": "scale attention mlp final add heads no-head no-map",
    "phi": "scale attention final add heads no-head no-map",
}
NAMES = {"no head reads": "no-head", "no map reads": "no-map"}
KINDS = ("scale", "attention", "mlp", "final", "add", "heads", "no head reads", "no map reads", "ablate")
CASES = [(family, kind) for family in CONFIGS for kind in KINDS if (family, kind) != ("phi", "mlp")]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_merged_model_gives_the_logits_of_the_hooked_one_or_is_refused(family: str, kind: str) -> None:
    lm = model(family)
    before, steering = tiny.weights(lm.hf), make(lm, kind)
    if NAMES.get(kind, kind) not in HELD[family].split():
        with pytest.raises(sl.SteerlibError, match=r"hooks\.$|merge"):
            sl.merge(lm, steering, 0.7)
    else:
        merged = sl.merge(lm, steering, 0.7)
        assert difference(logits(merged.hf, probes(lm.hf)), steered(lm, steering, 0.7)) < 1e-5
        assert difference(logits(lm.hf), steered(lm, steering, 0.7)) > 1e-3, "the steering does nothing"
        assert tiny.hooks(merged.hf) == []
    assert tiny.same_weights(lm.hf, before) and tiny.hooks(lm.hf) == []


@pytest.mark.parametrize("family", TO_LLAMA)
def test_a_family_without_biases_becomes_a_llama_only_where_it_must(family: str) -> None:
    lm = model(family)
    assert isinstance(sl.merge(lm, make(lm, "add")).hf, tf.LlamaForCausalLM)
    assert type(sl.merge(lm, make(lm, "scale")).hf) is type(lm.hf)


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - set(TO_LLAMA)))
def test_what_does_not_do_a_llamas_arithmetic_is_no_llama(family: str) -> None:
    assert as_llama(model(family).hf) is None


def test_positions_that_stretch_in_long_texts_are_no_llama() -> None:
    lm = model("qwen2")
    lm.hf.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert as_llama(lm.hf) is None


def test_a_padded_batch_generates_the_same_merged_and_hooked() -> None:
    lm = model("llama")
    steering = make(lm, "attention") + make(lm, "add")
    with sl.steer(lm, steering, 0.5):
        wanted = lm.generate(tiny.PROMPTS, max_new_tokens=12)
    assert sl.merge(lm, steering, 0.5).generate(tiny.PROMPTS, max_new_tokens=12) == wanted


def test_the_strength_is_what_is_merged_and_zero_is_the_plain_model() -> None:
    lm = model("llama")
    steering = make(lm, "add")
    for strength in (-0.5, 1.0):
        assert difference(logits(sl.merge(lm, steering, strength).hf), steered(lm, steering, strength)) < 1e-5
    plain = sl.merge(lm, steering, 0.0)
    assert torch.equal(logits(plain.hf), logits(lm.hf)) and plain.hf is not lm.hf


def test_a_merged_model_shares_no_memory_with_the_plain_one() -> None:
    lm = model("llama-tied")
    theirs = {weight.data_ptr() for weight in sl.merge(lm, make(lm, "scale")).hf.state_dict().values()}
    assert not theirs & {weight.data_ptr() for weight in lm.hf.state_dict().values()}


def test_a_tied_head_is_untied_only_where_its_weights_must_differ() -> None:
    lm = model("llama-tied")
    kept = sl.merge(lm, make(lm, "attention")).hf
    assert kept.lm_head.weight is kept.model.embed_tokens.weight
    split = sl.merge(lm, make(lm, "no map reads")).hf
    assert split.lm_head.weight is not split.model.embed_tokens.weight and not split.config.tie_word_embeddings
    assert torch.equal(split.model.embed_tokens.weight, lm.hf.model.embed_tokens.weight)


def test_the_refusal_of_a_final_shift_says_how_far_it_moves_logits() -> None:
    lm = model("llama")
    steering = make(lm, "final")
    moved = float((matrix(lm.hf.lm_head) @ steering["norm.final"].vectors()["shift"]).abs().max())
    with pytest.raises(sl.SteerlibError, match=f"norm.final moves logits by up to {moved:.3g}"):
        sl.merge(lm, steering)


def test_an_ablated_centre_goes_into_biases() -> None:
    lm = model("llama")
    where = norms(lm, "attention")
    steering = sl.Steering({s: sl.Ablate(tiny.vector(i), tiny.vector(50 + i)) for i, s in enumerate(where)})
    assert difference(logits(sl.merge(lm, steering, 0.6).hf), steered(lm, steering, 0.6)) < 1e-5


def test_affine_heads_go_into_the_output_projection() -> None:
    lm = model("llama")
    heads = sites(lm.hf, "head")[::2]
    size = find(lm.hf, heads[0]).width
    steering = sl.Steering({s: sl.Affine(tiny.vector(i, size), tiny.vector(9 + i, size)) for i, s in enumerate(heads)})
    assert difference(logits(sl.merge(lm, steering, 0.6).hf), steered(lm, steering, 0.6)) < 1e-5


def test_orthogonalised_weights_are_not_what_hooks_at_blocks_do() -> None:
    """Why an ablation of blocks' outputs is refused: what removes a direction from every writer is another model."""
    lm = model("llama")
    r = torch.nn.functional.normalize(tiny.vector(0), dim=0)
    steering = sl.Steering({site: sl.Ablate(r) for site in sites(lm.hf, "residual")})
    state = tiny.weights(lm.hf)
    for name in state:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name] -= torch.outer(r, r @ state[name])
    state["model.embed_tokens.weight"] -= torch.outer(state["model.embed_tokens.weight"] @ r, r)
    other = model("llama")
    other.hf.load_state_dict(state)
    assert difference(logits(other.hf), steered(lm, steering, 1.0)) > 1e-2
    with pytest.raises(sl.SteerlibError, match="Orthogonalised weights are another model"):
        sl.merge(lm, steering)


def test_a_bfloat16_model_is_merged_in_float32_and_rounded_once() -> None:
    lm, half = tiny.fresh("llama"), tiny.fresh("llama", dtype=torch.bfloat16)
    lm.hf.load_state_dict({name: weight.float() for name, weight in half.hf.state_dict().items()})
    steering = make(lm, "attention")
    exact, rounded = sl.merge(lm, steering).hf.state_dict(), sl.merge(half, steering).hf.state_dict()
    assert all(torch.equal(exact[name].bfloat16(), weight) for name, weight in rounded.items())


def test_a_llava_is_merged_inside_its_text_config_pictures_included() -> None:
    lm = tiny.fresh("llava")
    steering = affine(norms(lm, "attention") + norms(lm, "mlp")) + make(lm, "add")
    merged = sl.merge(lm, steering, 0.5)
    assert type(merged.hf) is type(lm.hf) and merged.hf.config.text_config.mlp_bias
    batch = tiny.pictures(lm, ["A <image> and", "One <image> is <image> not"])
    with torch.no_grad(), sl.steer(lm, steering, 0.5):
        wanted = lm.hf(**batch).logits
    with torch.no_grad():
        assert difference(merged.hf(**batch).logits[1], wanted[1]) < 1e-5  # the longer row, which has no padding


@pytest.mark.parametrize("kind", ["idefics3", "llava-qwen2"])
def test_other_models_that_see_are_merged_inside_their_text_config(kind: str) -> None:
    tokens = tiny.tokenizer()
    ids = {"vocab_size": len(tokens), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    eyes = {
        "hidden_size": W,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 4,
    }
    torch.manual_seed(0)
    hf: Any
    if kind == "idefics3":
        text = tf.LlamaConfig(**COMMON, **ids)
        hf = tf.Idefics3ForConditionalGeneration(
            tf.Idefics3Config(
                text_config=text, vision_config=eyes, image_token_id=3, tie_word_embeddings=False, scale_factor=2
            )
        )
    else:
        vision = tf.CLIPVisionConfig(**eyes)
        hf = tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(text_config=tf.Qwen2Config(**COMMON, **ids), vision_config=vision, image_token_id=3)
        )
    lm = Model(f"tiny-{kind}", hf.eval().requires_grad_(False), tokens)
    steering = affine(norms(lm, "attention") + norms(lm, "mlp")) + make(lm, "add")
    merged = sl.merge(lm, steering, 0.5)
    assert difference(logits(merged.hf, probes(lm.hf)), steered(lm, steering, 0.5)) < 1e-5
    assert type(merged.hf) is type(lm.hf) and merged.hf.config.text_config.model_type == "llama"
    seen = [name for name in lm.hf.state_dict() if "vision" in name]
    assert seen and all(torch.equal(lm.hf.state_dict()[n], merged.hf.state_dict()[n]) for n in seen)


@pytest.mark.filterwarnings("ignore:this pass never reached")
def test_a_block_that_runs_with_pictures_only_holds_factors_and_no_shift() -> None:
    ids = {"vocab_size": len(tiny.tokenizer()), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    hf = tf.MllamaForCausalLM(tf.MllamaTextConfig(**COMMON, cross_attention_layers=[1], rope_theta=1e4, **ids))
    lm = Model("tiny-mllama", hf.eval().requires_grad_(False), tiny.tokenizer())
    assert writer(hf, 1) is None and writer(hf, 0) is not None
    before = find(hf, Site("norm", 1, "input_layernorm")).module.weight.clone()
    half = sl.Affine(torch.full((W,), 0.5), torch.zeros(W))
    merged = sl.merge(lm, sl.Steering({"norm.1.input_layernorm": half, "norm.0.input_layernorm": half}))
    torch.testing.assert_close(find(merged.hf, Site("norm", 1, "input_layernorm")).module.weight, 1.5 * before)
    for site in ("residual.1", "norm.1.input_layernorm"):
        with pytest.raises(sl.SteerlibError, match="never reached|with pictures only"):
            sl.merge(lm, sl.Steering({site: sl.Add(torch.ones(W))}))


def test_smollm2_is_merged_exactly_and_keeps_its_tied_head() -> None:
    lm = sl.load("smollm2", device="cpu")
    shipped = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
    with pytest.raises(sl.SteerlibError, match="the shift at norm.final moves logits by up to"):
        sl.merge(lm, shipped, 0.4)
    final = Site("norm", -1)
    scale = shipped[final].vectors()["scale"]
    held = sl.Steering({**shipped.operations, final: sl.Affine(scale, torch.zeros_like(scale))}, shipped.provenance)
    merged = sl.merge(lm, held, 0.4)
    assert difference(logits(merged.hf), steered(lm, held, 0.4)) < 1e-5
    assert merged.hf.lm_head.weight is merged.hf.model.embed_tokens.weight
    assert merged.hf.config.steering["method"] == "dso" and merged.hf.config.steering["strength"] == 0.4


# What the weights hold


@pytest.mark.parametrize(("family", "added"), [("llama", 0.0), ("gemma3_text", 1.0), ("gpt2", 0.0), ("olmo2", 0.0)])
def test_what_a_norm_adds_to_its_weight_is_found_by_trying(family: str, added: float) -> None:
    lm = model(family)
    assert {offset(find(lm.hf, site).module) for site in sites(lm.hf, "norm")} == {added}


@pytest.mark.parametrize(
    ("family", "ends"), [("llama", ("down_proj", 1.0)), ("granite", ("down_proj", 0.3)), ("gpt2", ("c_proj", 1.0))]
)
def test_what_ends_a_block_is_found_by_trying(family: str, ends: tuple[str, float]) -> None:
    found = writer(model(family).hf, 1)
    assert found is not None and (found[0].rpartition(".")[2], found[1]) == ends


@pytest.mark.parametrize("family", ["gemma3_text", "olmo2", "qwen3_moe"])
def test_nothing_ends_a_block_where_a_norm_or_experts_come_between(family: str) -> None:
    assert writer(model(family).hf, 1) is None


@pytest.mark.parametrize("family", sorted(HELD))
def test_what_is_called_mergeable_is_what_merges(family: str) -> None:
    lm = model(family)
    zero = torch.zeros(W)
    held = mergeable_sites(lm.hf)
    operations = {
        site: sl.Affine(tiny.vector(i, size=0.2), tiny.vector(i, size=0.2) if "shift" in parts else zero)
        for i, (site, parts) in enumerate(held.items())
    }
    sl.merge(lm, sl.Steering(operations))
    for site, parts in held.items():
        if "shift" not in parts:
            with pytest.raises(sl.SteerlibError):
                sl.merge(lm, sl.Steering({site: sl.Affine(zero, torch.ones(W))}))


def test_a_norm_without_weights_holds_a_shift_in_what_reads_it_and_no_scale() -> None:
    """OLMo's norms have none."""
    hf = families.model("olmo").hf
    with pytest.raises(sl.SteerlibError, match="OlmoLayerNorm has no weight"):
        offset(find(hf, sites(hf, "norm")[0]).module)
    assert set(mergeable_sites(hf).values()) == {("shift",)}


def test_dso_where_mergeable_learns_only_what_can_be_merged() -> None:
    lm = model("gemma3_text")
    made = dso(lm, letters(), quick(epochs=1), where="mergeable", progress=False)
    assert made.provenance["where"] == "mergeable"
    held = mergeable_sites(lm.hf)
    for site, operation in made.operations.items():
        assert bool(operation.vectors()["scale"].any())
        assert bool(operation.vectors()["shift"].any()) == ("shift" in held[site])
    assert any("shift" not in parts for parts in held.values())
    assert difference(logits(sl.merge(lm, made).hf), steered(lm, made, 1.0)) < 1e-5


def test_dso_where_mergeable_leaves_out_sites_of_which_nothing_is_learned() -> None:
    lm = model("llama")
    made = dso(lm, letters(), quick(epochs=1), where="mergeable", parts=["shift"], progress=False)
    assert Site("norm", -1) not in made.operations and len(made.operations) == 6
    with pytest.raises(sl.SteerlibError, match="no norm of 'tiny-olmo2' can be merged with shift"):
        dso(model("olmo2"), letters(), quick(epochs=1), where="mergeable", parts=["shift"], progress=False)
    with pytest.raises(sl.SteerlibError, match="'mergeable', not 'mergable'"):
        dso(lm, letters(), where="mergable", progress=False)  # type: ignore[arg-type]


# What is refused


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    lm = model("llama")
    other = sl.Steering({"residual.0": sl.Add(torch.ones(W))}, {"architecture": "gpt2", "width": W, "layers": 3})
    with pytest.raises(sl.SteerlibError, match=r"made for another model \(gpt2 architecture"):
        sl.merge(lm, other)
    with pytest.raises(sl.SteerlibError, match="has shape"):
        sl.merge(lm, sl.Steering({"residual.0": sl.Add(torch.ones(W + 1))}))
    with pytest.raises(sl.SteerlibError, match="takes a Model and a Steering, not Model and Adapter"):
        sl.merge(lm, sl.Adapter({}, 1, 0))  # type: ignore[arg-type]
    fine = make(lm, "add")
    with pytest.raises(sl.SteerlibError, match="a steering changes it now"), sl.steer(lm, fine):
        sl.merge(lm, fine)
    with pytest.raises(sl.SteerlibError, match="finite number"):
        sl.merge(lm, fine, float("nan"))


def test_a_network_that_reads_past_its_norms_is_not_merged_wrongly() -> None:
    """The logits are compared at the end, so that what the search did not see is refused as well."""
    lm = model("llama")
    block = lm.hf.model.layers[1]
    plain = block.input_layernorm.forward
    seen: list[Tensor] = []

    def kept(x: Tensor) -> Tensor:
        seen[:] = [plain(x)]
        return seen[0]

    mlp = block.mlp.forward
    block.input_layernorm.forward = kept
    block.mlp.forward = lambda x: mlp(x) + seen[0].sum()
    steering = sl.Steering({"norm.1.input_layernorm": sl.Affine(torch.zeros(W), torch.ones(W))})
    with pytest.raises(sl.SteerlibError, match="does not give the logits of the steered one"):
        sl.merge(lm, steering)


def test_folding_leaves_the_model_as_it_was() -> None:
    lm = model("llama")
    before = tiny.weights(lm.hf)
    made = fold(lm.hf, make(lm, "attention") + make(lm, "add"), 0.5)
    assert {edit.shift is not None for edit in made.maps.values()} == {True}
    assert tiny.same_weights(lm.hf, before) and tiny.hooks(lm.hf) == []
