"""Tiny random vision-language models whose processors need torchvision (Gemma 3n also timm, SmolVLM also num2words)."""

from __future__ import annotations

from typing import Any

import transformers
from families_pictures import GRID, SIDE, SQUARE, Made, eyes, idefics3_like, ids
from families_text import GEMMA3N, GEMMA4, LFM2, LINEAR, LLAMA4, PLAIN, WIDTH, published, text, tokenizer, vocabulary

tf: Any = transformers  # whose classes know more settings than their types say
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
TURNED = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def smolvlm() -> Made:
    return idefics3_like("SmolVLM", video_processor=tf.SmolVLMVideoProcessor)


def llava_onevision() -> Made:
    made = tokenizer("llava_onevision", begins=False, marks=("<image>", "<video>"))
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**eyes(patch_size=8, vision_use_head=False)),
        text_config=tf.Qwen2Config(**text(made)),
        image_grid_pinpoints=GRID,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        **ids(made, image_token_id="<image>", video_token_id="<video>"),
    )
    reader = tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=GRID),
        video_processor=tf.LlavaOnevisionVideoProcessor(size=SQUARE),
        tokenizer=made,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=published("llava_onevision"),
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), reader


def _qwen(family: str, processor: str, video: str, words: dict[str, Any], tower: dict[str, Any]) -> Made:
    """A Qwen: its class, those of its processors, and what its language model and its vision tower have of their own."""
    template = "qwen2_5_vl" if family.startswith("Qwen2") else PLAIN
    made = tokenizer(template, begins=False, marks=QWEN)
    config = getattr(tf, f"{family}Config")(
        text_config=text(made, **words),
        vision_config={
            "depth": 5,
            "hidden_size": WIDTH,
            "out_hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_heads": 4,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.25,
            **tower,
        },
        tie_word_embeddings=False,
        **ids(made, image_token_id=QWEN[2], video_token_id=QWEN[3]),
        **ids(made, vision_start_token_id=QWEN[0], vision_end_token_id=QWEN[1]),
    )
    size = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    reader = getattr(tf, f"{processor}Processor")(
        image_processor=tf.Qwen2VLImageProcessor(min_pixels=64, max_pixels=1024, **size),
        video_processor=getattr(tf, f"{video}VideoProcessor")(**size),
        tokenizer=made,
        chat_template=published(template, QWEN_MARK),
    )
    return getattr(tf, f"{family}ForConditionalGeneration")(config), reader


def qwen2_vl() -> Made:
    words = {"rope_parameters": TURNED, "use_sliding_window": False}
    return _qwen("Qwen2VL", "Qwen2VL", "Qwen2VL", words, {"embed_dim": WIDTH, "mlp_ratio": 2})


def qwen2_5_vl() -> Made:
    words = {"rope_parameters": TURNED, "use_sliding_window": False}
    return _qwen("Qwen2_5_VL", "Qwen2_5_VL", "Qwen2VL", words, {"fullatt_block_indexes": [1, 3], "window_size": 16})


def qwen3_vl() -> Made:
    words = {"head_dim": 8, "rope_parameters": {**TURNED, "mrope_interleaved": True}}
    tower = {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 16}
    return _qwen("Qwen3VL", "Qwen3VL", "Qwen3VL", words, tower)


def qwen3_vl_moe() -> Made:
    words = {"head_dim": 8, "rope_parameters": {**TURNED, "mrope_interleaved": True}}
    words |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    tower = {"deepstack_visual_indexes": [0, 2], "num_position_embeddings": 16}
    return _qwen("Qwen3VLMoe", "Qwen3VL", "Qwen3VL", words, tower)


