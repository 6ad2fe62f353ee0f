"""llama.cpp computes what hooks compute: from a control vector, and from a merged model. Skipped where llama.cpp is not installed.

`pip install llama-cpp-py-sync` brings it. The models are tiny Llamas in GGUF, written here without a vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny
import torch
from test_merge import affine, make, model, norms
from torch import Tensor

import steerlib as sl
from steerlib.models.holds import difference

bindings = pytest.importorskip("llama_cpp_py_sync._cffi_bindings")
if not bindings.get_binding_health()["llama"]:
    pytest.skip("llama.cpp does not run on this machine", allow_module_level=True)
IDS = [5, 17, 60, 9, 33, 71, 8, 90, 12, 44]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def as_gguf(hf: Any, file: Path) -> Path:
    """A Llama as llama.cpp's own converter writes it: other names, and the two halves of each head's rotation interleaved."""
    config = hf.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, weight in hf.state_dict().items():
        module, _, last = name.rpartition(".")
        if module.startswith("model.layers."):
            _, _, number, inside = module.split(".", 3)
            new = f"blk.{number}.{NAMES[inside]}.{last}"
        else:
            new = f"{NAMES[module]}.{last}"
        values = weight.float()
        if module.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if module.endswith("q_proj") else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).transpose(1, 2).reshape(values.shape)
        writer.add_tensor(new, np.ascontiguousarray(values.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def served(file: Path, vector: Path | None = None) -> Tensor:
    """(vocabulary,) logits that llama.cpp gives after IDS, with a control vector if there is one."""
    ffi, lib = bindings.get_ffi(), bindings.get_lib()
    lib.llama_backend_init()
    loaded = lib.llama_model_load_from_file(str(file).encode(), lib.llama_model_default_params())
    assert loaded != ffi.NULL
    how = lib.llama_context_default_params()
    how.n_ctx, how.n_threads, how.n_threads_batch, how.type_k, how.type_v = 64, 1, 1, 0, 0  # 0 is float32
    how.flash_attn_type = 0  # off: it computes in half precision
    context = lib.llama_init_from_model(loaded, how)
    assert context != ffi.NULL
    if vector is not None:
        stored = {t.name: t.data for t in gguf.GGUFReader(vector).tensors}
        width, depth = lib.llama_model_n_embd(loaded), lib.llama_model_n_layer(loaded)
        rows = [stored.get(f"direction.{k}", np.zeros(width, np.float32)) for k in range(1, depth)]
        data = np.ascontiguousarray(np.concatenate(rows), dtype=np.float32)
        given = ffi.cast("float *", data.ctypes.data)
        assert lib.llama_set_adapter_cvec(context, given, data.size, width, 1, depth) == 0
    tokens = ffi.new("int32_t[]", IDS)
    assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(IDS))) == 0
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(loaded))
    found = torch.tensor(list(ffi.unpack(lib.llama_get_logits_ith(context, -1), size)))
    lib.llama_free(context)
    lib.llama_model_free(loaded)
    return found


def hooked(lm: sl.Model, steering: sl.Steering | None, strength: float = 1.0) -> Tensor:
    with torch.no_grad():
        if steering is None:
            return lm.hf(torch.tensor([IDS])).logits[0, -1]
        with sl.steer(lm, steering, strength):
            return lm.hf(torch.tensor([IDS])).logits[0, -1]


def test_the_plain_model_gives_the_same_logits(tmp_path: Path) -> None:
    lm = model("llama")
    assert difference(served(as_gguf(lm.hf, tmp_path / "model.gguf")), hooked(lm, None)) < 1e-5


def test_a_control_vector_does_in_llama_cpp_what_hooks_do(tmp_path: Path) -> None:
    lm = model("llama")
    steering = sl.Steering({f"residual.{k}": sl.Add(tiny.vector(k)) for k in (1, 2)})
    plain = as_gguf(lm.hf, tmp_path / "model.gguf")
    vector = sl.deploy.save_control_vector(lm, steering, tmp_path / "vector.gguf", 0.5)
    got, wanted = served(plain, vector), hooked(lm, steering, 0.5)
    assert difference(got, wanted) < 1e-5 and difference(got, hooked(lm, None)) > 0.05


def test_a_merged_model_does_in_llama_cpp_what_hooks_do(tmp_path: Path) -> None:
    lm = model("llama")
    steering = affine(norms(lm, "attention") + norms(lm, "mlp")) + make(lm, "add") + make(lm, "heads")
    merged = sl.merge(lm, steering, 0.5)
    got, wanted = served(as_gguf(merged.hf, tmp_path / "merged.gguf")), hooked(lm, steering, 0.5)
    assert difference(got, wanted) < 1e-5 and difference(got, hooked(lm, None)) > 0.05
