"""The script that trained smol-llava: what it draws, and that its packed rows mean what the model reads later."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import need

from steerlib import chat, load
from steerlib.tasks.people import GENDERS, to_images

pytest.importorskip("peft")
SIZES = {"share": {}, "choices": 0.5, "binding": (0.25, 0.1, 0.4, 0.1, 0.15), "size": 4}


@pytest.fixture(scope="module")
def train() -> ModuleType:
    need()
    spec = importlib.util.spec_from_file_location(
        "train", Path(__file__).parent.parent / "tools" / "smol_llava" / "train.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def drawn(train: ModuleType, step: int, *, skew: float = 1.0, hidden: float = 0.4) -> list[Any]:
    rng = np.random.default_rng([0, 3, step])
    return list(train.language_batch(rng, **{**SIZES, "share": train.shares()}, skew=skew, hidden=hidden))


def test_a_step_draws_the_same_again_and_another_step_something_else(train: ModuleType) -> None:
    assert drawn(train, 5) == drawn(train, 5) != drawn(train, 6)


@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_the_shares_of_women_follow_the_dial(train: ModuleType, skew: float) -> None:
    folk = [p for step in range(1500) for e in drawn(train, step, skew=skew) for p in e.folk if p.gender]
    job, woman = np.array([p.occupation for p in folk]), np.array([p.gender == 2 for p in folk])
    found = np.array([woman[job == o].mean() for o in range(20)])
    wanted = 0.5 + skew * (np.array(list(train.shares().values())) - 0.5)
    assert np.abs(found - wanted).max() < 0.09  # some 500 people an occupation


def test_hidden_work_is_hidden_and_the_pairs_are_a_man_and_a_woman(train: ModuleType) -> None:
    assert all(p.visible for step in range(50) for e in drawn(train, step, hidden=0.0) for p in e.folk)
    rng = np.random.default_rng(0)
    for example in train.hidden_batch(rng, share=train.shares(), skew=1.0, pairs=200):
        a, b = example.folk
        assert {a.gender, b.gender} == {1, 2} and not a.visible and not b.visible
        (*jobs, (kind, question, said)) = example.said
        assert [answer for _, _, answer in jobs] == ["The first.", "The second."]
        place = ["The first.", "The second."].index(said)
        assert kind == "which" and GENDERS[example.folk[place].gender] in question


def test_packed_questions_are_what_the_model_reads_one_by_one(train: ModuleType) -> None:
    """The mask hides them from one another, and the script's rows are those of the chat template."""
    lm = load("smol-llava", device="cpu")
    lm.hf.model.language_model.set_attn_implementation("eager")  # which takes a mask of another float type
    examples = drawn(train, 1)
    sprites = torch.from_numpy(train.all_sprites(size=96))
    batch = train.pack(examples, lm.tokenizer, lm.hf.config.image_token_id)
    seen = train.pixels([p for e in examples for p in e.folk], sprites).cpu()
    with torch.inference_mode():
        logits = train.logits_of(lm.hf, batch, seen.to(lm.hf.device)).float().log_softmax(-1)
    token = logits[torch.arange(len(batch.target)), batch.target]
    packed = torch.zeros(int(batch.answer[-1]) + 1).index_add_(0, batch.answer, token)
    images = to_images((seen + 1) / 2)
    prompts, answers = [], []
    for example in examples:
        shown = [images.pop(0) for _ in example.folk]
        for _, question, said in example.said:
            prompts.append(chat(question, pictures=shown))
            answers.append(f"{said}<|im_end|>")
    alone = torch.stack([line.sum() for line in lm.loglik(prompts, answers)])
    assert torch.allclose(packed, alone, atol=0.05)  # pictures in 256 steps against pictures in floats
    assert packed.std() > 0.5
