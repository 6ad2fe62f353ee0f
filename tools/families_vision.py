"""The families that see, by their names."""

from __future__ import annotations

from typing import Any

import families_pictures
import families_torchvision
import torch
from families_pictures import Made
from families_text import PLAIN, finish

FAMILIES: dict[str, tuple[Any, str]] = {  # name -> what makes it, chat template
    "llava": (families_pictures.llava, "llava"),
    "llava-next": (families_pictures.llava_next, "llava"),
    "llava-onevision": (families_torchvision.llava_onevision, "llava_onevision"),
    "qwen2-vl": (families_torchvision.qwen2_vl, "qwen2_5_vl"),
    "qwen2.5-vl": (families_torchvision.qwen2_5_vl, "qwen2_5_vl"),
    "qwen3-vl": (families_torchvision.qwen3_vl, PLAIN),
    "qwen3-vl-moe": (families_torchvision.qwen3_vl_moe, PLAIN),
    "qwen3.5-vl": (families_torchvision.qwen3_5, PLAIN),
    "gemma3-vl": (families_pictures.gemma3, "gemma3"),
    "gemma3n-vl": (families_torchvision.gemma3n, PLAIN),
    "gemma4-vl": (families_torchvision.gemma4, PLAIN),
    "llama3.2-vision": (families_pictures.mllama, "mllama"),
    "llama4-vl": (families_torchvision.llama4, PLAIN),
    "paligemma": (families_pictures.paligemma, ""),
    "idefics2": (families_pictures.idefics2, PLAIN),
    "idefics3": (families_pictures.idefics3, "smolvlm"),
    "smolvlm": (families_torchvision.smolvlm, "smolvlm"),
    "internvl": (families_torchvision.internvl, PLAIN),
    "aya-vision": (families_pictures.aya_vision, PLAIN),
    "mistral3": (families_torchvision.mistral3, PLAIN),
    "pixtral": (families_torchvision.pixtral, PLAIN),
    "glm4v": (families_torchvision.glm4v, PLAIN),
    "lfm2-vl": (families_torchvision.lfm2_vl, PLAIN),
    "molmo2": (families_torchvision.molmo2, PLAIN),
    "phi4-multimodal": (families_torchvision.phi4, "phi4_multimodal"),
}


def build(name: str) -> Made:
    """A tiny network of one of the FAMILIES, and its processor.

    Raises:
        AttributeError: this version of transformers has no such family.
        ImportError: a package that the family needs is not installed.
    """
    torch.manual_seed(0)
    hf, reader = FAMILIES[name][0]()
    return finish(hf, reader.tokenizer), reader
