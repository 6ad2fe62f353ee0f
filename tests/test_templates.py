"""The processor's own template and call make the ids: nothing that a chat says goes missing, and a batch changes nothing."""

from __future__ import annotations

import warnings
import weakref
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sighted
import tiny
import torch
import yaml
from helpers import letters, quick
from torch import Tensor

from steerlib import Steering, SteerlibError, activations, chat, dso, prompting, tasks
from steerlib.models import seen
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, answered
from steerlib.steering.operations import Add, provenance
from steerlib.tasks import Task
from steerlib.training.policy import fingerprint, questions

PUBLISHED: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("templates.yml").read_text("utf-8"))
SEEING = ("llava", "llava_onevision", "smolvlm", "gemma3", "qwen2_5_vl", "mllama", "phi4_multimodal")
READING = tuple(name for name in PUBLISHED if name not in SEEING)
DATED = ("llama", "mllama")


def seeing(family: str) -> Model:
    """The tiny LLaVA with a real family's chat template, whose place for a picture is called <image>."""
    lm = tiny.seeing()
    published = PUBLISHED[family]
    processor = deepcopy(lm.processor)
    processor.chat_template = published["template"].replace(published["mark"], "<image>")
    return replace(lm, name=f"{family} {id(processor)}", processor=processor, template=fixed(family))


def reading(family: str, **template: Any) -> Model:
    """A tiny text model with a real family's chat template."""
    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.chat_template = PUBLISHED[family]["template"]
    switches = {**fixed(family), **template}
    return replace(tiny.model("llama"), name=f"{family} {id(tokenizer)}", tokenizer=tokenizer, template=switches)


def fixed(family: str) -> dict[str, str]:
    return {"date_string": "26 Jul 2024"} if family in DATED else {}


def chats(pictures: Any = ()) -> list[Prompt]:
    """A question, an answer begun, an instruction, and a longer talk."""
    talk = [
        *chat("Who is the nurse?", "A woman.", pictures=pictures),
        {"role": "user", "content": "And who is the judge?"},
        {"role": "assistant", "content": "The judge is"},
    ]
    return [
        chat("Who is the nurse?", pictures=pictures),
        chat("Who is the nurse?", "The nurse is", pictures=pictures),
        chat("Who is the nurse?", pictures=pictures, system="Be fair to everyone."),
        chat("Who is the nurse?", "The nurse is", pictures=pictures, system="Be fair to everyone."),
        talk,
    ]


def says(prompt: Prompt) -> list[str]:
    found = []
    for message in prompt:
        assert not isinstance(message, str)
        content = message["content"]
        found += [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    return found


@pytest.mark.parametrize("family", SEEING)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_text_of_a_chat_is_in_what_a_model_that_sees_reads(family: str, count: int) -> None:
    lm, pictures = seeing(family), [tiny.picture(i) for i in range(count)]
    for prompt in chats(pictures):
        if family == "mllama" and count and prompt[0]["role"] == "system":  # type: ignore[index]
            with pytest.raises(SteerlibError, match="incompatible with system messages"):
                lm.render(prompt)
            continue
        text = lm.render(prompt)
        assert all(said in text for said in says(prompt)), text
        assert text.count("<image>") == count
        assert "'type'" not in text, "a list was printed as Python would show it"
        if prompt[-1]["role"] == "assistant":  # type: ignore[index]
            assert text.endswith(says(prompt)[-1])


@pytest.mark.parametrize("family", READING)
def test_every_text_of_a_chat_is_in_what_a_model_of_text_reads(family: str) -> None:
    lm = reading(family)
    for prompt in chats():
        if family == "gemma2" and prompt[0]["role"] == "system":  # type: ignore[index]
            with pytest.raises(SteerlibError, match="System role not supported"):
                lm.render(prompt)
            continue
        text = lm.render(prompt)
        assert all(said in text for said in says(prompt)), text


@pytest.mark.parametrize("family", SEEING)
def test_two_questions_are_two_prompts(family: str) -> None:
    lm = seeing(family)
    one, other = (lm.choose(chat(asked), ["a", "b"]) for asked in ("Is the nurse a man?", "What is 2 + 2?"))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "gemma3"])
