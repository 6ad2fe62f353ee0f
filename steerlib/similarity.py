"""How alike two steerings are: the cosine of their directions, beside what chance gives.

Two random directions in a space of width d have a cosine of about 0, give or take 2 / sqrt(d): in a wide network even a small
cosine is more than chance, and in a narrow one it is not.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.sites import Site
from steerlib.steering import Ablate, Add, Steering


def cosines(a: Steering, b: Steering, *, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The cosine of the directions of two steerings at every site that they share.

    The direction is what is taken away: r of an ablation, -v of an addition, so that both kinds compare.
    draws, seed: pairs of random directions, whose cosines give the null range.
    Returns a frame: site, layer, cosine, null_low, null_high (the ends of the middle 95 % for random directions).
    Raises SteerlibError if they share no site, differ in width, or an operation has no single direction.
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
    operation = steering.operations[site]
    if isinstance(operation, Ablate):
        vector = operation.direction
    elif isinstance(operation, Add):
        vector = -operation.vector
    else:
        raise SteerlibError(f"the affine at {site} has no single direction: compare additions and ablations.")
    vector = vector.detach().cpu().double()
    if not vector.norm() > 0:
        raise SteerlibError(f"the addition at {site} has length 0, so it has no direction.")
    unit: Tensor = vector / vector.norm()
    return unit
