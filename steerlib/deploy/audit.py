"""Does a checkpoint carry a steering, and which one? Its weights, compared with those of the model it says it is made of.

Merging is taken back, place by place, at strength 1:

    norm's weight w -> w'                 a = (w' + e) / (w + e) - 1, where e is 0, or 1 for norms that multiply by 1 + w
    biases of all that reads a norm, d    the b with W b = d, by least squares over all of its readers together
    bias of an output projection, d       the vectors of its heads with W v = d
    bias of what ends a block, d          v = g d, where g is the factor at which it is added
    matrices W' of all that reads         the r for which W' - W = -W r r^T, if one does it

What is left over is not a steering, and is named with its size.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.holds import matrix, offset, readers, writer
from steerlib.models.layout import changed
from steerlib.models.model import Model
from steerlib.models.retype import as_llama
from steerlib.models.sites import Site
from steerlib.steering.operations import Ablate, Add, Affine, Operation, Steering

Verdict = Literal["none", "a steering and nothing else", "a steering and other changes", "other changes"]
UNEXPLAINED = 1e-3
"""The share of a change that may stay unexplained, for rounding, before it counts as another change."""


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    Args:
        verdict: "none", "a steering and nothing else", "a steering and other changes", or "other changes".
        steering: the steering that was found, as it acts at strength 1; None if there is none.
        unexplained: for each site, the share of its change that the operation does not account for, from 0 to 1.
        others: for each weight that changed in another way, the size of the change relative to the weight.
    """

    verdict: Verdict
    steering: Steering | None
    unexplained: Mapping[Site, float] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row per site of the steering and per other weight: what was done, how large it is, and what is unexplained."""
        rows = []
        for site, operation in (self.steering.operations if self.steering else {}).items():
            sizes = {name: float(vector.norm()) for name, vector in operation.vectors().items()}
            rows.append(
                {
                    "where": str(site),
                    "what": type(operation).__name__,
                    "scale": sizes.get("scale", 0.0),
                    "shift": sizes.get("shift", sizes.get("vector", 0.0)),
                    "unexplained": self.unexplained[site],
                }
            )
        for name, size in self.others.items():
            rows.append({"where": name, "what": "other", "scale": 0.0, "shift": 0.0, "unexplained": size})
        return pd.DataFrame(rows, columns=["where", "what", "scale", "shift", "unexplained"])


def audit(model: Model, reference: Model) -> Audit:
    """Whether a model is another one with a steering in its weights, and with which.

    Args:
        model: the one that is looked at; its class may have biases that the reference's has not.
        reference: the plain model.

    Returns:
        An Audit: the verdict, the steering that was found, and a table. Where heads together are wider than the stream that they write to,
        several vectors do the same, and the smallest are found.

    Raises:
        SteerlibError: the two are not of one shape.

    There is an example at `merge`.
    """
    for one in (model, reference):
        if now := changed(one.hf):
            raise SteerlibError(f"audit compares weights, and {now} changes '{one.name}' now: leave that `with` first.")
    old, new = _alike(reference, model)
    look = _Look(old, new)
    reads = readers(old)
    for site in sites.sites(old, "norm"):
        _norm(look, site, reads[site].maps if not reads[site].others else ())
    for layer in range(len(sites.blocks(old))):
        _block(look, layer)
        _heads(look, layer)
    others = {name: size for name, size in look.left().items() if size > look.least}
    steering = Steering(look.found, {"method": "audit", "model": reference.name}) if look.found else None
    if steering is None:
        verdict: Verdict = "other changes" if others else "none"
    else:
        verdict = "a steering and other changes" if others or look.partly else "a steering and nothing else"
    return Audit(verdict, steering, look.unexplained, others)


class _Look:
    """Two networks of one class side by side: which changes were explained, and by what."""

    def __init__(self, old: Any, new: Any) -> None:
        self.old, self.new = old, new
        self.before, self.after = _weights(old), _weights(new)
        digits = max(
            torch.finfo(t.dtype).eps for t in (old.get_input_embeddings().weight, new.get_input_embeddings().weight)
        )
        self.least = 4 * digits  # of a change, relative to the weight, that is more than rounding
        self.digits = digits
        self.partly = False  # whether an operation leaves more of a change unexplained than rounding does
        self.changes: dict[str, Tensor | None] = {}  # those that were asked for
        self.explained: set[str] = set()
        self.found: dict[Site, Operation] = {}
        self.unexplained: dict[Site, float] = {}

    def change(self, name: str) -> Tensor | None:
        """How a weight changed, in float32; None if it did not. A bias that was not there was 0."""
        if name not in self.changes:
            self.changes[name] = self._change(name)
        return self.changes[name]

    def _change(self, name: str) -> Tensor | None:
        then, now = self.before.get(name), self.after.get(name)
        if then is None and now is None:
            return None
        then = torch.zeros_like(now) if then is None and now is not None else then
        now = torch.zeros_like(then) if now is None and then is not None else now
        assert then is not None and now is not None
        moved = now - then
        return moved if float(moved.norm()) > self.least * self.size(name) else None

    def size(self, name: str) -> float:
        """How large a weight is; a bias is at least as large as the weight beside it, which small biases add nothing to."""
        beside = f"{name.removesuffix('bias')}weight" if name.endswith(".bias") else name
        both = [self.before[one] for one in (name, beside) if one in self.before]
        return max((float(one.norm()) for one in both), default=1.0)

    def note(self, site: Site, operation: Operation, share: float, names: list[str]) -> None:
        """Explain the changes of these weights by an operation at a site, but for a share."""
        self.found[site], self.unexplained[site] = operation, share
        self.explained |= set(names)
        rounded = sum(float(self.after[name].norm()) ** 2 for name in names if name in self.after) ** 0.5
        changes = [moved for name in names if (moved := self.change(name)) is not None]
        size = sum(float(one.norm()) ** 2 for one in changes) ** 0.5
        self.partly |= share > UNEXPLAINED + 2 * self.digits * rounded / max(size, 1e-30)

    def left(self) -> dict[str, float]:
        """The sizes of changes that nothing explained, relative to the weights. Tied weights count once."""
        sizes = {}
        for name in {**self.before, **self.after}:
            if name not in self.explained and (moved := self.change(name)) is not None:
                sizes[name] = float(moved.norm()) / max(self.size(name), 1e-30)
        return sizes


def _norm(look: _Look, site: Site, maps: tuple[str, ...]) -> None:
    """An Affine or an Ablate at a norm, from the norm itself and from what reads it."""
    norm = sites.find(look.old, site).module
    name = next(n for n, m in look.old.named_modules() if m is norm)
    scale = shift = None
    names: list[str] = []
    share = 0.0
    if look.change(f"{name}.weight") is not None:
        extra = offset(norm)
        before = look.before[f"{name}.weight"] + extra
        near = before.abs() < 1e-6
        scale = torch.where(near, 0.0, (look.after[f"{name}.weight"] + extra) / torch.where(near, 1.0, before) - 1)
        names.append(f"{name}.weight")
    if getattr(norm, "bias", None) is not None:
        factors = 1.0 if scale is None else 1 + scale
        rest = look.after[f"{name}.bias"] - look.before[f"{name}.bias"] * factors
        if float(rest.norm()) > look.least * look.size(f"{name}.bias"):
            shift = rest
        names.append(f"{name}.bias")
    moved = {one: look.change(f"{one}.weight") for one in maps}
    if maps and all(value is not None for value in moved.values()):
        found = _ablated(look, maps, {one: value for one, value in moved.items() if value is not None})
        if found is not None:
            direction, share = found
            look.note(site, Ablate(direction), share, names + [f"{one}.weight" for one in maps])
            return
    pushed = {one: look.change(f"{one}.bias") for one in maps}
    if maps and not any(value is not None for value in moved.values()) and any(v is not None for v in pushed.values()):
        whole = torch.cat([matrix_of(look, one) for one in maps])  # (all outputs, width)
        size = {one: len(matrix_of(look, one)) for one in maps}
        d = torch.cat([torch.zeros(size[one]) if value is None else value for one, value in pushed.items()])
        b = _solved(whole, d)
        left = float((d - whole @ b).norm() / d.norm())
        if left < 0.5:
            shift, share = b if shift is None else shift + b, left
            names += [f"{one}.bias" for one in maps]
    if scale is not None or shift is not None:
        zero = torch.zeros(sites.width(look.old))
        look.note(site, Affine(zero if scale is None else scale, zero if shift is None else shift), share, names)


def _ablated(look: _Look, maps: tuple[str, ...], moved: dict[str, Tensor]) -> tuple[Tensor, float] | None:
    """The direction that all these maps stopped reading, and the share of their change that this does not explain."""
    change = torch.cat([_rows(look, one, moved[one]) for one in maps])
    whole = torch.cat([matrix_of(look, one) for one in maps])
    direction = torch.linalg.svd(change, full_matrices=False).Vh[0]
    gone = -torch.outer(whole @ direction, direction)
    share = float((change - gone).norm() / change.norm())
    return (direction, share) if share < 0.5 else None


def _block(look: _Look, layer: int) -> None:
    """An Add at a block's output, from the bias of what ends the block."""
    block = sites.blocks(look.old)[layer]
    prefix = next(n for n, m in look.old.named_modules() if m is block)
    if not any(look.change(n) is not None for n in look.after if n.startswith(f"{prefix}.") and n.endswith(".bias")):
        return
    found = writer(look.old, layer)
    if found is None or f"{found[0]}.bias" in look.explained:
        return
    moved = look.change(f"{found[0]}.bias")
    if moved is not None:
        look.note(Site("residual", layer), Add(moved * found[1]), 0.0, [f"{found[0]}.bias"])