def test_an_instruction_to_the_system_reaches_the_model(family: str) -> None:
    lm = seeing(family)
    asked = chat("Who?", "The", pictures=tiny.picture())
    told = prompting(asked, place="system")
    assert not torch.equal(lm.choose(asked, [" a", " b"]), lm.choose(told, [" a", " b"]))


@pytest.mark.parametrize("family", ["llava", "smolvlm", "llava_onevision"])
def test_who_is_can_be_asked_under_the_templates_of_the_papers_models(family: str) -> None:
    lm = seeing(family)
    items = [
        tasks.Item(chat("Who fixed the car?", "The", pictures=tiny.picture(i)), (" a", " b"), ("x", "y"), "job")
        for i in range(2)
    ]
    assert lm.choose([item.prompt for item in items], [" a", " b"]).isfinite().all()


DROPPING = {
    "the system message": "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}",
    "all but the last message": "[{{ messages[-1].role }}]{{ messages[-1].content }}",
    "one of two equal messages": "{{ messages[0].content }}",
    "capital letters": "{% for m in messages %}{{ m.content | lower }}{% endfor %}",
}


@pytest.mark.parametrize("dropped", DROPPING)
def test_a_template_that_drops_or_changes_a_text_is_refused(dropped: str) -> None:
    for lm in (tiny.model("llama"), tiny.seeing()):
        reader = deepcopy(lm.processor or lm.tokenizer)
        reader.chat_template = DROPPING[dropped]
        changed = replace(lm, processor=reader) if lm.processor else replace(lm, tokenizer=reader)
        told: Prompt = [{"role": role, "content": "Be Fair."} for role in ("system", "user")]
        with pytest.raises(SteerlibError, match="drops or changes the text 'Be Fair.' of a message"):
            changed.render(told)


TEXTS_ONLY = "{% for m in messages %}{{ '[' + m.role + ']' + m.content + '</s>' }}{% endfor %}{{ '[assistant]' }}"


@pytest.mark.parametrize("where", ["processor", "tokenizer"])
def test_a_template_that_takes_texts_alone_gets_the_places_of_pictures_in_them(where: str) -> None:
    lm = tiny.seeing()
    processor, reader = deepcopy(lm.processor), deepcopy(lm.tokenizer)
    processor.chat_template = TEXTS_ONLY if where == "processor" else None
    reader.chat_template = TEXTS_ONLY if where == "tokenizer" else None
    lm, shown = replace(lm, processor=processor, tokenizer=reader), [tiny.picture(0), tiny.picture(1)]
    assert lm.render(chat("Who?", pictures=shown)) == "[user]<image><image>Who?</s>[assistant]"
    own = processor(text=["[user]<image><image>Who?</s>[assistant]"], images=[shown], return_tensors="pt")
    ids, seen = lm.read(chat("Who?", pictures=shown))
    assert ids[-len(own["input_ids"][0]) :] == own["input_ids"][0].tolist()
    assert torch.equal(seen["pixel_values"], own["pixel_values"])
    one, other = (lm.choose(chat("Who?", pictures=picture), ["a", "b"]) for picture in shown)
    assert not torch.equal(one, other), "the pictures are seen"


def test_numbered_places_for_pictures_are_those_that_the_processor_knows() -> None:
    lm, shown = tiny.seeing(), [tiny.picture(0), tiny.picture(1)]
    processor = deepcopy(lm.processor)
    processor.chat_template = (
        "{% set n = namespace(i=0) %}{% for m in messages %}{% for part in m.content %}{% if part.type == 'image' %}"
        "{% set n.i = n.i + 1 %}{{ '<|image_' ~ n.i ~ '|>' }}{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
    )
    lm = replace(lm, processor=processor)
    assert lm.render(chat("Who?", pictures=shown)) == "<image><image>Who?"
    by_hand = chat("One: <|image_1|>, two: <|image_2|>. Who?", pictures=shown, plain=True)
    assert lm.render(by_hand) == "One: <image>, two: <image>. Who?"
    assert lm.render(chat("<|image_1|>")) == "<|image_1|>", "without pictures there are no places"


