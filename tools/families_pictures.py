"""Tiny random vision-language models whose processors need no other package, and what all families that see have in common.

The vision towers are deeper than the language models, so that nobody takes the one for the other, and pictures are of 16 to 32
pixels. Tokenizers, templates and the rest are as in families_text.py.
"""

from __future__ import annotations

from typing import Any

import transformers
from families_text import GEMMA, PLAIN, SLIDING, WIDTH, published, text, tokenizer

tf: Any = transformers  # whose classes know more settings than their types say
Made = tuple[Any, Any]  # a network and its processor

SIDE = 16
GRID = [[16, 32], [32, 16], [32, 32]]
SQUARE = {"height": SIDE, "width": SIDE}
PLACES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def eyes(**more: Any) -> dict[str, Any]:
    """What the configuration of a vision tower is given."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 4,
        "initializer_range": 0.25,
        **more,
    }


def siglip(**more: Any) -> dict[str, Any]:
    """A SigLIP tower."""
    given: dict[str, Any] = tf.SiglipVisionConfig(**eyes(vision_use_head=False, **more)).to_dict()
    return given


def ids(made: Any, **marks: str) -> dict[str, int]:
    """The ids of marks, by the names that a configuration has for them."""
    return {name: made.convert_tokens_to_ids(mark) for name, mark in marks.items()}


def llava() -> Made:
    made = tokenizer("llava", begins=True, marks=("<image>",))
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**eyes(patch_size=8)),
        text_config=tf.LlamaConfig(**text(made)),
        **ids(made, image_token_id="<image>"),
    )
    seen = tf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    how = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    reader = tf.LlavaProcessor(image_processor=seen, tokenizer=made, chat_template=published("llava"), **how)
    return tf.LlavaForConditionalGeneration(config), reader


def llava_next() -> Made:
    made = tokenizer("llava", begins=True, marks=("<image>",))
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**eyes(patch_size=8)),
        text_config=tf.MistralConfig(**text(made, sliding_window=None, head_dim=8)),
        image_grid_pinpoints=GRID,
        **ids(made, image_token_id="<image>"),
    )
    seen = tf.LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRID)
    how = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    reader = tf.LlavaNextProcessor(image_processor=seen, tokenizer=made, chat_template=published("llava"), **how)
    return tf.LlavaNextForConditionalGeneration(config), reader


def gemma3() -> Made:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    made = tokenizer("gemma3", begins=True, named=named)
    config = tf.Gemma3Config(
        text_config=text(made, **GEMMA) | {"sliding_window": 64},
        vision_config=siglip(image_size=32, patch_size=8),
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        **ids(made, image_token_index="<image_soft_token>"),
        **ids(made, boi_token_index="<start_of_image>", eoi_token_index="<end_of_image>"),
    )
    seen = tf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    how = {"image_seq_length": 4, "chat_template": published("gemma3")}
    return tf.Gemma3ForConditionalGeneration(config), tf.Gemma3Processor(image_processor=seen, tokenizer=made, **how)


def mllama() -> Made:
    made = tokenizer("mllama", begins=True, marks=("<|image|>", "<|python_tag|>"))
    shapes = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    tower = {"num_global_layers": 2, "attention_heads": 4, "max_num_tiles": 4, "vision_output_dim": 3 * WIDTH}
    words = {"num_hidden_layers": 4, "cross_attention_layers": [1, 3], "rope_parameters": PLAIN_ROPE}
    config = tf.MllamaConfig(
        text_config=text(made, **words) | {"vocab_size": len(made)},
        vision_config=eyes(patch_size=8, intermediate_layers_indices=[1, 3], supported_aspect_ratios=shapes, **tower),
        **ids(made, image_token_index="<|image|>"),
    )
    seen = tf.MllamaImageProcessor(size=SQUARE, max_image_tiles=4)
    reader = tf.MllamaProcessor(image_processor=seen, tokenizer=made, chat_template=published("mllama"))
    return tf.MllamaForConditionalGeneration(config), reader


def paligemma() -> Made:
    made = tokenizer("", begins=True, marks=("<image>",))
    seen = tf.SiglipImageProcessor(size=SQUARE)
    seen.image_seq_length = 4
    reader = tf.PaliGemmaProcessor(image_processor=seen, tokenizer=made)  # which adds tokens
    config = tf.PaliGemmaConfig(
        text_config=text(made, model_type="gemma2", **GEMMA) | {"sliding_window": 64},
        vision_config=siglip(patch_size=8, projection_dim=WIDTH),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        **ids(made, image_token_index="<image>"),
    )
    return tf.PaliGemmaForConditionalGeneration(config), reader


def idefics2() -> Made:
    made = tokenizer(PLAIN, begins=False, marks=("<image>", "<fake_token_around_image>", "<end_of_utterance>"))
    looks = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 8}
    config = tf.Idefics2Config(
        text_config=text(made, model_type="mistral", head_dim=8, sliding_window=None),
        vision_config=eyes(),
        perceiver_config={"hidden_size": WIDTH, "num_key_value_heads": 2, **looks},
        **ids(made, image_token_id="<image>"),
    )
    seen = tf.Idefics2ImageProcessor(size={"shortest_edge": 12, "longest_edge": SIDE}, do_image_splitting=False)
    how = {"image_seq_len": 4, "chat_template": published(PLAIN, "<image>")}
    reader = tf.Idefics2Processor(image_processor=seen, tokenizer=made, **how)
    return tf.Idefics2ForConditionalGeneration(config), reader


def idefics3_like(family: str, **readers: Any) -> Made:
    """Idefics 3 or SmolVLM; readers: processors besides that of pictures."""
    marks = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *PLACES)
    made = tokenizer("smolvlm", begins=False, marks=marks)
    config = getattr(tf, f"{family}Config")(
        text_config=text(made, model_type="llama"),
        vision_config=eyes(),
        scale_factor=2,
        pad_token_id=made.pad_token_id,
        **ids(made, image_token_id="<image>"),
    )
    size = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": SIDE}}
    reader = getattr(tf, f"{family}Processor")(
        image_processor=getattr(tf, f"{family}ImageProcessor")(**size),
        tokenizer=made,
        image_seq_len=4,
        chat_template=published("smolvlm"),
        **{name: kind(**size) for name, kind in readers.items()},
    )
    return getattr(tf, f"{family}ForConditionalGeneration")(config), reader


def idefics3() -> Made:
    return idefics3_like("Idefics3")


def aya_vision() -> Made:
    marks = ("<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>")
    made = tokenizer(PLAIN, begins=True, marks=(*marks, "TILE", "TILE_GLOBAL", "<|IMG_LINE_BREAK|>"))
    config = tf.AyaVisionConfig(
        text_config=text(made, model_type="cohere2", head_dim=8, **SLIDING),
        vision_config=siglip(),
        downsample_factor=2,
        alignment_intermediate_size=64,
        **ids(made, image_token_index="<|IMG_PATCH|>"),
    )
    reader = tf.AyaVisionProcessor(
        image_processor=tf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3),
        tokenizer=made,
        patch_size=4,
        img_size=SIDE,
        image_token="<image>",
        downsample_factor=2,
        chat_template=published(PLAIN, "<image>"),
    )
    return tf.AyaVisionForConditionalGeneration(config), reader
