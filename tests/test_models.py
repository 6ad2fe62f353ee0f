"""Choosing, scoring and writing: in batches as one by one, and as plain Hugging Face calls would have it."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, PROMPTS
from torch import Tensor

from steerlib import assets
from steerlib.errors import SteerlibError
from steerlib.models.layout import layout
from steerlib.models.load import load
from steerlib.models.model import Model, weights_hash
from steerlib.models.prompts import chat

ALL = [*FAMILIES, "llava"]
OPTIONS = [" cat.", " cab", " doctor", "!"]  # four tokens, four with the same first two, many, one


def sentence(error: pytest.ExceptionInfo[SteerlibError]) -> str:
    """The message, which is one line that ends like a sentence."""
    text = str(error.value)
    assert "\n" not in text and text.rstrip().endswith("."), text
    return text


def by_hand(lm: Model, prompt: str, options: list[str]) -> Tensor:
    """(options,) probabilities from the logits of all positions of each whole text alone: no padding, no sharing."""
    scores = []
    start = lm.tokens(prompt)
    for option in options:
        whole = lm.tokenizer(prompt + option)["input_ids"]
        with torch.inference_mode():
            logprobs = lm.hf(torch.tensor([whole])).logits[0].log_softmax(-1)
        scores.append(sum(logprobs[i - 1, whole[i]] for i in range(len(start), len(whole))))
    return torch.stack(scores).softmax(-1)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def smollm2() -> Model:
    """The real SmolLM2, from the cache."""
    return load("smollm2")


# ---- the tokenizer of the tiny models is what these tests need


def test_options_are_several_tokens_and_some_share_the_first() -> None:
    lm = tiny.model("llama")
    tails = [lm.tokens("A" + option)[1:] for option in OPTIONS]
    assert [len(tail) for tail in tails] == [5, 4, 7, 1]
    assert tails[0][:3] == tails[1][:3] and tails[0][3] != tails[1][3]
    assert lm.tokens("A he")[1:] == lm.tokenizer.convert_tokens_to_ids(["Ġhe"])


# ---- choose


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("family", ALL)
def test_choosing_in_batches_is_what_the_full_logits_of_each_text_alone_say(family: str, batch_size: int) -> None:
    lm = tiny.model(family)
    got = lm.choose(PROMPTS, OPTIONS, batch_size=batch_size)
    assert got.shape == (len(PROMPTS), len(OPTIONS)) and got.dtype == torch.float32
    torch.testing.assert_close(got.sum(-1), torch.ones(len(PROMPTS)))
    for prompt, line in zip(PROMPTS, got, strict=True):
        torch.testing.assert_close(line, by_hand(lm, prompt, OPTIONS), atol=1e-5, rtol=1e-3)
        alone = lm.choose(prompt, OPTIONS)
        assert alone.shape == (len(OPTIONS),)
        torch.testing.assert_close(alone, line, atol=1e-5, rtol=1e-3)


def test_the_choice_depends_on_the_prompt_and_on_the_whole_option() -> None:
    lm = tiny.model("llama")
    one, other = lm.choose(PROMPTS, ["aa", "ab"]), lm.choose(PROMPTS, ["aa", "ac"])
    assert one.std(0).max() > 0.05 and lm.choose(PROMPTS, list("abcd")).std(0).max() > 0.1
    assert (one - other).abs().max() > 0.1


def test_each_prompt_may_have_options_of_its_own() -> None:
    lm = tiny.model("llama")
    options = [[" cat.", " cab"], [" dog", " doctor"], ["!", "?"], [" he", " so"], [" one", " two"]]
    got = lm.choose(PROMPTS, options)
    for i, (prompt, own) in enumerate(zip(PROMPTS, options, strict=True)):
        torch.testing.assert_close(got[i], by_hand(lm, prompt, own), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(lm.choose(PROMPTS[0], [options[0]]), got[0], atol=1e-5, rtol=1e-3)


def test_the_order_of_prompts_and_options_does_not_matter() -> None:
    lm = tiny.model("gemma3")
    got = lm.choose(PROMPTS, OPTIONS)
    torch.testing.assert_close(lm.choose(PROMPTS[::-1], OPTIONS).flip(0), got, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(lm.choose(PROMPTS, OPTIONS[::-1]).flip(1), got, atol=1e-5, rtol=1e-3)


def test_options_of_one_token_cost_one_row_a_prompt_and_one_position_of_logits() -> None:
    lm, seen = tiny.model("llama"), []
    handle = lm.hf.lm_head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    try:
        lm.choose(PROMPTS, [" he", "!", "?"], batch_size=16)
        lm.choose(PROMPTS[:1], [" cat.", " cab"])  # their tokens but the last are one the beginning of the other
    finally:
        handle.remove()
    assert seen[0] == (len(PROMPTS), 1) and seen[1] == (2, 5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "no options"),
        ("he", "no options"),
        ("", "no options"),
        ([" he"], "at least two"),
        ([[" he"], [" she"]], "at least two"),
        ([[], []], "at least two"),
        ([[" he", " she"]], "2 lists"),
        ([[" he", " she"], [" a", " b", " c"]], "one length"),
        ([" cat", " cat."], "beginning of"),
        ([" he", " he"], "' he' was given twice"),
        ([[" he", " she"], [" it", " it"]], "' it' was given twice"),
        ([" he", ""], "option 1 is empty"),
        ([" he", 3], "option 1 is a int, not a text"),
    ],
    ids=str,
)
def test_options_that_are_no_choice_are_refused(options: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as error:
        tiny.model("llama").choose(PROMPTS[:2], options)
    sentence(error)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, None])
def test_a_batch_size_below_one_is_refused(batch_size: Any) -> None:
    lm = tiny.model("llama")
    for ask in (
        lambda: lm.choose(PROMPTS, OPTIONS, batch_size=batch_size),
        lambda: lm.loglik(PROMPTS, ["!"] * 5, batch_size=batch_size),
    ):
        with pytest.raises(SteerlibError, match="batch_size must be a whole number of at least 1") as error:
            ask()
        sentence(error)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_text_beyond_the_context_is_refused_and_one_that_fills_it_is_read(family: str) -> None:
    """Learned positions would raise an IndexError there, and rotary ones run on silently."""
    lm, most = tiny.model(family), 256
    full = "z" * most
    assert len(lm.tokens(full)) == most
    assert lm.choose(full, ["!", "?"]).shape == (2,) and len(lm.loglik([full], ["!"])[0]) == 1
    assert len(lm.loglik([full + "z"])[0]) == most  # the last token is only scored
    for ask in (
        lambda: lm.choose(["A", full + "z"], ["!", "?"]),
        lambda: lm.choose(full, ["!!", "?"]),
        lambda: lm.loglik([full], ["!!"]),
        lambda: lm.loglik([full + "zz"]),
    ):
        with pytest.raises(SteerlibError, match=f"but the context of 'tiny-{family}' is 256: shorten it") as error:
            ask()
        sentence(error)


def test_prompts_and_options_may_stand_in_arrays_and_tables() -> None:
    lm = tiny.model("llama")
    own = [[" cat.", " cab"], [" dog", " doctor"], ["!", "?"], [" he", " so"], [" one", " two"]]
    shared, each = lm.choose(PROMPTS, OPTIONS), lm.choose(PROMPTS, own)
    column = pd.Series(PROMPTS, index=[7, 3, 9, 1, 5])
    chats = [chat("Who?", "It"), chat("Why?")]
    for prompts in (np.array(PROMPTS), column, pd.Index(PROMPTS), tuple(PROMPTS)):
        assert torch.equal(lm.choose(prompts, np.array(OPTIONS)), shared)
        assert torch.equal(lm.choose(prompts, pd.Series(OPTIONS, index=[2, 1, 4, 3])), shared)
        assert torch.equal(lm.choose(prompts, np.array(own)), each)
        assert torch.equal(lm.choose(prompts, pd.DataFrame(own, columns=["one", "other"])), each)
        assert torch.equal(
            torch.stack(lm.loglik(prompts, pd.Series(["!"] * 5))), torch.stack(lm.loglik(PROMPTS, ["!"] * 5))
        )
    assert torch.equal(lm.choose(pd.Series(chats), OPTIONS), lm.choose(chats, OPTIONS))
    assert torch.equal(lm.choose(np.str_("A"), OPTIONS), lm.choose("A", OPTIONS))
    with pytest.raises(SteerlibError, match="prompt 1 is a float, not a text or a chat .*: nan") as error:
        lm.choose(pd.Series(["A", float("nan")]), OPTIONS)
    sentence(error)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_score_compares_sums_or_means_per_token_or_per_character(family: str) -> None:
    lm = tiny.model(family)
    tokens = [len(lm.tokens("A", option)) - len(lm.tokens("A")) for option in OPTIONS]
    characters = [len(option.strip()) for option in OPTIONS]
    sums = torch.stack([torch.stack([lm.loglik([p], [o])[0].sum() for o in OPTIONS]) for p in PROMPTS])
    for score, sizes in (("sum", [1] * 4), ("token", tokens), ("character", characters)):
        got = lm.choose(PROMPTS, OPTIONS, score=score)  # type: ignore[call-overload]
        torch.testing.assert_close(got, (sums / torch.tensor(sizes)).softmax(-1), atol=1e-5, rtol=1e-3)
    own = [[option, f"{option}?"[::-1]] for option in (" dog", " c", "!", " she", " two")]
    each = lm.choose(PROMPTS, own, score="token")
    for prompt, options, line in zip(PROMPTS, own, each, strict=True):
        torch.testing.assert_close(lm.choose(prompt, options, score="token"), line, atol=1e-5, rtol=1e-3)
    with pytest.raises(SteerlibError, match="no score 'mean': use 'sum', 'token' or 'character'"):
        lm.choose(PROMPTS, OPTIONS, score="mean")  # type: ignore[call-overload]


def test_a_longer_option_loses_by_its_length_only_where_sums_are_compared() -> None:
    """On a model that finds every token about equally likely, n tokens have n times the log-probability of one."""
    lm = tiny.fresh("llama")
    lm.hf.lm_head.weight.mul_(1e-6)
    vocabulary = lm.hf.config.vocab_size
    short, long = lm.choose("A", ["!", " doctor"])
    assert long / short == pytest.approx(vocabulary**-6, rel=1e-3)  # seven tokens against one
    torch.testing.assert_close(lm.choose("A", ["!", " doctor"], score="token"), torch.tensor([0.5, 0.5]))
    per_character = torch.tensor([1.0, 7 / 6]) * -np.log(vocabulary)
    torch.testing.assert_close(lm.choose("A", ["!", " doctor"], score="character"), per_character.float().softmax(-1))


@pytest.mark.parametrize("score", ["sum", "token", "character"])
def test_the_mass_is_what_the_options_hold_of_everything_the_model_could_say(score: Any) -> None:
    lm = tiny.model("llama")
    whole = [lm.tokenizer.decode([i]) for i in range(4, lm.hf.config.vocab_size)]
    letters = [t for t in whole if len(lm.tokens("A " + t)) == 3 and "\n" not in t and t.strip() == t][:20]
    probabilities, mass = lm.choose(PROMPTS, letters, score=score, return_mass=True)
    each = torch.stack([torch.stack([lm.loglik([p], [o])[0].sum() for o in letters]) for p in PROMPTS]).exp()
    assert mass.shape == (len(PROMPTS),) and mass.dtype == torch.float32
    torch.testing.assert_close(mass, each.sum(-1), atol=1e-6, rtol=1e-3)
    assert (mass > 0).all() and (mass < 1).all() and mass.std() > 0
    assert torch.equal(probabilities, lm.choose(PROMPTS, letters, score=score))
    alone = lm.choose(PROMPTS[0], letters, score=score, return_mass=True)
    assert alone[0].shape == (len(letters),) and alone[1].shape == ()
    torch.testing.assert_close(alone[1], mass[0])


def test_only_some_pictures_are_held_at_a_time_and_the_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, number = tiny.seeing(), 40
    prompts = [chat("Who is it?" * (1 + i % 3), "The", pictures=tiny.picture(i)) for i in range(number)]
    together = lm.choose(prompts, [" first", " second"])  # all in one window
    living: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most, plain = 0, Model.read

    def read(self: Model, *args: Any) -> Any:
        nonlocal most
        ids, seen = plain(self, *args)
        living.update(seen.values())
        most = max(most, len(living))
        return ids, seen

    monkeypatch.setattr(Model, "read", read)
    streamed = lm.choose(prompts, [" first", " second"], batch_size=1)
    assert 16 <= most <= 16 + 2
    torch.testing.assert_close(streamed, together, atol=1e-5, rtol=1e-3)
    most = 0
    lm.loglik(prompts, ["!"] * number, batch_size=1)
    assert 16 <= most <= 16 + 2


def test_an_option_that_begins_another_names_both() -> None:
    with pytest.raises(SteerlibError) as error:
        tiny.model("llama").choose("A", [" cats", " cat"])
    assert "' cat' is the beginning of option ' cats'" in sentence(error)


def test_a_space_that_would_merge_with_the_option_is_refused() -> None:
    """ "A " + "he" reads as "A" + " he": the prompt's last token is gone, so there is nothing to continue from."""
    lm = tiny.model("llama")
    with pytest.raises(SteerlibError) as error:
        lm.choose("A ", ["he", "it"])
    assert "without a space" in sentence(error) and "'he'" in str(error.value)
    with pytest.raises(SteerlibError):
        lm.loglik(["A "], ["he"])


