"""Unusual families: each is steered and read as a plain hook of our own would do it, or refused in one sentence."""

from __future__ import annotations

import warnings
from typing import Any

import families
import pytest
import tiny
import torch
import transformers as tf
from helpers import letters, quick
from tiny import PROMPTS, SCOPES, WIDTH, vector
from torch import Tensor

from steerlib import Add, Affine, Site, Steering, SteerlibError, capture, contrastive, dso, gradient, iti, steer
from steerlib.models.check import batched_alike, cached_alike, usable
from steerlib.models.model import Model
from steerlib.models.sites import blocks, decoder, find, sites

OPTIONS = [" he", " she", " they"]
SLOW = ("falcon-h1", "granite4-h", "bamba", "mamba2")  # in plain PyTorch
SOUND = [name for name in families.CONFIGS if name not in ("rwkv", "recurrent-gemma", "minimax")]
ATTENDING = [name for name in SOUND if name not in ("mamba", "mamba2")]
STREAMS = [name for name in SOUND if name != "gemma3n"]  # whose residual stream is (batch, tokens, width)


def sentence(error: pytest.ExceptionInfo[SteerlibError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith("."), text
    return text


def everywhere(lm: Model, kind: Any, size: float = 0.5) -> Steering:
    """An addition at every site of a kind, or at norms an affine operation."""
    made: dict[Site, Any] = {}
    for i, site in enumerate(sites(lm.hf, kind)):
        width = find(lm.hf, site).width
        made[site] = (
            Affine(vector(i, width, size), vector(i + 1, width, size))
            if kind == "norm"
            else Add(vector(i, width, size))
        )
    return Steering(made)


def by_hand(lm: Model, steering: Steering, text: str) -> Tensor:
    """(vocabulary,) logits after one text alone, with hooks of our own that steer whatever they meet."""
    handles = []
    for site, operation in steering.operations.items():
        place = find(lm.hf, site)

        def after(module: Any, args: Any, output: Any, op: Any = operation) -> Any:
            return (op(output[0], 1.0), *output[1:]) if isinstance(output, tuple) else op(output, 1.0)

        def before(module: Any, args: Any, op: Any = operation, place: Any = place) -> Any:
            h = args[0].clone()
            h[..., place.start : place.start + place.width] = op(h[..., place.start : place.start + place.width], 1.0)
            return (h,)

        put = place.module.register_forward_hook if place.start is None else place.module.register_forward_pre_hook
        handles.append(put(after if place.start is None else before))
    with torch.no_grad():
        found: Tensor = lm.hf(input_ids=tiny.ids(lm, text), use_cache=False).logits[0, -1]
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("family", "kind"),
    [(name, kind) for name in SOUND for kind in ("residual", "norm", "head") if name not in SLOW or kind == "residual"],
)
def test_a_padded_batch_is_steered_like_each_text_alone_by_a_hook_of_ones_own(family: str, kind: Any) -> None:
    lm = families.model(family)
    if (kind == "head" and family not in ATTENDING) or (kind == "residual" and family not in STREAMS):
        with pytest.raises(SteerlibError) as error, steer(lm, everywhere(lm, kind)):
            tiny.logits(lm)
        assert ("block 0" if kind == "head" else "residual.0") in sentence(error)
        return
    plain, steering = tiny.logits(lm), everywhere(lm, kind)
    with steer(lm, steering):
        got = tiny.logits(lm)[:, -1]
    assert (got - plain[:, -1]).abs().max() > 1e-2
    for row, text in zip(got, PROMPTS, strict=True):
        torch.testing.assert_close(row, by_hand(lm, steering, text), atol=2e-3, rtol=2e-3)
    assert torch.equal(tiny.logits(lm), plain) and not tiny.hooks(lm.hf)


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["gemma4", "gemma4-moe", "opt", "jamba", "qwen3-next"])
def test_decoding_is_the_same_cached_and_uncached_batched_and_alone(family: str, tokens: Any) -> None:
    lm = families.model(family)
    plain = lm.generate(PROMPTS[:3], max_new_tokens=4)
    both = Steering({**everywhere(lm, "residual", 3.0).operations, **everywhere(lm, "norm", 0.3).operations})
    with steer(lm, both, tokens=tokens):
        cached = lm.generate(PROMPTS[:3], max_new_tokens=4)
        assert cached == lm.generate(PROMPTS[:3], max_new_tokens=4, use_cache=False)
        assert cached[1] == lm.generate(PROMPTS[1], max_new_tokens=4)
    assert cached != plain


