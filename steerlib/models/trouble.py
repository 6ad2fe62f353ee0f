"""Why a model cannot be loaded, in one sentence that says what to do; and what its loader says meanwhile.

transformers, huggingface_hub and peft have errors of their own, and one names the next as its cause. `explain` follows that
chain to the first error of a kind it knows: a package that is missing, a model behind a gate, a hub that does not answer, weights
that are pickled, code that a repository wants to run. Only where it knows none are the files to blame.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub.utils
import torch
from huggingface_hub import errors as hub
from transformers.utils import logging as transformers_logging

VISION = ("torchvision", "timm", "num2words")
"""The packages of the extra `steerlib[vision]`, which processors of pictures need."""

PACKAGES = {"opencv": "opencv-python", "beautiful": "beautifulsoup4", "pyav": "av", "mistral-common": "mistral-common"}
"""Where a loader calls a package by another name than pip does."""


def explain(name: str, error: BaseException, *, local: bool) -> str:
    """The sentence for an error that transformers, the hub or peft raised.

    Args:
        name: of the model, as it was asked for.
        error: what was raised.
        local: whether the model is a folder.

    Returns:
        One sentence with what to do about it.

    >>> explain("m/m", ImportError("X requires the Torchvision library but it was not found"), local=False)
    "could not load the model 'm/m': its family needs the package torchvision: run `pip install 'steerlib[vision]'`."
    """
    chain = list(_causes(error))
    said = " ".join(str(error).split())
    everything = " ".join(" ".join(str(link).split()) for link in chain)
    reason = _shortened(said)

    def any_of(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    if packages := list(dict.fromkeys(package for link in _causes(error, told=True) for package in missing(link))):
        vision = any(package in VISION for package in packages)
        command = "'steerlib[vision]'" if vision else " ".join(packages)
        what = f"its family needs the package {' and '.join(packages)}: run `pip install {command}`"
    elif any(isinstance(link, ImportError) for link in _causes(error, told=True)):
        what = f"its family needs a package that is not here ({reason})"
    elif any_of(hub.GatedRepoError) or "trying to access a gated repo" in everything:
        what = f"it is gated: ask for access at https://huggingface.co/{name}, then log in with `hf auth login` (or give token=...)"
    elif any_of(hub.RepositoryNotFoundError):
        what = "the hub has no such model, or it is private: check the id, or log in with `hf auth login` (or give token=...)"
    elif any_of(hub.RevisionNotFoundError) or "is not a valid git identifier" in everything:
        what = "it has no such revision: give a branch, a tag or a commit that its page on the hub lists"
    elif any_of(hub.OfflineModeIsEnabled):
        what = f"it is not in the cache, and HF_HUB_OFFLINE keeps from asking the network: unset it, or check the id ({reason})"
    elif any_of(hub.HfHubHTTPError, ConnectionError) or any(map(_of_network, chain)):
        what = f"the hub does not answer: check the id and the network, and try again ({reason})"
    elif any_of(hub.LocalEntryNotFoundError) or (not local and "offline" in everything.lower()):
        what = f"it is not in the cache, and the hub was not reached: check the id and the network ({reason})"
    elif "trust_remote_code" in everything or "custom code" in everything:
        what = (
            "its repository wants to run code of its own, which steerlib never does: look for a conversion that transformers "
            "reads itself; their names often end in -hf, as in llava-hf/llava-1.5-7b-hf"
        )
    elif "`safetensors`" in everything or "no file named model" in everything:
        what = (
            "it has no weights as safetensors, and pickled ones (pytorch_model.bin) are not read, because they can run any code: take a "
            "revision or a copy that has safetensors, or, if you trust the files, convert them with "
            "`AutoModelForCausalLM.from_pretrained(..., use_safetensors=False).save_pretrained(folder)`"
        )
    elif any_of(torch.OutOfMemoryError):
        what = (
            "it does not fit into memory: give dtype='bfloat16', device_map='auto' (the rest goes to the CPU and the disk) or a "
            "quantization_config"
        )
    elif found := re.search(r"model type `?'?([\w.-]+)`?'? but Transformers does not recognize", everything):
        version = importlib.metadata.version("transformers")
        what = f"transformers {version} does not know the family '{found[1]}': a newer one may (`pip install -U transformers`)"
    elif found := re.search(r"[Uu]nrecognized configuration class .*?(\w+Config)\b", everything):
        what = f"its family ({found[1]}) is not one that transformers loads as a model that writes text"
    elif found := re.search(r"unexpected keyword argument '(\w+)'", said):
        what = f"from_pretrained of transformers does not know '{found[1]}': check the spelling of that argument"
    elif isinstance(error, (TypeError, ValueError)) and "from_pretrained" in said:
        what = f"from_pretrained of transformers refuses the arguments ({reason})"
    elif local:
        what = f"its files may be damaged or cut short ({reason})"
    else:
        what = f"its files cannot be read ({reason})"
    return f"could not load the model '{name}': {what}."


def missing(error: BaseException) -> list[str]:
    """The packages, as pip calls them, whose absence an error tells of; none if it is about something else."""
    said = str(error)
    if found := re.search(r"Missing optional dependencies: ([\w, -]+)\.", said):
        named = found[1].split(", ")
    elif isinstance(error, ModuleNotFoundError) and error.name:
        named = [error.name.split(".")[0]]
    elif isinstance(error, ImportError):
        named = re.findall(
            r"requires (?:the |an installation of )?`?([\w.-]+)`? (?:library|package|but|which|to be installed)", said
        )
        named += re.findall(r"[Pp]ackages? `([\w-]+)`", said)
        named += re.findall(r"pip install (?:-U |--upgrade )?([A-Za-z][\w-]*)", said)
    else:
        named = re.findall(r"requires `([\w-]+)` to be installed", said)
    return list(dict.fromkeys(PACKAGES.get(package.lower(), package.lower()) for package in named))


def _of_network(error: BaseException) -> bool:
    """Whether the package that talks to the hub raised it; which one that is changes with the version of huggingface_hub."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "urllib3")