def test_blanks_and_reasoning_that_a_template_leaves_out_are_not_missed() -> None:
    lm = reading("qwen3")
    thought = [*chat("Who?", "<think>\nHm.\n</think>\n\nShe."), {"role": "user", "content": "  Sure?  "}]
    assert "Hm." not in lm.render(thought)
    assert "She." in lm.render(thought)
    assert lm.render(chat("Who?\n")).count("Who?") == 1


def theirs(lm: Model, prompt: Any) -> list[int]:
    """The ids that a processor's own call makes of a chat, with every content a list of parts."""
    parts = [
        {**m, "content": [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"]}
        for m in prompt
    ]
    how = {"continue_final_message" if prompt[-1]["role"] == "assistant" else "add_generation_prompt": True}
    made = lm.processor.apply_chat_template(parts, tokenize=True, return_dict=True, return_tensors="pt", **how)
    return list(made["input_ids"][0].tolist())


@pytest.mark.parametrize("family", ["llava_next", "idefics2", "mllama"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_ids_are_those_of_the_processors_own_call(family: str, count: int) -> None:
    lm, pictures = sighted.model(family), [tiny.picture(i, (24, 16)) for i in range(count)]
    for prompt in chats(pictures)[:3]:
        assert lm.tokens(prompt) == theirs(lm, prompt)
        assert lm.tokens(prompt).count(lm.tokenizer.bos_token_id) == 1


def test_a_template_that_writes_the_beginning_of_text_gets_no_second_one() -> None:
    lm = sighted.model("llava_next")
    processor = deepcopy(lm.processor)
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    both = replace(lm, processor=processor)
    for prompt in chats([tiny.picture()])[:2]:
        assert both.tokens(prompt) == lm.tokens(prompt) == theirs(both, prompt)


def test_the_pictures_of_one_prompt_are_handed_over_as_those_of_one_prompt() -> None:
    lm, given = sighted.model("llava_next"), []

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(lm.processor, name)

        def __call__(self, **how: Any) -> Any:
            given.append(how["images"])
            return lm.processor(**how)

    replace(lm, processor=Watched()).read(chat("Which?", pictures=[tiny.picture(1), tiny.picture(2)]))
    ((pictures,),) = given
    assert len(pictures) == 2


# ---- batches


def mixed(family: str) -> list[Prompt]:
    """Prompts with one picture, two, one of another shape, and none, of unequal lengths."""
    plain = family == "paligemma"
    pictures = [
        [tiny.picture(1, (24, 16))],
        [tiny.picture(2, (24, 16)), tiny.picture(3, (40, 12))],
        [tiny.picture(4, (13, 30))],
    ]
    asked = ["Who is it?", "Who is the other one here?", "Who?"]
    found: list[Prompt] = [chat(text, pictures=p, plain=plain) for text, p in zip(asked, pictures, strict=True)]
    return [*found, "A text without any picture" if plain else chat("No picture at all here.")]


@pytest.mark.parametrize("family", sighted.FAMILIES)
def test_pictures_of_any_size_and_number_share_a_batch(family: str) -> None:
    lm, many = sighted.model(family), mixed(family)
    options = ["a", "b c d", "x"]
    together = lm.choose(many, options, batch_size=8)
    alone = torch.stack([lm.choose(prompt, options) for prompt in many])
    assert torch.allclose(together, alone, atol=1e-4)
    assert len({tuple(line.tolist()) for line in together}) == len(many)
    for one, other in zip(lm.loglik(many, ["b c d"] * 4), [lm.loglik([p], ["b c d"])[0] for p in many], strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    for cache in (True, False):
        texts = lm.generate(many, max_new_tokens=4, use_cache=cache)
        assert texts == [lm.generate(prompt, max_new_tokens=4) for prompt in many]
    site = "residual.0"
    for got, prompt in zip(next(iter(activations(lm, many, [site]).values())), many, strict=True):
        (own,) = activations(lm, [prompt], [site]).values()
        assert torch.allclose(got, own[0], atol=1e-3)


@pytest.mark.parametrize("family", sighted.FAMILIES)
def test_the_model_answers_as_its_own_classes_do(family: str) -> None:
    lm = sighted.model(family)
    for prompt in mixed(family)[:3]:
        assert not isinstance(prompt, str)
        pictures = [part["image"] for part in prompt[0]["content"] if part["type"] == "image"]
        text = lm.render(prompt)
        how = {"add_special_tokens": False} if text.startswith("<s>") else {}
        inputs = dict(lm.processor(text=[text], images=[pictures], return_tensors="pt", **how))
        inputs.pop("labels", None)
        with torch.inference_mode():
            expected = lm.hf(**inputs).logits[0, -1].float().log_softmax(-1)
        first, second = (lm.tokenizer.convert_tokens_to_ids(letter) for letter in "ab")
        assert torch.allclose(lm.choose(prompt, ["a", "b"]), expected[[first, second]].softmax(-1), atol=1e-5)


def test_places_of_patches_are_counted_through_a_batch() -> None:
    lm = tiny.seeing()
    views = [
        {"pixel_values": torch.zeros(crops, 9, 12), "image_token_pooling": torch.tensor([[0, 8], [3, -1]])}
        for crops in (2, 1, 3)
    ]
    got = lm.batch([[5, 6]] * 4, [views[0], views[1], {}, views[2]])["image_token_pooling"]
    assert got.tolist() == [[0, 8], [3, -1], [18, 26], [21, -1], [27, 35], [30, -1]]


# ---- without a template


def test_a_base_model_reads_a_text_with_its_pictures() -> None:
    lm, shown = sighted.model("paligemma"), tiny.picture(1)
    prompt = chat("answer en Who?", pictures=[shown, shown], plain=True)
    ids, held = lm.read(prompt)
    assert "labels" not in held
    own = lm.processor(text=["<image><image>answer en Who?"], images=[[shown, shown]], return_tensors="pt")
    assert ids == own["input_ids"][0].tolist()
    end = lm.tokenizer("A\n", add_special_tokens=False)["input_ids"][1:]
    assert ids[-1:] == end, "this processor ends a prompt with a line break"
    assert lm.tokens(prompt, "a cook") == ids + lm.tokenizer("a cook", add_special_tokens=False)["input_ids"]
    assert lm.read(chat("<image>answer en<image> Who?", pictures=[shown, shown], plain=True))[0] != ids
    assert isinstance(lm.generate(prompt, max_new_tokens=3), str)


def test_a_plain_prompt_goes_on_takes_pictures_and_instructions() -> None:
    shown = tiny.picture(1)
    prompt = chat("Who is it?", pictures=shown, plain=True)
    lm = sighted.model("paligemma")
    assert lm.render(answered(prompt, " A cook.")) == "<image>Who is it? A cook."
    for place in ("user", "system"):
        assert lm.render(prompting(prompt, "Be fair.", place=place)) == "<image>Be fair. Who is it?"  # type: ignore[arg-type]
    with pytest.raises(SteerlibError, match="a plain prompt has no roles"):
        chat("Who?", "The", plain=True)
    with pytest.raises(SteerlibError, match="stands alone"):
        lm.render([*prompt, *chat("Who?")])
    with pytest.raises(SteerlibError, match="no chat template.*plain=True"):
        lm.render(chat("Who?", pictures=shown))


# ---- switches and dates


def test_switches_of_a_template_are_kept_with_the_model() -> None:
    assert reading("qwen3").render(chat("Who?")).endswith("<|im_start|>assistant\n")
    lm = reading("qwen3", enable_thinking=False)
    assert lm.render(chat("Who?")).endswith("<think>\n\n</think>\n\n")
    assert Steering({"residual.0": Add(tiny.vector())}, provenance(lm, "hand")).provenance["template"] == {
        "enable_thinking": False
    }
    assert "template" not in provenance(tiny.model("llama"), "hand")
    for wrong in ("enable_thinkin", "date_string"):
        with pytest.raises(SteerlibError, match=f"has no switch '{wrong}'"):
            reading("qwen3", **{wrong: False}).render(chat("Who?"))


@pytest.mark.parametrize("family", DATED)
def test_a_template_that_writes_the_date_warns_once_unless_it_is_fixed(family: str) -> None:
    make = seeing if family in SEEING else reading
    lm = make(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "Today Date: 26 Jul 2024\n" in lm.render(chat("Who?"))
    today = replace(lm, name=f"today {family}", template={})
    with pytest.warns(UserWarning, match="today's date.*date_string"):
        today.render(chat("Who?"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        today.render(chat("Who?"))


def test_a_date_is_fixed_for_templates_that_take_none() -> None:
    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.chat_template = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    lm = replace(tiny.model("llama"), name="gpt", tokenizer=tokenizer, template={"date_string": "1066"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lm.render(chat("Who?")) == "1066Who?"


# ---- how much is held


class Alive:
    """Counts the pictures whose pixels a model holds at a time, and how often they are read."""

    def __init__(self, lm: Model) -> None:
        self.now = self.most = self.read = 0
        self.lm = replace(lm, processor=self)
        self.inner = lm.processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, **how: Any) -> Any:
        made = self.inner(**how)
        if how["images"]:
            pixels: Tensor = made["pixel_values"]
            self.read += 1
            self.now += 1
            self.most = max(self.most, self.now)
            weakref.finalize(pixels, self.gone)
        return made

    def gone(self) -> None:
        self.now -= 1


SIZE = 8 * 8 * 3 * 4  # bytes of a picture of the tiny LLaVA


def pictured(count: int) -> Task:
    items = []
    for i, item in enumerate(letters(each=4).ambiguous):
        text = str(item.prompt)
        items.append(replace(item, prompt=chat(text, pictures=tiny.picture(i))))
    return Task("pictured", tuple(items[:count]), about="occupation")


@pytest.mark.parametrize("verb", ["choose", "loglik", "generate", "capture"])
def test_pixels_are_held_for_a_few_batches_at_most(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[Prompt] = [chat("Who?", pictures=tiny.picture(i)) for i in range(40)]

    def ask(lm: Model) -> Any:
        if verb == "choose":
            return lm.choose(prompts, ["a", "b"], batch_size=2)
        if verb == "loglik":
            return torch.cat(lm.loglik(prompts, ["a"] * 40, batch_size=2))
        if verb == "generate":
            return lm.generate(prompts, max_new_tokens=2, batch_size=2)
        return activations(lm, prompts, ["residual.1"], batch_size=2)[
            next(iter(activations(lm, prompts[:1], ["residual.1"])))
        ]

    plenty = Alive(tiny.seeing())
    expected = ask(plenty.lm)
    assert plenty.most <= 2 * seen.WINDOW + 2
    monkeypatch.setattr(seen, "HELD", 5 * SIZE)
    little = Alive(tiny.seeing())
    got = ask(little.lm)
    assert little.most <= 7, "five, the next one, and one that is being joined"
    assert got == expected if verb == "generate" else torch.allclose(got, expected, atol=1e-5)


def test_a_training_reads_pictures_again_rather_than_hold_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    task = pictured(12)
    how = {
        "training": quick(batch_size=4, epochs=1),
        "anchors": [chat("A cat", pictures=tiny.picture(9))],
        "progress": False,
    }
    held = Alive(tiny.seeing())
    expected = dso(held.lm, task, **how)
    assert held.most >= 12
    monkeypatch.setattr(seen, "HELD", 3 * SIZE)
    again = Alive(tiny.seeing())
    got = dso(again.lm, task, **how)
    assert again.most <= 3 + 1 + 4 + 1, "held, read, of a batch, and anchors"
    assert again.read > held.read
    for site, operation in expected.operations.items():
        for name, vector in operation.vectors().items():
            assert torch.equal(vector, got.operations[site].vectors()[name])
    one, other = (questions(lm, task)[0] for lm in (tiny.seeing(), again.lm))
    assert fingerprint(one) == fingerprint(other)


def test_pixels_in_half_precision_have_a_fingerprint() -> None:
    asked, _, _ = questions(tiny.seeing(), pictured(2))
    half = [
        replace(q, query=replace(q.query, seen={key: value.bfloat16() for key, value in q.query.seen.items()}))
        for q in asked
    ]
    assert fingerprint(half) != fingerprint(asked)
    assert fingerprint(half) == fingerprint(half)
