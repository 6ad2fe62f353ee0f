"""A steered model does what the formulas say, at the positions that were named, and is itself again afterwards."""

from __future__ import annotations

import contextvars
import gc
import itertools
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from safetensors.torch import save_file
from tiny import FAMILIES, HEADS, LAYERS, PROMPTS, SCOPES, WIDTH, vector
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.layout import laid_out
from steerlib.models.model import Model
from steerlib.models.sites import Site, blocks, decoder, find, parse, sites
from steerlib.steering.apply import steer
from steerlib.steering.capture import capture
from steerlib.steering.operations import Ablate, Add, Affine, Steering, load_steering, provenance

ALL = [*FAMILIES, "llava"]
SITE = "residual.1"
CENTRE = vector(8)


@pytest.fixture(scope="module", autouse=True)
def unwritten() -> Iterator[None]:
    """All these tests leave the weights of the shared models as they were, to the bit."""
    before = [tiny.weights(lm.hf) for lm in tiny.shared()]
    yield
    for lm, weights in zip(tiny.shared(), before, strict=True):
        assert tiny.same_weights(lm.hf, weights), lm.name


@pytest.fixture(autouse=True)
def bare() -> Iterator[None]:
    """Whatever a test does, the shared models come out of it without a hook."""
    yield
    left = [hook for lm in tiny.shared() for hook in tiny.hooks(lm.hf)]
    if left:
        tiny.model.cache_clear()  # the next test starts with new ones
    assert left == []


def adding(site: str = SITE, seed: int = 1, size: float = 1.5) -> Steering:
    return Steering({site: Add(vector(seed, size=size))})


def everywhere(hf: Any) -> Steering:
    """An operation of each kind, at all sites of each kind."""
    operations: dict[Site, Any] = {}
    for i, site in enumerate(sites(hf, "residual") + sites(hf, "norm") + sites(hf, "head")):
        wide = find(hf, site).width
        kinds = [
            Add(vector(i, wide, 0.3)),
            Ablate(vector(i, wide), vector(i + 1, wide, 0.3)),
            Affine(vector(i, wide, 0.1), vector(i + 1, wide, 0.1)),
        ]
        operations[site] = kinds[i % 3]
    return Steering(operations)


def sentence(error: pytest.ExceptionInfo[SteerlibError]) -> str:
    """The message, which is one line that ends like a sentence."""
    text = str(error.value)
    assert "\n" not in text and text.rstrip().endswith("."), text
    return text


# ---- the formulas


def test_add_is_h_plus_s_v() -> None:
    h, v = torch.randn(2, 5, WIDTH), vector(1)
    assert torch.equal(Add(v)(h, 0.3), h + 0.3 * v)


def test_affine_is_h_plus_s_of_a_h_plus_b() -> None:
    h, a, b = torch.randn(2, 5, WIDTH), vector(1), vector(2)
    got = Affine(a, b)(h, 0.7)
    for i, j in itertools.product(range(2), range(5)):
        for k in range(WIDTH):
            expected = h[i, j, k] + 0.7 * (a[k] * h[i, j, k] + b[k])
            torch.testing.assert_close(got[i, j, k], expected)


@pytest.mark.parametrize("strength", [0.3, 1.0, 2.0, -1.0])
def test_ablate_moves_the_part_along_r_towards_the_centre(strength: float) -> None:
    h, d, c = torch.randn(2, 5, WIDTH), 3 * vector(1), vector(2)
    r = d / d.norm()
    plain, centred = Ablate(d)(h, strength), Ablate(d, c)(h, strength)
    for i, j in itertools.product(range(2), range(5)):
        x = h[i, j]
        torch.testing.assert_close(plain[i, j], x - strength * torch.dot(x, r) * r)
        torch.testing.assert_close(centred[i, j], x - strength * torch.dot(x - c, r) * r)
    part = (1 - strength) * (h @ r) + strength * (c @ r)
    torch.testing.assert_close(centred @ r, part, atol=1e-5, rtol=1e-5)
    across = torch.eye(WIDTH) - torch.outer(r, r)  # everything across r stays
    torch.testing.assert_close(centred @ across, h @ across, atol=1e-5, rtol=1e-5)


