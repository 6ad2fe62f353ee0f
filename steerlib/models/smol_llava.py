"""`smol-llava`, put together: SmolLM2 from its package, and the eyes and the small update that ship with steerlib.

The one idea: a low-rank update is a sum, `W + (alpha / rank) B A`, so that it is added once and what comes out is a plain
`LlavaForConditionalGeneration` with nothing of ours in it. Of the 136 million weights, 4 million are stored in this repository.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from steerlib.assets import data_path
from steerlib.errors import SteerlibError

NAMES = ("smol-llava", "smol-llava-balanced")


def assemble(name: str, language: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Give a language model its eyes.

    Args:
        name: one of `NAMES`.
        language: SmolLM2-135M-Instruct as loaded by transformers, in any float type; it becomes part of the result.
        tokenizer: its tokenizer, to which the token `<image>` is added.

    Returns:
        The `LlavaForConditionalGeneration` and its `LlavaProcessor`.

    Raises:
        SteerlibError: a file of weights is missing, or its hash is not the one that is recorded beside it.
    """
    folder = data_path("models", name)
    shared = data_path("models", NAMES[0])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = (shared / "chat_template.jinja").read_text(encoding="utf-8")
    image = tokenizer.convert_tokens_to_ids("<image>")
    with torch.no_grad():
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        language.get_input_embeddings().weight[image] = 0
        _add_update(language, _checked(folder, "adapter_model.safetensors"), folder)

    attention = language.config._attn_implementation  # a new LlavaConfig forgets it
    settings = json.loads((shared / "config.json").read_text(encoding="utf-8"))
    settings["image_token_index"] = image
    whole = LlavaConfig(text_config=language.config, **settings)
    hollow = LlavaConfig(text_config={**language.config.to_dict(), "num_hidden_layers": 0, "vocab_size": 8}, **settings)
    hf = LlavaForConditionalGeneration(hollow)  # without a language model of its own: drawing one takes seconds
    hf.model.language_model, hf.lm_head = language.model, language.lm_head
    hf.config = hf.model.config = whole
    hf.generation_config = language.generation_config
    hf.set_attn_implementation(attention)
    eyes = load_file(_checked(folder, "vision.safetensors"))
    missing, unexpected = hf.load_state_dict(eyes, strict=False)
    if unexpected or any("vision" in key or "projector" in key for key in missing):
        raise SteerlibError(f"{folder / 'vision.safetensors'} does not fit the vision tower: install steerlib again.")

    pictures: Any = AutoImageProcessor
    reader: Any = LlavaProcessor  # neither has types
    processor = reader(
        image_processor=pictures.from_pretrained(shared),
        tokenizer=tokenizer,
        patch_size=settings["vision_config"]["patch_size"],
        vision_feature_select_strategy=settings["vision_feature_select_strategy"],
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy drops
        chat_template=tokenizer.chat_template,
    )
    return hf, processor


def _add_update(language: Any, weights: Path, folder: Path) -> None:
    """Add B A, scaled, to every matrix that the adapter names (the files are PEFT's)."""
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    scale = settings["lora_alpha"] / settings["r"]
    stored = load_file(weights)
    for key in stored:
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        matrix = language.get_submodule(path).weight
        a, b = stored[key].float(), stored[key.replace("lora_A", "lora_B")].float()
        matrix += (scale * b @ a).to(matrix)


def _checked(folder: Path, file: str) -> Path:
    """The file, if its SHA-256 is the recorded one."""
    recorded = json.loads((folder / "sha256.json").read_text(encoding="utf-8"))
    path = folder / file
    if not path.is_file():
        raise SteerlibError(f"{path} is missing: this copy of steerlib is incomplete, install it again.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != recorded[file]:
        raise SteerlibError(
            f"{path} has the SHA-256 {found}, not the recorded {recorded[file]}: install steerlib again."
        )
    return path
