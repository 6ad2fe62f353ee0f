"""The page's engine is the model: its WebAssembly, run here under wasmtime, against PyTorch; and what is packed for it."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steerlib as sl
from steerlib.errors import SteerlibError
from steerlib.inpage.engine import LONGEST, InPage, engine_file, source
from steerlib.inpage.pack import PART, pack, steerings, vocabulary
from steerlib.inpage.vectors import norm_sites, vectors
from steerlib.inpage.weights import MATRICES, planes

STRENGTHS = (0.0, 0.5, 1.0)
CLOSE = 2e-5  # of a probability; measured: 2.5e-6


@cache
def smollm2() -> Any:
    return sl.load("smollm2")


@cache
def in_page() -> InPage:
    return InPage()


@cache
def sequences() -> list[list[int]]:
    """Two plain prompts and two chats about occupations that no steering was made from, of 9 to 53 tokens."""
    items = sl.tasks.pronoun("test").ambiguous
    lm = smollm2()
    return [lm.tokenizer(lm.render(items[i].prompt), add_special_tokens=False).input_ids for i in (0, 3, 5, -1)]


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(576, generator=torch.Generator().manual_seed(seed))


def steering(kind: str) -> sl.Steering:
    if kind == "affine":
        return sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
    if kind == "add":
        return sl.Steering({f"residual.{at}": sl.Add(drawn(at)) for at in range(10, 30)})
    if kind == "ablate":
        return sl.Steering({f"residual.{at}": sl.Ablate(drawn(at), drawn(at + 1), 0.7) for at in range(0, 30, 2)})
    return steering("affine") + steering("add")  # at other sites: both at once


def pytorch(kind: str, strength: float) -> np.ndarray[Any, Any]:
    with sl.steer(smollm2(), steering(kind), strength), torch.no_grad():
        return np.stack([smollm2().hf(torch.tensor([ids])).logits[0, -1].softmax(-1).numpy() for ids in sequences()])


@pytest.mark.parametrize("kind", ["affine", "add", "ablate", "affine and add"])
def test_it_answers_as_pytorch_does_under_every_operation(kind: str) -> None:
    plain = pytorch(kind, 0.0)
    for strength in STRENGTHS:
        wanted = pytorch(kind, strength)
        got = in_page().probabilities(sequences(), [strength] * 4, steering(kind))
        assert np.abs(got - wanted).max() < CLOSE
        assert strength == 0 or np.abs(wanted - plain).max() > 100 * CLOSE, "a steering that does nothing tests nothing"


def test_every_sequence_runs_as_if_it_were_alone() -> None:
    strengths = [0.0, 1.0, -0.5, 0.3]
    together = in_page().logits(sequences(), strengths, steering("affine"))
    for row, (ids, strength) in enumerate(zip(sequences(), strengths, strict=True)):
        alone = in_page().logits([ids], [strength], steering("affine"))
        assert np.abs(alone[0] - together[row]).max() < 1e-4
    assert (in_page().logits(sequences()[:1], [0.0]) == in_page().logits(sequences()[:1], [0.0], steering("add"))).all()


def test_it_writes_what_pytorch_writes() -> None:
    ids = sequences()[0]
    for strength in (0.0, 1.0):
        with sl.steer(smollm2(), steering("affine"), strength), torch.no_grad():
            wanted = smollm2().hf.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=24
            )
        assert in_page().write(ids, 24, strength, steering("affine")) == wanted[0, len(ids) :].tolist()


def test_what_the_engine_cannot_do_is_refused() -> None:
    for wrong in ([], [[]], [[1] * (LONGEST + 1)]):
        with pytest.raises(SteerlibError, match="1 to 1024 tokens"):
            in_page().logits(wrong, [0.0] * len(wrong))
    with pytest.raises(SteerlibError, match="memory"):
        in_page().logits([[1] * LONGEST] * 8, [0.0] * 8)  # 377 MB of keys and values
    with pytest.raises(SteerlibError, match="cannot do Affine at residual.3"):
        vectors(sl.Steering({"residual.3": sl.Affine(drawn(1), drawn(2))}))
    with pytest.raises(SteerlibError, match="width 576"):
        vectors(sl.Steering({"residual.3": sl.Add(torch.ones(4))}))
    assert np.isfinite(in_page().logits(sequences()[:1], [0.0])).all(), "and it goes on"


# ---------------------------------------------------------------------------------------------------------------- packing


@cache
def unpacked() -> dict[str, Any]:
    """The weights as whoever follows the description of the planes would read them."""
    held: dict[str, dict[str, bytes]] = {}
    for plane in planes():
        held.setdefault(plane.of, {})[plane.part] = plane.data
    return held


def dequantised(name: str, columns: int) -> np.ndarray[Any, Any]:
    parts = unpacked()[name]
    blocks = len(parts["d0"])

    def half(which: str) -> np.ndarray[Any, Any]:
        pairs = np.stack([np.frombuffer(parts[f"{which}{byte}"], "u1") for byte in (0, 1)], axis=-1)
        return pairs.reshape(-1).view("<f2").astype("f4")[:, None]

    if "m0" not in parts:
        return (np.frombuffer(parts["q"], "i1").reshape(blocks, 32) * half("d")).reshape(-1, columns)
    q = np.frombuffer(parts["q"], "u1").reshape(blocks, 16)
    return (np.concatenate([q & 15, q >> 4], axis=1) * half("d") + half("m")).reshape(-1, columns)


def test_the_packed_weights_are_the_model_s_to_the_bit() -> None:
    state = smollm2().hf.state_dict()
    assert (dequantised("embedding", 576) == state["model.embed_tokens.weight"].numpy()).all()
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for layer in (0, 17):
        for ours, theirs in zip(MATRICES, names, strict=True):
            part = "self_attn" if ours.startswith("attn") else "mlp"
            weight = state[f"model.layers.{layer}.{part}.{theirs}.weight"].numpy()
            assert (dequantised(f"{layer}.{ours}", weight.shape[1]) == weight).all(), (layer, ours)
    norms = np.frombuffer(unpacked()["norms"]["f32"], "<f4").reshape(61, 576)
    for row, site in zip(norms, norm_sites(), strict=True):
        _, layer, name = site.split(".") if site != "norm.final" else ("", "", "")
        key = f"model.layers.{layer}.{name}.weight" if layer else "model.norm.weight"
        assert (row == state[key].numpy()).all(), site


def test_packing_is_deterministic_small_and_whole(tmp_path: Path) -> None:
    made, again = pack(tmp_path / "a"), pack(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir()) and made == again
    assert json.loads((tmp_path / "a" / "model.json").read_text()) == json.loads(json.dumps(made))
    assert all(file["bytes"] <= PART for file in made["parts"]) and made["bytes"] < 90e6
    named = [made["engine"], made["tokenizer"], *made["parts"], *made["steerings"].values()]
    assert {file["file"] for file in named} <= set(files)
    raw = b"".join(gzip.decompress((tmp_path / "a" / file["file"]).read_bytes()) for file in made["parts"])
    assert raw == b"".join(plane.data for plane in planes())
    assert [tuple(entry) for entry in made["planes"]] == [(p.of, p.part, len(p.data)) for p in planes()]


def test_every_steering_of_the_book_s_small_models_is_packed(tmp_path: Path) -> None:
    files = {path.stem for path in sl.data_path("steerings").glob("*.safetensors") if "gemma" not in path.stem}
    assert set(steerings()) == files | {"random-smollm2-pronoun-0"}
    control, model = steerings()["random-smollm2-pronoun-0"], steerings()["dso-smollm2-pronoun-0"]
    for site, operation in model.operations.items():
        for name, vector in operation.vectors().items():
            other = control[site].vectors()[name]
            assert torch.allclose(other.norm(), vector.norm(), rtol=1e-4) and not torch.allclose(other, vector)


def test_the_vocabulary_is_the_tokenizer_s() -> None:
    tokenizer, found = smollm2().tokenizer, vocabulary()
    assert {token: at for at, token in enumerate(found["tokens"])} == tokenizer.get_vocab()
    assert found["special"]["<|im_start|>"] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert set(found["special"]) <= set(tokenizer.all_special_tokens) | set(
        map(str, tokenizer.added_tokens_decoder.values())
    )


def test_the_source_can_be_quoted() -> None:
    whole = engine_file("engine.c").read_text(encoding="utf-8")
    for name in ("norm", "steer_residual", "attend", "product", "tile", "write_out", "forward", "turn", "half"):
        part = source(name)
        assert part in whole and part.startswith("//") and part.endswith("}") and f"{name}(" in part.replace(")(", "(")
        assert part.count("{") == part.count("}")
    with pytest.raises(SteerlibError, match="no function nothing"):
        source("nothing")
