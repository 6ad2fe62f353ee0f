"""A Steering as the engine reads it: plain arrays for all norms, or for all blocks.

affine    a, b      (61, 576) each: the two norms of block 0, of block 1, and so on, then the last norm; zeros where nothing is done
add       v         (30, 576)
ablate    r, (m c)  (30, 576) and (2, 30): the directions; how much is removed (0: nothing), and where the centre lies along r
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from steerlib.errors import SteerlibError
from steerlib.models.sites import Site
from steerlib.steering.operations import Ablate, Add, Affine, Operation, Steering

LAYERS, WIDTH = 30, 576


def norm_sites() -> list[str]:
    """The names of the norms in the engine's order."""
    names = [
        f"norm.{layer}.{norm}" for layer in range(LAYERS) for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    return [*names, "norm.final"]


def vectors(steering: Steering) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """The arrays of a steering, by what the engine calls them: "affine", "add" and "ablate".

    Args:
        steering: its operations are Affine at norms, and Add or Ablate at residual sites, at all tokens.

    Returns:
        Only what the steering has.

    Raises:
        SteerlibError: an operation is of another kind or at another place, or the steering is for a model of another shape.

    Example:
        >>> found = vectors(Steering({"residual.2": Add(torch.ones(576))}))
        >>> found["add"][0].shape, float(found["add"][0][2, 0])
        ((30, 576), 1.0)
    """
    places = {name: at for at, name in enumerate(norm_sites())}
    affine = np.zeros((2, len(places), WIDTH), dtype=np.float32)
    add, along = np.zeros((2, LAYERS, WIDTH), dtype=np.float32)
    centre = np.zeros((2, LAYERS), dtype=np.float32)
    kinds = set()
    for site, operation in steering.operations.items():
        _refuse(site, operation, places)
        if isinstance(operation, Affine):
            kinds.add("affine")
            affine[:, places[str(site)]] = operation.scale.numpy(), operation.shift.numpy()
        elif isinstance(operation, Add):
            kinds.add("add")
            add[site.layer] = operation.vector.numpy()
        elif isinstance(operation, Ablate):
            kinds.add("ablate")
            r = operation.direction
            along[site.layer] = r.numpy()
            c = torch.zeros(()) if operation.center is None else operation.center.double() @ r.double()
            centre[:, site.layer] = operation.amount, float(c)
    found = {"affine": tuple(affine), "add": (add,), "ablate": (along, centre)}
    return {name: arrays for name, arrays in found.items() if name in kinds}


def _refuse(site: Site, operation: Operation, places: Mapping[str, int]) -> None:
    fits = all(len(vector) == WIDTH for vector in operation.vectors().values())
    at_norm = isinstance(operation, Affine) and str(site) in places
    at_block = isinstance(operation, (Add, Ablate)) and site.kind == "residual" and site.layer < LAYERS
    if not fits or not (at_norm or at_block):
        raise SteerlibError(
            f"the page's engine cannot do {type(operation).__name__} at {site}: it does Affine at the norms, and Add and Ablate at the "
            f"residual stream, of a model with {LAYERS} blocks of width {WIDTH}."
        )
