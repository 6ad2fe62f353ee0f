"""Everything that the page's worker loads, written into one folder of a built site.

    model.json                       what there is: names, sizes, hashes, and how to put it together
    00-0123456789ab.bin ...          the weights, in parts of at most 12 MiB, each a gzip file
    tokenizer-....bin                vocabulary and merges, as gzipped JSON
    engine-....wasm                  the engine
    dso-smollm2-pronoun-0-....bin    a steering, as gzipped float32
    people/, update-....bin          for the model that sees: drawn people, and what it has learned besides

A name holds the beginning of a file's SHA-256, so that a browser never mixes two versions. The parts are not called .gz: some
servers would unpack them on the way. The same weights give the same bytes on one machine; another version of zlib may pack them otherwise.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType

from steerlib.assets import data_path
from steerlib.inpage.engine import engine_file, frequencies
from steerlib.inpage.methods import CONTROL, CONTROLLED, control
from steerlib.inpage.people import SEES, asking, pack_people, pack_update
from steerlib.inpage.vectors import vectors
from steerlib.inpage.weights import planes, published
from steerlib.models.load import load
from steerlib.steering.operations import Steering, load_steering

PART = 12 * 1024 * 1024
"""Bytes of the weights in one part, before they are packed."""
NOTICE = """\
SmolLM2-135M-Instruct by HuggingFaceTB, Apache License 2.0 (LICENSE.txt one folder up). Changed: the planes of the published GGUF file (Q4_1, Q8_0)
are in another order; the values are the same.

The drawings in people/ are made from those of OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0, and are under the same
license. Changed: each stands in a scene, at 112 pixels.

The engine, the steerings, and the update and picture features of smol-llava are the book's: code Apache-2.0, data CC BY 4.0.
"""


def pack(folder: Path) -> dict[str, Any]:
    """Write the model and all that belongs to it.

    Args:
        folder: a folder, made where it does not exist.

    Returns:
        What model.json says.

    Raises:
        SteerlibError: the weights cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order: list[tuple[str, str, int]] = []
    parts = [_write(folder, f"{number:02}", _zipped(raw)) for number, raw in enumerate(_cut(order))]
    made: dict[str, Any] = {
        "notice": "NOTICE.txt",
        "engine": _write(folder, "engine", engine_file().read_bytes(), "wasm"),
        "tokenizer": _write(folder, "tokenizer", _zipped(json.dumps(vocabulary()).encode())),
        "frequencies": [float(f) for f in frequencies()],
        "planes": order,
        "parts": parts,
        "steerings": {name: _pack_steering(folder, name, steering) for name, steering in steerings().items()},
        "seeing": _seeing(folder),
    }
    first = [made["engine"], made["tokenizer"], *parts, made["steerings"][CONTROLLED]]
    made["bytes"] = sum(file["bytes"] for file in first)
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
    (folder / "model.json").write_text(json.dumps(made, separators=(",", ":")), encoding="utf-8")
    return made


def vocabulary() -> dict[str, Any]:
    """SmolLM2's tokens, its merges, and the ids of its special tokens by name, as its GGUF file has them."""
    fields = published().fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    special = {token: at for at, token in enumerate(tokens) if kinds[at] == TokenType.CONTROL}
    return {"tokens": tokens, "merges": fields["tokenizer.ggml.merges"].contents(), "special": special}


def steerings() -> dict[str, Steering]:
    """All that the page can steer with, by name: the book's own steerings of its two small models, and the control."""
    files = sorted(data_path("steerings").glob("*.safetensors"))
    found = {file.stem: load_steering(file) for file in files if "gemma" not in file.stem}
    return found | {CONTROL: control()}


def _seeing(folder: Path) -> dict[str, Any]:
    """What the model that sees needs besides; it is asked in the first wording of `steerlib.tasks.who_is`."""
    model = load(SEES, device="cpu")
    asked = asking(model=model)
    people = pack_people(folder, model=model)
    return {
        "update": pack_update(folder),
        "people": people,
        "words": asked["options"],
        "prompt": asked["wordings"][0]["prompt"],
    }


def _cut(order: list[tuple[str, str, int]]) -> Iterator[bytes]:
    """The weights in parts; `order` is filled with what they hold, one after the other: (of, part, bytes)."""
    left = b""
    for plane in planes():
        order.append((plane.of, plane.part, len(plane.data)))
        left += plane.data
        while len(left) >= PART:
            yield left[:PART]
            left = left[PART:]
    yield left


def _pack_steering(folder: Path, name: str, steering: Steering) -> dict[str, Any]:
    arrays = vectors(steering)
    joined = np.concatenate([array.reshape(-1) for group in arrays.values() for array in group]).astype("<f4")
    lengths = {kind: [array.size for array in group] for kind, group in arrays.items()}
    return {**_write(folder, name, _zipped(joined.tobytes())), "arrays": lengths}


def _write(folder: Path, stem: str, data: bytes, ending: str = "bin") -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    name = f"{stem}-{digest[:12]}.{ending}"
    (folder / name).write_bytes(data)
    return {"file": name, "bytes": len(data), "sha256": digest}


def _zipped(raw: bytes) -> bytes:
    return gzip.compress(raw, 9, mtime=0)