def qwen3_5() -> Made:
    rope = {**TURNED, "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    words = {"head_dim": 8, "rope_parameters": rope, **LINEAR}
    return _qwen("Qwen3_5", "Qwen3VL", "Qwen3VL", words, {"num_position_embeddings": 16})


def gemma3n() -> Made:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    named |= {"audio_token": "<audio_soft_token>", "boa_token": "<start_of_audio>", "eoa_token": "<end_of_audio>"}
    made = tokenizer(PLAIN, begins=True, named=named)
    after = vocabulary(made)
    hears = {"hidden_size": 32, "vocab_size": 8, "vocab_offset": after + 8, "input_feat_size": 32}
    config = tf.Gemma3nConfig(
        text_config=text(made, **GEMMA3N) | {"vocab_size_per_layer_input": after, "sliding_window": 64},
        vision_config={
            "hidden_size": 2048,  # of the only tower that there is, which makes 256 tokens
            "vocab_size": 8,
            "vocab_offset": after,
            "architecture": "mobilenetv5_300m",
            "do_pooling": False,
        },
        audio_config={
            **hears,
            "conf_num_attention_heads": 4,
            "conf_num_hidden_layers": 2,
            "sscp_conv_channel_size": (8, 4),
        },
        vision_soft_tokens_per_image=256,
        tie_word_embeddings=False,
        **ids(made, **{f"{name}_id": mark for name, mark in named.items()}),
    )
    reader = tf.Gemma3nProcessor(
        feature_extractor=tf.Gemma3nAudioFeatureExtractor(),
        image_processor=tf.SiglipImageProcessor(size={"height": 32, "width": 32}),
        tokenizer=made,
        image_seq_length=256,
        chat_template=published(PLAIN, "<image_soft_token>"),
    )
    return tf.Gemma3nForConditionalGeneration(config), reader


def gemma4() -> Made:
    named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    named |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    made = tokenizer(PLAIN, begins=True, named=named, marks=("<|video|>",))
    layers = {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2, "sliding_window": 64}
    tower = {"num_key_value_heads": 4, "head_dim": 8, "global_head_dim": 8, "pooling_kernel_size": 2}
    config = tf.Gemma4Config(
        text_config=text(made, **GEMMA4) | layers | {"vocab_size_per_layer_input": vocabulary(made)},
        vision_config=eyes(num_hidden_layers=6, patch_size=8, position_embedding_size=64, **tower),
        audio_config=None,
        tie_word_embeddings=False,
        **ids(made, image_token_id="<|image|>", boi_token_id="<|image>", eoi_token_id="<image|>"),
        **ids(made, audio_token_id="<|audio|>", video_token_id="<|video|>"),
    )
    size = {"patch_size": 8, "pooling_kernel_size": 2}
    reader = tf.Gemma4Processor(
        feature_extractor=tf.Gemma4AudioFeatureExtractor(),
        image_processor=tf.Gemma4ImageProcessor(max_soft_tokens=70, **size),
        video_processor=tf.Gemma4VideoProcessor(**size),
        tokenizer=made,
        image_seq_length=70,
        chat_template=published(PLAIN, "<|image|>"),
    )
    return tf.Gemma4ForConditionalGeneration(config), reader


def internvl() -> Made:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    made = tokenizer(PLAIN, begins=False, named={**named, "video_token": "<video>"})
    config = tf.InternVLConfig(
        text_config=text(made, model_type="qwen2"),
        vision_config=eyes(image_size=[SIDE, SIDE], patch_size=[4, 4]),
        downsample_ratio=0.5,
        **ids(made, image_token_id="<IMG_CONTEXT>"),
    )
    reader = tf.InternVLProcessor(
        image_processor=tf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3),
        video_processor=tf.InternVLVideoProcessor(size=SQUARE),
        tokenizer=made,
        image_seq_length=4,
        chat_template=published(PLAIN, "<IMG_CONTEXT>\n"),
    )
    return tf.InternVLForConditionalGeneration(config), reader


def llama4() -> Made:
    marks = ("<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>")
    made = tokenizer(PLAIN, begins=True, marks=(*marks, "<|tile_y_separator|>"))
    sizes = dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), WIDTH)
    config = tf.Llama4Config(
        text_config=text(made, **LLAMA4),
        vision_config=eyes(intermediate_size=128, pixel_shuffle_ratio=0.5, **sizes),
        **ids(made, image_token_index="<|patch|>", boi_token_index=marks[1], eoi_token_index=marks[2]),
    )
    seen = tf.Llama4ImageProcessor(size=SQUARE, max_patches=2)
    how = {"patch_size": 4, "pixel_shuffle_ratio": 0.5, "chat_template": published(PLAIN, "<|image|>")}
    reader = tf.Llama4Processor(image_processor=seen, tokenizer=made, **how)
    return tf.Llama4ForConditionalGeneration(config), reader


def _pixtral(family: str, **more: Any) -> Made:
    """A Mistral that sees through a Pixtral tower; more: settings of its class."""
    made = tokenizer(PLAIN, begins=True, marks=("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    config = getattr(tf, f"{family}Config")(
        text_config=text(made, model_type="mistral", head_dim=8, sliding_window=None),
        vision_config=eyes(model_type="pixtral", image_size=32, head_dim=8),
        **ids(made, image_token_index="[IMG]"),
        **more,
    )
    merged = {key: more[key] for key in ("spatial_merge_size",) if key in more}
    reader = tf.PixtralProcessor(
        image_processor=tf.PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4}),
        tokenizer=made,
        patch_size=4,
        chat_template=published(PLAIN, "[IMG]"),
        **merged,
    )
    return getattr(tf, f"{family}ForConditionalGeneration")(config), reader


def mistral3() -> Made:
    return _pixtral("Mistral3", spatial_merge_size=2)


def pixtral() -> Made:
    return _pixtral("Llava", vision_feature_layer=-1, vision_feature_select_strategy="full")


