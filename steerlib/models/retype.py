"""The same network as a Llama: for families that do Llama's arithmetic but whose class has no place for biases.

Qwen2, Mistral and Phi-3 compute what Llama computes. As a Llama, with biases that are 0 to begin with, they hold what their own
classes cannot. Whether a network is one of them is not looked up but tried: its weights, under Llama's names, must fit a Llama
and give the same logits. What a short try-out cannot see (a sliding window, positions that are stretched in long texts)
rules a network out.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from steerlib.errors import SteerlibError
from steerlib.models.holds import difference, logits, probes, rebuilt

SAME = 1e-5  # of the logits in float32, relative to the largest
SAME_ROUNDED = 0.02  # in types with fewer digits
KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "dtype",
)
"""The settings that a Llama takes over."""
SAME_IN_LONG_TEXTS = ("default", "linear", "llama3")
"""Kinds of rotary positions that treat a short text as they treat a long one."""


def as_llama(hf: Any) -> Any | None:
    """The network as a Llama with biases, sharing its weights; None if it is no Llama by another name, or one already.

    In a network with a vision tower the text decoder alone becomes one.

    Args:
        hf: the network, left as it was.
    """
    text = hf.config.get_text_config()
    if isinstance(text, LlamaConfig) or not _lasts(text):
        return None
    given = text.to_dict()
    llama = LlamaConfig(
        **{key: given.get(key) for key in KEPT if given.get(key) is not None or key.endswith("_token_id")},
        attention_bias=True,
        mlp_bias=True,
    )
    llama._attn_implementation = getattr(text, "_attn_implementation", None)
    config, kind = llama, LlamaForCausalLM
    if text is not hf.config:
        config, kind = copy.deepcopy(hf.config), type(hf)
        config.text_config = llama
    try:
        made = rebuilt(hf, kind, config, _translated(hf, text))
        off = difference(logits(made, probes(hf)), logits(hf))
    except (SteerlibError, RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError):
        return None  # it is something else
    return made if off < (SAME if hf.dtype == torch.float32 else SAME_ROUNDED) else None


def _lasts(text: Any) -> bool:
    """Whether what holds for a short text holds for a long one."""
    kinds = getattr(text, "layer_types", None)
    if any(kind != "full_attention" for kind in kinds or []):
        return False
    if kinds is None and getattr(text, "sliding_window", None) is not None:
        return False
    rope = getattr(text, "rope_parameters", None) or {}
    return rope.get("rope_type", "default") in SAME_IN_LONG_TEXTS


def _translated(hf: Any, text: Any) -> dict[str, Tensor]:
    """The weights under Llama's names: joint projections are taken apart, and what has no bias gets one of zeros."""
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * size, text.num_key_value_heads * size
    joint = {
        "qkv_proj": (("q_proj", "k_proj", "v_proj"), (queries, keys, keys)),
        "gate_up_proj": (("gate_proj", "up_proj"), (text.intermediate_size, text.intermediate_size)),
    }
    state: dict[str, Tensor] = {}
    for name, weight in hf.state_dict().items():
        module, _, last = name.rpartition(".")
        parent, _, map_ = module.rpartition(".")
        if map_ in joint:
            names, sizes = joint[map_]
            pieces = weight.split(sizes)
            state |= {f"{parent}.{one}.{last}": piece for one, piece in zip(names, pieces, strict=True)}
        else:
            state[name] = weight
    inside = {f"{n}." for n, m in hf.named_modules() if m is hf.get_decoder()}
    for name in [n for n in state if n.endswith("_proj.weight") and n.startswith(tuple(inside))]:
        state.setdefault(f"{name[:-6]}bias", state[name].new_zeros(len(state[name])))
    return state
