"""A Steering is data: at each Site one operation on the activation h there, applied at a strength s.

    Add     h + s v                      v: (width,)
    Ablate  h - s m ((h - c) . r) r      r: (width,) of unit length, c: (width,) the centre, zero if none, m: the amount, 1
    Affine  h + s (a * h + b)            a, b: (width,)

A new kind of operation is a subclass of `Operation` in a file of its own, such as `maps`: a frozen dataclass whose fields are
vectors, with the formula in `__call__`. Sources: Ratzlaff et al. (arXiv 2411.12590) for Ablate and Add, Monteiro Paes et al. (arXiv 2512.15926)
for Affine; the centre is ours.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model, weights_hash
from steerlib.models.sites import Site

FORMAT = "steerlib.steering/1"


@dataclass(frozen=True)
class Operation:
    """What is done to the activation at one Site. The vectors of a subclass are its fields that hold tensors."""

    fixed: ClassVar[tuple[str, ...]] = ()
    """Names of vectors that say where an operation acts rather than which way: `map` leaves them as they are."""
    matrices: ClassVar[tuple[str, ...]] = ()
    """Names of those that are (width, width)."""
    signed: ClassVar[bool] = True
    """Whether the opposite vectors do the opposite."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, (np.ndarray, list, tuple)):
                object.__setattr__(self, name, torch.as_tensor(np.asarray(value, dtype=np.float32)))
        if not self.vectors():
            raise SteerlibError(f"{type(self).__name__} holds no vector: give it tensors of shape (width,).")

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        """The activation as it is handed on. h: (..., width) float32."""
        raise SteerlibError(f"{type(self).__name__} does not say what it does to an activation: write its __call__.")

    def vectors(self) -> dict[str, Tensor]:
        """Its vectors by name, each (width,); those that are None are left out."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}

    def map(self, change: Callable[[Tensor], Tensor], *, fixed: bool = False) -> Self:
        """The same operation with every vector changed.

        Args:
            change: maps a (width,) tensor to another one.
            fixed: whether it also changes vectors that say where the operation acts (the centre of an ablation), as moving all to a
                device must.
        """
        changed = {name: change(v) for name, v in self.vectors().items() if fixed or name not in self.fixed}
        return replace(self, **changed)

    def scaled(self, factor: float) -> Self:
        """The operation that does at strength 1 what this one does at strength `factor`."""
        return self.map(lambda vector: vector * factor)

    def removed(self) -> Tensor | None:
        """The direction that it takes away at a positive strength, (width,); None if it has no single one."""
        return None

    def plus(self, other: Operation) -> Operation | None:
        """The one operation that does what both do to the same activation; None if there is none."""
        return None


@dataclass(frozen=True)
class Add(Operation):
    """h + s v.

    Args:
        vector: v, (width,) in the units of the activation.

    Example:
        >>> import torch
        >>> Add(torch.tensor([1.0, 0.0]))(torch.zeros(2), 0.5)
        tensor([0.5000, 0.0000])
    """

    vector: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * self.vector

    def removed(self) -> Tensor | None:
        return -self.vector

    def plus(self, other: Operation) -> Operation | None:
        if isinstance(other, Add):
            return Add(self.vector + other.vector)
        return other.plus(self) if isinstance(other, Affine) else None


@dataclass(frozen=True)
class Ablate(Operation):
    """h - s m ((h - c) . r) r: at s = 1 the part along r is what the centre has.

    Args:
        direction: r, (width,), made unit length.
        center: c, (width,); None is zero.
        amount: m, how much of it one unit of strength removes.

    Raises:
        SteerlibError: the direction has length 0.

    Example:
        >>> import torch
        >>> Ablate(torch.tensor([2.0, 0.0]))(torch.tensor([3.0, 4.0]), 1.0)
        tensor([0., 4.])
    """

    fixed = ("center",)
    signed = False  # r and -r remove the same

    direction: Tensor
    center: Tensor | None = None
    amount: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.direction.float().norm()
        if not length > 0:
            raise SteerlibError("a direction of length 0 cannot be ablated: the two sides it came from do not differ.")
        rounding = max(1e-6, torch.finfo(self.direction.dtype).eps)
        if abs(length - 1) > rounding:  # a unit vector stays as it is, to the bit
            object.__setattr__(self, "direction", self.direction / length)

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        away = h if self.center is None else h - self.center
        return h - strength * self.amount * (away @ self.direction).unsqueeze(-1) * self.direction

    def scaled(self, factor: float) -> Ablate:
        return replace(self, amount=self.amount * factor)

    def removed(self) -> Tensor | None:
        return self.direction


@dataclass(frozen=True)
class Affine(Operation):
    """h + s (a * h + b), element by element.

    Args:
        scale: a, (width,); zeros are the identity.
        shift: b, (width,).

    Example:
        >>> import torch
        >>> Affine(scale=torch.tensor([0.5, 0.0]), shift=torch.tensor([0.0, 1.0]))(torch.tensor([2.0, 2.0]), 1.0)
        tensor([3., 3.])
    """

    scale: Tensor
    shift: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * (self.scale * h + self.shift)

    def plus(self, other: Operation) -> Operation | None:
        if isinstance(other, Affine):
            return Affine(self.scale + other.scale, self.shift + other.shift)
        return Affine(self.scale, self.shift + other.vector) if isinstance(other, Add) else None


@dataclass(frozen=True)
class Steering:
    """Operations at Sites, and where they come from. Immutable; made by a method, or by hand.

    Steerings are combined like vectors: `s * 0.5` does at strength 1 what `s` does at 0.5, `-s` pushes the other way, and
    `s + t` does what both do, each to the activation as it comes. `s["residual.12"]` is the operation at a site.

    Args:
        operations: {Site (or its name): Operation}.
        provenance: facts to keep with it, such as JSON can hold. The keys `architecture`, `width` and `layers`, where present, must agree
            with a model before it is steered; `weights` is the hash of the weights that it was made for; and `strengths` are the
            least and the greatest strength for which it was made.

    Raises:
        SteerlibError: there is no operation, a vector is not one of finite numbers, or the provenance cannot be kept.

    Example:
        >>> import torch
        >>> s = Steering({"residual.12": Add(torch.ones(4))})
        >>> (s * 0.5 + s)["residual.12"].vector
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """

    operations: Mapping[Site, Operation]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.operations, Mapping) or not self.operations:
            raise SteerlibError(
                "a steering needs at least one site: give a mapping such as {'residual.12': Add(vector)}."
            )
        operations = {_site(key): operation for key, operation in self.operations.items()}
        for site, operation in operations.items():
            if not isinstance(operation, Operation):
                raise SteerlibError(
                    f"{site} holds a {type(operation).__name__}: use Add, Ablate, Affine or another Operation."
                )
            for name, vector in operation.vectors().items():
                square = name in operation.matrices
                shaped = vector.dim() == 1 + square and len(set(vector.shape)) == 1
                if not shaped or not vector.isfinite().all():
                    raise SteerlibError(
                        f"{name} of {site} must be one {'square matrix' if square else 'vector'} of finite numbers: it has shape "
                        f"{tuple(vector.shape)}"
                        f"{'' if vector.isfinite().all() else ' and holds NaN or infinite values'}."
                    )
        facts = {str(key): _plain(value, str(key)) for key, value in dict(self.provenance).items()}
        if "strengths" in facts:
            _check_strengths(facts["strengths"])
        object.__setattr__(self, "operations", MappingProxyType(operations))
        object.__setattr__(self, "provenance", MappingProxyType(facts))

    def __getitem__(self, site: Site | str) -> Operation:
        """The operation at a site, or at the site of that name."""
        at = _site(site)
        if at not in self.operations:
            raise SteerlibError(f"this steering has nothing at {at}: it has {', '.join(map(str, self.operations))}.")
        return self.operations[at]

    def map(self, change: Callable[[Tensor], Tensor]) -> Steering:
        """The same steering with every vector changed; where an operation acts (the centre of an ablation) stays.

        Args:
            change: maps a (width,) tensor to another one.
        """
        return replace(self, operations={site: operation.map(change) for site, operation in self.operations.items()})

    def scaled(self, factor: float) -> Steering:
        """The steering that does at strength 1 what this one does at strength `factor`; the same as `steering * factor`.

        Args:
            factor: a finite number other than 0.

        Raises:
            SteerlibError: the factor is 0 or not a finite number.
        """
        if not isinstance(factor, numbers.Real) or not np.isfinite(float(factor)) or factor == 0:
            raise SteerlibError(f"a steering is multiplied by a finite number other than 0, not by {factor!r}.")
        facts = dict(self.provenance)
        if "strengths" in facts:
            facts["strengths"] = sorted(bound / float(factor) for bound in facts["strengths"])
        facts["scaled"] = float(factor) * facts.get("scaled", 1.0)
        return Steering({site: op.scaled(float(factor)) for site, op in self.operations.items()}, facts)

    def __mul__(self, factor: float) -> Steering:
        return self.scaled(factor)

    __rmul__ = __mul__

    def __neg__(self) -> Steering:
        return self.scaled(-1.0)

    def __add__(self, other: Steering) -> Steering:
        """What both do. At a site that they share, operations are joined into one, or refused if none does what both do."""
        if not isinstance(other, Steering):
            return NotImplemented
        operations = dict(self.operations)
        for site, theirs in other.operations.items():
            joined = operations[site].plus(theirs) if site in operations else theirs
            if joined is None:
                raise SteerlibError(
                    f"at {site} no single operation does what {type(operations[site]).__name__} and {type(theirs).__name__} do: "
                    "apply one inside the other, with two nested `with steer(...)`."
                )
            operations[site] = joined
        shared = {key: value for key, value in self.provenance.items() if other.provenance.get(key) == value}
        return Steering(operations, {**shared, "sum of": [dict(self.provenance), dict(other.provenance)]})

    def save(self, path: str | Path) -> None:
        """Write it as safetensors; the kinds of operations and the provenance are JSON in the header.

        Args:
            path: a file in a folder that exists; `~` is the home folder.

        Raises:
            SteerlibError: the file cannot be written.
        """
        file = Path(path).expanduser()
        tensors = {
            f"{site}/{name}": vector.detach().cpu().clone().contiguous()  # sites may share a vector
            for site, operation in self.operations.items()
            for name, vector in operation.vectors().items()
        }
        kinds = {str(site): type(operation).__name__.lower() for site, operation in self.operations.items()}
        header: dict[str, Any] = {"format": FORMAT, "operations": kinds, "provenance": dict(self.provenance)}
        if numbers_ := {str(s): found for s, op in self.operations.items() if (found := _numbers(op))}:
            header["numbers"] = numbers_
        try:
            save_file(tensors, str(file), metadata={"steerlib": json.dumps(header)})
        except (OSError, safetensors.SafetensorError) as error:
            raise SteerlibError(f"{file} cannot be written ({error}): name a file in a folder that exists.") from error


def load_steering(path: str | Path) -> Steering:
    """The Steering in a file that `Steering.save` wrote.

    Args:
        path: the file; `~` is the home folder.

    Returns:
        The same Steering, to the bit.

    Raises:
        SteerlibError: the file is missing, cut short, or holds something else.

    Example:
        >>> import steerlib as sl
        >>> steering = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
        >>> steering.provenance["method"], len(steering.operations)
        ('dso', 61)
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise SteerlibError(f"there is no steering file at {file}.")
    try:
        with safetensors.safe_open(str(file), framework="pt") as stored:
            header = json.loads((stored.metadata() or {}).get("steerlib", "{}"))
            # cloned: a file's tensors lie in memory as they come, which can change the last bits of a product
            tensors = {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise SteerlibError(f"{file} is not a whole safetensors file ({error}): make or copy it again.") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SteerlibError(f"{file} holds tensors but no steering: its header lacks '{FORMAT}'.")
    known = {kind.__name__.lower(): kind for kind in Operation.__subclasses__()}
    operations: dict[Site, Operation] = {}
    try:
        for name, kind in header["operations"].items():
            parts = {key.rpartition("/")[2]: t for key, t in tensors.items() if key.rpartition("/")[0] == name}
            operations[sites.parse(name)] = known[kind](**parts, **header.get("numbers", {}).get(name, {}))
        return Steering(operations, header["provenance"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SteerlibError(
            f"{file} does not hold what its header promises ({error}): make or copy it again."
        ) from error


def provenance(model: Model, method: str, **facts: Any) -> dict[str, Any]:
    """What every Steering says of its origin.

    Args:
        model: the model that it is made for.
        method: what makes it.
        **facts: more facts to keep, such as the settings.

    Returns:
        Method, model, the hash of its weights (as `weights_hash` marks it), its architecture and shapes, versions of packages, and the
        facts; for a model from the hub also its commit, and the switches of the chat template where there are any.
    """
    commit = getattr(model.hf.config, "_commit_hash", None)
    own = {"commit": commit} if commit else {}
    if model.template:
        own["template"] = dict(model.template)
    return {
        "method": method,
        "model": model.name,
        "architecture": sites.decoder(model.hf).config.model_type,
        "width": sites.width(model.hf),
        "layers": len(sites.blocks(model.hf)),
        "weights": weights_hash(model),
        **own,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        **facts,
    }


def _site(key: Any) -> Site:
    """The Site that a key of a steering names."""
    if isinstance(key, str):
        return sites.parse(key)
    if not isinstance(key, Site):
        raise SteerlibError(f"a site is named like 'residual.12', not {key!r}.")
    return key


def _numbers(operation: Operation) -> dict[str, float]:
    """Fields of an operation that are plain numbers, where they differ from their defaults."""
    return {
        f.name: float(getattr(operation, f.name))
        for f in fields(operation)
        if isinstance(getattr(operation, f.name), (int, float)) and getattr(operation, f.name) != f.default
    }


def _check_strengths(given: Any) -> None:
    """Refuse what is not the least and the greatest strength."""
    fine = isinstance(given, list) and len(given) == 2 and all(isinstance(x, (int, float)) for x in given)
    if not fine or not given[0] <= given[1]:
        raise SteerlibError(f"provenance['strengths'] is [least, greatest], two numbers, not {given!r}.")


def _plain(value: Any, where: str) -> Any:
    """A fact as JSON can hold it. Raises SteerlibError where it cannot, before hours of work end in a file that cannot be written."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(inner, where) for inner in value]
    raise SteerlibError(
        f"the provenance '{where}' is a {type(value).__name__}, which a file cannot keep: use texts, numbers, lists and mappings."
    )
