"""Tokenizers of other manners: a space that the decoder drops, an end of text behind every text, no token to pad with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import sighted
import tiny
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from steerlib import SteerlibError, activations, chat, split_answers
from steerlib.models.model import Model
from steerlib.models.prompts import answered

LAYOUTS = ("legacy", "metaspace", "gemma")
PROMPTS = ["The nurse said that", "A", "Who is it?"]


def sentencepiece(layout: str) -> Any:
    """A tokenizer of letters as SentencePiece's are converted: Llama 2's in its two published layouts, or Gemma's."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    letters = ["▁", *(chr(c) for c in range(33, 127))]
    vocabulary = {token: i for i, token in enumerate([*special, *letters, "▁t", "he"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "t"), ("h", "e")], unk_token="<unk>", fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    if layout == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
    elif layout == "gemma":
        made.normalizer = replaced
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps + ([] if layout == "gemma" else [decoders.Strip(" ", 1, 0)]))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        chat_template="{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} {% endfor %}",
    )


def model(tokenizer: Any, *, writes: str | None = None) -> Model:
    """A tiny Llama with a tokenizer; writes: a token that it writes again and again."""
    torch.manual_seed(0)
    config = tiny.text_config("llama")
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    hf: Any = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    if writes is not None:
        liked = tokenizer.convert_tokens_to_ids(writes)
        push = torch.nn.functional.one_hot(torch.tensor(liked), len(tokenizer)) * 1000.0
        hf.get_output_embeddings().register_forward_hook(lambda module, args, logits: logits + push)
    return Model("letters", hf.eval().requires_grad_(False), tokenizer)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_and_what_was_generated_are_the_text_that_the_model_wrote(layout: str) -> None:
    lm = model(sentencepiece(layout), writes="▁t")
    for prompt in [*PROMPTS, *map(chat, PROMPTS), chat("Who?", "It is")]:
        ids = lm.tokens(prompt)
        out = lm.hf.generate(torch.tensor([ids]), max_new_tokens=3, do_sample=False)[0].tolist()
        assert out[len(ids) :] == [lm.tokenizer.convert_tokens_to_ids("▁t")] * 3
        before, whole = (lm.tokenizer.decode(row, skip_special_tokens=True) for row in (ids, out))
        assert lm.generate(prompt, max_new_tokens=3) == " t t t" == whole.removeprefix(before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answers_are_read_as_the_tokens_that_were_written(layout: str) -> None:
    lm = model(sentencepiece(layout), writes="▁t")
    new = [lm.tokenizer.convert_tokens_to_ids("▁t")] * 3
    answers = lm.generate(PROMPTS[:2], max_new_tokens=3)
    seen = iter([True, False])
    biased, neutral = split_answers(PROMPTS[:2], answers, lambda text: next(seen))
    for prompt, given in zip(PROMPTS, [*biased, *neutral], strict=False):
        assert given == f"{prompt} t t t"
        assert lm.tokens(given) == lm.tokens(prompt) + new
    begun = chat("Who?", "It is")
    assert lm.tokens(answered(begun, answers[0])) == lm.tokens(begun) + new


def test_what_byte_level_models_write_is_what_it_was() -> None:
    for lm in (tiny.model("llama"), tiny.model("gpt2"), tiny.seeing()):
        for prompt in tiny.PROMPTS:
            batch = lm.batch([lm.tokens(prompt)])
            out = lm.hf.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=6, do_sample=False
            )
            new = out[0, batch["input_ids"].shape[1] :].tolist()
            assert lm.generate(prompt, max_new_tokens=6) == lm.tokenizer.decode(new, skip_special_tokens=True)


# ---- an end of text behind every text


def ending(tokenizer: Any) -> Any:
    """The same tokenizer, which puts </s> behind what it reads."""
    made = deepcopy(tokenizer)
    begin, end = made.convert_tokens_to_ids("<s>"), made.convert_tokens_to_ids("</s>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    return made


def test_an_end_of_text_that_a_tokenizer_puts_behind_every_text_is_left_out() -> None:
    lm = tiny.model("gemma2")  # with a beginning of text
    odd = replace(lm, tokenizer=ending(lm.tokenizer))
    assert odd.tokenizer("A")["input_ids"][-1] == odd.tokenizer.eos_token_id
    assert [odd.tokens(prompt) for prompt in PROMPTS] == [lm.tokens(prompt) for prompt in PROMPTS]
    assert torch.equal(odd.choose(PROMPTS, [" he", " she was"]), lm.choose(PROMPTS, [" he", " she was"]))
    assert odd.generate(PROMPTS, max_new_tokens=4) == lm.generate(PROMPTS, max_new_tokens=4)
    for made, other in zip(odd.loglik(PROMPTS), lm.loglik(PROMPTS), strict=True):
        assert torch.equal(made, other)
    (one,), (two,) = (activations(each, PROMPTS, ["residual.1"]).values() for each in (odd, lm))
    assert torch.equal(one, two)
    told = "He </s>"  # by the user, who means it
    assert odd.tokens(told)[-1] == odd.tokenizer.eos_token_id


@pytest.mark.parametrize("family", ["llava_next", "mllama"])
def test_it_is_left_out_of_what_a_processor_reads_too(family: str) -> None:
    lm = sighted.model(family)
    processor = deepcopy(lm.processor)
    processor.tokenizer = ending(lm.tokenizer)
    processor.chat_template = processor.chat_template.replace("{{ bos_token }}", "")
    plain = deepcopy(lm.processor)
    plain.chat_template = processor.chat_template
    odd = replace(lm, tokenizer=processor.tokenizer, processor=processor)
    lm = replace(lm, processor=plain)
    asked = [chat("Who?", pictures=tiny.picture(i)) for i in range(2)] + [chat("Who is it then?")]
    assert [odd.tokens(prompt) for prompt in asked] == [lm.tokens(prompt) for prompt in asked]
    assert torch.equal(odd.choose(asked, ["a", "b c"]), lm.choose(asked, ["a", "b c"]))


def test_a_tokenizer_without_a_token_to_pad_with_is_named() -> None:
    bare = deepcopy(tiny.tokenizer())
    bare.pad_token = bare.eos_token = None
    lm = replace(tiny.model("llama"), name="bare", tokenizer=bare)
    for ask in (lambda: lm.choose("A", [" he", " she"]), lambda: lm.generate("A", max_new_tokens=1)):
        with pytest.raises(SteerlibError, match="the tokenizer of 'bare' has no token to pad with"):
            ask()