@pytest.mark.parametrize("tokens", SCOPES)
def test_a_block_that_is_handed_the_last_tokens_only_is_steered_at_their_columns(tokens: Any) -> None:
    """Gemma 4 hands its last blocks no more tokens than logits are asked for."""
    lm = families.model("gemma4")
    late = Steering({"residual.3": Add(vector(0, size=3.0))})
    said = [" he", " she", "!", " x", "a"]
    plain = [line.clone() for line in lm.loglik(PROMPTS, said)]
    with steer(lm, late, tokens=tokens):
        got = lm.loglik(PROMPTS, said)
        alone = [lm.loglik([prompt], [word])[0] for prompt, word in zip(PROMPTS, said, strict=True)]
        torch.testing.assert_close(
            lm.choose(PROMPTS, OPTIONS),
            torch.stack([lm.choose(prompt, OPTIONS) for prompt in PROMPTS]),
            atol=1e-5,
            rtol=1e-3,
        )
    for line, single, before in zip(got, alone, plain, strict=True):
        torch.testing.assert_close(line, single, atol=1e-4, rtol=1e-4)
        moved = (
            line - before
        ).abs() > 1e-2  # the first token is read after the prompt's last, the others after the answer's
        assert bool(moved[0]) == (tokens != "generated")
        assert moved[1:].tolist() == [tokens in ("all", "generated")] * (len(moved) - 1)


@pytest.mark.parametrize("site", ["residual", "embeddings"])
@pytest.mark.parametrize("family", [name for name in STREAMS if name not in SLOW])
def test_gradient_vectors_raise_the_likelihood_of_the_words(family: str, site: Any) -> None:
    lm, prompt = families.model(family), PROMPTS[2]
    made = gradient(lm, None, prompt, OPTIONS[:2], site=site, norm="l2", layers="last", operation="add", progress=False)

    def likelihood(strength: float) -> float:
        with steer(lm, made, strength, tokens="last"):
            return float(torch.stack([line.sum() for line in lm.loglik([prompt] * 2, OPTIONS[:2])]).logsumexp(0))

    if site == "residual":
        assert likelihood(0.01) < likelihood(0) < likelihood(-0.01)
    else:
        assert all(op.vectors()["vector"].isfinite().all() for op in made.operations.values())


def test_a_residual_stream_that_is_not_batch_tokens_width_is_refused_by_its_name_and_shape() -> None:
    """Gemma 3n's blocks hand on four streams at once, also where the batch happens to have four rows."""
    lm, four = families.model("gemma3n"), PROMPTS[:4]
    for ask in (
        lambda: next(capture(lm, four, ["residual.1"])),
        lambda: contrastive(lm, four, four[::-1], layers=1, progress=False),
        lambda: gradient(lm, None, "A cat", [" he"], site="embeddings", layers=1, progress=False),
        lambda: gradient(lm, None, "A cat", [" he"], site="residual", layers=1, progress=False),
        lambda: dso(lm, letters(), quick(), where=[Site("residual", 1)], progress=False),
    ):
        with pytest.raises(SteerlibError, match=r"residual.1 cannot be read or steered: .* shape \(4, ") as error:
            ask()
        sentence(error)
    assert len(iti(lm, letters(), heads=2, progress=False).operations) == 2
    assert not tiny.hooks(lm.hf)


