"""A training that can be stopped at any moment: all it needs to continue to the same bits, in one safetensors file.

A file is written beside its final name and then moved there, so it is complete or absent. Its header says which training it
belongs to (model, prompts, settings); another one does not resume from it.
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

FORMAT = "steerlib.training/2"
BETAS = (0.9, 0.99)  # of Adam
ADAM = ("step", "exp_avg", "exp_avg_sq")  # what it keeps of each tensor

History = dict[str, list[float | None]]


@dataclass
class Run:
    """Where a training stands. It changes with every step, and the tensors in it change in place.

    learned: what is trained, by name. optimizer: Adam over it. log_kl_coef: the logarithm of the weight of the KL term.
    collapsed: for how many steps nothing could be learned. history: numbers of every step.
    """

    learned: Mapping[str, Tensor]
    optimizer: torch.optim.Adam = field(init=False)
    step: int = 0
    log_kl_coef: float = 0.0
    collapsed: int = 0
    history: History = field(default_factory=lambda: {"bias": [], "kl": [], "anchor_accuracy": []})

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(list(self.learned.values()), betas=BETAS)

    def save(self, path: Path, key: Mapping[str, Any]) -> None:
        """Write it to `path`, for a training that `key` describes."""
        tensors = {f"{name}/learned": value for name, value in self.learned.items()}
        for name, value in self.learned.items():  # a tensor that no step has used yet has no state
            tensors |= {f"{name}/{part}": state for part, state in self.optimizer.state.get(value, {}).items()}
        numbers = {name: getattr(self, name) for name in ("step", "log_kl_coef", "collapsed", "history")}
        header = json.dumps({"format": FORMAT, "key": key, **numbers})
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file({n: t.detach().cpu() for n, t in tensors.items()}, scratch, metadata={"steerlib": header})
            os.replace(scratch, path)
        except (OSError, safetensors.SafetensorError) as error:
            raise SteerlibError(
                f"the checkpoint {path} cannot be written ({error}): name a file in a folder that exists."
            ) from error
        finally:
            with suppress(OSError):
                scratch.unlink()

    def resume(self, path: Path, key: Mapping[str, Any]) -> None:
        """Continue from the file at `path`, if there is one. Raises SteerlibError if it belongs to another training."""
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
            raise SteerlibError(
                f"{path} is not a checkpoint of a training by this version of steerlib: name another file."
            )
        theirs, ours = header["key"], json.loads(json.dumps(key))
        if other := [name for name in ours if theirs.get(name) != ours[name]]:
            raise SteerlibError(
                f"the checkpoint {path} is of a training with another {', '.join(other)}: name another file, or remove it."
            )
        with torch.no_grad():
            for name, value in self.learned.items():
                value.copy_(tensors[f"{name}/learned"])
        used = {i: name for i, name in enumerate(self.learned) if f"{name}/step" in tensors}
        state = {i: {part: tensors[f"{name}/{part}"] for part in ADAM} for i, name in used.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        for name in ("step", "log_kl_coef", "collapsed", "history"):
            setattr(self, name, header[name])