def _heads(look: _Look, layer: int) -> None:
    """Adds at heads, from the bias of the output projection."""
    try:
        heads = sites.sites(look.old, "head", layer)
        places = {site: sites.find(look.old, site) for site in heads}
    except SteerlibError:
        return
    projection = next(iter(places.values())).module
    name = next(n for n, m in look.old.named_modules() if m is projection)
    moved = look.change(f"{name}.bias")
    if moved is None or f"{name}.bias" in look.explained or look.change(f"{name}.weight") is not None:
        return
    whole = matrix_of(look, name)
    v = _solved(whole, moved)
    share = float((moved - whole @ v).norm() / moved.norm())
    sizes = {site: v[p.start or 0 : (p.start or 0) + p.width] for site, p in places.items()}
    most = max(float(part.norm()) for part in sizes.values())
    if share < 0.5:
        for site, part in sizes.items():
            if float(part.norm()) > 1e-3 * most:
                look.note(site, Add(part), share, [f"{name}.bias"])


def _solved(whole: Tensor, d: Tensor) -> Tensor:
    """(width,) the smallest b for which W b is nearest to d, in float64: matrices may be nearly singular."""
    found: Tensor = torch.linalg.lstsq(whole.double(), d.double().unsqueeze(1), driver="gelsd").solution
    return found.squeeze(1).float()