def _causes(error: BaseException | None, *, told: bool = False) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; with `told` only where the code says so (`raise ... from`)."""
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = error.__cause__ or (None if told else error.__context__)


def _shortened(text: str, most: int = 200) -> str:
    """At most `most` characters, without a full stop at the end, so that it can stand in brackets."""
    return (text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ...").rstrip(".")


class _Notes(logging.Filter):
    """Keeps the warnings of one package instead of letting a handler print them; everything else passes."""

    def __init__(self, package: str) -> None:
        super().__init__(package)
        self.heard: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not super().filter(record):  # a handler may serve other packages, too
            return True
        self.heard.append(" ".join(record.getMessage().split()))
        return False


@contextmanager
def listening(*, downloads: bool = False) -> Iterator[list[str]]:
    """Within the `with`, what transformers would print as a warning goes into the list, and loading bars are hidden.

    huggingface_hub's notes on every retry are dropped. The settings of both are as before afterwards.

    Args:
        downloads: let the bars of downloads be seen.
    """
    logs: Any = transformers_logging  # its functions carry no types
    bars = logs.is_progress_bar_enabled()
    notes, dropped = _Notes("transformers"), _Notes("huggingface_hub")
    handlers = [
        (handler, which)
        for logger, which in (("transformers", notes), ("huggingface_hub", dropped))
        for handler in logging.getLogger(logger).handlers
    ]
    for handler, which in handlers:
        handler.addFilter(which)
    logs.disable_progress_bar()
    if bars and downloads:
        shown: Any = huggingface_hub.utils
        shown.enable_progress_bars()  # of the hub; those of transformers stay hidden
    try:
        yield notes.heard
    finally:
        for handler, which in handlers:
            handler.removeFilter(which)
        if bars:
            logs.enable_progress_bar()
