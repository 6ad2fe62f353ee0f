"""Tiny random language models of real families: the configuration classes of transformers, at width 32 and three or four blocks.

Each is given as a researcher would have it on disk: a model whose vocabulary is larger than its tokenizer's, a tokenizer that pads on
the right, and the chat template that was published with the family where tests/templates.yml has it. Options of a configuration
that change how a family computes (windows, experts, biases, shared layers) are kept; only sizes are small.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

tf: Any = transformers  # whose classes know more settings than their types say
ROOT = Path(__file__).resolve().parent.parent
TEMPLATES: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "tests" / "templates.yml").read_text(encoding="utf-8"))
WIDTH, INNER = 32, 48

SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
TWICE = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, **SLIDING}
GEMMA4 = {"head_dim": 16, "global_head_dim": 16, **TWICE}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
GPT2 = {"n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 512, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
FALCON = {"new_decoder_architecture": False, "alibi": False, "bias": False}
GPT_NEO = {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local"], 1], [["global"], 1]]}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False}
LLAMA4 = {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": INNER}
LLAMA4 |= {"attention_chunk_size": 8, "interleave_moe_layer_step": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
LFM2 = {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": INNER, "block_auto_adjust_ff_dim": False}
GRANITE = {"residual_multiplier": 0.5, "embedding_multiplier": 4.0, "logits_scaling": 2.0, "attention_multiplier": 0.3}
GEMMA3N = {**TWICE, "head_dim": 16, "intermediate_size": [INNER] * 4, "hidden_size_per_layer_input": 8}
GEMMA3N |= {"laurel_rank": 4, "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * 4}
HYBRID = {**MAMBA, **LOCAL, "layer_types": ["mamba", "attention", "mamba"]}
MOE4 = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "enable_moe_block": True}
MOE4 |= {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
NEXT = {"head_dim": 16, "num_experts": 4, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16}
XGLM = {"d_model": WIDTH, "ffn_dim": INNER, "num_layers": 3, "attention_heads": 4, "max_position_embeddings": 512}
DBRX: dict[str, Any] = {"d_model": WIDTH, "n_heads": 4, "n_layers": 3, "max_seq_len": 512}
DBRX |= {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 500000.0}}
DBRX |= {"ffn_config": {"ffn_hidden_size": INNER, "moe_num_experts": 4, "moe_top_k": 2}}
LONGCAT = {**LATENT, "v_head_dim": 8, "head_dim": 8, "num_layers": 3, "num_hidden_layers": 6}
LONGCAT |= {"ffn_hidden_size": INNER, "expert_ffn_hidden_size": 16, "n_routed_experts": 4}
LONGCAT |= {"zero_expert_num": 1, "moe_topk": 2, "num_key_value_heads": 4}
ERNIE = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1}
HUNYUAN = {"num_experts": 4, "moe_topk": 2}
T5 = {"d_model": WIDTH, "d_ff": INNER, "num_layers": 2, "num_heads": 4, "d_kv": 8}
PLAIN = "plain"  # a template of our own, in the form of ChatML
NONE = ""  # published without one

FAMILIES: dict[
    str, tuple[str, str, dict[str, Any]]
] = {  # name -> configuration, chat template, what is not as in `text`
    "llama": ("LlamaConfig", "llama", {}),
    "tinyllama": ("LlamaConfig", "tinyllama", {"attention_bias": True, "mlp_bias": True}),
    "llama4": ("Llama4TextConfig", PLAIN, LLAMA4),
    "qwen2": ("Qwen2Config", PLAIN, {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "qwen3", {"head_dim": 16}),
    "qwen3-moe": ("Qwen3MoeConfig", "qwen3", {"head_dim": 16, "num_experts": 4, **EXPERTS}),
    "qwen3-next": ("Qwen3NextConfig", PLAIN, NEXT),
    "qwen3.5": ("Qwen3_5TextConfig", PLAIN, {"head_dim": 16, **LINEAR}),
    "gemma": ("GemmaConfig", "gemma2", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", "gemma2", GEMMA),
    "gemma3": ("Gemma3TextConfig", "gemma3", GEMMA),
    "gemma3n": ("Gemma3nTextConfig", PLAIN, GEMMA3N),
    "gemma4": ("Gemma4TextConfig", PLAIN, {**GEMMA4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2}),
    "gemma4-moe": ("Gemma4TextConfig", PLAIN, {**GEMMA4, **MOE4}),
    "vaultgemma": ("VaultGemmaConfig", NONE, GEMMA),
    "mistral": ("MistralConfig", PLAIN, {"sliding_window": 6, "head_dim": 8}),
    "ministral": ("MinistralConfig", PLAIN, {"sliding_window": 6, "head_dim": 8}),
    "mixtral": ("MixtralConfig", PLAIN, LOCAL),
    "phi": ("PhiConfig", NONE, {}),
    "phi3": ("Phi3Config", PLAIN, {}),
    "gpt2": ("GPT2Config", NONE, GPT2),
    "gptj": ("GPTJConfig", NONE, {**GPT2, "rotary_dim": 4}),
    "gpt-neo": ("GPTNeoConfig", NONE, {**GPT_NEO, "window_size": 6}),
    "gpt-neox": ("GPTNeoXConfig", NONE, {}),
    "gpt-bigcode": ("GPTBigCodeConfig", NONE, GPT2),
    "gpt-oss": ("GptOssConfig", PLAIN, {"head_dim": 16, **LOCAL, **SLIDING}),
    "olmo": ("OlmoConfig", PLAIN, {}),
    "olmo2": ("Olmo2Config", PLAIN, {}),
    "olmo3": ("Olmo3Config", PLAIN, SLIDING),
    "olmoe": ("OlmoeConfig", PLAIN, {"num_experts": 4, "num_experts_per_tok": 2}),
    "opt": ("OPTConfig", NONE, {"ffn_dim": INNER, "word_embed_proj_dim": WIDTH, "dropout": 0.1}),
    "opt-350m": ("OPTConfig", NONE, {"ffn_dim": INNER, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bloom": ("BloomConfig", NONE, {"n_layer": 3, "n_head": 4}),
    "falcon-7b": ("FalconConfig", NONE, {**FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon-40b": ("FalconConfig", NONE, {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": ("FalconConfig", NONE, {"multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}),
    "falcon-h1": ("FalconH1Config", PLAIN, {**MAMBA, "mamba_d_ssm": 64}),
    "mpt": (
        "MptConfig",
        NONE,
        {"d_model": WIDTH, "n_layers": 3, "n_heads": 4, "max_seq_len": 512, "expansion_ratio": 2},
    ),
    "stablelm": ("StableLmConfig", PLAIN, {}),
    "stablelm-12b": ("StableLmConfig", PLAIN, {"use_parallel_residual": True, "qk_layernorm": True}),
    "deepseek-v3": (
        "DeepseekV3Config",
        PLAIN,
        {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **EXPERTS, **LATENT}
        | {"num_key_value_heads": 4},
    ),
    "glm4": ("Glm4Config", PLAIN, {"head_dim": 8}),
    "glm4-moe": (
        "Glm4MoeConfig",
        PLAIN,
        {"head_dim": 8, "n_routed_experts": 4, "first_k_dense_replace": 1, **EXPERTS},
    ),
    "granite": ("GraniteConfig", PLAIN, GRANITE),
    "granite-moe": ("GraniteMoeConfig", PLAIN, LOCAL),
    "granite4-h": ("GraniteMoeHybridConfig", PLAIN, HYBRID),
    "cohere": ("CohereConfig", PLAIN, {"use_qk_norm": True}),
    "cohere2": ("Cohere2Config", PLAIN, {"head_dim": 8, **SLIDING}),
    "smollm3": ("SmolLM3Config", PLAIN, {}),
    "starcoder2": ("Starcoder2Config", NONE, {}),
    "exaone4": ("Exaone4Config", PLAIN, SLIDING),
    "nemotron": ("NemotronConfig", PLAIN, {}),
    "apertus": ("ApertusConfig", PLAIN, {}),
    "seed-oss": ("SeedOssConfig", PLAIN, {"head_dim": 8}),
    "lfm2": ("Lfm2Config", PLAIN, LFM2),
    "modernbert": ("ModernBertDecoderConfig", NONE, {"local_attention": 6, "layer_types": SLIDING["layer_types"]}),
    "codegen": ("CodeGenConfig", NONE, {**GPT2, "rotary_dim": 4}),
    "xglm": ("XGLMConfig", NONE, XGLM),
    "biogpt": ("BioGptConfig", NONE, {}),
    "persimmon": ("PersimmonConfig", PLAIN, {}),
    "dbrx": ("DbrxConfig", PLAIN, DBRX),
    "ernie4.5": ("Ernie4_5Config", PLAIN, {"head_dim": 8}),
    "ernie4.5-moe": ("Ernie4_5_MoeConfig", PLAIN, {"head_dim": 8, **ERNIE}),
    "hunyuan": ("HunYuanDenseV1Config", PLAIN, {"head_dim": 8}),
    "hunyuan-moe": ("HunYuanMoEV1Config", PLAIN, {"head_dim": 8, **HUNYUAN}),
    "helium": ("HeliumConfig", PLAIN, {"head_dim": 8}),
    "arcee": ("ArceeConfig", PLAIN, {}),
    "diffllama": ("DiffLlamaConfig", NONE, {}),
    "longcat-flash": ("LongcatFlashConfig", PLAIN, LONGCAT),
    "mamba": ("MambaConfig", NONE, {"state_size": 8}),
    "mamba2": ("Mamba2Config", NONE, {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2}),
    "jamba": ("JambaConfig", PLAIN, {**JAMBA, "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8}),
    "bamba": ("BambaConfig", NONE, {**MAMBA, "attn_layer_indices": [1]}),
    "minimax": ("MiniMaxConfig", PLAIN, {"head_dim": 8, **LOCAL, "layer_types": LINEAR["layer_types"]}),
    "recurrent-gemma": (
        "RecurrentGemmaConfig",
        "gemma2",
        {"lru_width": WIDTH, "attention_window_size": 6, "head_dim": 8},
    ),
    "rwkv": ("RwkvConfig", NONE, {"attention_hidden_size": WIDTH}),
    "bert": ("BertConfig", NONE, {}),
    "t5": ("T5Config", NONE, T5),
}


def build(name: str) -> tuple[Any, Any]:
    """A tiny network of one of the FAMILIES, and its tokenizer.

    Raises:
        AttributeError: this version of transformers has no such family.
    """
    config, template, more = FAMILIES[name]
    made = tokenizer(template, begins=name.startswith(("gemma", "llama", "mistral", "recurrent-gemma")))
    if "hidden_size_per_layer_input" in more:
        more = {**more, "vocab_size_per_layer_input": vocabulary(made)}
    torch.manual_seed(0)
    classes: dict[str, Any] = {"bert": tf.AutoModelForMaskedLM, "t5": tf.AutoModelForSeq2SeqLM}
    given = getattr(tf, config)(**text(made, **more))
    return finish(classes.get(name, tf.AutoModelForCausalLM).from_config(given), made), made


def text(made: Any, **more: Any) -> dict[str, Any]:
    """What the configuration of a language model is given: three blocks of width 32 with four heads, and the tokenizer's ids."""
    return {
        "vocab_size": vocabulary(made),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "pad_token_id": made.pad_token_id,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        **more,
    }


