"""Contrastive steering vectors: the difference between two means.

At every layer l, r_l = mean(h_l | biased) - mean(h_l | neutral), made unit length. `Ablate` takes the part along r_l out of the
activation, `Add` subtracts the whole difference of the means. Source: Ratzlaff et al., arXiv 2411.12590, section 3 (the
dataset-based direction). Conventional rather than mathematical: which token is read (the last), and about which centre an
ablation is made (the paper: zero).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlib import sites
from steerlib.errors import SteerlibError
from steerlib.models import Model, Prompt
from steerlib.sites import Layers, Site
from steerlib.steering import Ablate, Add, Operation, Steering, capture, provenance

Center = Literal["zero", "neutral", "midpoint"]


def contrastive(
    model: Model,
    biased: Iterable[Prompt],
    neutral: Iterable[Prompt],
    *,
    layers: Layers = "middle",
    operation: Literal["ablate", "add"] = "ablate",
    center: Center = "neutral",
    read: Literal["last", "mean"] = "last",
    batch_size: int = 16,
) -> Steering:
    """A Steering away from what `biased` prompts have and `neutral` ones lack.

    biased, neutral: any streams of prompts; they are read once, and memory does not grow with their number.
    layers: a number, several, a range, or "early", "middle", "late", "all", "last"; the residual stream is steered there.
    operation: "ablate" removes the direction, "add" subtracts the difference of the means (so that at strength 1 the mean
    biased activation becomes the mean neutral one). center: what an ablation leaves along the direction: "zero" (the paper),
    the "neutral" mean, or the "midpoint" of the two means. read: activations at the "last" token or their "mean".
    Raises SteerlibError if a side is empty or the two do not differ.
    """
    if operation not in ("ablate", "add"):
        raise SteerlibError(f"'{operation}' is no operation of a contrastive steering: use 'ablate' or 'add'.")
    if center not in ("zero", "neutral", "midpoint"):
        raise SteerlibError(f"'{center}' is no centre: use 'zero', 'neutral' or 'midpoint'.")
    where = [Site("residual", layer) for layer in sites.layers(model.hf, layers)]
    mean_b, count_b = _mean(model, biased, where, read, batch_size, "biased")
    mean_n, count_n = _mean(model, neutral, where, read, batch_size, "neutral")
    operations: dict[Site, Operation] = {}
    for site in where:
        difference = (mean_b[site] - mean_n[site]).float()
        if not difference.norm() > 1e-6 * mean_n[site].norm():
            raise SteerlibError(
                f"the biased and the neutral prompts do not differ at {site}: there is nothing to contrast."
            )
        if operation == "add":
            operations[site] = Add(-difference)
        else:
            middles = {
                "zero": None,
                "neutral": mean_n[site].float(),
                "midpoint": (mean_b[site] + mean_n[site]).float() / 2,
            }
            operations[site] = Ablate(difference, middles[center])
    facts = {"operation": operation, "center": center if operation == "ablate" else None, "read": read}
    return Steering(operations, provenance(model, "contrastive", biased=count_b, neutral=count_n, **facts))


def _mean(
    model: Model,
    prompts: Iterable[Prompt],
    where: list[Site],
    read: Literal["last", "mean"],
    batch_size: int,
    side: str,
) -> tuple[dict[Site, Tensor], int]:
    """The mean activation at each site over a stream of prompts, (width,) in float64, and how many there were."""
    sums = {site: torch.zeros((), dtype=torch.float64) for site in where}
    count = 0
    total = len(prompts) if isinstance(prompts, (list, tuple)) else None
    with tqdm(total=total, desc=f"reading {side} prompts", leave=False) as bar:
        for indices, got in capture(model, prompts, where, read=read, batch_size=batch_size):
            count += len(indices)
            bar.update(len(indices))
            for site in where:
                sums[site] = sums[site] + got[site].double().sum(0)
    if count == 0:
        raise SteerlibError(f"there are no {side} prompts: a contrast needs at least one on each side.")
    return {site: total_ / count for site, total_ in sums.items()}, count
