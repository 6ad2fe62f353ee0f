"""The people of the page: the same files each time, a balanced gallery, and features and an update that ARE smol-llava."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import need
from PIL import Image
from torch import Tensor

import steerlib as sl
from steerlib.inpage.grid import filled
from steerlib.inpage.people import asking, features, gallery, pack_people, pack_update
from steerlib.tasks import occupations
from steerlib.tasks.article import article


@pytest.fixture(scope="module")
def sees() -> sl.Model:
    need()
    return sl.load("smol-llava", device="cpu")


@pytest.fixture(scope="module")
def packed(sees: sl.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("live")
    return folder, pack_people(folder, model=sees)


def floats(path: Path) -> Tensor:
    raw = path.read_bytes()
    return torch.from_numpy(np.frombuffer(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw, dtype="<f4").copy())


def test_packing_twice_writes_the_same_files(packed: Any, sees: sl.Model, tmp_path: Path) -> None:
    folder, listed = packed
    assert pack_people(tmp_path, model=sees) == listed
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("people/*")}
    assert first == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("people/*")}
    assert pack_update(tmp_path / "a") == pack_update(tmp_path / "b")
    assert len(first) == 2 * len(listed) >= 80


def test_every_group_is_as_large_as_any_other(packed: Any) -> None:
    _, listed = packed
    for clothes in ("work", "plain"):
        count = Counter((who["gender"], who["group"]) for who in listed if who["clothes"] == clothes)
        assert len(count) == 4 and len(set(count.values())) == 1 and min(count.values()) >= 2
    worn = Counter(who["occupation"] for who in listed if who["occupation"])
    assert set(worn.values()) == {4} and len({who["id"] for who in listed}) == len(listed)
    test = set(occupations("test", pictured=True)["occupation"])
    assert test <= set(worn) and {who["occupation"] for who in listed if who["split"] == "test"} == test
    assert all(who["gender"] in who["about"] and who["tone"] in who["about"] for who in listed)


def test_every_file_is_the_one_that_its_hash_names(packed: Any) -> None:
    folder, listed = packed
    for who, drawn in zip(listed, gallery(), strict=True):
        raw = (folder / who["features"]["file"]).read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        assert (digest, len(raw)) == (who["features"]["sha256"], who["features"]["bytes"]) and digest[:12] in who[
            "features"
        ]["file"]
        shown = Image.open(io.BytesIO((folder / who["picture"]).read_bytes()))
        assert shown.size == (112, 112) and shown.tobytes() == drawn.picture().tobytes()


def test_the_features_of_a_person_are_what_the_language_model_is_given(packed: Any, sees: sl.Model) -> None:
    folder, listed = packed
    for k in (0, 17, -1):
        given: list[Tensor] = []
        handle = sees.hf.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs, given=given: given.append(kwargs["inputs_embeds"]), with_kwargs=True
        )
        prompt = sl.chat("Who is this?", pictures=Image.open(folder / listed[k]["picture"]))
        try:
            sees.choose(prompt, [" first", " second"])
        finally:
            handle.remove()
        at = torch.tensor(sees.tokens(prompt)) == sees.hf.config.image_token_id
        stored = floats(folder / listed[k]["features"]["file"]).view(listed[k]["features"]["shape"])
        assert torch.equal(stored, given[0][0][at]) and stored.shape == (25, 576)


def test_features_do_not_depend_on_who_else_is_shown(sees: sl.Model) -> None:
    one, other = (who.picture() for who in gallery()[:2])
    _, seen = sees.read(sl.chat("Who?", pictures=[other, one]))
    with torch.inference_mode():
        both = sees.hf.get_image_features(pixel_values=seen["pixel_values"]).pooler_output
    torch.testing.assert_close(both[1], features(sees, one), rtol=0, atol=1e-5)
    assert not torch.allclose(both[0], features(sees, one), atol=0.1)


def test_base_weights_and_update_and_features_choose_as_smol_llava_does(
    packed: Any, sees: sl.Model, tmp_path: Path
) -> None:
    folder, listed = packed
    base = sl.load("smollm2", device="cpu")
    facts = pack_update(tmp_path)
    numbers, place = floats(tmp_path / facts["file"]), 0
    with torch.no_grad():  # as the page reads the file
        for layer in range(facts["layers"]):
            block = base.hf.model.layers[layer]
            for matrix in facts["matrices"]:
                a = numbers[place : place + facts["rank"] * matrix["in"]].view(facts["rank"], matrix["in"])
                place += a.numel()
                b = numbers[place : place + facts["rank"] * matrix["out"]].view(matrix["out"], facts["rank"])
                place += b.numel()
                part = block.mlp if matrix["name"] == "down_proj" else block.self_attn
                part.get_submodule(matrix["name"]).weight += b @ a
    assert place == len(numbers)
    asked = asking(model=sees)
    answers = [base.tokens("The", option)[-1] for option in asked["options"]]
    for k, (first, second) in enumerate([(0, 3), (9, 6), (45, 50), (50, 45)]):
        wording = asked["wordings"][k]
        job = "doctor"
        given = {"first": listed[first], "second": listed[second]}
        prompt = filled(wording["prompt"], {"occupation": job, "an_occupation": article(job)})
        parts: list[Tensor] = []
        for part in prompt:
            if isinstance(part, str):
                ids = base.tokenizer(part, add_special_tokens=False)["input_ids"]
            elif "special" in part:
                ids = [base.tokenizer.convert_tokens_to_ids(part["special"])]
            else:
                about = given[part["fill"]]["features"]
                parts.append(floats(folder / about["file"]).view(about["shape"]))
                continue
            parts.append(base.hf.get_input_embeddings()(torch.tensor(ids)))
        with torch.inference_mode():
            logits = base.hf(inputs_embeds=torch.cat(parts)[None]).logits[0, -1]
        pictures = [Image.open(folder / given[place]["picture"]) for place in ("first", "second")]
        text = wording["text"].format(occupation=job, an_occupation=article(job))
        whole = sees.choose(sl.chat(text, "The", pictures=pictures), asked["options"])
        torch.testing.assert_close(logits[answers].softmax(-1), whole, rtol=0, atol=1e-5)
        # the token <image>, which only smol-llava has, takes no probability that would show
        assert float(1 / (logits.exp().sum() + 1)) < 1e-4


def test_no_row_of_the_embedding_differs(sees: sl.Model) -> None:
    base = sl.load("smollm2", device="cpu").hf.get_input_embeddings().weight
    assert torch.equal(sees.hf.get_input_embeddings().weight[: len(base)], base)