def test_ablated_at_strength_one_the_projection_is_that_of_the_centre_and_ablating_again_changes_nothing() -> None:
    h, operation = torch.randn(2, 5, WIDTH), Ablate(vector(1), vector(2))
    once = operation(h, 1.0)
    target = (vector(2) @ operation.direction).expand(2, 5)
    torch.testing.assert_close(once @ operation.direction, target, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(operation(once, 1.0), once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_direction_is_made_unit_length_once(dtype: torch.dtype) -> None:
    for seed in range(100):
        wide = 1 + 37 * seed
        once = Ablate((vector(seed, wide) * 10 ** (seed % 3)).to(dtype))
        assert once.direction.dtype == dtype
        assert abs(once.direction.float().norm() - 1) < 1e-2
        assert torch.equal(Ablate(once.direction).direction, once.direction), (seed, wide)


@pytest.mark.parametrize("direction", [torch.zeros(4), torch.full((4,), float("nan"))])
def test_a_direction_without_a_length_is_refused(direction: Tensor) -> None:
    with pytest.raises(SteerlibError) as error:
        Ablate(direction)
    sentence(error)


# ---- strength 0, and back to the plain model


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
@pytest.mark.parametrize("family", ALL)
def test_strength_0_is_the_plain_model_to_the_bit(family: str, zero: float) -> None:
    lm = tiny.model(family)
    plain, text = tiny.logits(lm), lm.generate(PROMPTS, max_new_tokens=6)
    with steer(lm, everywhere(lm.hf), zero):
        assert torch.equal(tiny.logits(lm), plain)
        assert lm.generate(PROMPTS, max_new_tokens=6) == text


@pytest.mark.parametrize("family", ALL)
def test_steering_changes_the_answers_and_the_model_is_itself_again_to_the_bit(family: str) -> None:
    lm = tiny.model(family)
    plain, before = tiny.logits(lm), tiny.weights(lm.hf)
    with steer(lm, everywhere(lm.hf), 0.5):
        assert tiny.same_weights(lm.hf, before)
        assert not torch.allclose(tiny.logits(lm), plain, atol=1e-2)
        lm.generate(PROMPTS, max_new_tokens=3)
        assert tiny.hooks(lm.hf)
    assert tiny.hooks(lm.hf) == [] and tiny.same_weights(lm.hf, before)
    assert torch.equal(tiny.logits(lm), plain)


def leave_by_raising(error: BaseException) -> Callable[[Model, Steering], None]:
    def leave(lm: Model, steering: Steering) -> None:
        with pytest.raises(type(error)), steer(lm, steering):
            tiny.logits(lm)
            raise error

    return leave


@contextmanager
def failing(lm: Model, error: BaseException, module: Any = None) -> Iterator[None]:
    """Within the `with`, every forward pass stops in the last block by raising."""

    def stop(*_: Any) -> None:
        raise error

    handle = (blocks(lm.hf)[-1] if module is None else module).register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def leave_by_a_failing_pass(error: BaseException) -> Callable[[Model, Steering], None]:
    def leave(lm: Model, steering: Steering) -> None:
        with failing(lm, error), pytest.raises(type(error)), steer(lm, steering):
            lm.generate(PROMPTS, max_new_tokens=3)

    return leave


def leave_by_an_abandoned_generator(lm: Model, steering: Steering) -> None:
    def texts() -> Iterator[Any]:
        with steer(lm, steering):
            while True:
                yield lm.generate("A", max_new_tokens=2)

    stream = texts()
    next(stream)
    assert tiny.hooks(lm.hf)
    del stream


def leave_by_a_thrown_generator(lm: Model, steering: Steering) -> None:
    def texts() -> Iterator[Any]:
        with steer(lm, steering):
            yield tiny.logits(lm)

    stream = texts()
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]


def leave_by_dropping_the_context_manager(lm: Model, steering: Steering) -> None:
    entered = steer(lm, steering)
    entered.__enter__()
    tiny.logits(lm)
    assert tiny.hooks(lm.hf)
    del entered


def leave_by_return(lm: Model, steering: Steering) -> None:
    def ask() -> Any:
        for _ in range(2):
            with steer(lm, steering):
                return tiny.logits(lm)

    ask()


def leave_out_of_order(lm: Model, steering: Steering) -> None:
    """Two streams end in the order in which they began, so the `with`s do not close like brackets."""

    def texts(size: float) -> Iterator[Any]:
        with steer(lm, steering, size):
            while True:
                yield lm.generate("A", max_new_tokens=2)

    first, second = texts(0.5), texts(0.25)
    next(first), next(second)
    first.close()  # type: ignore[attr-defined]
    next(second)
    second.close()  # type: ignore[attr-defined]


WAYS = {
    "return": leave_by_return,
    "exception": leave_by_raising(ZeroDivisionError()),
    "keyboard interrupt": leave_by_raising(KeyboardInterrupt()),
    "system exit": leave_by_raising(SystemExit()),
    "exception in a pass": leave_by_a_failing_pass(RuntimeError()),
    "keyboard interrupt in a pass": leave_by_a_failing_pass(KeyboardInterrupt()),
    "abandoned generator": leave_by_an_abandoned_generator,
    "generator interrupted": leave_by_a_thrown_generator,
    "dropped context manager": leave_by_dropping_the_context_manager,
    "out of order": leave_out_of_order,
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
@pytest.mark.parametrize("family", ["llama", "gptj", "llava"])
def test_the_model_is_restored_to_the_bit_however_the_with_is_left(family: str, way: str) -> None:
    lm = tiny.model(family)
    plain, before = tiny.logits(lm), tiny.weights(lm.hf)
    text = lm.generate(PROMPTS, max_new_tokens=4)
    gc.disable()  # what is abandoned must be tidied at once, not when the collector comes
    try:
        WAYS[way](lm, everywhere(lm.hf))
        assert tiny.hooks(lm.hf) == []
    finally:
        gc.enable()
    assert tiny.same_weights(lm.hf, before)
    assert torch.equal(tiny.logits(lm), plain)
    assert lm.generate(PROMPTS, max_new_tokens=4) == text


def test_a_steering_that_does_not_fit_leaves_nothing_behind() -> None:
    lm = tiny.model("llama")
    bad = Steering({"residual.0": Add(vector(0)), "residual.9": Add(vector(1))})
    with pytest.raises(SteerlibError), steer(lm, bad):
        pass
    assert tiny.hooks(lm.hf) == []


def test_hooks_and_a_generate_of_somebody_else_stay() -> None:
    lm = tiny.fresh("llama")
    calls: list[str] = []
    handle = blocks(lm.hf)[1].register_forward_hook(lambda *_: calls.append("hook"))
    theirs = lm.hf.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.append("generate")
        return theirs(*args, **kwargs)

    lm.hf.generate = generate
    before = tiny.hooks(lm.hf)
    with steer(lm, adding()), steer(lm, adding()):
        lm.generate("A", max_new_tokens=1)
        assert calls == ["generate", "hook"]
    assert tiny.hooks(lm.hf) == before and lm.hf.__dict__["generate"] is generate
    handle.remove()


def rows(lm: Model) -> list[Tensor]:
    """What every road through a model gives: a plain call, choose, loglik, capture; texts turned into their codes."""
    texts = lm.generate(PROMPTS, max_new_tokens=5)
    got = [torch.tensor([ord(c) for text in texts for c in text])]
    with torch.inference_mode():
        got.append(lm.hf(**lm.batch([lm.tokens(text) for text in PROMPTS])).logits[:, -1].clone())
    got.append(lm.choose(PROMPTS, [" cat.", " cab"]))
    got.append(torch.cat(lm.loglik(PROMPTS, [" cat"] * len(PROMPTS))))
    # the last block last: it is captured by the decoder alone, without the model around it
    got += [v for _, at in capture(lm, PROMPTS, [Site("residual", 2)]) for v in at.values()]
    return got


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("road", range(4), ids=["generate", "decode", "choose", "capture"])
@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "llava"])
def test_after_an_error_in_a_pass_the_steering_goes_on_as_if_nothing_had_been(
    family: str, tokens: Any, road: int, error: BaseException
) -> None:
    lm, steering = tiny.model(family), adding()
    with steer(lm, steering, tokens=tokens):
        expected = rows(lm)
    with steer(lm, steering, tokens=tokens):
        cache: Any = None
        if road == 1:  # fail while decoding with a cache, far from the first column
            with torch.inference_mode():
                cache = lm.hf(tiny.ids(lm, PROMPTS[0]), use_cache=True).past_key_values
        with failing(lm, error), suppress(type(error)), torch.inference_mode():
            if road == 0:
                lm.generate(PROMPTS, max_new_tokens=3)
            elif road == 1:
                lm.hf(torch.tensor([[9]]), past_key_values=cache, use_cache=True)
            elif road == 2:
                lm.choose(PROMPTS, [" cat.", " cab"])
            else:
                next(iter(capture(lm, PROMPTS, [Site("norm", -1)])))
        captured = [v for _, at in capture(lm, PROMPTS, [Site("residual", 2)]) for v in at.values()]
        got = rows(lm)
    for a, b in zip(expected, got, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(captured[0], expected[-1])


# ---- which positions


def expected_scope(tokens: str, real: Tensor, ends: Tensor, start: int, width: int) -> Tensor:
    """(batch, width) bool, by a loop: which of the columns from `start` on are to be steered."""
    wanted = torch.zeros(len(real), width, dtype=torch.bool)
    for row in range(len(real)):
        for i in range(width):
            column = start + i
            if column < real.shape[1] and not real[row, column]:
                continue
            end = int(ends[row])
            wanted[row, i] = {
                "all": True,
                "prompt": column < end,
                "generated": column >= end,
                "last": column == end - 1,
            }[tokens]
    return wanted


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ALL)
def test_one_pass_over_a_left_padded_batch_is_steered_where_it_should_and_nowhere_else(
    family: str, tokens: Any
) -> None:
    lm = tiny.model(family)
    batch = lm.batch([lm.tokens(text) for text in PROMPTS])
    real = batch["attention_mask"].bool()
    ends = torch.full((len(real),), real.shape[1])
    with torch.inference_mode(), tiny.watch(lm, SITE) as before:
        lm.hf(**batch)
        with steer(lm, adding(), 0.5, tokens=tokens), tiny.watch(lm, SITE) as after:
            lm.hf(**batch)
    wanted = expected_scope(tokens, real, ends, 0, real.shape[1])
    plain, again, steered = before[0], before[1], after[0]
    assert torch.equal(plain, again)  # below the site nothing changed
    assert torch.equal(tiny.changed([plain], [steered])[0], wanted)
    assert torch.equal(steered[~wanted], plain[~wanted])
    assert torch.equal(steered[wanted], plain[wanted] + 0.5 * vector(1, size=1.5))


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_right_padded_raw_batch_is_steered_by_its_mask(family: str, tokens: Any) -> None:
    lm = tiny.model(family)
    every = [lm.tokens(text) for text in PROMPTS]
    width = max(map(len, every))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in every])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in every])
    ends = torch.tensor([len(row) for row in every])
    more = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)
    with (
        torch.inference_mode(),
        tiny.watch(lm, SITE) as before,
        steer(lm, adding(), tokens=tokens),
        tiny.watch(lm, SITE) as after,
    ):
        past = lm.hf(ids, attention_mask=mask, use_cache=True).past_key_values
        lm.hf(ids[:, :1], attention_mask=more, past_key_values=past, use_cache=True)
    got = tiny.changed(before, after)
    assert torch.equal(got[0], expected_scope(tokens, mask.bool(), ends, 0, width))
    assert torch.equal(got[1], expected_scope(tokens, mask.bool(), ends, width, 1))


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("road", ["Model.generate", "hf.generate", "positional", "embeds"])
@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gptj"])
def test_while_generating_every_pass_is_steered_where_it_should(
    family: str, tokens: Any, road: str, use_cache: bool
) -> None:
    lm = tiny.model(family)
    batch = lm.batch([lm.tokens(text) for text in PROMPTS[:3]])
    batch.pop("position_ids")
    real, width = batch["attention_mask"].bool(), batch["input_ids"].shape[1]
    ends = torch.full((3,), width)
    how: dict[str, Any] = {"max_new_tokens": 4, "use_cache": use_cache}
    with tiny.watch(lm, SITE) as before, steer(lm, adding(), tokens=tokens), tiny.watch(lm, SITE) as after:
        if road == "Model.generate":
            lm.generate(PROMPTS[:3], **how)
        elif road == "hf.generate":
            lm.hf.generate(**batch, do_sample=False, **how)
        elif road == "positional":
            lm.hf.generate(batch.pop("input_ids"), do_sample=False, **batch, **how)
        else:
            embeds = lm.hf.get_input_embeddings()(batch.pop("input_ids"))
            lm.hf.generate(inputs_embeds=embeds, do_sample=False, **batch, **how)
    order = sorted(range(3), key=lambda i: int(real[i].sum()))  # Model runs short prompts first
    if road == "Model.generate":
        real = real[order]
    got = tiny.changed(before, after)
    assert len(got) >= 2
    column = 0
    for step, here in enumerate(got):
        if not use_cache and road != "embeds":  # from embeddings, transformers keeps a cache anyway
            assert here.shape[1] == width + step
            column = 0
        wanted = expected_scope(tokens, real, ends, column, here.shape[1])
        assert torch.equal(here, wanted), step
        column += here.shape[1]


