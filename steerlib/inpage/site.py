"""What the pages that steer are served with: scripts, and, unless the site is to stay small, the model.

Packing takes some 20 seconds, so what was packed is kept beside the site and packed anew only when something that it is made of changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from steerlib.assets import ASSETS, data_path
from steerlib.inpage.engine import engine_file
from steerlib.inpage.pack import pack
from steerlib.models.load import EMBEDDED


def place(scripts: Path, live: Path, packed: Path, *, model: bool = True) -> None:
    """Put scripts and model where the pages look for them.

    Args:
        scripts: the folder of scripts and styles, such as book/live.
        live: the folder of the site that takes them, written anew.
        packed: where the packed model is kept between builds.
        model: whether the site has the model, which is 90 MB; without it the pages show what was computed beforehand.

    Raises:
        SteerlibError: the weights cannot be had.
    """
    shutil.rmtree(live, ignore_errors=True)
    shutil.copytree(scripts, live)
    if not model:
        return
    made_of = _made_of()
    kept = packed / "made-of"
    if not kept.is_file() or kept.read_text(encoding="utf-8") != made_of:
        shutil.rmtree(packed, ignore_errors=True)
        print("packing the model for the pages that steer ...", flush=True)
        pack(packed)
        kept.write_text(made_of, encoding="utf-8")
    (live / "model").mkdir()
    for file in packed.iterdir():
        if file != kept:
            _linked(file, live / "model" / file.name)


def _linked(file: Path, to: Path) -> None:
    try:
        os.link(file, to)  # 90 MB need not be there twice
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(file, to)


def _made_of() -> str:
    """A hash of everything that the packed files depend on."""
    ours = [*Path(__file__).parent.glob("*.py"), engine_file(), *data_path("steerings").glob("*.safetensors")]
    ours += [path for path in data_path("models", "smol-llava").iterdir() if path.is_file()]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in ours}
    found["weights"] = ASSETS[EMBEDDED["smollm2"][0]].unpacked_sha256
    return json.dumps(found, sort_keys=True)