@pytest.mark.parametrize("family", ["opt", "gemma4-moe", "bloom", "olmo", "llama4"])
def test_a_steering_of_every_norm_is_learned(family: str) -> None:
    made = dso(families.model(family), letters(), quick(epochs=1), progress=False)
    assert set(made.operations) == set(sites(families.model(family).hf, "norm"))
    assert all(op.vectors()["shift"].any() for op in made.operations.values())


def test_rows_that_are_not_all_tokens_are_not_taken_for_them() -> None:
    """A norm that saw some of the tokens in an order of its own, as an expert does, is refused."""
    lm = families.fresh("opt")
    norm = blocks(lm.hf)[1].final_layer_norm
    plain = norm.forward
    norm.forward = lambda h: torch.cat([plain(h[:-1]), plain(h[-1:])])[:-1]
    batch = lm.batch([lm.tokens("A cat")])

    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    blocks(lm.hf)[1].fc1.register_forward_pre_hook(stop)
    with (
        pytest.raises(SteerlibError, match=r"norm.1.final_layer_norm cannot be read or steered") as error,
        steer(lm, Steering({"norm.1.final_layer_norm": Add(vector(0))})),
    ):
        lm.hf(**batch)
    sentence(error)


def test_the_final_norm_is_the_one_after_the_blocks_and_a_norm_may_lack_weights() -> None:
    bloom, olmo = families.model("bloom").hf, families.model("olmo").hf
    assert find(bloom, Site("norm", -1)).module is bloom.transformer.ln_f
    assert len(sites(bloom, "norm")) == len(sites(olmo, "norm")) == 2 * 3 + 1
    assert find(families.model("opt").hf, Site("norm", -1)).module is decoder(families.model("opt").hf).final_layer_norm


def test_the_decoder_is_what_holds_the_blocks() -> None:
    llama, bert = families.model("llama4").hf, families.model("modernbert").hf
    assert decoder(llama) is llama.model and decoder(bert) is bert.model


@pytest.mark.parametrize("family", families.HYBRID)
def test_a_hybrid_model_lists_the_heads_that_there_are(family: str) -> None:
    hf = families.model(family).hf
    assert sites(hf, "head") == sites(hf, "head", 1) == [Site("head", 1, str(n)) for n in range(4)]
    with pytest.raises(SteerlibError, match="no attention with an output projection .* in block 0") as error:
        sites(hf, "head", [0, 2])
    sentence(error)
    made = iti(families.model(family), letters(), heads=2, progress=False)
    assert {site.layer for site in made.operations} == {1}


def test_heads_one_module_deeper_are_found() -> None:
    hf = families.model("gpt-neo").hf
    assert find(hf, Site("head", 1, "2")).module is blocks(hf)[1].attn.attention.out_proj
    assert find(families.model("modernbert").hf, Site("head", 0, "1")).width == WIDTH // 4


def test_a_named_group_of_layers_leaves_out_those_at_which_the_sides_do_not_differ() -> None:
    """LFM2's first block sees three tokens: prompts with a common end are the same to it."""
    lm = families.model("lfm2")
    one, other = [["A he said that then", "A he cried that then"], ["A we said that then", "A we cried that then"]]
    with pytest.warns(UserWarning, match="do not differ at residual.0: the steering leaves that out"):
        made = contrastive(lm, one, other, layers="all", progress=False)
    assert [site.layer for site in made.operations] == [1, 2]
    with pytest.raises(SteerlibError, match="do not differ at residual.0: there is nothing to contrast"):
        contrastive(lm, one, other, layers=[0, 1], progress=False)
    with pytest.raises(SteerlibError, match="residual.0, residual.1, residual.2: there is nothing"):
        contrastive(lm, one, one, layers="all", progress=False)


# ---- sites that a pass never reaches


def mllama() -> Model:
    """A model whose block 1 is a cross-attention to pictures, skipped where there are none."""
    tokens = tiny.tokenizer()
    common = {"vocab_size": len(tokens), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "cross_attention_layers": [1],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "initializer_range": 0.25,
        **common,
    }
    torch.manual_seed(0)
    hf: Any = tf.MllamaForCausalLM(tf.models.mllama.MllamaTextConfig(**text))
    return Model("tiny-mllama", hf.eval().requires_grad_(False), tokens)