def answers(lm: Model, batch: dict[str, Tensor], use_cache: bool, **how: Any) -> tuple[Tensor, Tensor]:
    """Token ids (batch, columns) and logits (batch, steps, vocabulary) of greedy decoding by `hf.generate`."""
    how = {"do_sample": False, "max_new_tokens": 9} | how
    out = lm.hf.generate(**batch, **how, use_cache=use_cache, return_dict_in_generate=True, output_logits=True)
    return out.sequences, torch.stack(out.logits, 1)


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_and_without_a_cache_is_the_same_in_every_scope(family: str, tokens: Any) -> None:
    """Nine steps are more than the window of Gemma's sliding layers."""
    lm = tiny.model(family)
    batch = lm.batch([lm.tokens(text) for text in PROMPTS])
    batch.pop("position_ids")
    if family == "gptj":  # it does not pass position ids on: left padding shifts it even when it is not steered
        batch = {"input_ids": tiny.ids(lm, PROMPTS[0])}
    plain = answers(lm, batch, True)
    with steer(lm, everywhere(lm.hf), 0.5, tokens=tokens):
        cached, uncached = answers(lm, batch, True), answers(lm, batch, False)
        texts = [lm.generate(PROMPTS, max_new_tokens=3, use_cache=use) for use in (True, False)]
    assert torch.equal(cached[0], uncached[0])
    torch.testing.assert_close(cached[1], uncached[1], atol=1e-3, rtol=1e-3)
    assert texts[0] == texts[1]
    reached = cached[1][:, 1:] if tokens == "generated" else cached[1]
    assert (reached - plain[1][:, -reached.shape[1] :]).abs().amax((1, 2)).min() > 1e-2  # it was steered


@pytest.mark.parametrize("tokens", [*SCOPES, "image"])
def test_a_vision_language_model_decodes_the_same_with_and_without_a_cache(tokens: Any) -> None:
    lm = tiny.model("llava")
    batch = tiny.pictures(lm, ["<image> who is it", "Here <image> and <image> differ", "no picture"])
    is_image = batch["input_ids"] == lm.hf.config.image_token_id
    assert is_image.sum() == 3 * tiny.IMAGE_TOKENS
    steering = everywhere(lm.hf)
    plain = answers(lm, batch, True)
    with steer(lm, steering, 0.5, tokens=tokens):
        cached, uncached = answers(lm, batch, True), answers(lm, batch, False)
    assert torch.equal(cached[0], uncached[0])
    torch.testing.assert_close(cached[1], uncached[1], atol=1e-3, rtol=1e-3)
    moved = (cached[1] - plain[1]).abs().amax((1, 2)) > 1e-2
    assert moved.tolist() == [True, True, tokens != "image"]

    with tiny.watch(lm, SITE) as before, steer(lm, adding(), tokens=tokens), tiny.watch(lm, SITE) as after:
        lm.hf.generate(**batch, do_sample=False, max_new_tokens=3)
    got = tiny.changed(before, after)
    if tokens == "image":
        assert torch.equal(got[0], is_image) and not any(here.any() for here in got[1:])
    else:
        real, width = batch["attention_mask"].bool(), is_image.shape[1]
        ends = torch.full((3,), width)
        assert torch.equal(got[0], expected_scope(tokens, real, ends, 0, width))
        assert torch.equal(got[1], expected_scope(tokens, real, ends, width, 1))


