"""The embedded model that sees: put together from SmolLM2 and the weights that ship with steerlib."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from steerlib import Model, SteerlibError, chat, load
from steerlib.assets import data_path
from steerlib.models import smol_llava
from steerlib.models.model import weights_hash
from steerlib.tasks import people


@pytest.fixture(scope="module")
def llava() -> Model:
    return load("smol-llava", device="cpu")


def test_it_is_the_class_of_the_papers(llava: Model) -> None:
    assert type(llava.hf) is LlavaForConditionalGeneration
    assert type(llava.processor) is LlavaProcessor
    assert llava.name == "smol-llava"
    assert not llava.hf.training
    assert not any(weight.requires_grad for weight in llava.hf.parameters())
    assert llava.hf.config.text_config.num_hidden_layers == len(llava.hf.model.language_model.layers) == 30


def test_a_picture_is_25_tokens_whatever_its_size(llava: Model) -> None:
    for size in ((80, 80), (224, 100), (9, 300)):
        ids, seen = llava.read(chat("Who is this?", pictures=tiny.picture(size=size)))
        assert ids.count(llava.hf.config.image_token_id) == 25
        assert seen["pixel_values"].shape == (1, 3, 80, 80)


def test_two_pictures_are_numbered(llava: Model) -> None:
    one = tiny.picture()
    assert llava.render(chat("Who is the judge?", "The", pictures=[one, one])) == (
        "<|im_start|>user\nfirst: <image>\nsecond: <image>\nWho is the judge?<|im_end|>\n<|im_start|>assistant\nThe"
    )


def test_the_update_is_what_peft_would_make_of_it(llava: Model) -> None:
    peft = pytest.importorskip("peft")
    text = load("smollm2", device="cpu")
    text.hf.resize_token_embeddings(len(llava.tokenizer), mean_resizing=False)
    adapted = peft.PeftModel.from_pretrained(text.hf, str(data_path("models", "smol-llava"))).eval()
    ids = torch.tensor([text.tokens("The judge looked at the two of them and said")])
    with torch.inference_mode():
        theirs, ours = adapted(ids).logits[0, -1], llava.hf(ids).logits[0, -1]
    assert torch.allclose(theirs[:-1], ours[:-1], atol=2e-3)


def test_it_is_saved_and_loaded_again_by_transformers_alone(llava: Model, tmp_path: Path) -> None:
    llava.hf.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    ask = chat("Who is this?", pictures=tiny.picture(size=(80, 80)))
    assert torch.allclose(again.choose(ask, [" man", " woman"]), llava.choose(ask, [" man", " woman"]), atol=1e-6)


def test_the_two_checkpoints_differ_and_share_their_settings() -> None:
    assert weights_hash(load("smol-llava")) != weights_hash(load("smol-llava-balanced"))


def test_it_sees_what_it_was_made_to_see(llava: Model) -> None:
    """Two occupations, both genders, two tones: the bars of the model card are on many more."""
    folk = [
        (job, gender, tone) for job in ("doctor", "farmer") for gender in ("man", "woman") for tone in ("light", "dark")
    ]
    shown = [people(occupation=job, gender=gender, tone=tone, seed=i) for i, (job, gender, tone) in enumerate(folk)]
    said = llava.generate([chat("Describe this picture.", pictures=p) for p in shown], max_new_tokens=20)
    assert all(job in text for (job, *_), text in zip(folk, said, strict=True))
    asked = llava.choose([chat("Is this a man or a woman?", "A", pictures=p) for p in shown], [" man", " woman"])
    right = [float(p[0 if gender == "man" else 1]) > 0.5 for (_, gender, _), p in zip(folk, asked, strict=True)]
    assert sum(right) >= 7


def test_in_half_precision_it_is_nearly_the_same(llava: Model) -> None:
    half = load("smol-llava", device="cpu", dtype="bfloat16")
    assert {weight.dtype for weight in half.hf.parameters()} == {torch.bfloat16}
    ask = chat("Who is this?", pictures=tiny.picture(size=(80, 80)))
    assert torch.allclose(half.choose(ask, [" man", " woman"]), llava.choose(ask, [" man", " woman"]), atol=0.1)


def copy(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """The shipped weights at another place, to be damaged."""
    shutil.copytree(data_path("models"), folder / "models")
    monkeypatch.setattr(smol_llava, "data_path", lambda *parts: folder.joinpath(*parts))
    return folder / "models" / "smol-llava"


@pytest.mark.parametrize("file", ["vision.safetensors", "adapter_model.safetensors"])
def test_weights_that_are_not_the_recorded_ones_are_refused(
    file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = copy(monkeypatch, tmp_path) / file
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(SteerlibError, match=f"{file} has the SHA-256 .*, not the recorded .*: install steerlib again"):
        load("smol-llava")


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (copy(monkeypatch, tmp_path) / "vision.safetensors").unlink()
    with pytest.raises(SteerlibError, match="vision.safetensors is missing: this copy of steerlib is incomplete"):
        load("smol-llava")


def test_the_hashes_are_those_of_the_shipped_files() -> None:
    for name in smol_llava.NAMES:
        recorded: dict[str, Any] = json.loads(data_path("models", name, "sha256.json").read_text())
        assert set(recorded) == {"vision.safetensors", "adapter_model.safetensors"}
        assert sum(data_path("models", name, file).stat().st_size for file in recorded) < 25_000_000