def test_a_site_that_no_pass_reaches_is_named() -> None:
    lm = mllama()
    asks: tuple[Any, ...] = (
        lambda: next(capture(lm, PROMPTS, ["residual.0", "residual.1"])),
        lambda: contrastive(lm, ["A he"], ["A she"], layers="all", progress=False),
        lambda: gradient(lm, None, "A cat", [" he"], site="residual", layers="all", progress=False),
        lambda: iti(lm, letters(), heads=2, progress=False),
    )
    for ask in asks:
        with pytest.raises(
            SteerlibError, match=r"nothing can be read at .*1.*: the pass over these prompts never"
        ) as error:
            ask()
        sentence(error)
    alone, both = (Steering({f"residual.{n}": Add(vector(n)) for n in which}) for which in ([1], [0, 1]))
    with pytest.raises(SteerlibError, match="never reached residual.1, so nothing was steered"), steer(lm, alone):
        lm.choose(PROMPTS, OPTIONS)
    said = "never reached residual.1, so it was steered at the other sites only"
    with pytest.warns(UserWarning, match=said) as told, steer(lm, both):
        lm.generate(PROMPTS, max_new_tokens=3)
    assert len(told) == 1 and not tiny.hooks(lm.hf)
    with warnings.catch_warnings(), steer(lm, Steering({"residual.2": Add(vector(0))})):
        warnings.simplefilter("error")
        next(capture(lm, PROMPTS, ["residual.0"]))  # ends the pass before it reaches the steered block


# ---- recurrent models


@pytest.mark.parametrize("family", SOUND)
def test_sound_models_are_usable(family: str) -> None:
    usable(families.model(family))


@pytest.mark.parametrize("family", [*tiny.FAMILIES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_models_are_usable_in_any_precision(family: str, dtype: torch.dtype) -> None:
    usable(tiny.model(family, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "check", "says"),
    [
        ("rwkv", batched_alike, "gets other logits than alone"),
        ("recurrent-gemma", batched_alike, "gets other logits than alone"),
        ("minimax", cached_alike, "writes with a cache in a padded batch is not what it would write alone"),
    ],
)
def test_models_that_read_padding_or_write_otherwise_in_a_batch_are_refused(
    family: str, check: Any, says: str, dtype: torch.dtype
) -> None:
    lm = families.fresh(family)
    lm.hf.to(dtype)
    assert says in str(check(lm))
    with pytest.raises(SteerlibError, match=says) as error:
        usable(lm)
    assert family in sentence(error) and not tiny.hooks(lm.hf)


@pytest.mark.parametrize(("family", "tokens"), [*(("mamba", tokens) for tokens in SCOPES), ("mamba2", "generated")])
def test_a_state_that_does_not_count_tokens_is_refused_where_it_would_be_wrong_only(family: str, tokens: Any) -> None:
    lm = families.model(family)
    steering = everywhere(lm, "residual", 2.0)
    with steer(lm, steering, tokens=tokens):
        lm.choose(PROMPTS, OPTIONS)
        texts = lm.generate(PROMPTS[:3], max_new_tokens=4, use_cache=False)
        assert texts == [lm.generate(prompt, max_new_tokens=4, use_cache=False) for prompt in PROMPTS[:3]]
        with pytest.raises(SteerlibError, match="generate with use_cache=False") as error:
            lm.generate(PROMPTS[:3], max_new_tokens=4)
        sentence(error)
        seen = {"cache_params": object()}
        with pytest.raises(SteerlibError, match="generate with use_cache=False"):
            lm.hf(tiny.ids(lm, "A"), **seen)
    assert lm.generate("A cat", max_new_tokens=3) == lm.generate("A cat", max_new_tokens=3, use_cache=False)