def glm4v() -> Made:
    marks = ("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>")
    made = tokenizer(PLAIN, begins=False, marks=(*marks, "<|end_of_video|>"))
    tower = {"depth": 5, "out_hidden_size": WIDTH, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = tf.Glm4vConfig(
        text_config=text(made, rope_parameters={**TURNED, "partial_rotary_factor": 1.0}),
        vision_config=eyes(image_size=32, **tower),
        tie_word_embeddings=False,
        **ids(made, image_token_id=marks[0], image_start_token_id=marks[2], image_end_token_id=marks[3]),
        **ids(made, video_token_id=marks[1], video_start_token_id=marks[4], video_end_token_id="<|end_of_video|>"),
    )
    size = {"patch_size": 4, "merge_size": 2}
    edges = {"shortest_edge": 64, "longest_edge": 2048}
    reader = tf.Glm4vProcessor(
        image_processor=tf.Glm4vImageProcessor(size=edges, temporal_patch_size=2, **size),
        video_processor=tf.Glm4vVideoProcessor(**size),
        tokenizer=made,
        chat_template=published(PLAIN, "<|begin_of_image|><|image|><|end_of_image|>"),
    )
    return tf.Glm4vForConditionalGeneration(config), reader


def lfm2_vl() -> Made:
    named = {"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    made = tokenizer(PLAIN, begins=False, named={**named, "image_thumbnail": "<|img_thumbnail|>"})
    tower = eyes(model_type="siglip2_vision_model", num_patches=16, vision_use_head=False)
    config = tf.Lfm2VlConfig(
        text_config=text(made, model_type="lfm2", **LFM2),
        vision_config=tower,
        projector_hidden_size=WIDTH,
        downsample_factor=2,
        **ids(made, image_token_id="<image>"),
    )
    tiles = {"tile_size": SIDE, "min_tiles": 1, "max_tiles": 2, "min_image_tokens": 1, "max_image_tokens": 4}
    seen = tf.Lfm2VlImageProcessor(
        encoder_patch_size=4, downsample_factor=2, do_image_splitting=False, max_num_patches=64, **tiles
    )
    how = {"chat_template": published(PLAIN, "<image>")}
    return tf.Lfm2VlForConditionalGeneration(config), tf.Lfm2VlProcessor(image_processor=seen, tokenizer=made, **how)


def phi4() -> Made:
    made = tokenizer("phi4_multimodal", begins=False, named={"image_token": "<|image|>", "audio_token": "<|audio|>"})
    side = {"image_size": 64, "crop_size": 64, "patch_size": 2}  # 32 x 32 patches, as the processor takes for granted
    hears = {"num_blocks": 1, "num_attention_heads": 4, "input_size": 16, "nemo_conv_channels": WIDTH, "chunk_size": 4}
    hears |= {"ext_pw_out_channel": WIDTH, "depthwise_separable_out_channel": WIDTH}
    config = tf.Phi4MultimodalConfig(
        **text(made),
        vision_config=eyes(**side, **ids(made, image_token_id="<|image|>")),
        audio_config={"hidden_size": WIDTH, "intermediate_size": 32, **hears, **ids(made, audio_token_id="<|audio|>")},
    )
    reader = tf.Phi4MultimodalProcessor(
        image_processor=tf.Phi4MultimodalImageProcessor(size={"height": 64, "width": 64}, patch_size=2, dynamic_hd=2),
        audio_processor=tf.Phi4MultimodalFeatureExtractor(),
        tokenizer=made,
        chat_template=published("phi4_multimodal"),
    )
    return tf.Phi4MultimodalForCausalLM(config), reader


def molmo2() -> Made:
    marks = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    made = tokenizer(PLAIN, begins=True, marks=(*marks, "<im_low>", "<|image|>", "<|video|>"))
    heads = {"num_key_value_heads": 4, "head_dim": 8}
    pooled = {"hidden_size": WIDTH, "intermediate_size": 32, "text_hidden_size": WIDTH, "num_attention_heads": 4}
    config = tf.Molmo2Config(
        text_config=text(made, head_dim=8, additional_vocab_size=16),
        vision_config=eyes(image_size=[48, 48], **heads),
        adapter_config={**pooled, **heads, "vision_feature_layer": [4, 2]},
        **ids(made, image_patch_id="<im_patch>"),
    )
    reader = tf.Molmo2Processor(
        image_processor=tf.Molmo2ImageProcessor(size={"height": 48, "width": 48}, patch_size=4, max_crops=2),
        video_processor=tf.Molmo2VideoProcessor(),
        tokenizer=made,
        chat_template=published(PLAIN, "<|image|>"),
    )
    return tf.Molmo2ForConditionalGeneration(config), reader
