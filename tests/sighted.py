"""Tiny random models of families that see in ways of their own, with their real processors; none of them needs torchvision.

LLaVA-NeXT cuts a picture into tiles, as many as its shape asks for. Idefics 2 pads pictures to one size with a mask. Llama 3.2 Vision
looks at pictures by cross-attention. PaliGemma reads the prompt in both directions and has no chat template. Qwen2-VL cuts pictures
into flat patches, each of them twice over, as two frames.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import tiny
import torch
import transformers as tf
from tokenizers import AddedToken, processors

from steerlib.models.model import Model

FAMILIES = ("llava_next", "idefics2", "mllama", "paligemma")
SIDE = 16  # pixels


def tokenizer(*marks: str) -> Any:
    """The tiny tokenizer with a beginning of text, and with tokens for pictures."""
    made = deepcopy(tiny.tokenizer())
    made.chat_template = None
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    begin = made.convert_tokens_to_ids("<s>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", begin)]
    )
    return made


def template(mark: str) -> str:
    """A chat template for processors, which reads lists of parts only."""
    return (
        "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{% if part.type == 'image' %}"
        + mark
        + "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )


def _text(made: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(made),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "pad_token_id": made.pad_token_id,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        **more,
    }


def _eyes(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
        "initializer_range": 0.25,
        **more,
    }


def _llava_next() -> tuple[Any, Any]:
    made, grid = tokenizer("<image>"), [[16, 32], [32, 16], [32, 32]]
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**_eyes()),
        text_config=tf.LlamaConfig(**_text(made)),
        image_token_id=made.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
    )
    size = {"height": SIDE, "width": SIDE}
    eyes = tf.LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=size, image_grid_pinpoints=grid)
    reader = tf.LlavaNextProcessor(
        image_processor=eyes,
        tokenizer=made,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    return tf.LlavaNextForConditionalGeneration(config), reader


def _idefics2() -> tuple[Any, Any]:
    made = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    look = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 8}
    config = tf.Idefics2Config(
        text_config=_text(made, model_type="mistral", sliding_window=None),
        vision_config=_eyes(patch_size=4),
        perceiver_config={"hidden_size": 32, "num_key_value_heads": 2, **look},
        image_token_id=made.convert_tokens_to_ids("<image>"),
    )
    eyes = tf.Idefics2ImageProcessor(size={"shortest_edge": 12, "longest_edge": SIDE}, do_image_splitting=False)
    reader = tf.Idefics2Processor(
        image_processor=eyes, tokenizer=made, image_seq_len=4, chat_template=template("<image>")
    )
    return tf.Idefics2ForConditionalGeneration(config), reader


def _mllama() -> tuple[Any, Any]:
    made = tokenizer("<|image|>", "<|python_tag|>")
    text = _text(made, num_hidden_layers=4, cross_attention_layers=[1, 3])
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    shapes = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    eyes = {"num_global_layers": 2, "attention_heads": 4, "max_num_tiles": 4, "vision_output_dim": 96}
    config = tf.MllamaConfig(
        text_config=text,
        vision_config=_eyes(intermediate_layers_indices=[1, 3], supported_aspect_ratios=shapes, **eyes),
        image_token_index=made.convert_tokens_to_ids("<|image|>"),
    )
    reader = tf.MllamaProcessor(
        image_processor=tf.MllamaImageProcessor(size={"height": SIDE, "width": SIDE}, max_image_tiles=4),
        tokenizer=made,
        chat_template="{{ bos_token }}" + template("<|image|>"),  # as the published one
    )
    return tf.MllamaForConditionalGeneration(config), reader


def _paligemma() -> tuple[Any, Any]:
    made = tokenizer("<image>")
    eyes = tf.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    eyes.image_seq_length = 4
    reader = tf.PaliGemmaProcessor(image_processor=eyes, tokenizer=made)  # which adds tokens
    kinds = ["full_attention", "full_attention", "full_attention"]
    gemma = {"query_pre_attn_scalar": 16, "sliding_window": 64, "layer_types": kinds}
    config = tf.PaliGemmaConfig(
        text_config=_text(made, model_type="gemma2", **gemma),
        vision_config=tf.SiglipVisionConfig(**_eyes(vision_use_head=False, projection_dim=32)).to_dict(),
        image_token_index=made.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return tf.PaliGemmaForConditionalGeneration(config), reader


class Still(tf.Qwen2VLProcessor):
    """A Qwen2-VL's processor without the part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        tf.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def _qwen2_vl() -> tuple[Any, Any]:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    made = tokenizer(*marks)
    begin, end, image, video = made.convert_tokens_to_ids(list(marks))
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    tower = {"depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}
    config = tf.Qwen2VLConfig(
        text_config=_text(made, rope_parameters=rope, use_sliding_window=False),
        vision_config={**tower, "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.25},
        tie_word_embeddings=False,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=begin,
        vision_end_token_id=end,
    )
    eyes = tf.Qwen2VLImageProcessorPil(
        min_pixels=64, max_pixels=1024, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    reader = Still(eyes, made, template("<|vision_start|><|image_pad|><|vision_end|>"))
    return tf.Qwen2VLForConditionalGeneration(config), reader


@cache
def model(family: str) -> Model:
    """A tiny model of one of the FAMILIES, shared by all tests."""
    torch.manual_seed(0)
    build = {"llava_next": _llava_next, "idefics2": _idefics2, "mllama": _mllama, "paligemma": _paligemma}
    hf, reader = (build | {"qwen2_vl": _qwen2_vl})[family]()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    reader.tokenizer.padding_side = "left"
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(hf.generation_config, key, getattr(reader.tokenizer, key))
    return Model(f"tiny-{family}", hf.eval().requires_grad_(False), reader.tokenizer, reader)
