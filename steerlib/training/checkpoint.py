"""A training that can be stopped at any moment: what it needs to go on to the same bits, in one safetensors file.

A file is written beside its name and then moved there, so that it is whole or not there at all. Its header says which training
it is of (model, prompts, settings); another one does not take it up.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerlib.errors import SteerlibError

FORMAT = "steerlib.training/1"
History = dict[str, list[float | None]]


@dataclass
class Run:
    """Where a training stands. It changes with every step, and the tensors in it change in place.

    learned: what is trained, by name; mean, square: Adam's moments of it. log_mu: the logarithm of the dual variable.
    stuck: for how many steps nothing could be learned. history: numbers of every step.
    """

    learned: Mapping[str, Tensor]
    mean: dict[str, Tensor] = field(init=False)
    square: dict[str, Tensor] = field(init=False)
    step: int = 0
    log_mu: float = 0.0
    stuck: int = 0
    history: History = field(default_factory=lambda: {"bias": [], "kl": [], "anchor_accuracy": []})

    def __post_init__(self) -> None:
        self.mean, self.square = ({n: torch.zeros_like(v) for n, v in self.learned.items()} for _ in range(2))

    def _tensors(self) -> dict[str, Tensor]:
        kinds = {"learned": self.learned, "mean": self.mean, "square": self.square}
        return {f"{name}/{kind}": value for kind, values in kinds.items() for name, value in values.items()}

    def save(self, path: Path, key: Mapping[str, Any]) -> None:
        """Write it to `path`, for a training that `key` describes."""
        numbers = {name: getattr(self, name) for name in ("step", "log_mu", "stuck", "history")}
        header = json.dumps({"format": FORMAT, "key": key, **numbers})
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file({n: v.detach().cpu() for n, v in self._tensors().items()}, scratch, metadata={"steerlib": header})
            os.replace(scratch, path)
        except (OSError, safetensors.SafetensorError) as error:
            raise SteerlibError(
                f"the checkpoint {path} cannot be written ({error}): name a file in a folder that is there."
            ) from error
        finally:
            with suppress(OSError):
                scratch.unlink()

    def resume(self, path: Path, key: Mapping[str, Any]) -> None:
        """Go on from the file at `path`, if there is one. Raises SteerlibError if it is of another training."""
        if not path.exists():
            return
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("steerlib", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (safetensors.SafetensorError, json.JSONDecodeError, OSError) as error:
            raise SteerlibError(
                f"the checkpoint {path} is not a whole safetensors file ({error}): remove it."
            ) from error
        if header.get("format") != FORMAT:
            raise SteerlibError(f"{path} is no checkpoint of a training: name another file.")
        theirs, ours = header["key"], json.loads(json.dumps(key))
        if other := [name for name in ours if theirs.get(name) != ours[name]]:
            raise SteerlibError(
                f"the checkpoint {path} is of a training with another {', '.join(other)}: name another file, or remove it."
            )
        with torch.no_grad():
            for name, value in self._tensors().items():
                value.copy_(tensors[name])
        for name in ("step", "log_mu", "stuck", "history"):
            setattr(self, name, header[name])