def matrix_of(look: _Look, name: str) -> Tensor:
    """(out, in) the matrix of a map of the reference, in float32."""
    return matrix(look.old.get_submodule(name)).detach().float().cpu()


def _rows(look: _Look, name: str, weight: Tensor) -> Tensor:
    """A change of a map's weight as (out, in)."""
    return weight if weight.shape == matrix_of(look, name).shape else weight.T


def _weights(hf: Any) -> dict[str, Tensor]:
    return {name: weight.detach().float().cpu() for name, weight in hf.state_dict().items()}


def _alike(reference: Model, model: Model) -> tuple[Any, Any]:
    """The two networks under the same names: where one is a Llama and the other does its arithmetic, both are Llamas."""
    old, new = reference.hf, model.hf
    if set(_shapes(old)) != set(_shapes(new)):
        old = as_llama(old) or old
        new = as_llama(new) or new
    before, after = _shapes(old), _shapes(new)
    wrong = [n for n in {**before, **after} if not n.endswith(".bias") and before.get(n) != after.get(n)]
    if wrong:
        raise SteerlibError(
            f"'{model.name}' and '{reference.name}' are not of one shape ({min(wrong)} differs): compare a model with the one it "
            "was made from."
        )
    return (copy.deepcopy(old).float() if old.dtype != torch.float32 else old), new


def _shapes(hf: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in hf.state_dict().items()}
