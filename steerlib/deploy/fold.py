"""What a Steering at a strength s is in terms of weights: other norms, and other linear maps.

Every operation maps an activation h to M h + t:

    Add v          M = 1                 t = s v
    Affine a, b    M = diag(1 + s a)     t = s b
    Ablate r, c    M = 1 - s m r r^T     t = s m (c . r) r

What is read by linear maps W only (the output of a norm, the input of an output projection) can be folded whole, because
W (M h + t) = (W M) h + W t. At a block's output only t has a place: the next block adds to h as well as reading it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.holds import is_map, matrix, offset, readers, writer
from steerlib.models.sites import Site
from steerlib.steering.operations import Ablate, Add, Affine, Operation, Steering


@dataclass
class MapEdit:
    """What happens to a linear map. It grows while a Steering is folded.

    scale: (in,) factors of its columns. low: pairs (out,), (in,) whose outer products are added to its matrix. shift: (out,)
    added to its bias. sites: which sites want the shift.
    """

    scale: Tensor | None = None
    low: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    shift: Tensor | None = None
    sites: list[Site] = field(default_factory=list)

    def add_shift(self, shift: Tensor, site: Site) -> None:
        """Add to the bias, because of a site."""
        self.shift = shift if self.shift is None else self.shift + shift
        self.sites.append(site)

    def apply(self, weight: Tensor) -> Tensor:
        """(out, in) the matrix as it becomes."""
        scaled = weight if self.scale is None else weight * self.scale
        return scaled + sum((torch.outer(b, a) for b, a in self.low), torch.zeros_like(weight))


@dataclass
class Fold:
    """A Steering as edits of weights, by the names of modules; norms: (weight, bias or None) as they become."""

    norms: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    maps: dict[str, MapEdit] = field(default_factory=dict)

    def map(self, name: str) -> MapEdit:
        """The edit of a map."""
        return self.maps.setdefault(name, MapEdit())


def fold(hf: Any, steering: Steering, strength: float) -> Fold:
    """The edits of a network's weights that do what a Steering does to it at all tokens.

    Args:
        hf: the network, in float32; left as it was.
        steering: fits the network.
        strength: not 0.

    Raises:
        SteerlibError: an operation cannot be folded into weights at all. Whether biases have a place is not asked.
    """
    made = Fold()
    names = {id(module): name for name, module in hf.named_modules()}
    reads = readers(hf) if any(site.kind == "norm" for site in steering.operations) else {}
    for site in sorted(steering.operations, key=lambda site: site.kind):  # a block's end comes after its norms
        operation, place = steering.operations[site], sites.find(hf, site)
        factors, low, shift = _affine(site, operation, strength, hf.device)
        name = names[id(place.module)]
        if site.kind == "residual":
            _fold_block(made, hf, site, low is not None or factors is not None, shift)
        elif site.kind == "head":
            _fold_head(made.map(name), place, site, (factors, low, shift))
        else:
            _fold_norm(made, hf, site, name, reads[site].maps, reads[site].others, (factors, low, shift))
    return made


Parts = tuple[Tensor | None, tuple[Tensor, Tensor] | None, Tensor | None]
"""Factors 1 + d (width,), a pair u, r with M = 1 + u r^T, and a shift (width,); each None where there is nothing."""


def _affine(site: Site, operation: Operation, strength: float, device: torch.device) -> Parts:
    """M and t of an operation, each None where it does nothing."""

    def out(vector: Tensor) -> Tensor:
        return vector.to(device, torch.float32)

    if isinstance(operation, Add):
        return None, None, _some(strength * out(operation.vector))
    if isinstance(operation, Affine):
        factors = _some(strength * out(operation.scale))
        return None if factors is None else 1 + factors, None, _some(strength * out(operation.shift))
    if isinstance(operation, Ablate):
        r, much = out(operation.direction), strength * operation.amount
        shift = None if operation.center is None else _some(much * (out(operation.center) @ r) * r)
        return None, (-much * r, r), shift
    raise SteerlibError(f"merging knows Add, Ablate and Affine, and {site} holds a {type(operation).__name__}.")


def _some(vector: Tensor) -> Tensor | None:
    return vector if bool(vector.any()) else None


def _fold_norm(
    made: Fold, hf: Any, site: Site, name: str, maps: tuple[str, ...], others: tuple[str, ...], parts: Parts
) -> None:
    """Factors go into the norm's weight; the rest into its bias, or into the maps that read it."""
    factors, low, shift = parts
    norm = hf.get_submodule(name)
    weight, bias = norm.weight.float(), getattr(norm, "bias", None)
    own = None if bias is None else bias.float()
    if factors is not None:
        extra = offset(norm)
        weight = (weight + extra) * factors - extra
        own = None if own is None else own * factors
    if shift is not None and low is None and own is not None:
        own, shift = own + shift, None
    made.norms[name] = (weight, own)
    if (low or shift is not None) and (others or not maps):
        what = (
            f"feeds {', '.join(others)}, which is not a linear map"
            if others
            else "enters no linear map (it is added as it is, or runs with pictures only)"
        )
        raise SteerlibError(
            f"{site} holds more than factors, and its output {what}: no weight has the place. Steer it with hooks."
        )
    for one in maps:
        edit, own_matrix = made.map(one), matrix(hf.get_submodule(one)).float()
        if low is not None:
            edit.low.append((own_matrix @ low[0], low[1]))
        if shift is not None:
            edit.add_shift(own_matrix @ shift, site)


