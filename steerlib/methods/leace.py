"""Least-squares concept erasure: the smallest affine change of an activation after which no linear reader finds the concept.

    h - ((h - mu) . v) u       u = mean(h | biased) - mean(h | neutral),   v = S^+ u / (u . S^+ u)

S is the covariance of all activations, both sides together, and mu their mean. After it, the two means are equal in every direction,
so that no linear probe does better than a constant one; and among all affine maps that do so it changes the activations least,
in mean square. `contrastive` with `operation="ablate"` reads along u instead of v, and leaves a trace of the concept wherever u
is correlated with other directions. Source: Belrose et al., arXiv 2306.03819, for a concept of two values, where the rank is one.
Conventional rather than mathematical: each layer is fitted on the unchanged model, not after the erasure of the layers before it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.sites import Layers, Site
from steerlib.steering.capture import capture
from steerlib.steering.maps import Erase
from steerlib.steering.operations import Operation, Steering, provenance

RANK = 1e-6  # eigenvalues of S below this share of the greatest count as 0


def leace(
    model: Model,
    biased: Iterable[Prompt],
    neutral: Iterable[Prompt],
    *,
    layers: Layers = "middle",
    batch_size: int = 16,
) -> Steering:
    """A Steering after which what tells `biased` prompts from `neutral` ones can no longer be read linearly at these layers.

    Args:
        model: whose activations are read, at the last token of each prompt.
        biased: any stream of prompts.
        neutral: likewise.
        layers: a number, several, a range, or "early", "middle", "late", "all", "last"; the residual stream is steered there.
        batch_size: how many prompts are read together.

    Returns:
        A Steering of one Erase per layer, which is meant for strength 1. It takes width x width numbers per layer to make.

    Raises:
        SteerlibError: if a side is empty, or the two do not differ at a layer.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> made = sl.leace(lm, ["The nurse said she", "The pilot said he"], ["The nurse said they", "The pilot said they"], layers=12)
        >>> type(made["residual.12"]).__name__
        'Erase'
    """
    where = [Site("residual", layer) for layer in sites.layers(model.hf, layers)]
    sides = [_moments(model, prompts, where, batch_size) for prompts in (biased, neutral)]
    counts = [count for count, _, _ in sides]
    if min(counts) == 0:
        raise SteerlibError(
            f"there are no {('biased', 'neutral')[counts.index(0)]} prompts: give at least one on each side."
        )
    operations: dict[Site, Operation] = {}
    for site in where:
        means = [total[site] / count for count, total, _ in sides]
        mean = (sides[0][1][site] + sides[1][1][site]) / sum(counts)
        moment = (sides[0][2][site] + sides[1][2][site]) / sum(counts)
        apart = means[0] - means[1]
        if not apart.norm() > 1e-6 * means[1].norm():
            raise SteerlibError(
                f"the biased and the neutral prompts do not differ at {site}: there is nothing to erase."
            )
        reading = torch.linalg.pinv(moment - torch.outer(mean, mean), rtol=RANK, hermitian=True) @ apart
        operations[site] = Erase(apart.float(), (reading / (reading @ apart)).float(), mean.float())
    return Steering(operations, provenance(model, "leace", biased=counts[0], neutral=counts[1]))


def _moments(
    model: Model, prompts: Iterable[Prompt], where: list[Site], batch_size: int
) -> tuple[int, dict[Site, Tensor], dict[Site, Tensor]]:
    """How many prompts there are; the sum of their activations at each site, and of the products, in float64."""
    count = 0
    sums: dict[Site, Tensor] = {site: torch.zeros((), dtype=torch.float64) for site in where}
    squares = dict(sums)
    for indices, got in capture(model, prompts, where, batch_size=batch_size):
        count += len(indices)
        for site in where:
            h = got[site].double()
            sums[site], squares[site] = sums[site] + h.sum(0), squares[site] + h.T @ h
    return count, sums, squares
