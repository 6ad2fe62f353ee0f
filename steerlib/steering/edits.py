"""New Steerings out of old ones (a part, the largest numbers), and how alike two are.

Two random directions in a space of width d have a cosine of about 0, give or take 2 / sqrt(d): in a wide network even a small
cosine is more than chance, and in a narrow one it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import Layers, Site
from steerlib.steering.operations import Affine, Steering


def subset(model: Model, steering: Steering, layers: Layers) -> Steering:
    """The part of a steering in some layers; the norm after the last block belongs to "all".

    Args:
        model: the model whose layers are meant.
        steering: made at these layers and perhaps at others.
        layers: a number, several, a range, or "early", "middle", "late", "last", "all".

    Raises:
        SteerlibError: the steering has nothing at one of the layers.

    Example:
        >>> import steerlib as sl
        >>> steering = sl.load_steering(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors"))
        >>> len(sl.subset(sl.load("smollm2"), steering, "late").operations)
        20
    """
    wanted = sites.layers(model.hf, layers)
    held = {site.layer for site in steering.operations}
    if missing := [layer for layer in wanted if layer not in held]:
        raise SteerlibError(
            f"the steering has nothing at layer {missing[0]}: it was made at {layers_in_short(sorted(held))}, make it with "
            "layers='all'."
        )
    kept = {*wanted, -1} if layers == "all" else {*wanted}
    operations = {site: operation for site, operation in steering.operations.items() if site.layer in kept}
    return Steering(operations, {**steering.provenance, "subset": wanted})


def layers_in_short(layers: Sequence[int]) -> str:
    """Layers in short: 3, 4-9, or 2, 5, 7."""
    if len(layers) > 1 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def sparsify(steering: Steering, keep: float = 0.6) -> Steering:
    """The same affine steering with only its largest numbers, by magnitude over all sites together; the others become 0.

    Source: the sparsity figure of Monteiro Paes et al., arXiv 2512.15926.

    Args:
        steering: of Affine operations only.
        keep: the share of the coordinates of a and b that stay, above 0 and at most 1.

    Raises:
        SteerlibError: `keep` is out of range, or an operation is not affine.

    Example:
        >>> import torch
        >>> from steerlib import Affine, Steering
        >>> s = Steering({"norm.final": Affine(torch.tensor([3.0, 1.0]), torch.tensor([-2.0, 0.5]))})
        >>> sparsify(s, keep=0.5)["norm.final"]
        Affine(scale=tensor([3., 0.]), shift=tensor([-2.,  0.]))
    """
    if not 0 < keep <= 1:
        raise SteerlibError(
            f"keep must be above 0 and at most 1, not {keep}: it is the share of the coordinates that stay."
        )
    affine = {site: op for site, op in steering.operations.items() if isinstance(op, Affine)}
    if other := [str(site) for site in steering.operations if site not in affine]:
        raise SteerlibError(f"{other[0]} has no affine operation, whose coordinates could be chosen from.")
    vectors = [vector for op in affine.values() for vector in op.vectors().values()]
    order = torch.cat(vectors).abs().argsort(descending=True, stable=True)
    kept = torch.zeros(len(order)).scatter(0, order[: round(keep * len(order))], 1.0)
    masks = iter(torch.split(kept, [len(v) for v in vectors]))
    return replace(steering.map(lambda vector: vector * next(masks)), provenance={**steering.provenance, "kept": keep})


def cosines(a: Steering, b: Steering, *, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The cosine of the directions of two steerings at every site that they share.

    The direction is what is taken away: r of an ablation, -v of an addition, so that both kinds compare.

    Args:
        a: a steering of operations with a single direction (Add, Ablate).
        b: another one, for the same model.
        draws: how many pairs of random directions give the null range.
        seed: of the random directions.

    Returns:
        A frame, one row per site: site, layer, cosine, null_low, null_high (the ends of the middle 95 % for random directions).

    Raises:
        SteerlibError: they share no site, differ in width, or an operation has no single direction.

    Example:
        >>> import torch
        >>> from steerlib import Add, Ablate, Steering
        >>> v = torch.randn(64, generator=torch.Generator().manual_seed(0))
        >>> frame = cosines(Steering({"residual.3": Add(-v)}), Steering({"residual.3": Ablate(v)}))
        >>> float(frame["cosine"].round(3)[0])
        1.0
    """
    if draws < 40:
        raise SteerlibError(f"{draws} draws cannot show where 95 % of the cosines lie: take 1000.")
    shared = sorted(a.operations.keys() & b.operations.keys())
    if not shared:
        raise SteerlibError(
            f"the two steerings share no site: one has {min(a.operations)}, the other {min(b.operations)}, for instance."
        )
    nulls: dict[int, list[float]] = {}
    rows = []
    for site in shared:
        one, other = _direction(a, site), _direction(b, site)
        if one.shape != other.shape:
            raise SteerlibError(
                f"the two steerings are {len(one)} and {len(other)} wide at {site}: no cosine joins them."
            )
        if len(one) not in nulls:
            noise = torch.randn(draws, len(one), generator=torch.Generator().manual_seed(seed))
            chance = noise[:, 0] / noise.norm(dim=1)  # turned so that the first of each pair is an axis
            nulls[len(one)] = chance.quantile(torch.tensor([0.025, 0.975])).tolist()
        low, high = nulls[len(one)]
        cosine = float(one @ other)
        rows.append({"site": str(site), "layer": site.layer, "cosine": cosine, "null_low": low, "null_high": high})
    return pd.DataFrame(rows)


def _direction(steering: Steering, site: Site) -> Tensor:
    """What a steering takes away at a site, (width,) of unit length in float64."""
    vector = steering[site].removed()
    if vector is None:
        kind = type(steering[site]).__name__.lower()
        raise SteerlibError(f"the {kind} at {site} has no single direction: compare additions and ablations.")
    vector = vector.detach().cpu().double()
    if not vector.norm() > 0:
        raise SteerlibError(f"the addition at {site} has length 0, so it has no direction.")
    unit: Tensor = vector / vector.norm()
    return unit