@pytest.mark.parametrize("prompts", ["", [""], ["A", ""], ["", "A"]], ids=str)
def test_an_empty_prompt_is_refused_where_the_model_has_no_token_to_begin_with(prompts: Any) -> None:
    lm = tiny.model("llama")
    for ask in (
        lambda: lm.choose(prompts, [" cat.", " cab"]),
        lambda: lm.choose(prompts, ["!", "?"]),
        lambda: lm.generate(prompts),
        lambda: lm.loglik(prompts, ["!"] * (1 if isinstance(prompts, str) else len(prompts))),
        lambda: lm.loglik(prompts),
    ):
        with pytest.raises(SteerlibError) as error:
            ask()
        sentence(error)
    begun = tiny.model("gemma2")
    assert begun.tokens("") == [begun.tokenizer.bos_token_id]
    torch.testing.assert_close(begun.choose("", OPTIONS), by_hand(begun, "", OPTIONS), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompts_are_refused(prompts: Any) -> None:
    lm = tiny.model("llama")
    for ask in (lambda: lm.choose(prompts, ["!", "?"]), lambda: lm.generate(prompts), lambda: lm.loglik(prompts)):
        with pytest.raises(SteerlibError, match="no prompt") as error:
            ask()
        sentence(error)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nan_weights_are_refused_with_the_prompt(family: str) -> None:
    lm = tiny.fresh(family)
    lm.hf.get_input_embeddings().weight[lm.tokens("Q")[0]] = float("nan")
    lm.choose(PROMPTS, OPTIONS)
    with pytest.raises(SteerlibError) as error:
        lm.choose([*PROMPTS, "The Queen said"], OPTIONS)
    assert "The Queen said" in sentence(error) and f"tiny-{family}" in str(error.value)
    with pytest.raises(SteerlibError, match="The Queen said"):
        lm.loglik([*PROMPTS, "The Queen said"], ["!"] * 6)
    next(iter(lm.hf.parameters())).fill_(float("nan"))
    with pytest.raises(SteerlibError, match="nurse"):
        lm.choose(PROMPTS[0], OPTIONS)


# ---- prompts


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_chats_are_rendered_by_the_models_template(family: str) -> None:
    lm = tiny.model(family)
    start = "<s>" if family == "gemma2" else ""
    assert lm.render("plain [x]") == "plain [x]"
    assert lm.render(chat("Who?")) == f"{start}[user]Who?</s>[assistant]"
    assert lm.render(chat("Who?", "The nurse")) == f"{start}[user]Who?</s>[assistant]The nurse"
    assert lm.render(chat("Who?", "It is", system="Be fair.")) == (
        f"{start}[system]Be fair.</s>[user]Who?</s>[assistant]It is"
    )
    whole = lm.tokens(chat("Who?", "The nurse"), " he")
    assert lm.tokenizer.decode(whole) == f"{start}[user]Who?</s>[assistant]The nurse he"
    assert whole.count(lm.tokenizer.bos_token_id) == (family == "gemma2")
    assert lm.tokens("A").count(lm.tokenizer.bos_token_id) == (family == "gemma2")


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_chat_is_asked_as_the_text_it_renders_to(family: str) -> None:
    lm = tiny.model(family)
    prompts = [chat("Who?", "The nurse was tired because"), chat("What?"), chat("Why?", "So", system="Be brief.")]
    texts = [lm.render(prompt).removeprefix("<s>") for prompt in prompts]
    got = lm.choose(prompts, OPTIONS)
    torch.testing.assert_close(got, lm.choose(texts, OPTIONS), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(lm.choose(prompts[0], OPTIONS), got[0], atol=1e-5, rtol=1e-3)
    assert lm.generate(prompts, max_new_tokens=5) == lm.generate(texts, max_new_tokens=5)
    assert lm.generate(prompts[1], max_new_tokens=5) == lm.generate(texts[1], max_new_tokens=5)
    mixed = lm.choose([prompts[0], texts[1]], OPTIONS)
    torch.testing.assert_close(mixed, got[:2], atol=1e-5, rtol=1e-3)


def test_a_question_begun_with_nothing_is_a_question() -> None:
    lm = tiny.model("llama")
    assert lm.render(chat("Who?", "")) == lm.render(chat("Who?"))


def test_chats_that_cannot_be_rendered_are_refused() -> None:
    lm = tiny.fresh("llama")
    for prompt in ([[]], [[{"content": "A"}]], [[{"role": "user"}]]):
        with pytest.raises(SteerlibError) as error:
            lm.generate(prompt)
        sentence(error)
    bare = Model("bare", lm.hf, SimpleNamespace(chat_template=None))
    with pytest.raises(SteerlibError, match="'bare' has no chat template") as error:
        bare.render(chat("Who?"))
    sentence(error)


# ---- loglik


@pytest.mark.parametrize("family", ALL)
def test_the_log_likelihood_of_a_text_is_the_models_own_loss(family: str) -> None:
    lm = tiny.model(family)
    texts = [prompt for prompt in PROMPTS if len(lm.tokens(prompt)) > 1]
    for text, got in zip(texts, lm.loglik(texts, batch_size=3), strict=True):
        ids = tiny.ids(lm, text)
        with torch.inference_mode():
            loss = lm.hf(ids, labels=ids).loss
        assert got.shape == (ids.shape[1] - 1,) and got.dtype == torch.float32
        torch.testing.assert_close(-got.mean(), loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_log_likelihood_of_a_continuation_is_that_of_its_tokens(family: str) -> None:
    lm = tiny.model(family)
    continuations = [" cat.", "!", " he said so", " and then", " doctor"]
    got = lm.loglik(PROMPTS, continuations, batch_size=2)
    for prompt, continuation, line in zip(PROMPTS, continuations, got, strict=True):
        start, whole = lm.tokens(prompt), lm.tokens(prompt, continuation)
        full = lm.loglik([prompt + continuation])[0]
        assert len(line) == len(whole) - len(start)
        torch.testing.assert_close(line, full[len(start) - 1 :], atol=1e-4, rtol=1e-4)
    two = torch.stack([lm.loglik("A", [option])[0].sum() for option in OPTIONS]).softmax(-1)
    torch.testing.assert_close(two, lm.choose("A", OPTIONS), atol=1e-5, rtol=1e-3)


def test_texts_that_have_nothing_to_score_are_refused() -> None:
    lm = tiny.model("llama")
    for ask in (
        lambda: lm.loglik(["A"]),
        lambda: lm.loglik(PROMPTS, ["!"]),
        lambda: lm.loglik(["A"], "!"),
        lambda: lm.loglik(["A"], [""]),
    ):
        with pytest.raises(SteerlibError) as error:
            ask()
        sentence(error)


# ---- generate


@pytest.mark.parametrize("batch_size", [2, 16])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gptj"])
def test_writing_in_batches_is_writing_one_by_one(family: str, batch_size: int) -> None:
    lm = tiny.model(family)
    together = lm.generate(PROMPTS, max_new_tokens=9, batch_size=batch_size)
    for prompt, text in zip(PROMPTS, together, strict=True):
        assert lm.generate(prompt, max_new_tokens=9) == text
        ids = tiny.ids(lm, prompt)
        for _ in range(9):  # by hand: the most likely token, again and again
            with torch.inference_mode():
                ids = torch.cat([ids, lm.hf(ids).logits[:, -1:].argmax(-1)], -1)
            if ids[0, -1] == lm.tokenizer.eos_token_id:
                break
        assert lm.tokenizer.decode(ids[0, len(lm.tokens(prompt)) :], skip_special_tokens=True) == text


def test_samples_follow_the_seed_and_leave_the_global_random_numbers_alone() -> None:
    lm = tiny.model("llama")
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    how: dict[str, Any] = {"max_new_tokens": 12, "temperature": 2.0}
    first = lm.generate(PROMPTS, seed=1, **how)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(456)
    assert lm.generate(PROMPTS, seed=1, **how) == first
    assert lm.generate(PROMPTS, seed=2, **how) != first
    assert lm.generate(PROMPTS, max_new_tokens=12) != first
    assert lm.generate(PROMPTS, seed=1, max_new_tokens=12) == lm.generate(PROMPTS, seed=2, max_new_tokens=12)


def test_no_layout_is_left_behind() -> None:
    lm = tiny.fresh("llama")
    lm.choose(PROMPTS, OPTIONS)
    lm.generate(PROMPTS, max_new_tokens=1)
    handle = lm.hf.lm_head.register_forward_hook(lambda *_: 1 / 0)
    for ask in (lambda: lm.choose("A", OPTIONS), lambda: lm.generate("A"), lambda: lm.loglik("AA")):
        with pytest.raises(ZeroDivisionError):
            ask()
        assert layout.get() is None
    handle.remove()


# ---- load


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a tiny model, as save_pretrained writes it."""
    lm = tiny.model("llama")
    folder = tmp_path / "saved model"
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def test_a_saved_folder_loads_and_answers_the_same(saved: Path) -> None:
    lm, back = tiny.model("llama"), load(str(saved), device="cpu")
    assert back.name == str(saved) and back.device.type == "cpu" and back.hf.dtype == torch.float32
    assert not back.hf.training and not any(p.requires_grad for p in back.hf.parameters())
    assert torch.equal(back.choose(PROMPTS, OPTIONS), lm.choose(PROMPTS, OPTIONS))
    assert back.render(chat("Who?", "It")) == lm.render(chat("Who?", "It"))
    assert weights_hash(back) == weights_hash(lm)
    half = load(str(saved), device="cpu", dtype="bfloat16")
    assert half.hf.dtype == torch.bfloat16 and weights_hash(half) == weights_hash(lm)
    torch.testing.assert_close(half.choose(PROMPTS, OPTIONS).argmax(-1)[:1], lm.choose(PROMPTS, OPTIONS).argmax(-1)[:1])


@pytest.mark.parametrize("kind", ["int8", "float31", "nn", "", "Tensor"])
def test_a_type_that_weights_cannot_have_is_refused(kind: str) -> None:
    with pytest.raises(SteerlibError, match="bfloat16") as error:
        load("smollm2", dtype=kind)
    assert f"'{kind}'" in sentence(error)


def test_torchs_own_types_are_understood(saved: Path) -> None:
    assert load(str(saved), device="cpu", dtype=torch.bfloat16).hf.dtype == torch.bfloat16  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["smollm3", "", "a/b/c", "/no/such/folder", "gpt2"])
def test_an_unknown_name_is_refused_with_the_known_ones_and_how_an_id_looks(name: str) -> None:
    with pytest.raises(SteerlibError) as error:
        load(name)
    assert f"'{name}'" in sentence(error)
    assert "smollm2" in str(error.value) and "Qwen/Qwen2.5-0.5B-Instruct" in str(error.value)


def test_an_id_that_the_hub_does_not_give_is_one_sentence() -> None:
    with pytest.raises(SteerlibError) as error:  # tests have no hub
        load("nobody/nothing-0B")
    assert "'nobody/nothing-0B'" in sentence(error) and "network" in str(error.value)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_folder_whose_weights_are_cut_short_is_one_sentence(saved: Path, part: float) -> None:
    weights = saved / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(SteerlibError, match="damaged or cut short") as error:
        load(str(saved))
    assert str(saved) in sentence(error)


def test_a_folder_with_weights_missing_or_of_another_shape_is_one_sentence(saved: Path) -> None:
    """transformers would make up random ones and only print a note."""
    weights = saved / "model.safetensors"
    tensors = load_file(weights)
    key = "model.layers.1.self_attn.q_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != key}, weights, metadata={"format": "pt"})
    with pytest.raises(SteerlibError, match="damaged or cut short") as error:
        load(str(saved))
    assert key in sentence(error)
    save_file(tensors | {key: tensors[key][:3].clone()}, weights, metadata={"format": "pt"})
    with pytest.raises(SteerlibError, match="damaged or cut short") as error:
        load(str(saved))
    sentence(error)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["gone", "text"])
def test_a_folder_with_a_broken_file_is_one_sentence(saved: Path, file: str, how: str) -> None:
    (saved / file).unlink()
    if how == "text":
        (saved / file).write_text("this is not it")
    with pytest.raises(SteerlibError) as error:
        load(str(saved))
    assert str(saved) in sentence(error)


def test_a_tokenizer_without_padding_pads_with_its_end_of_text(saved: Path) -> None:
    settings = json.loads((saved / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (saved / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "right"}))
    lm = load(str(saved), device="cpu")
    assert lm.tokenizer.pad_token == lm.tokenizer.eos_token and lm.tokenizer.padding_side == "left"
    expected = tiny.model("llama").choose(PROMPTS, OPTIONS)
    torch.testing.assert_close(lm.choose(PROMPTS, OPTIONS), expected, atol=1e-5, rtol=1e-3)


def test_loading_leaves_the_notes_of_transformers_as_they_were(saved: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        load(str(saved))
        assert logging.get_verbosity() == logging.INFO
        shutil.rmtree(saved)
        saved.mkdir()
        with pytest.raises(SteerlibError):
            load(str(saved))
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()


# ---- the cache of a model that comes in a package


def test_a_broken_cache_of_an_embedded_model_is_made_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny model stands for the package's: what is made is whole, is used again, and is made anew when it is not."""
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "cache"))
    models = sys.modules["steerlib.models.load"]
    monkeypatch.setattr(models, "EMBEDDED", {"small": ("small-asset", "model.safetensors")})
    completed: list[Path] = []
    monkeypatch.setattr(models.gguf_tokenizer, "complete", lambda tokenizer, file: completed.append(file))
    monkeypatch.setattr(assets, "ASSETS", {"small-asset": SimpleNamespace(version="1.0")})
    made: list[str] = []

    def fetch(name: str) -> Path:
        made.append(name)
        return saved

    monkeypatch.setattr(assets, "fetch", fetch)
    for auto in ("AutoModelForCausalLM", "AutoTokenizer"):
        plain = getattr(models, auto).from_pretrained

        def read(source: Any, *, plain: Any = plain, gguf_file: str | None = None, **how: Any) -> Any:
            got = plain(source, **how)
            if gguf_file and hasattr(got, "config"):
                got.config.quantization_config = {}
            return got

        monkeypatch.setattr(models, auto, SimpleNamespace(from_pretrained=read))
    expected = tiny.model("llama").choose(PROMPTS, OPTIONS)
    assert torch.equal(load("small", device="cpu").choose(PROMPTS, OPTIONS), expected)
    assert made == ["small-asset"]
    load("small", device="cpu")
    assert made == ["small-asset"]  # from the cache
    assert completed == [saved / "model.safetensors"]  # its tokenizer too
    folder = tmp_path / "cache" / "models" / f"small-1.0-{models.UNPACKED}"
    for number, damage in enumerate(
        [
            lambda: (folder / "model.safetensors").write_bytes(b"short"),
            lambda: (folder / "config.json").unlink(),
            lambda: (folder / "sizes.json").unlink(),
            lambda: (folder / "sizes.json").write_text("{"),
            lambda: (folder / "sizes.json").write_text("[]"),
            lambda: (folder / "sizes.json").write_text("{}"),
        ]
    ):
        damage()
        assert torch.equal(load("small", device="cpu").choose(PROMPTS, OPTIONS), expected), number
        assert len(made) == number + 2
        assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]

    def fail(name: str) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "fetch", fail)
    (folder / "config.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        load("small")
    assert not [p for p in folder.parent.iterdir() if p.name.startswith(".")]


# ---- weights_hash


@pytest.mark.parametrize("family", ALL)
def test_the_hash_of_the_weights_is_that_of_a_bfloat16_copy_and_not_of_another_model(family: str) -> None:
    lm = tiny.fresh(family)
    before = weights_hash(lm)
    assert before == weights_hash(tiny.model(family)) == weights_hash(tiny.fresh(family, dtype=torch.bfloat16))
    assert before != weights_hash(tiny.fresh(family, seed=1))
    for name, weight in list(lm.hf.named_parameters())[::5]:
        kept = weight.clone()
        weight.mul_(1.05)
        assert weights_hash(lm) != before, name
        weight.copy_(kept)
        assert weights_hash(lm) == before
    hashes = {weights_hash(tiny.model(other)) for other in ALL}
    assert len(hashes) == len(ALL)


# ---- the real model


def test_the_real_model_chooses_scores_and_writes_in_batches_as_one_by_one(smollm2: Model) -> None:
    prompts = [chat("Who is tired?", "The plumber was tired because"), "The nurse said that"]
    options = [" he", " she", " nobody at all"]
    got = smollm2.choose(prompts, options)
    for prompt, line in zip(prompts, got, strict=True):
        torch.testing.assert_close(smollm2.choose(prompt, options), line, atol=1e-4, rtol=1e-2)
    assert got[0, 0] > got[0, 1] and got[1, 1] > got[1, 0]  # biased, as expected
    rendered = smollm2.render(prompts[0])
    assert rendered.endswith("<|im_start|>assistant\nThe plumber was tired because")
    assert smollm2.render(chat("Hello")).endswith("<|im_start|>assistant\n")
    assert smollm2.generate(prompts, max_new_tokens=3) == [smollm2.generate(p, max_new_tokens=3) for p in prompts]
    assert "he" in inspect.cleandoc(smollm2.generate(prompts[0], max_new_tokens=3))