def finish(hf: Any, made: Any) -> Any:
    """The network with norms and biases that differ from one another, too, and with the tokenizer's ids for writing."""
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    for key in ("pad_token_id", "bos_token_id", "eos_token_id") if hf.can_generate() else ():
        setattr(hf.generation_config, key, getattr(made, key))
    return hf.eval().requires_grad_(False)


def vocabulary(made: Any) -> int:
    """How many tokens a model is given: more than the tokenizer has, as most published ones are."""
    return (len(made) + 63) // 64 * 64 + 64


def published(template: str, mark: str = "") -> str:
    """A chat template by its name in tests/templates.yml; PLAIN is our own, in which `mark` is a picture's place."""
    if template != PLAIN:
        return TEMPLATES[template]["template"]
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{% if part.type == 'image' %}" + mark + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@cache
def _trained() -> str:
    """A byte-level BPE of about 200 merges, learned from data/plain_text.txt."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([(ROOT / "data" / "plain_text.txt").read_text(encoding="utf-8")], trainer)
    return made.to_str()


def tokenizer(template: str, *, begins: bool, marks: tuple[str, ...] = (), named: dict[str, str] | None = None) -> Any:
    """The tokenizer of a family.

    Args:
        template: the name of its chat template, whose marks such as <|im_start|> become tokens; "" for none.
        begins: whether every text begins with the token for that.
        marks: more special tokens.
        named: special tokens that the family's processor asks for by an attribute, such as {"image_token": "<image>"}.
    """
    fast = Tokenizer.from_str(_trained())
    if begins:
        fast.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", fast.token_to_id("<s>"))]
        )
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        extra_special_tokens=named or {},
    )
    found = re.findall(r"<\|?\w+\|?>", published(template)) if template else []
    special = [mark for mark in dict.fromkeys([*found, *marks]) if mark not in ("<s>", "<tool_response>")]
    made.add_tokens(special, special_tokens=True)
    made.chat_template = published(template) if template else None
    return made