def _fold_head(edit: MapEdit, place: sites.Place, site: Site, parts: Parts) -> None:
    """All goes into the columns of the output projection that read the head, and into its bias."""
    factors, low, shift = parts
    whole = matrix(place.module).float()
    start = place.start or 0
    columns = slice(start, start + place.width)
    if factors is not None:
        edit.scale = whole.new_ones(whole.shape[1]) if edit.scale is None else edit.scale
        edit.scale[columns] = factors
    if low is not None:
        right = whole.new_zeros(whole.shape[1])
        right[columns] = low[1]
        edit.low.append((whole[:, columns] @ low[0], right))
    if shift is not None:
        edit.add_shift(whole[:, columns] @ shift, site)


def _fold_block(made: Fold, hf: Any, site: Site, moves: bool, shift: Tensor | None) -> None:
    """A shift goes into the bias of what ends the block."""
    if moves:
        raise SteerlibError(
            f"{site} is multiplied or has a direction removed, and no weight does that to a block's output: what the block has "
            "written and what came before it are one sum there. Orthogonalised weights are another model, because the embeddings "
            "and each attention reach a block before a hook does. Steer norms instead of blocks, or steer with hooks."
        )
    if shift is None:
        return
    found = writer(hf, site.layer)
    if found is None:
        raise SteerlibError(
            f"nothing that block {site.layer} of a {type(hf).__name__} writes is added to its output as it is (a norm comes after, "
            "experts share the work, or it runs with pictures only), so no bias can hold what is added there: steer with hooks."
        )
    name, factor = found
    at = hf.get_submodule(name)
    push = shift.to(at.weight.device) / factor
    if is_map(at):
        made.map(name).add_shift(push, site)
    else:
        weight, own = made.norms.get(name, (at.weight.float(), at.bias.float()))
        made.norms[name] = (weight, push if own is None else own + push)


def folded_logits(hf: Any, made: Fold, ids: Tensor) -> Tensor:
    """(batch, tokens, vocabulary) of a network with the edits, made for one run and not written into its weights."""
    replaced = {f"{name}.weight": weight for name, (weight, _) in made.norms.items()}
    replaced |= {f"{name}.bias": bias for name, (_, bias) in made.norms.items() if bias is not None}

    def edited(edit: MapEdit) -> Any:
        def after(module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
            change = edit.apply(matrix(module)) - matrix(module)
            moved: Tensor = output + args[0] @ change.T
            return moved if edit.shift is None else moved + edit.shift

        return after

    handles = [hf.get_submodule(name).register_forward_hook(edited(edit)) for name, edit in made.maps.items()]
    try:
        with torch.no_grad():
            run: Any = torch.func.functional_call  # which carries no type of what it returns
            found: Tensor = run(hf, replaced, kwargs={"input_ids": ids, "use_cache": False}, tie_weights=False).logits
        return found
    finally:
        for handle in handles:
            handle.remove()