def test_pictures_one_by_one_are_steered_like_a_batch() -> None:
    lm = tiny.model("llava")
    texts = ["<image> who is it", "Here is <image> again"]
    batch = tiny.pictures(lm, texts)
    for tokens in (*SCOPES, "image"):
        with steer(lm, everywhere(lm.hf), 0.5, tokens=tokens):  # type: ignore[arg-type]
            together = answers(lm, batch, True)[1]
            for i, text in enumerate(texts):
                alone = tiny.pictures(lm, [text]) | {"pixel_values": batch["pixel_values"][i : i + 1]}
                mine = answers(lm, alone, True)[1][0]  # shorter, if it ended by itself
                torch.testing.assert_close(mine, together[i][: len(mine)], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_loop_of_ones_own_with_a_cache_is_steered_by_scope(family: str, masked: bool, tokens: Any) -> None:
    """Prompt in one pass, then given tokens one by one; compared with one pass that is told its layout."""
    lm = tiny.model(family)
    prompt = tiny.ids(lm, PROMPTS[0])
    answer = tiny.ids(lm, "he is")[:, -4:]
    n, total = prompt.shape[1], prompt.shape[1] + answer.shape[1]

    def loop() -> Tensor:
        parts, past = [], None
        for columns in [prompt, *answer.split(1, -1)]:
            seen = columns.shape[1] + (0 if past is None else past.get_seq_length())
            mask = {"attention_mask": torch.ones(1, seen, dtype=torch.long)} if masked else {}
            out = lm.hf(columns, past_key_values=past, use_cache=True, **mask)
            past = out.past_key_values
            parts.append(out.logits)
        return torch.cat(parts, 1)

    steering = everywhere(lm.hf)
    with torch.inference_mode():
        plain = loop()
        with steer(lm, steering, 0.5, tokens=tokens):
            stepwise = loop()
        with tiny.watch(lm, SITE) as before, steer(lm, adding(), tokens=tokens), tiny.watch(lm, SITE) as after:
            loop()
        here = torch.cat(tiny.changed(before, after), 1)
        wanted = expected_scope(tokens, torch.ones(1, n, dtype=torch.bool), torch.tensor([n]), 0, total)
        assert torch.equal(here, wanted)
        with by_mask(lm, steering, 0.5, wanted):
            whole = lm.hf(torch.cat([prompt, answer], 1)).logits
    torch.testing.assert_close(stepwise, whole, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(stepwise, plain, atol=1e-2)


@contextmanager
def by_mask(lm: Model, steering: Steering, strength: float, where: Tensor) -> Iterator[None]:
    """Steering by plain hooks, written independently: at the positions `where` (batch, tokens) of one pass."""
    handles = []
    for site, operation in steering.operations.items():
        place = find(lm.hf, site)

        def put(h: Tensor, operation: Any = operation) -> Tensor:
            h = h.clone()
            h[where] = operation(h[where], strength)
            return h

        def after(module: Any, args: Any, output: Any, put: Any = put) -> Any:
            return (put(output[0]), *output[1:]) if isinstance(output, tuple) else put(output)

        def before(module: Any, args: Any, put: Any = put, place: Any = place) -> Any:
            h = args[0].clone()
            h[..., place.start : place.start + place.width] = put(h[..., place.start : place.start + place.width])
            return (h,)

        handles.append(
            place.module.register_forward_hook(after)
            if place.start is None
            else place.module.register_forward_pre_hook(before)
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("tokens", SCOPES)
def test_a_prompt_read_before_the_with_counts_as_prompt(tokens: Any) -> None:
    lm = tiny.model("llama")
    prompt = tiny.ids(lm, PROMPTS[0])
    for masked in (True, False):
        with torch.inference_mode():
            past = lm.hf(prompt, use_cache=True).past_key_values
            mask = {"attention_mask": torch.ones(1, prompt.shape[1] + 1)} if masked else {}
            with tiny.watch(lm, SITE) as before, steer(lm, adding(), tokens=tokens):
                lm.hf(torch.cat([prompt, prompt], 1))  # a longer text was read in between
                with tiny.watch(lm, SITE) as after:
                    lm.hf(torch.tensor([[9]]), past_key_values=past, use_cache=True, **mask)
            with steer(lm, adding(), tokens=tokens):  # and this one knows no other text
                past = lm.hf(prompt, use_cache=True).past_key_values
        with torch.inference_mode():
            past = lm.hf(prompt, use_cache=True).past_key_values
            with (
                tiny.watch(lm, SITE) as first,
                steer(lm, adding(), tokens=tokens),
                tiny.watch(lm, SITE) as second,
            ):
                lm.hf(torch.tensor([[9]]), past_key_values=past, use_cache=True, **mask)
        expected = [[tokens in ("all", "generated")]]
        assert tiny.changed(before[-1:], after)[0].tolist() == expected
        assert tiny.changed(first, second)[0].tolist() == expected


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gptj"])
def test_a_padded_batch_is_steered_like_each_prompt_alone(family: str, tokens: Any) -> None:
    lm = tiny.model(family)
    with steer(lm, everywhere(lm.hf), 0.5, tokens=tokens):
        if family != "gptj":
            texts = lm.generate(PROMPTS, max_new_tokens=4)
            assert texts == [lm.generate(prompt, max_new_tokens=4) for prompt in PROMPTS]
        likely = lm.choose(PROMPTS, [" cat.", " cab", " doctor"])
        for prompt, line in zip(PROMPTS, likely, strict=True):
            torch.testing.assert_close(lm.choose(prompt, [" cat.", " cab", " doctor"]), line, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_choice_is_scored_as_if_its_option_were_being_generated(family: str, tokens: Any) -> None:
    lm, steering, options = tiny.model(family), everywhere(tiny.model(family).hf), [" cat.", " cab"]
    with steer(lm, steering, 0.5, tokens=tokens):
        for prompt in PROMPTS[:2]:
            start, scores = lm.tokens(prompt), []
            for option in options:
                tail = lm.tokens(prompt, option)[len(start) :]
                assert len(tail) > 1
                with torch.inference_mode():
                    out = lm.hf(torch.tensor([start]), use_cache=True)
                    score = out.logits[0, -1].log_softmax(-1)[tail[0]]
                    for token, following in itertools.pairwise(tail):
                        out = lm.hf(torch.tensor([[token]]), past_key_values=out.past_key_values)
                        score = score + out.logits[0, -1].log_softmax(-1)[following]
                scores.append(score)
            by_hand = torch.stack(scores).softmax(-1)
            torch.testing.assert_close(lm.choose(prompt, options), by_hand, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("tokens", SCOPES)
def test_beams_and_samples_repeat_the_prompts_layout(tokens: Any) -> None:
    lm = tiny.model("llama")
    batch = lm.batch([lm.tokens(text) for text in PROMPTS[:3]])
    batch.pop("position_ids")
    with steer(lm, adding(), tokens=tokens):
        beams = [answers(lm, batch, use, num_beams=3, max_new_tokens=5)[0] for use in (True, False)]
        assert torch.equal(*beams)
        torch.manual_seed(0)
        with tiny.watch(lm, "norm.2.input_layernorm"):
            out = lm.hf.generate(**batch, do_sample=True, num_return_sequences=2, max_new_tokens=3)
        assert len(out) == 6


@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("road", ["hf.generate", "Model.generate"])
def test_text_streamed_from_another_thread_is_steered_by_scope(road: str, tokens: Any) -> None:
    lm, steering = tiny.model("llama"), adding()
    prompt = tiny.ids(lm, PROMPTS[0])
    plain = lm.generate(PROMPTS[0], max_new_tokens=8)
    with steer(lm, steering, tokens=tokens):
        expected = lm.generate(PROMPTS[0], max_new_tokens=8)
        for use_cache in (True, False):
            how: dict[str, Any] = {"max_new_tokens": 8, "use_cache": use_cache}
            got: list[str] = []
            if road == "hf.generate":
                streamer = tf.TextIteratorStreamer(lm.tokenizer, skip_prompt=True, timeout=30, skip_special_tokens=True)
                how |= {"do_sample": False, "streamer": streamer, "pad_token_id": 0}
                thread = threading.Thread(target=lm.hf.generate, args=(prompt,), kwargs=how)
                thread.start()
                got.extend(streamer)
            else:

                def write(how: dict[str, Any] = how, got: list[str] = got) -> None:
                    got.append(lm.generate(PROMPTS[0], **how))

                thread = threading.Thread(target=contextvars.copy_context().run, args=(write,))
                thread.start()
            thread.join()
            assert "".join(got) == expected
    assert expected != plain


# ---- ways of decoding


def written(lm: Model, texts: list[str], **how: Any) -> list[list[int]]:
    """The new ids after each text, up to the end of the text, from `hf.generate` on one padded batch."""
    batch = lm.batch([lm.tokens(text) for text in texts])
    batch.pop("position_ids")
    more = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 5, **how}
    rows = lm.hf.generate(**batch, **more)[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: row.index(lm.tokenizer.eos_token_id)] if lm.tokenizer.eos_token_id in row else row for row in rows]


DECODING: dict[str, dict[str, Any]] = {
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
}
ASSISTED: dict[str, Callable[[Model], dict[str, Any]]] = {
    "prompt lookup": lambda lm: {"prompt_lookup_num_tokens": 2},
    "another model": lambda lm: {"assistant_model": tiny.model("qwen2").hf},
    "the model itself": lambda lm: {"assistant_model": lm.hf},
}


@pytest.mark.parametrize("way", DECODING)
@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_static_caches_and_beams_write_as_without_a_cache_and_as_one_by_one(family: str, tokens: Any, way: str) -> None:
    lm, texts, how = tiny.model(family), PROMPTS[:3], DECODING[way]
    plain = written(lm, texts, **how)
    with steer(lm, adding(), tokens=tokens):
        got = written(lm, texts, **how)
        assert got == written(lm, texts, **{**how, "cache_implementation": None, "use_cache": False})
        assert got == [row for text in texts for row in written(lm, [text], **how)]
    assert got != plain and written(lm, texts, **how) == plain


@pytest.mark.parametrize("way", ASSISTED)
@pytest.mark.parametrize("tokens", SCOPES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_assisted_decoding_writes_as_without_an_assistant(family: str, tokens: Any, way: str) -> None:
    lm = tiny.model(family)
    for text in PROMPTS[:2]:
        with steer(lm, adding(), tokens=tokens):
            got = written(lm, [text], max_new_tokens=8, **ASSISTED[way](lm))
            assert got == written(lm, [text], max_new_tokens=8, use_cache=False)


def test_a_static_cache_never_has_a_steered_model_compiled() -> None:
    """On a GPU transformers compiles the model for a static cache, and compiled code would keep or miss the hooks."""
    lm, given = tiny.fresh("llama"), list[dict[str, Any]]()
    theirs = lm.hf.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs)
        return theirs(*args, **kwargs)

    lm.hf.generate = generate
    written(lm, PROMPTS[:1], cache_implementation="static")
    with steer(lm, adding()):
        written(lm, PROMPTS[:1], cache_implementation="static")
    assert [kwargs.get("disable_compile") for kwargs in given] == [None, True]


def test_a_model_that_is_compiled_within_the_with_is_steered() -> None:
    lm = tiny.fresh("llama")
    batch = lm.batch([lm.tokens(text) for text in PROMPTS])
    with torch.inference_mode(), steer(lm, adding(), tokens="last"):
        expected = lm.hf(**batch).logits
        got = torch.compile(lm.hf, backend="eager")(**batch).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", [SITE, "norm.1.input_layernorm", "head.1.2"])
def test_gradient_checkpointing_is_right_or_refused_where_it_runs_a_site_again(site: str) -> None:
    lm = tiny.fresh("llama")
    lm.hf.train().requires_grad_(True)
    batch = lm.batch([lm.tokens(text) for text in PROMPTS])
    steering = Steering({site: Add(vector(1, find(lm.hf, parse(site)).width))})

    def slopes() -> list[Tensor]:
        lm.hf.zero_grad()
        with laid_out(batch["attention_mask"].bool(), torch.full((len(PROMPTS),), batch["input_ids"].shape[1] - 1)):
            losses = [lm.hf(**batch, use_cache=False).logits.sum(), lm.hf(**batch, use_cache=False).logits[:, -1].sum()]
        torch.stack(losses).sum().backward()
        return [weight.grad.clone() for weight in blocks(lm.hf).parameters()]

    with steer(lm, steering, tokens="generated"):
        expected = slopes()
        lm.hf.activation_checkpointing_enable()
        if site == SITE:
            for one, other in zip(slopes(), expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        else:
            with pytest.raises(SteerlibError) as error:
                slopes()
            assert "gradient checkpointing" in sentence(error)
    assert not tiny.hooks(lm.hf)


def test_a_call_without_tokens_is_refused() -> None:
    lm = tiny.model("llama")
    with pytest.raises(SteerlibError) as error, steer(lm, adding()):
        lm.hf(attention_mask=torch.ones(1, 3))
    assert "input_ids" in sentence(error)


@pytest.mark.parametrize("tokens", SCOPES)
def test_vectors_and_the_layout_follow_the_activation_to_its_device(tokens: Any) -> None:
    """As where a model lies on several devices: here it moves, and takes the steering with it."""
    lm, seen = tiny.fresh("llama"), list[Tensor]()
    real, ends = torch.ones(2, 4, dtype=torch.bool), torch.tensor([3, 4])
    with steer(lm, adding(), tokens=tokens):
        lm.hf.to("meta")
        blocks(lm.hf)[-1].register_forward_hook(lambda _, __, out: seen.append(out))
        ids, mask = (
            torch.zeros(*shape, dtype=kind, device="meta")
            for shape, kind in (((2, 4), torch.long), ((2, 1, 4, 4), None))
        )
        for _ in range(2):
            with laid_out(real, ends):
                lm.hf(ids, attention_mask=mask, use_cache=False)
    assert [(h.device.type, tuple(h.shape)) for h in seen] == [("meta", (2, 4, WIDTH))] * 2


def test_image_tokens_of_a_model_without_pictures_are_refused() -> None:
    with pytest.raises(SteerlibError) as error, steer(tiny.model("llama"), adding(), tokens="image"):
        pass
    assert "tiny-llama" in sentence(error)


def test_image_tokens_cannot_be_told_from_embeddings() -> None:
    lm = tiny.model("llava")
    embeds = lm.hf.get_input_embeddings()(tiny.ids(lm, "A cat"))
    with pytest.raises(SteerlibError) as error, steer(lm, adding(), tokens="image"):
        lm.hf(inputs_embeds=embeds)
    assert "input_ids" in sentence(error)


# ---- order and composition


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("site", [SITE, "norm.final", "head.1.2"])
def test_nested_steerings_act_in_the_order_written(family: str, site: str) -> None:
    lm = tiny.model(family)
    wide = find(lm.hf, parse(site)).width
    first = Ablate(vector(1, wide), vector(2, wide))
    second = Affine(vector(3, wide, 0.5), vector(4, wide))
    ids = tiny.ids(lm, PROMPTS[0])
    for a, b in ((first, second), (second, first)):
        with (
            torch.inference_mode(),
            tiny.watch(lm, site) as plain,
            steer(lm, Steering({site: a}), 0.8),
            steer(lm, Steering({site: b}), 1.2),
            tiny.watch(lm, site) as steered,
        ):
            lm.hf(ids)
        torch.testing.assert_close(steered[0], b(a(plain[0], 0.8), 1.2), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(steered[0], a(b(plain[0], 1.2), 0.8), atol=1e-2)


def test_steerings_at_different_sites_act_together_as_one_steering_of_both() -> None:
    lm = tiny.model("qwen2")
    a, b = adding("residual.0"), Steering({"norm.2.input_layernorm": Ablate(vector(3))})
    with steer(lm, Steering({**a.operations, **b.operations}), 0.5):
        together = tiny.logits(lm)
    for one, other in ((a, b), (b, a)):
        with steer(lm, one, 0.5), steer(lm, other, 0.5):
            assert torch.equal(tiny.logits(lm), together)


def test_adding_twice_is_adding_the_sum_and_an_inner_with_ends_alone() -> None:
    lm = tiny.model("llama")
    with steer(lm, adding(), 0.5):
        outer = tiny.logits(lm)
        with steer(lm, adding(), 0.25), steer(lm, adding(), 0.25):
            inner = tiny.logits(lm)
        assert torch.equal(tiny.logits(lm), outer)
    with steer(lm, adding(), 1.0):
        torch.testing.assert_close(inner, tiny.logits(lm), atol=1e-4, rtol=1e-4)


def test_a_scope_outlives_the_withs_around_and_inside_it() -> None:
    """Without a cache only `generate` knows where the prompt ends, so it must go on saying so."""
    lm = tiny.model("llama")
    batch = lm.batch([lm.tokens(text) for text in PROMPTS])
    batch.pop("position_ids")
    with steer(lm, adding(), tokens="prompt"):
        expected = answers(lm, batch, False)[1]
        with steer(lm, adding("residual.0")):
            pass
        assert torch.equal(answers(lm, batch, False)[1], expected)
    before, within = steer(lm, adding("residual.0")), steer(lm, adding(), tokens="prompt")
    before.__enter__(), within.__enter__()
    before.__exit__(None, None, None)
    assert torch.equal(answers(lm, batch, False)[1], expected)
    within.__exit__(None, None, None)


def test_scopes_nest() -> None:
    lm = tiny.model("llama")
    with steer(lm, adding(), tokens="prompt"), steer(lm, adding(), tokens="generated"):
        parts = lm.generate(PROMPTS, max_new_tokens=6)
    with steer(lm, adding(), tokens="all"):
        assert lm.generate(PROMPTS, max_new_tokens=6) == parts


@pytest.mark.parametrize("family", FAMILIES)
def test_adding_at_a_residual_is_the_formula_and_the_rest_of_the_network_follows(family: str) -> None:
    lm = tiny.model(family)
    for layer in range(LAYERS):
        site = f"residual.{layer}"
        with (
            torch.inference_mode(),
            tiny.watch(lm, site) as plain,
            steer(lm, adding(site), -0.7),
            tiny.watch(lm, site) as steered,
        ):
            got = lm.hf(tiny.ids(lm, PROMPTS[0])).logits
        assert torch.equal(steered[0], plain[0] + -0.7 * vector(1, size=1.5))
        if layer == LAYERS - 1:  # written before the final norm, so the logits follow by hand
            with torch.inference_mode():
                by_hand = lm.hf.lm_head(find(lm.hf, Site("norm", -1)).module(steered[0]))
            cap = getattr(lm.hf.config, "final_logit_softcapping", None)
            torch.testing.assert_close(got, by_hand if cap is None else cap * torch.tanh(by_hand / cap))


@pytest.mark.parametrize("family", ALL)
def test_zeroing_a_head_is_zeroing_its_columns_of_the_output_projections_input(family: str) -> None:
    lm = tiny.model(family)
    attention = {"gpt2": "attn.c_proj", "gptj": "attn.out_proj"}.get(family, "self_attn.o_proj")
    for head in range(HEADS):
        projection = decoder(lm.hf).get_submodule(f"{'h' if family.startswith('gpt') else 'layers'}.1.{attention}")
        size = (projection.weight.shape[0] if family == "gpt2" else projection.weight.shape[1]) // HEADS
        keep = torch.ones(HEADS, size)
        keep[head] = 0
        handle = projection.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep.flatten(),))
        by_hand = tiny.logits(lm)
        handle.remove()
        off = Steering({f"head.1.{head}": Affine(-torch.ones(size), torch.zeros(size))})
        with steer(lm, off):
            got = tiny.logits(lm)
        real = lm.batch([lm.tokens(text) for text in PROMPTS])["attention_mask"].bool()
        torch.testing.assert_close(got[real], by_hand[real], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(got, tiny.logits(lm), atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("site", [SITE, "norm.final", "head.1.1"])
@pytest.mark.parametrize("kind", ["add", "ablate", "centred", "affine"])
def test_in_bfloat16_the_vectors_keep_their_precision_and_the_result_is_rounded_once(
    family: str, site: str, kind: str
) -> None:
    lm = tiny.model(family, torch.bfloat16)
    wide = find(lm.hf, parse(site)).width
    operation: Any = {
        "add": Add(vector(1, wide) + 1e-3),
        "ablate": Ablate(vector(1, wide)),
        "centred": Ablate(vector(1, wide), vector(2, wide)),
        "affine": Affine(vector(1, wide), vector(2, wide)),
    }[kind]
    with (
        torch.inference_mode(),
        tiny.watch(lm, site) as plain,
        steer(lm, Steering({site: operation}), 0.3),
        tiny.watch(lm, site) as steered,
    ):
        lm.hf(tiny.ids(lm, PROMPTS[0]))
    h = plain[0]
    assert h.dtype == steered[0].dtype == torch.bfloat16
    expected = operation(h.float(), 0.3).bfloat16()
    assert torch.equal(steered[0], expected)
    vectors = {k: v.bfloat16() for k, v in operation.vectors().items()}
    assert not torch.equal(type(operation)(**vectors)(h, 0.3), expected)  # the test would see a cast
    assert tiny.hooks(lm.hf) == []


def test_gradients_pass_through_a_steering() -> None:
    lm = tiny.model("llama")
    v = vector(1).requires_grad_()
    with steer(lm, Steering({SITE: Affine(v, v)}), 0.5, tokens="last"):
        lm.hf(tiny.ids(lm, PROMPTS[0])).logits[0, -1].square().sum().backward()
    assert v.grad is not None and v.grad.norm() > 0
    assert all(p.grad is None for p in lm.hf.parameters())


# ---- what is refused


@pytest.mark.parametrize("strength", [-0.1, 1.2])
def test_a_strength_outside_the_range_of_training_is_allowed_and_said(strength: float) -> None:
    lm = tiny.model("llama")
    trained = Steering({SITE: Add(vector(0))}, {"strengths": [0, 1]})
    says = rf"^strength {strength:g} lies outside the range .*trained \(0 to 1\): "
    with pytest.warns(UserWarning, match=says) as caught, steer(lm, trained, strength):
        steered = tiny.logits(lm)
    assert len(caught) == 1 and Path(caught[0].filename).name == "test_steering.py"
    with steer(lm, Steering({SITE: Add(vector(0))}), strength):  # of no known range
        assert torch.equal(tiny.logits(lm), steered)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for inside in (0, 0.5, 1):
            with steer(lm, trained, inside):
                tiny.logits(lm)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), None, "1", [1.0]])
def test_strengths_that_are_no_finite_number_are_refused(strength: Any) -> None:
    with pytest.raises(SteerlibError, match="strength") as error, steer(tiny.model("llama"), adding(), strength):
        pass
    sentence(error)


@pytest.mark.parametrize("tokens", ["", "first", "answer", "ALL"])
def test_scopes_that_do_not_exist_are_refused(tokens: Any) -> None:
    lm = tiny.model("llama")
    with pytest.raises(SteerlibError, match="generated") as error, steer(lm, adding(), tokens=tokens):
        pass
    sentence(error)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_steering_of_another_width_is_refused_with_both_shapes(strength: float) -> None:
    lm = tiny.model("llama")
    for operation in (Add(vector(0, 16)), Affine(vector(0), vector(0, 16)), Ablate(vector(0), vector(1, 16))):
        with pytest.raises(SteerlibError) as error, steer(lm, Steering({SITE: operation}), strength):
            pass
        assert "(16,)" in sentence(error) and "(32,)" in str(error.value) and SITE in str(error.value)


@pytest.mark.parametrize(
    ("facts", "theirs"),
    [
        ({"architecture": "gpt2"}, "gpt2 architecture"),
        ({"width": 576}, "576 width"),
        ({"layers": 30}, "30 layers"),
        ({"architecture": "qwen2", "width": 896, "layers": 24}, "qwen2 architecture, 896 width, 24 layers"),
    ],
)
def test_a_steering_of_another_model_is_refused_with_both(facts: dict[str, Any], theirs: str) -> None:
    with pytest.raises(SteerlibError) as error, steer(tiny.model("llama"), Steering({SITE: Add(vector(0))}, facts)):
        pass
    assert theirs in sentence(error)
    assert "llama architecture, 32 width, 3 layers" in str(error.value) and "tiny-llama" in str(error.value)


def test_a_steering_made_for_a_text_model_serves_the_same_decoder_inside_a_vision_language_model() -> None:
    steering = Steering({SITE: Add(vector(0))}, provenance(tiny.model("llama"), "by hand"))
    with steer(tiny.model("llava"), steering):
        pass
    with pytest.raises(SteerlibError, match="qwen2 architecture"), steer(tiny.model("qwen2"), steering):
        pass


@pytest.mark.parametrize("site", ["residual.3", "norm.1.q_norm", "head.1.4"])
def test_sites_that_the_model_lacks_are_refused(site: str) -> None:
    with pytest.raises(SteerlibError, match=site) as error, steer(tiny.model("llama"), adding(site)):
        pass
    sentence(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Steering({}),
        lambda: Steering({"residual": Add(vector(0))}),
        lambda: Steering({"layer.3": Add(vector(0))}),
        lambda: Steering({SITE: Add(torch.ones(2, WIDTH))}),
        lambda: Steering({SITE: Add(torch.tensor(1.0))}),
        lambda: Steering({SITE: Add(torch.full((WIDTH,), float("nan")))}),
        lambda: Steering({SITE: Affine(vector(0), torch.full((WIDTH,), float("inf")))}),
        lambda: Steering({SITE: Ablate(vector(0), torch.full((WIDTH,), float("nan")))}),
        lambda: Steering({SITE: vector(0)}),
    ],
)
def test_a_steering_that_makes_no_sense_is_refused(make: Callable[[], Steering]) -> None:
    with pytest.raises(SteerlibError) as error:
        make()
    sentence(error)


def test_a_steering_is_immutable() -> None:
    operations, facts = {SITE: Add(vector(0))}, {"method": "by hand"}
    steering = Steering(operations, facts)
    with pytest.raises(FrozenInstanceError):
        steering.operations = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        steering.operations[Site("residual", 0)] = Add(vector(1))  # type: ignore[index]
    with pytest.raises(TypeError):
        steering.provenance["method"] = "x"  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        steering.operations[Site("residual", 1)].vector = vector(1)  # type: ignore[misc, union-attr]
    operations["residual.0"] = Add(vector(1))
    facts["method"] = "changed"
    assert len(steering.operations) == 1 and steering.provenance["method"] == "by hand"


def test_using_a_steering_does_not_change_it() -> None:
    lm = tiny.model("llama")
    steering = everywhere(lm.hf)
    before = [v.clone() for op in steering.operations.values() for v in op.vectors().values()]
    with steer(lm, steering, 0.5):
        lm.generate(PROMPTS, max_new_tokens=3)
    after = [v for op in steering.operations.values() for v in op.vectors().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# ---- files


def same(a: Steering, b: Steering) -> bool:
    """Equal to the bit: sites and their order, kinds, vectors with their types, provenance."""
    if list(a.operations) != list(b.operations) or dict(a.provenance) != dict(b.provenance):
        return False
    for one, other in zip(a.operations.values(), b.operations.values(), strict=True):
        if type(one) is not type(other):
            return False
        for name, v in one.vectors().items():
            w = getattr(other, name)
            if (v is None) != (w is None):
                return False
            if v is not None and (v.dtype != w.dtype or not torch.equal(v, w)):
                return False
    return True


@pytest.mark.parametrize("family", ALL)
def test_a_file_gives_the_steering_back_to_the_bit(family: str, tmp_path: Path) -> None:
    lm = tiny.model(family)
    facts = provenance(lm, "by hand", seed=3, layers_tried=[1, 2], note='ünï "quoted"\n')
    steering = Steering(everywhere(lm.hf).operations, facts)
    steering.save(tmp_path / "s.safetensors")
    back = load_steering(str(tmp_path / "s.safetensors"))
    assert same(steering, back)
    with steer(lm, steering, 0.5):
        expected = tiny.logits(lm)
    with steer(lm, back, 0.5):
        assert torch.equal(tiny.logits(lm), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_directions_of_any_precision_survive_a_file(dtype: torch.dtype, tmp_path: Path) -> None:
    for seed in range(20):
        steering = Steering({SITE: Ablate(vector(seed, 576).to(dtype), vector(seed + 1, 576).to(dtype))})
        steering.save(tmp_path / "s.safetensors")
        assert same(steering, load_steering(tmp_path / "s.safetensors"))


def test_vectors_that_share_memory_are_saved(tmp_path: Path) -> None:
    """One direction at several layers, rows of one matrix, and a view with a stride."""
    v, matrix = vector(0), torch.randn(4, WIDTH)
    steering = Steering(
        {
            "residual.0": Add(v),
            "residual.1": Add(v),
            "residual.2": Affine(v, v),
            "norm.final": Affine(matrix[0], matrix[1]),
            "norm.0.input_layernorm": Add(torch.randn(WIDTH, 4)[:, 1]),
        }
    )
    steering.save(tmp_path / "s.safetensors")
    assert same(steering, load_steering(tmp_path / "s.safetensors"))


def test_a_direction_that_still_learns_is_saved_as_it_is_now(tmp_path: Path) -> None:
    steering = Steering({SITE: Add(vector(0).requires_grad_())})
    steering.save(tmp_path / "s.safetensors")
    assert torch.equal(load_steering(tmp_path / "s.safetensors").operations[Site("residual", 1)].vector, vector(0))  # type: ignore[union-attr]


def write_header(path: Path, header: Any, tensors: dict[str, Tensor] | None = None) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"residual.1/vector": vector(0)} if tensors is None else tensors, path, metadata={"steerlib": text})


GOOD = {"format": "steerlib.steering/1", "operations": {SITE: "add"}, "provenance": {}}


@pytest.mark.parametrize(
    "header",
    [
        "not json",
        "[]",
        "3",
        "null",
        {},
        GOOD | {"format": "steerlib.steering/2"},
        GOOD | {"operations": {}},
        GOOD | {"operations": []},
        GOOD | {"operations": None},
        GOOD | {"operations": {SITE: "rotate"}},
        GOOD | {"operations": {SITE: ["add"]}},
        GOOD | {"operations": {SITE: "affine"}},
        GOOD | {"operations": {SITE: "ablate"}},
        GOOD | {"operations": {"residual.2": "add"}},
        GOOD | {"operations": {"elsewhere": "add"}},
        GOOD | {"provenance": None},
        GOOD | {"provenance": "text"},
        GOOD | {"provenance": [1]},
        {k: v for k, v in GOOD.items() if k != "provenance"},
        {k: v for k, v in GOOD.items() if k != "operations"},
    ],
    ids=str,
)
def test_a_tampered_header_is_one_sentence(header: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    write_header(path, GOOD)
    load_steering(path)
    write_header(path, header)
    with pytest.raises(SteerlibError) as error:
        load_steering(path)
    sentence(error)


@pytest.mark.parametrize(
    "tensors",
    [{}, {"residual.1/vector": torch.ones(2, 2)}, {"residual.1/vector": torch.full((2,), float("nan"))}],
    ids=["none", "matrix", "nan"],
)
def test_tensors_that_are_not_what_the_header_promises_are_one_sentence(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write_header(tmp_path / "s.safetensors", GOOD, tensors)
    with pytest.raises(SteerlibError) as error:
        load_steering(tmp_path / "s.safetensors")
    sentence(error)


def test_damaged_files_are_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    adding().save(path)
    whole = path.read_bytes()
    for content in [whole[:n] for n in (0, 4, 8, 40, len(whole) // 2, len(whole) - 1)] + [
        b"hello",
        b"just a text file\n" * 40,
        whole + b"more",
    ]:
        path.write_bytes(content)
        with pytest.raises(SteerlibError) as error:
            load_steering(path)
        assert str(path) in sentence(error)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(SteerlibError) as error:
            load_steering(missing)
        assert str(missing) in sentence(error)


def test_safetensors_without_a_steering_are_one_sentence(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "w.safetensors")
    save_file({"weight": torch.ones(3)}, tmp_path / "v.safetensors", metadata={"format": "pt"})
    for name in ("w", "v"):
        with pytest.raises(SteerlibError, match="no steering") as error:
            load_steering(tmp_path / f"{name}.safetensors")
        sentence(error)


def test_provenance_says_where_a_steering_comes_from() -> None:
    facts = provenance(tiny.model("llava"), "contrastive", seed=7)
    assert facts["architecture"] == "llama" and facts["width"] == WIDTH and facts["layers"] == LAYERS
    assert facts["model"] == "tiny-llava" and facts["method"] == "contrastive" and facts["seed"] == 7
    assert len(facts["weights"]) == 64 and set(facts["versions"]) == {"torch", "transformers"}
    assert json.loads(json.dumps(facts)) == facts


# ---- capture


def gathered(batches: Iterator[tuple[list[int], dict[Site, Tensor]]]) -> dict[Site, Tensor]:
    """Captured activations in the order of the prompts: (prompts, width) a site."""
    rows: dict[Site, dict[int, Tensor]] = {}
    for numbers, at in batches:
        for site, values in at.items():
            assert values.shape[0] == len(numbers) and values.dtype == torch.float32
            for number, value in zip(numbers, values, strict=True):
                assert number not in rows.setdefault(site, {})
                rows[site][number] = value
    return {site: torch.stack([line[i] for i in range(len(line))]) for site, line in rows.items()}


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_residuals_are_the_models_own_hidden_states(family: str, read: Any) -> None:
    lm = tiny.model(family)
    got = gathered(capture(lm, PROMPTS, sites(lm.hf, "residual"), read=read, batch_size=2))
    norm = find(lm.hf, Site("norm", -1)).module
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            states = lm.hf(tiny.ids(lm, prompt), output_hidden_states=True).hidden_states
        assert len(states) == LAYERS + 1
        for layer in range(LAYERS):
            mine = got[Site("residual", layer)][i]
            own = states[layer + 1][0]
            if layer < LAYERS - 1:
                own = own[-1] if read == "last" else own.mean(0)
                torch.testing.assert_close(mine, own, atol=1e-4, rtol=1e-4)
            elif read == "last":
                torch.testing.assert_close(norm(mine), own[-1], atol=1e-4, rtol=1e-4)
            else:
                with torch.inference_mode(), tiny.watch(lm, f"residual.{layer}") as seen:
                    again = lm.hf(tiny.ids(lm, prompt), output_hidden_states=True).hidden_states[-1]
                torch.testing.assert_close(norm(seen[0])[0], again[0], atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(mine, seen[0][0].mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gptj", "llava"])
def test_every_site_is_captured_in_batches_as_one_by_one_and_as_a_hook_sees_it(family: str, read: Any) -> None:
    lm = tiny.model(family)
    where = sites(lm.hf, "residual") + sites(lm.hf, "norm") + sites(lm.hf, "head")
    got = gathered(capture(lm, PROMPTS, where, read=read, batch_size=3))
    assert list(got) and set(got) == set(where)
    for i, prompt in enumerate(PROMPTS):
        alone = gathered(capture(lm, [prompt], where, read=read))
        for site in where:
            assert got[site].shape == (len(PROMPTS), find(lm.hf, site).width)
            torch.testing.assert_close(alone[site][0], got[site][i], atol=1e-4, rtol=1e-4)
    for site in where[:: len(where) // 5]:
        with torch.inference_mode(), tiny.watch(lm, site) as seen:
            lm.hf(tiny.ids(lm, PROMPTS[0]))
        own = seen[0][0, -1] if read == "last" else seen[0][0].mean(0)
        torch.testing.assert_close(got[site][0], own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("read", ["last", "mean"])
def test_padding_is_never_read(read: Any, junk: float) -> None:
    lm = tiny.model("llama")
    clean = gathered(capture(lm, PROMPTS, [Site("residual", 1)], read=read))[Site("residual", 1)]
    padding = ~lm.batch([lm.tokens(text) for text in sorted(PROMPTS, key=lambda p: len(lm.tokens(p)))])[
        "attention_mask"
    ].bool()
    assert padding.any()
    handle = blocks(lm.hf)[1].register_forward_hook(
        lambda module, args, output: output.masked_fill(padding.unsqueeze(-1), junk)
    )
    try:
        dirty = gathered(capture(lm, PROMPTS, [Site("residual", 1)], read=read))[Site("residual", 1)]
    finally:
        handle.remove()
    assert torch.equal(clean, dirty)


def test_prompts_are_read_from_a_stream_a_few_batches_ahead_and_numbered_in_its_order() -> None:
    lm, taken = tiny.model("llama"), 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield "x" * (1 + i * 7 % 11) + chr(97 + i % 26)

    batches = capture(lm, endless(), [Site("residual", 0)], batch_size=2)
    assert taken == 0
    numbers: list[int] = []
    for _ in range(40):
        part, at = next(batches)
        numbers += part
        text = "x" * (1 + part[0] * 7 % 11) + chr(97 + part[0] % 26)
        alone = gathered(capture(lm, [text], [Site("residual", 0)]))[Site("residual", 0)]
        torch.testing.assert_close(at[Site("residual", 0)][0], alone[0], atol=1e-5, rtol=1e-5)
        assert taken <= len(numbers) + 32
        assert tiny.hooks(lm.hf) == []
    batches.close()  # type: ignore[attr-defined]
    full = gathered(capture(lm, (p for p in PROMPTS * 20), [Site("residual", 0)], batch_size=2))
    assert len(full[Site("residual", 0)]) == 5 * 20
    torch.testing.assert_close(
        full[Site("residual", 0)], full[Site("residual", 0)][:5].repeat(20, 1), atol=1e-5, rtol=1e-5
    )


def test_no_prompts_give_no_batches() -> None:
    assert list(capture(tiny.model("llama"), [], [Site("residual", 0)])) == []


@pytest.mark.parametrize("family", ["llama", "gptj", "llava"])
def test_capture_stops_after_the_last_site_and_never_runs_the_head(family: str) -> None:
    lm, ran = tiny.model(family), []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in [("block 2", blocks(lm.hf)[2]), ("head", lm.hf.lm_head), ("block 1", blocks(lm.hf)[1])]
    ]
    try:
        list(capture(lm, PROMPTS[:1], [Site("residual", 0)]))
        assert ran == []
        list(capture(lm, PROMPTS[:1], [Site("head", 2, "0"), Site("residual", 0)]))
        assert ran == ["block 1"]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("tokens", ["all", "last", "prompt", "generated"])
def test_capture_under_a_steering_sees_steered_values(tokens: Any) -> None:
    lm = tiny.model("gemma2")
    where = [Site("residual", 1), Site("residual", 2)]
    plain = gathered(capture(lm, PROMPTS, where, batch_size=2))
    with steer(lm, adding(), 0.5, tokens=tokens):
        steered = gathered(capture(lm, PROMPTS, where, batch_size=2))
        inside = tiny.hooks(lm.hf)
        list(capture(lm, PROMPTS, where))
        assert tiny.hooks(lm.hf) == inside
    shift = (steered[where[0]] - plain[where[0]]).abs()
    if tokens == "generated":  # there is no answer in a capture
        assert torch.equal(shift, torch.zeros_like(shift))
    else:
        expected = plain[where[0]] + 0.5 * vector(1, size=1.5)
        torch.testing.assert_close(steered[where[0]], expected, atol=1e-5, rtol=1e-5)
        assert (steered[where[1]] - plain[where[1]]).abs().min(0).values.max() > 1e-2


def test_what_is_captured_is_small_owned_and_can_be_learnt_from() -> None:
    lm = tiny.model("llama")
    for read in ("last", "mean"):
        for _, at in capture(lm, PROMPTS, [Site("residual", 0), Site("head", 1, "1")], read=read):  # type: ignore[arg-type]
            for values in at.values():
                assert values.untyped_storage().nbytes() == 4 * values.numel()  # not a view of all tokens
                weight = torch.ones(values.shape[1], requires_grad=True)
                (values @ weight).sum().backward()
                assert weight.grad is not None and not values.requires_grad


def test_capture_in_bfloat16_gives_float32() -> None:
    lm = tiny.model("llama", torch.bfloat16)
    got = gathered(capture(lm, PROMPTS, [Site("residual", 1)], read="mean"))[Site("residual", 1)]
    with torch.inference_mode(), tiny.watch(lm, SITE) as seen:
        lm.hf(tiny.ids(lm, PROMPTS[0]))
    torch.testing.assert_close(got[0], seen[0][0].float().mean(0), atol=2e-2, rtol=2e-2)


def test_nan_in_an_activation_names_the_site_and_the_prompt() -> None:
    lm = tiny.fresh("llama")
    word = lm.tokens("Q")[0]
    lm.hf.model.embed_tokens.weight[word] = float("nan")
    prompts = [*PROMPTS, "The Queen said"]
    with pytest.raises(SteerlibError) as error:
        list(capture(lm, prompts, [Site("residual", 1)], read="mean", batch_size=2))
    text = sentence(error)
    assert "residual.1" in text and "prompt 5" in text and "The Queen said" in text


@pytest.mark.parametrize(
    ("prompts", "where", "read"),
    [
        (PROMPTS, [Site("residual", 9)], "last"),
        (PROMPTS, [Site("residual", 1)], "first"),
        (["A", ""], [Site("residual", 1)], "last"),
        (["A", ""], [Site("residual", 1)], "mean"),
        ("The nurse", [Site("residual", 1)], "last"),
        ([{"role": "user", "content": "A"}], [Site("residual", 1)], "last"),
        (PROMPTS, [], "last"),
    ],
    ids=["site", "read", "empty-last", "empty-mean", "one-text", "one-chat", "no-sites"],
)
def test_captures_that_make_no_sense_are_refused(prompts: Any, where: Any, read: Any) -> None:
    with pytest.raises(SteerlibError) as error:
        list(capture(tiny.model("llama"), prompts, where, read=read))
    sentence(error)
