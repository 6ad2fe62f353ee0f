"""Tiny random models of unusual families: what their blocks hand on, and where they keep what they have read, differs.

The classes are the real ones, the tokenizer is that of `tiny`. Four blocks where two kinds of block alternate, else three.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import tiny
import torch
import transformers as tf

from steerlib.models.model import Model

ALTERNATING = ["sliding_attention", "full_attention"] * 2
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
GEMMA = {"head_dim": 16, "num_hidden_layers": 4, "layer_types": ALTERNATING, "sliding_window": 6}
PER_LAYER = {"vocab_size_per_layer_input": len(tiny.tokenizer()), "hidden_size_per_layer_input": 8}
GEMMA4 = {**GEMMA, "global_head_dim": 16}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": (
        "Gemma3nTextConfig",
        {
            **GEMMA,
            **PER_LAYER,
            "intermediate_size": [48] * 4,
            "laurel_rank": 4,
            "num_kv_shared_layers": 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "gemma4": ("Gemma4TextConfig", {**GEMMA4, **PER_LAYER, "num_kv_shared_layers": 2}),
    "gemma4-moe": (
        "Gemma4TextConfig",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomConfig", {"n_layer": 3, "n_head": 4}),
    "olmo": ("OlmoConfig", {}),
    "llama4": (
        "Llama4TextConfig",
        {
            "head_dim": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 8,
            "interleave_moe_layer_step": 2,
        },
    ),
    "modernbert": ("ModernBertDecoderConfig", {"local_attention": 6, "layer_types": ALTERNATING[:3]}),
    "gpt-neo": (
        "GPTNeoConfig",
        {
            "num_layers": 3,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1], [["global"], 1]],
            "window_size": 6,
        },
    ),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "mamba2": ("Mamba2Config", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2}),
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 32}),
    "recurrent-gemma": ("RecurrentGemmaConfig", {"lru_width": 32, "attention_window_size": 6, "head_dim": 8}),
    "minimax": (
        "MiniMaxConfig",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": LINEAR["layer_types"]},
    ),
    "jamba": (
        "JambaConfig",
        {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
        },
    ),
    "bamba": ("BambaConfig", {**MAMBA, "attn_layer_indices": [1]}),
    "falcon-h1": ("FalconH1Config", {**MAMBA, "mamba_d_ssm": 64}),
    "granite4-h": (
        "GraniteMoeHybridConfig",
        {
            **MAMBA,
            "layer_types": ["mamba", "attention", "mamba"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    "qwen3-next": (
        "Qwen3NextConfig",
        {"head_dim": 16, "num_experts": 4, **EXPERTS, "shared_expert_intermediate_size": 16, **LINEAR},
    ),
    "qwen3.5": ("Qwen3_5TextConfig", {"head_dim": 16, **LINEAR}),
    "qwen3-moe": ("Qwen3MoeConfig", {"head_dim": 16, "num_experts": 4, **EXPERTS}),
    "lfm2": (
        "Lfm2Config",
        {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 48, "block_auto_adjust_ff_dim": False},
    ),
}

HYBRID = ("jamba", "bamba", "granite4-h", "qwen3-next", "qwen3.5", "lfm2")  # only block 1 of these has an attention


def fresh(family: str) -> Model:
    """A new tiny model of one of CONFIGS."""
    name, more = CONFIGS[family]
    tokens = tiny.tokenizer()
    given = {
        "vocab_size": len(tokens),
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        **tiny.SIZES,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        **more,
    }
    torch.manual_seed(0)
    hf: Any = tf.AutoModelForCausalLM.from_config(getattr(tf, name)(**given))
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return Model(name=family, hf=hf.eval().requires_grad_(False), tokenizer=tokens)


@cache
def model(family: str) -> Model:
    """A tiny model shared by all tests, which leave it as they found it."""
    return fresh(family)
