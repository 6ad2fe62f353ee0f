"""Make what profiles/tiny.yml names: tiny random models of the papers' classes, and stand-ins for the data of the hub.

    python tools/tiny.py            into _build/tiny; a folder that is there already is left alone

The classes are the real ones, with their real processors and the published chat templates. Only sizes and weights are not: six
blocks of width 64, drawn at random. The tokenizer is SmolLM2's, whose words are those of a real model. The models that see are
made for the packages at hand: the processor of Qwen2.5-VL needs torchvision, and where that is missing a Gemma 3 stands in.
The data have the form of the real ones, and are those on which their readers are tested: pictures of plain colours, and made-up sentences.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
import yaml

import steerlib as sl

tf: Any = transformers  # whose own types know fewer arguments than its classes take
ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "_build" / "tiny"
SIDE = 28  # pixels
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(family: str) -> str:
    """The published chat template of a family."""
    published = yaml.safe_load((ROOT / "tests" / "templates.yml").read_text(encoding="utf-8"))
    return str(published[family]["template"])


def tokenizer(*marks: str, **named: str) -> Any:
    """SmolLM2's tokenizer, with tokens for pictures, some of which its class knows by name."""
    made = deepcopy(sl.load("smollm2", device="cpu").tokenizer)
    made.chat_template, made.padding_side = CHATML, "left"
    made.add_tokens([*marks, *named.values()], special_tokens=True)
    if not named:
        return made
    with tempfile.TemporaryDirectory() as folder:  # names are given when a tokenizer is read
        made.save_pretrained(folder)
        return tf.AutoTokenizer.from_pretrained(folder, extra_special_tokens=named)


def text(tokens: Any, **more: Any) -> dict[str, Any]:
    """The sizes of a decoder, which are the same for all."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
        "tie_word_embeddings": True,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        **more,
    }


def words() -> tuple[Any, Any]:
    """Qwen2.5, which is of the class Qwen2."""
    tokens = tokenizer()
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**text(tokens))), tokens


def llava() -> tuple[Any, Any]:
    """LLaVA-1.5."""
    tokens = tokenizer("<image>")
    eyes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**eyes, image_size=SIDE, patch_size=14),
        text_config=tf.LlamaConfig(**text(tokens)),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    size = {"height": SIDE, "width": SIDE}
    reader = tf.LlavaProcessor(
        image_processor=tf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size),
        tokenizer=tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("llava"),
    )
    return tf.LlavaForConditionalGeneration(config), reader


def qwen_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL."""
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = tokenizer(*marks)
    begin, end, image, video = tokens.convert_tokens_to_ids(list(marks))
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    tower = {"depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 64}
    config = tf.Qwen2_5_VLConfig(
        text_config=text(tokens, rope_parameters=rope),
        vision_config={**tower, "patch_size": 14, "fullatt_block_indexes": [1]},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=begin,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    eyes = tf.Qwen2VLImageProcessor(min_pixels=SIDE**2, max_pixels=4 * SIDE**2)
    reader = tf.Qwen2_5_VLProcessor(
        image_processor=eyes,
        tokenizer=tokens,
        video_processor=tf.Qwen2VLVideoProcessor(),
        chat_template=template("qwen2_5_vl"),
    )
    return tf.Qwen2_5_VLForConditionalGeneration(config), reader


def gemma() -> tuple[Any, Any]:
    """Gemma 3."""
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokens = tokenizer(**marks)
    begin, end, image = tokens.convert_tokens_to_ids(list(marks.values()))
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    eyes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(**text(tokens, sliding_window=512, layer_types=kinds)),
        vision_config=tf.SiglipVisionConfig(**eyes, image_size=56, patch_size=14, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=image,
    )
    reader = tf.Gemma3Processor(
        image_processor=tf.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokens,
        image_seq_length=4,
        chat_template=template("gemma3"),
    )
    return tf.Gemma3ForConditionalGeneration(config), reader


def make(folder: Path, build: Callable[[], tuple[Any, Any]]) -> None:
    """Save a random model, whole or not at all."""
    if folder.is_dir():
        return
    torch.manual_seed(0)
    hf, reader = build()
    with torch.no_grad():  # a fresh network may have weights of 0, through which no picture is seen
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        hf.eval().save_pretrained(scratch)
        reader.save_pretrained(scratch)
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def photos(folder: Path) -> None:
    """Two sets of SocialCounterfactuals for some occupations of each split."""
    hub = importlib.import_module("hub_fixtures")
    jobs = [job for split in ("train", "validation", "test") for job in sl.tasks.occupations(split)["occupation"][:6]]
    hub.write_shards(folder, hub.counterfactual_rows([(job, 2) for job in jobs]))


def sentences(file: Path) -> None:
    """A table like SynthBias's."""
    made = importlib.import_module("test_synthbias").rows()
    pd.DataFrame(made).to_csv(file, index=False)


def main() -> None:
    """Make all that is not there."""
    tf.logging.set_verbosity_error()
    tf.logging.disable_progress_bar()
    sees = qwen_vl if importlib.util.find_spec("torchvision") else gemma
    for name, build in {"words": words, "llava": llava, "sees": sees}.items():
        make(TINY / name, build)
        kind = (build.__doc__ or "").partition(",")[0].rstrip(".")
        print(f"a tiny random {kind}: {TINY / name}")
    sys.path.insert(0, str(ROOT / "tests"))
    photos(TINY / "SocialCounterfactuals")
    sentences(TINY / "synthbias_data.csv")
    print(f"stand-ins for SocialCounterfactuals and SynthBias: {TINY}")


if __name__ == "__main__":
    main()
