"""Drawn people for "Who is the doctor?" in the page: what a reader sees of each, and what the language model is given.

The page has no vision tower. A picture is 25 vectors of the model's width after the projector, and those depend on the picture alone, so
they are computed here, once a person, in float32. All stand in one test scene and differ in clothes, gender and skin tone
only. What smol-llava's language model has learned besides is a low-rank update of SmolLM2, W + B A, which the page adds at run time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from steerlib.assets import data_path
from steerlib.inpage.grid import segments
from steerlib.models.load import load
from steerlib.models.model import Model
from steerlib.models.prompts import chat
from steerlib.tasks.article import article
from steerlib.tasks.item import occupations
from steerlib.tasks.pair_item import OPTIONS, TEMPLATES
from steerlib.tasks.people import TONE_GROUPS, people

SEES = "smol-llava"
SCENE = 8
"""The seed of the scene: among the first dozen, one that is nearly upright and has so little noise that a picture is 16 kB."""
SIZE = 112
"""Pixels a side, as in `steerlib.tasks.who_is`."""
GENDERS = ("man", "woman")
AT_WORK = ("light", "dark")
"""Skin tones of those in work clothes."""
PLAIN = ("light", "medium-light", "medium-dark", "dark")
"""Skin tones of those in plain clothes, who fit any occupation."""
UPDATED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
"""The matrices of a block that the update changes, in the order of the file."""


@dataclass(frozen=True)
class Drawn:
    """One person of the gallery.

    Attributes:
        occupation: Whose clothes are worn, or None for plain ones.
        gender: "man" or "woman".
        tone: One of `steerlib.tasks.people.TONES`.
    """

    occupation: str | None
    gender: str
    tone: str

    @property
    def id(self) -> str:
        return f"{self.occupation or 'plain'}-{self.gender}-{self.tone}".replace(" ", "-")

    @property
    def about(self) -> str:
        """The alt text."""
        clothes = f"the clothes of {article(self.occupation)}" if self.occupation else "plain clothes"
        return f"Drawing of a {self.gender} with {self.tone} skin in {clothes}"

    def picture(self) -> Image.Image:
        return people(
            occupation=self.occupation, gender=self.gender, tone=self.tone, size=SIZE, seed=SCENE, split="test"
        )


def gallery() -> list[Drawn]:
    """Everybody: the pictured test occupations, those of validation, then plain clothes.

    >>> len(gallery()), gallery()[0].id
    (52, 'mechanic-man-light')
    """
    jobs = [str(job) for split in ("test", "validation") for job in occupations(split, pictured=True)["occupation"]]
    work = [Drawn(job, gender, tone) for job in jobs for gender in GENDERS for tone in AT_WORK]
    return work + [Drawn(None, gender, tone) for gender in GENDERS for tone in PLAIN]


def features(model: Model, picture: Image.Image) -> Tensor:
    """What the language model is given for a picture.

    Args:
        model: smol-llava, on the CPU.
        picture: Of any size.

    Returns:
        (25, width) float32, after the projector.
    """
    _, seen = model.read(chat("Who is this?", pictures=picture))
    with torch.inference_mode():
        found = model.hf.get_image_features(pixel_values=seen["pixel_values"].to(model.device)).pooler_output
    return torch.cat(list(found)).float().cpu()  # (25, width)


def pack_people(folder: Path, *, model: Model | None = None) -> list[dict[str, Any]]:
    """Write the people of the gallery: people/ID-HASH.png, and people/ID-HASH.bin with their features.

    Features are float32, little endian, token by token. Compressed they are hardly smaller (93 %), so they are not.

    Args:
        folder: Where the page's model lies; people/ is made in it.
        model: smol-llava, if it is loaded already.

    Returns:
        One mapping per person: id, occupation (None in plain clothes), split (of pictures; None in plain clothes), clothes ("work"
        or "plain"), gender, tone, group (of tones: "light" or "dark"), about (alt text), picture (a file), and features: file, bytes,
        sha256, shape. Files are named from `folder`.

    Raises:
        SteerlibError: If the drawings are not there and cannot be fetched.
    """
    sees = model or load(SEES, device="cpu")
    table = occupations(pictured=True)
    split = dict(zip(table["occupation"], table["picture_split"], strict=True))
    listed = []
    for who in gallery():
        picture = who.picture()
        png = io.BytesIO()
        picture.save(png, "PNG", optimize=True)
        given = features(sees, picture)
        listed.append(
            {
                "id": who.id,
                "occupation": who.occupation,
                "split": split.get(who.occupation or ""),
                "clothes": "work" if who.occupation else "plain",
                "gender": who.gender,
                "tone": who.tone,
                "group": TONE_GROUPS[who.tone],
                "about": who.about,
                "picture": _written(folder, f"people/{who.id}", "png", png.getvalue())["file"],
                "features": {
                    **_written(folder, f"people/{who.id}", "bin", given.numpy().astype("<f4").tobytes()),
                    "shape": list(given.shape),
                },
            }
        )
    return listed


def asking(*, model: Model | None = None) -> dict[str, Any]:
    """The question, in every wording of `steerlib.tasks.who_is`, as segments.

    Args:
        model: smol-llava, if it is loaded already.

    Returns:
        {"options": the two answers, "wordings": one mapping each: name, text, heldOut, prompt}. In a prompt, {"fill": "occupation"}
        or {"fill": "an_occupation"} is the occupation without or with its article, and {"fill": "first"} and {"fill": "second"}
        are the 25 vectors of each person, in place of as many tokens <image>.
    """
    sees = model or load(SEES, device="cpu")
    anybody, mark = Image.new("RGB", (SIZE, SIZE)), sees.processor.image_token
    fills = {name: f"{{{name}}}" for name in ("occupation", "an_occupation", "first", "second")}
    wordings = []
    for template in TEMPLATES:
        text = sees.render(chat(template.text, template.answer, pictures=[anybody, anybody]))
        for place in ("first", "second"):
            text = text.replace(mark, fills[place], 1)
        prompt = segments(text, sees.tokenizer.all_special_tokens, fills)
        about = {"name": template.name, "text": template.text, "heldOut": template.held_out}
        wordings.append({**about, "prompt": prompt})
    return {"options": list(OPTIONS), "wordings": wordings}


def update() -> Iterator[tuple[str, Tensor, Tensor]]:
    """The low-rank update of SmolLM2 that makes it smol-llava's language model.

    Yields:
        The name of a matrix W (out, in) in the decoder, such as "layers.0.self_attn.q_proj", then A (rank, in) and B (out, rank),
        float32, so that the matrix becomes W + B A: the scale of the update is in B. Blocks come in order, each in the order of
        `UPDATED`. Rows are Hugging Face's own: the rotary embedding turns element i of a head with element i + half.
    """
    folder = data_path("models", SEES)
    how = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    stored = load_file(folder / "adapter_model.safetensors")
    depth = sum(key.endswith(f"{UPDATED[0]}.lora_A.weight") for key in stored)
    for name in (f"layers.{layer}.{part}" for layer in range(depth) for part in UPDATED):
        a, b = (stored[f"base_model.model.model.{name}.lora_{side}.weight"].float() for side in "AB")
        yield name, a, how["lora_alpha"] / how["r"] * b


def pack_update(folder: Path) -> dict[str, Any]:
    """Write the low-rank update: update-HASH.bin, gzipped.

    Unzipped it is float32, little endian, nothing between: for each block in order, for q_proj, v_proj and down_proj in this order, A (rank, in)
    and then B (out, rank), each row by row, with the scale in B. q_proj's rows are Hugging Face's own order (rotary in halves); nothing is permuted.
    No row of the embedding differs: that of the token <image> is never read, since the features of a picture stand in its place.

    Args:
        folder: Where the page's model lies.

    Returns:
        file, bytes and sha256 (both of the file as it lies), rank, layers, and matrices: name, in and out of each of a block.
    """
    parts = list(update())
    folder.mkdir(parents=True, exist_ok=True)
    raw = b"".join(matrix.contiguous().numpy().astype("<f4").tobytes() for _, a, b in parts for matrix in (a, b))
    block = [
        {"name": name.rpartition(".")[2], "in": a.shape[1], "out": b.shape[0]} for name, a, b in parts[: len(UPDATED)]
    ]
    shape = {"rank": parts[0][1].shape[0], "layers": len(parts) // len(UPDATED), "matrices": block}
    return {**_written(folder, "update", "bin", gzip.compress(raw, 9, mtime=0)), **shape}


def _written(folder: Path, name: str, ending: str, content: bytes) -> dict[str, Any]:
    """Write a file whose name has its hash, and say so."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{name}-{digest[:12]}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"file": path.relative_to(folder).as_posix(), "bytes": len(content), "sha256": digest}
