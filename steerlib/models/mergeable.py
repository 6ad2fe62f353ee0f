"""Which parts of an affine steering a plain checkpoint of the same family can hold, norm by norm."""

from __future__ import annotations

from typing import Any

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.holds import Part, holds_shift, offset
from steerlib.models.retype import as_llama
from steerlib.models.sites import Site


def mergeable_sites(hf: Any) -> dict[Site, tuple[Part, ...]]:
    """What of an affine steering of norms `merge` can put into the weights of this network.

    A network that does a Llama's arithmetic counts as a Llama, because it is saved as one where that is needed.

    Args:
        hf: the network.

    Returns:
        For each norm of the text decoder that holds anything, "scale", "shift" or both.

    Raises:
        SteerlibError: no norm holds anything.

    Example:
        >>> import steerlib as sl
        >>> held = sl.mergeable_sites(sl.load("smollm2", device="cpu").hf)
        >>> held[sl.Site("norm", 0, "input_layernorm")], held[sl.Site("norm", -1)]
        (('scale', 'shift'), ('scale',))
    """
    every = sites.sites(hf, "norm")
    shifted = set(holds_shift(hf))
    if len(shifted) < len(every) and (llama := as_llama(hf)) is not None:
        shifted |= set(holds_shift(llama))
    held: dict[Site, tuple[Part, ...]] = {}
    for site in every:
        parts: tuple[Part, ...] = ("scale",) if _holds_scale(hf, site) else ()
        parts += ("shift",) if site in shifted else ()
        if parts:
            held[site] = parts
    if not held:
        raise SteerlibError(f"no norm of a {type(hf).__name__} holds a scale or a shift, so nothing could be merged.")
    return held


def _holds_scale(hf: Any, site: Site) -> bool:
    try:
        offset(sites.find(hf, site).module)
    except SteerlibError:
        return False
    return True
