"""A Steering is data: at each Site one operation on the activation h there, applied at a strength s.

    Add     h + s v                      v: (width,)
    Ablate  h - s ((h - c) . r) r        r: (width,) of unit length, c: (width,) the centre, zero if none
    Affine  h + s (a * h + b)            a, b: (width,)

Sources: Ratzlaff et al. (arXiv 2411.12590) for Ablate and Add, Monteiro Paes et al. (arXiv 2512.15926) for Affine; the centre
is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model, weights_hash
from steerlib.models.sites import Site


@dataclass(frozen=True)
class Add:
    """h + s v. vector: (width,) in the units of the activation."""

    vector: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * self.vector


@dataclass(frozen=True)
class Ablate:
    """h - s ((h - c) . r) r: at s = 1 the part along r is what the centre has. direction: (width,), made unit length."""

    direction: Tensor
    center: Tensor | None = None

    def __post_init__(self) -> None:
        length = self.direction.float().norm()
        if not length > 0:
            raise SteerlibError("a direction of length 0 cannot be ablated: the two sides it came from do not differ.")
        rounding = max(1e-6, torch.finfo(self.direction.dtype).eps)
        if abs(length - 1) > rounding:  # a unit vector stays as it is, to the bit
            object.__setattr__(self, "direction", self.direction / length)

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        away = h if self.center is None else h - self.center
        return h - strength * (away @ self.direction).unsqueeze(-1) * self.direction


@dataclass(frozen=True)
class Affine:
    """h + s (a * h + b). scale: a, shift: b, both (width,); zeros are the identity."""

    scale: Tensor
    shift: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * (self.scale * h + self.shift)


Operation = Add | Ablate | Affine
OPERATIONS: dict[str, type[Add | Ablate | Affine]] = {"add": Add, "ablate": Ablate, "affine": Affine}


@dataclass(frozen=True)
class Steering:
    """Operations at Sites, and where they come from. Immutable; made by a method, or by hand.

    operations: {Site (or its name): Add | Ablate | Affine}. provenance: facts to keep with it; the keys `architecture`,
    `width` and `layers`, where present, must agree with a model before it is steered, and `strengths`, where present, are the
    least and the greatest strength for which it was made.
    """

    operations: Mapping[Site, Operation]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        operations = {sites.parse(s) if isinstance(s, str) else s: op for s, op in self.operations.items()}
        if not operations:
            raise SteerlibError("a steering needs at least one site: this one has none.")
        for site, operation in operations.items():
            if not isinstance(operation, Operation):
                raise SteerlibError(f"{site} holds a {type(operation).__name__}: use Add, Ablate or Affine.")
            for name, tensor in tensors_of(operation).items():
                if tensor.dim() != 1 or not tensor.isfinite().all():
                    raise SteerlibError(
                        f"{name} of {site} must be one vector of finite numbers: it has shape {tuple(tensor.shape)}"
                        f"{'' if tensor.isfinite().all() else ' and holds NaN or infinite values'}."
                    )
        object.__setattr__(self, "operations", MappingProxyType(operations))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def save(self, path: str | Path) -> None:
        """Write it as safetensors; operations and provenance stand in the header as JSON."""
        tensors = {
            f"{site}/{name}": tensor.detach().cpu().clone().contiguous()  # sites may share a vector
            for site, operation in self.operations.items()
            for name, tensor in tensors_of(operation).items()
        }
        kinds = {str(site): type(operation).__name__.lower() for site, operation in self.operations.items()}
        header = {"format": "steerlib.steering/1", "operations": kinds, "provenance": dict(self.provenance)}
        save_file(tensors, str(path), metadata={"steerlib": json.dumps(header)})


def load_steering(path: str | Path) -> Steering:
    """The Steering in a file that `Steering.save` wrote. Raises SteerlibError if it is missing, cut short or not one."""
    if not Path(path).is_file():
        raise SteerlibError(f"there is no steering file at {path}.")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("steerlib", "{}"))
            # cloned: a file's tensors lie in memory as they come, which can change the last bits of a product
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise SteerlibError(f"{path} is not a whole safetensors file ({error}): make or copy it again.") from error
    if not isinstance(header, dict) or header.get("format") != "steerlib.steering/1":
        raise SteerlibError(f"{path} holds tensors but no steering: its header lacks 'steerlib.steering/1'.")
    operations: dict[Site, Operation] = {}
    try:
        for name, kind in header["operations"].items():
            parts = {key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == name}
            operations[sites.parse(name)] = OPERATIONS[kind](**parts)
        return Steering(operations, header["provenance"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SteerlibError(
            f"{path} does not hold what its header promises ({error}): make or copy it again."
        ) from error


def provenance(model: Model, method: str, **facts: Any) -> dict[str, Any]:
    """What every Steering says of its origin: method, model and its weights' hash, shapes, versions; and `facts`."""
    return {
        "method": method,
        "model": model.name,
        "architecture": sites.decoder(model.hf).config.model_type,
        "width": sites.width(model.hf),
        "layers": len(sites.blocks(model.hf)),
        "weights": weights_hash(model),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **facts,
    }


def tensors_of(operation: Operation) -> dict[str, Tensor]:
    """The vectors of an operation by name, those that are given."""
    named = ((f.name, getattr(operation, f.name)) for f in fields(operation))
    return {name: tensor for name, tensor in named if tensor is not None}
