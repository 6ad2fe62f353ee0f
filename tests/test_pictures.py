"""Models that see: pictures in prompts, one by one or in batches, read and steered."""

from __future__ import annotations

import pytest
import tiny
import torch
from PIL import Image

from steerlib import Add, Site, Steering, SteerlibError, capture, chat, steer
from steerlib.models.prompts import Prompt


def prompts() -> list[Prompt]:
    """Chats with one picture, two and none, of different lengths."""
    one, two = tiny.picture(1), tiny.picture(2, (20, 11))
    return [
        chat("Who is this?", pictures=one),
        chat("Who of the two is the judge? Answer in one word.", pictures=[one, two]),
        chat("No picture here."),
        chat("Who of the two is the judge? Answer in one word.", "The", pictures=[two, one]),
    ]


def test_a_chat_puts_the_pictures_before_the_text() -> None:
    one, two = tiny.picture(1), tiny.picture(2)
    (message,) = chat("Who?", pictures=[one, two])
    assert message["content"] == [
        {"type": "image", "image": one},
        {"type": "image", "image": two},
        {"type": "text", "text": "Who?"},
    ]
    assert chat("Who?", pictures=one) == chat("Who?", pictures=[one])
    assert chat("Who?", pictures=[]) == chat("Who?") == [{"role": "user", "content": "Who?"}]


def test_a_picture_becomes_as_many_placeholders_as_it_has_tokens() -> None:
    lm = tiny.seeing()
    for prompt, count in zip(prompts(), (1, 2, 0, 2), strict=True):
        ids, seen = lm.read(prompt)
        assert ids.count(lm.hf.config.image_token_id) == count * tiny.IMAGE_TOKENS
        assert (seen["pixel_values"].shape if count else seen) == ((count, 3, 8, 8) if count else {})


def test_the_model_reads_what_its_own_classes_read() -> None:
    lm = tiny.seeing()
    prompt = prompts()[1]
    inputs = lm.processor.apply_chat_template(
        list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = lm.hf(**inputs).logits[0, -1].float().log_softmax(-1)
    first, second = (lm.tokenizer.encode(letter)[0] for letter in "ab")
    ours = lm.choose(prompt, ["a", "b"])
    assert torch.allclose(ours, theirs[[first, second]].softmax(-1), atol=1e-6)


def test_batched_is_one_by_one() -> None:
    lm, many = tiny.seeing(), prompts()
    options = [" he", " she was", "x"]
    together = lm.choose(many, options, batch_size=4)
    assert torch.allclose(together, torch.stack([lm.choose(p, options) for p in many]), atol=1e-5)
    texts = lm.generate(many, max_new_tokens=6)
    assert texts == [lm.generate(p, max_new_tokens=6) for p in many]
    both = lm.loglik(many, [" yes"] * 4, batch_size=4)
    assert all(
        torch.allclose(a, lm.loglik(p, [" yes"])[0], atol=1e-5) for a, p in zip(both, [[m] for m in many], strict=True)
    )


def test_the_picture_is_seen_and_its_order_counts() -> None:
    lm = tiny.seeing()
    one, two = tiny.picture(1), tiny.picture(2)
    ask = [chat("Who?", pictures=pair) for pair in ([one, two], [two, one], [one, one])]
    p = lm.choose(ask, ["a", "b"])[:, 0]
    assert len({round(float(x), 6) for x in p}) == 3


def test_capture_reads_pictures_too() -> None:
    lm, many = tiny.seeing(), prompts()
    site = Site("residual", 1)
    rows = torch.empty(4, tiny.WIDTH)
    for part, got in capture(lm, many, [site], batch_size=3):
        rows[part] = got[site]
    for prompt, row in zip(many, rows, strict=True):
        ids, seen = lm.read(prompt)
        with torch.inference_mode():
            states = lm.hf(**lm.batch([ids], [seen]), output_hidden_states=True).hidden_states
        assert torch.allclose(row, states[2][0, -1], atol=1e-5)  # states[0] are the embeddings


def test_steering_touches_the_pictures_alone_if_told_so() -> None:
    lm = tiny.seeing()
    steering = Steering({"residual.0": Add(tiny.vector(size=5.0))})
    seen, blind = prompts()[0], prompts()[2]
    plain = lm.choose([seen, blind], ["a", "b"])
    with steer(lm, steering, tokens="image"):
        steered = lm.choose([seen, blind], ["a", "b"])
    assert not torch.allclose(plain[0], steered[0], atol=1e-4)
    assert torch.equal(plain[1], steered[1])


def test_cached_is_uncached_with_pictures() -> None:
    lm = tiny.seeing()
    with steer(lm, Steering({"residual.1": Add(tiny.vector(size=3.0))})):
        assert lm.generate(prompts(), max_new_tokens=8) == lm.generate(prompts(), max_new_tokens=8, use_cache=False)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_pictures_whose_meaning_is_clear_are_converted(mode: str) -> None:
    lm, grey = tiny.seeing(), tiny.picture(3).convert("1").convert("RGB")  # black and white: every mode can hold it
    same = lm.read(chat("Who?", pictures=grey))[1]["pixel_values"]
    made = lm.read(chat("Who?", pictures=grey.convert(mode)))[1]["pixel_values"]
    assert torch.allclose(made, same, atol=0.02)


BAD = [
    (Image.new("RGB", (1, 1)), "a picture of 1 x 1 pixels cannot be read"),
    (Image.new("1", (9000, 9000)), "a picture of 9000 x 9000 pixels cannot be read"),
    (Image.new("RGBA", (9, 9), (255, 0, 0, 128)), "transparent places"),
    (Image.new("F", (9, 9)), "mode F has no clear RGB form"),
    (Image.new("I;16", (9, 9)), "mode I;16 has no clear RGB form"),
    ("face.png", "a PIL image, not str"),
    (None, "a PIL image, not NoneType"),
]


@pytest.mark.parametrize(("bad", "says"), BAD)
def test_pictures_whose_meaning_is_not_clear_are_refused(bad: object, says: str) -> None:
    with pytest.raises(SteerlibError, match=says):
        tiny.seeing().choose(chat("Who?", pictures=[bad]), ["a", "b"])  # type: ignore[list-item]


def test_a_transparent_palette_is_refused() -> None:
    picture = Image.new("P", (9, 9))
    picture.info["transparency"] = 0
    with pytest.raises(SteerlibError, match="transparent places"):
        tiny.seeing().read(chat("Who?", pictures=picture))


def test_places_and_pictures_must_agree() -> None:
    lm, one = tiny.seeing(), tiny.picture(1)
    with pytest.raises(SteerlibError, match=r"1 place\(s\) for a picture \(<image>\) and 0 picture"):
        lm.choose("<image> Who?", ["a", "b"])
    with pytest.raises(SteerlibError, match=r"2 place\(s\) .* and 1 picture"):
        lm.choose(chat("<image> Who?", pictures=one), ["a", "b"])
    with pytest.raises(SteerlibError, match="reads no pictures: give it text"):
        tiny.model("llama").choose(chat("Who?", pictures=one), ["a", "b"])


@pytest.mark.parametrize("part", [{"type": "image"}, {"type": "video", "video": 1}, "text", {"image": 1}])
def test_a_part_that_is_neither_text_nor_picture_is_refused(part: object) -> None:
    with pytest.raises(SteerlibError, match="a part of a message is"):
        tiny.seeing().read([{"role": "user", "content": [part]}])
