"""Tiny random models of real families, and probes that see which positions a steering touches.

The classes are the real ones; only the sizes are small (width 32, three blocks, four heads) and the weights random but large
enough that every prompt gets its own answer. Gemma gets heads that are not width / heads wide and a sliding window of six
tokens; GPT-J's blocks return a tuple; GPT-2's projections are transposed; the LLaVA's vision tower is deeper than its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from steerlib.models.model import Model
from steerlib.models.sites import Site, find, parse

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt2", "gptj")
WIDTH, LAYERS, HEADS, WINDOW = 32, 3, 4, 6
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
IMAGE_TOKENS = 4

PROMPTS = [
    "The nurse said that",
    "A",
    "The mechanic was tired because",
    "Yesterday, after a long day",
    "No one",
]
SCOPES = ("all", "prompt", "generated", "last")


def tokenizer(bos: bool = False) -> Any:
    """Byte-level BPE over printable ASCII with four merges, so that most words are several tokens.

    A new one each time: a processor that is made of a tokenizer writes its own class into it, and so into the folders it is saved to.
    """
    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    merges = [("Ġ", "h"), ("Ġh", "e"), ("Ġ", "s"), ("t", "h")]
    vocabulary = {token: i for i, token in enumerate([*special, *letters, "Ġh", "Ġhe", "Ġs", "th"])}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    if bos:
        fast.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    made.chat_template = (
        ("<s>" if bos else "")
        + "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
        + "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return made


def text_config(family: str) -> Any:
    """The configuration of a tiny text model."""
    tokens = tokenizer(family.startswith("gemma"))
    common = {
        "vocab_size": len(tokens),
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
    }
    if family in ("gpt2", "gptj"):
        kind = tf.GPT2Config if family == "gpt2" else tf.GPTJConfig
        more = {"rotary_dim": 4} if family == "gptj" else {}
        drop = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}  # which evaluation mode must switch off
        return kind(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=256, **common, **drop, **more)
    common |= SIZES
    if family == "llama":
        return tf.LlamaConfig(**common)
    if family == "qwen2":
        return tf.Qwen2Config(**common)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    gemma = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "layer_types": kinds}
    return (tf.Gemma2Config if family == "gemma2" else tf.Gemma3TextConfig)(**common, **gemma)


def fresh(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Model:
    """A new tiny model, for tests that damage it. family: one of FAMILIES, or "llava"."""
    torch.manual_seed(seed)
    if family == "llava":
        text = text_config("llama")
        vision = tf.CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2 * LAYERS,
            num_attention_heads=HEADS,
            image_size=8,
            patch_size=4,
        )
        ids = {"image_token_id": tokenizer().convert_tokens_to_ids("<image>")}
        config = tf.LlavaConfig(vision_config=vision, text_config=text, **ids)
        hf: Any = tf.LlavaForConditionalGeneration(config)
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(hf.generation_config, key, getattr(text, key))
    else:
        hf = tf.AutoModelForCausalLM.from_config(text_config(family))
    with torch.no_grad():
        for weight in hf.parameters():  # norms and biases, too, differ from one another
            weight.add_(0.1 * torch.randn_like(weight))
    hf.to(dtype).eval().requires_grad_(False)
    return Model(name=f"tiny-{family}", hf=hf, tokenizer=tokenizer(family.startswith("gemma")))


def save(family: str, folder: Path) -> None:
    """A new tiny model in a folder, as `steerlib.load` reads it."""
    lm = fresh(family)
    lm.hf.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


@cache
def model(family: str, dtype: torch.dtype = torch.float32) -> Model:
    """A tiny model shared by all tests, which leave it as they found it."""
    return fresh(family, dtype=dtype)


def shared() -> list[Model]:
    """The shared models that tests use most, to be looked at after a test."""
    return [model(family) for family in (*FAMILIES, "llava")]


@cache
def seeing(dtype: torch.dtype = torch.float32) -> Model:
    """The tiny LLaVA with a processor: it takes chats with pictures, of any size, as four tokens each."""
    template = (
        "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
        "{% endif %}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    eyes = tf.CLIPImageProcessor(size={"height": 8, "width": 8}, do_center_crop=False)
    processor = tf.LlavaProcessor(
        image_processor=eyes,
        tokenizer=tokenizer(),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return replace(model("llava", dtype), processor=processor)


def picture(seed: int = 0, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A picture of coloured noise; size: width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def vector(seed: int = 0, width: int = WIDTH, size: float = 1.0) -> Tensor:
    """(width,) random float32."""
    return size * torch.randn(width, generator=torch.Generator().manual_seed(seed))


def ids(lm: Model, text: str) -> Tensor:
    """(1, tokens) of a plain text."""
    return torch.tensor([lm.tokens(text)])


def logits(lm: Model, texts: list[str] = PROMPTS) -> Tensor:
    """(batch, tokens, vocabulary) of a plain call on a left-padded batch."""
    with torch.inference_mode():
        return lm.hf(**lm.batch([lm.tokens(text) for text in texts])).logits.clone()


def pictures(lm: Model, texts: list[str], seed: int = 0) -> dict[str, Tensor]:
    """What a LLaVA takes for texts in which each "<image>" stands for one random picture; padded on the left."""
    batch = lm.batch([lm.tokens(text.replace("<image>", "<image>" * IMAGE_TOKENS)) for text in texts])
    batch.pop("position_ids")
    number = sum(text.count("<image>") for text in texts)
    generator = torch.Generator().manual_seed(seed)
    return {**batch, "pixel_values": torch.randn(number, 3, 8, 8, generator=generator)}


def hooks(hf: Any) -> list[str]:
    """Everything of ours or a user's that hangs on a model's modules: hooks, marks of hooks, an overridden `generate`.

    The hooks that transformers puts on a model for good, to return its hidden states, do not count.
    """
    found = []
    for name, module in hf.named_modules():
        theirs = {
            number
            for key, held in vars(module).items()
            if "_hooks" in key and isinstance(held, dict)
            for number, hook in held.items()
            if getattr(hook, "__module__", "").startswith("transformers.")
        }
        found += [
            f"{name}.{key}"
            for key, held in vars(module).items()
            if "_hooks" in key and isinstance(held, dict) and set(held) - theirs
        ]
        found += [f"{name}.generate"] * ("generate" in vars(module))
    return found


def weights(hf: Any) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: weight.clone() for name, weight in hf.state_dict().items()}


def same_weights(hf: Any, before: dict[str, Tensor]) -> bool:
    """Whether the weights are those of before, to the bit."""
    after = hf.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


@contextmanager
def watch(lm: Model, site: Site | str) -> Iterator[list[Tensor]]:
    """A list that grows by the activation at a site in every pass, as it is where this hook stands among the others."""
    place = find(lm.hf, parse(site) if isinstance(site, str) else site)
    seen: list[Tensor] = []

    def note(h: Tensor) -> None:
        seen.append(h.detach().clone())

    def after(module: Any, args: Any, output: Any) -> None:
        note(output[0] if isinstance(output, tuple) else output)

    def before(module: Any, args: Any) -> None:
        note(args[0][..., place.start : (place.start or 0) + place.width])

    hook: Callable[[Any], Any] = place.module.register_forward_hook
    handle = hook(after) if place.start is None else place.module.register_forward_pre_hook(before)
    try:
        yield seen
    finally:
        handle.remove()


def changed(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    """For each pass, (batch, tokens) bool: where two watches, one before and one after a steering, differ at all."""
    assert len(before) == len(after) > 0
    return [(b != a).any(-1) for b, a in zip(before, after, strict=True)]
