"""Contrastive steering vectors: the difference between two means.

At every layer l, r_l = mean(h_l | biased) - mean(h_l | neutral), made unit length. `Ablate` takes the part along r_l out of the
activation, `Add` subtracts the whole difference of the means. Source: Ratzlaff et al., arXiv 2411.12590, section 3 (the
dataset-based direction). Conventional rather than mathematical: which token is read (the last), and about which centre an
ablation is made (the paper: zero).

Two relatives. Contrastive activation addition (CAA; Rimsky et al., arXiv 2312.06681) is `operation="add"` at the last token,
where the mean of paired differences is the difference of the means. `direction="pca"` takes for r_l the direction along which
the paired differences d are longest, the first eigenvector of the sum of d d^T (compare Zou et al., arXiv 2310.01405). The
differences are NOT centred first: that would take away the very shift that all pairs share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, answered, as_list
from steerlib.models.sites import Layers, Site
from steerlib.steering.capture import capture
from steerlib.steering.operations import Ablate, Add, Operation, Steering, provenance

Center = Literal["zero", "neutral", "midpoint"]


def contrastive(
    model: Model,
    biased: Iterable[Prompt],
    neutral: Iterable[Prompt],
    *,
    layers: Layers = "middle",
    direction: Literal["mean", "pca"] = "mean",
    operation: Literal["ablate", "add"] = "ablate",
    center: Center | None = None,
    read: Literal["last", "mean"] = "last",
    batch_size: int = 16,
    progress: bool = True,
) -> Steering:
    """A Steering away from what `biased` prompts have and `neutral` ones lack.

    Args:
        model: whose activations are read.
        biased: any stream of prompts; it is read once, and memory does not grow with its length.
        neutral: likewise.
        layers: a number, several, a range, or "early", "middle", "late", "all", "last"; the residual stream is steered there
            (`choose_layers` picks them from a steering made with "all"). Under a name, such as "all", a layer at which the two sides
            do not differ is left out.
        direction: that of the difference of the two "mean"s, or the first principal one ("pca") of the differences between the
            i-th biased and the i-th neutral prompt, which takes width x width numbers per layer.
        operation: "ablate" removes the direction; "add" subtracts the difference of the means, or its part along the principal
            direction (so that at strength 1 the mean biased activation becomes, along it, the mean neutral one).
        center: what an ablation leaves along the direction: "zero" (the paper), the "neutral" mean (also if None), or the
            "midpoint" of the two means. Adding has no centre.
        read: activations at each prompt's "last" token, or their "mean" over its tokens.
        batch_size: how many prompts are read together.
        progress: show a bar.

    Returns:
        A Steering of one operation per layer.

    Raises:
        SteerlibError: if a side is empty, the two do not differ, or "pca" finds prompts without a partner.

    Warns:
        UserWarning: a layer was left out.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> biased, neutral = ["The nurse said she", "The pilot said he"], ["The nurse said they", "The pilot said they"]
        >>> made = sl.contrastive(lm, biased, neutral, layers=12, progress=False)
        >>> [str(site) for site in made.operations]
        ['residual.12']
    """
    if operation not in ("ablate", "add"):
        raise SteerlibError(f"unknown operation '{operation}': choose 'ablate' or 'add'.")
    if center not in (None, "zero", "neutral", "midpoint"):
        raise SteerlibError(f"unknown centre '{center}': choose 'zero', 'neutral' or 'midpoint'.")
    if operation == "add" and center is not None:
        raise SteerlibError(f"adding has no centre, so center='{center}' would do nothing: leave it out, or ablate.")
    center = center or "neutral"
    if direction not in ("mean", "pca"):
        raise SteerlibError(f"unknown direction '{direction}': choose 'mean' or 'pca'.")
    where = [Site("residual", layer) for layer in sites.layers(model.hf, layers)]
    origin = provenance(model, "contrastive")  # before the work
    principal: dict[Site, Tensor] = {}
    if direction == "pca":
        mean_b, mean_n, principal, count_b = _paired(model, biased, neutral, where, read, batch_size, progress)
        count_n = count_b
    else:
        mean_b, count_b = _mean(model, biased, where, read, batch_size, progress, "biased")
        mean_n, count_n = _mean(model, neutral, where, read, batch_size, progress, "neutral")
    operations: dict[Site, Operation] = {}
    alike = []
    for site in where:
        difference = (mean_b[site] - mean_n[site]).float()
        if not difference.norm() > 1e-6 * mean_n[site].norm():
            alike.append(site)
            continue
        if site in principal:
            along = principal[site].float()
            difference = (difference @ along) * along  # its sign is that of the difference of the means
        if operation == "add":
            operations[site] = Add(-difference)
        else:
            middles = {
                "zero": None,
                "neutral": mean_n[site].float(),
                "midpoint": (mean_b[site] + mean_n[site]).float() / 2,
            }
            operations[site] = Ablate(difference, middles[center])
    if alike:
        said = f"the biased and the neutral prompts do not differ at {', '.join(map(str, alike))}"
        if not operations or not isinstance(layers, str):
            raise SteerlibError(f"{said}: there is nothing to contrast.")
        warnings.warn(f"{said}: the steering leaves that out.", stacklevel=2)
    facts: dict[str, str | None] = {"operation": operation, "direction": direction, "read": read}
    facts["center"] = center if operation == "ablate" else None
    return Steering(operations, {**origin, "biased": count_b, "neutral": count_n, **facts})


def split_answers(
    prompts: Sequence[Prompt], answers: Sequence[str], mentions: Callable[[str], bool]
) -> tuple[list[Prompt], list[Prompt]]:
    """Biased and neutral prompts out of a model's own answers: those that mention the attribute, and those that do not.

    Source: Ratzlaff et al., arXiv 2411.12590, section 3.

    Args:
        prompts: what the model was asked.
        answers: what it wrote after each.
        mentions: whether a text mentions the attribute.

    Returns:
        (biased, neutral): each prompt followed by its answer (in a chat, as the assistant's), so that activations are read
        where the answer ends.

    Raises:
        SteerlibError: if all answers mention it, or none does.

    Example:
        >>> import steerlib as sl
        >>> sl.split_answers(["Who is it?", "Who?"], [" A woman.", " A cook."], lambda text: "woman" in text)
        (['Who is it? A woman.'], ['Who? A cook.'])
    """
    many = as_list(prompts)[0]
    if isinstance(answers, str) or len(many) != len(answers):
        raise SteerlibError(f"{len(many)} prompts need as many answers, in a list.")
    sides: dict[bool, list[Prompt]] = {True: [], False: []}
    for prompt, answer in zip(many, answers, strict=True):
        sides[bool(mentions(answer))].append(answered(prompt, answer))
    if not sides[True] or not sides[False]:
        raise SteerlibError(
            f"{'all' if sides[True] else 'none'} of the {len(answers)} answers mention the attribute: a contrast needs "
            "answers of both kinds, so ask more, or make the neutral (or biased) prompts yourself."
        )
    return sides[True], sides[False]


def _mean(
    model: Model,
    prompts: Iterable[Prompt],
    where: list[Site],
    read: Literal["last", "mean"],
    batch_size: int,
    progress: bool,
    side: str,
) -> tuple[dict[Site, Tensor], int]:
    """The mean activation at each site over a stream of prompts, (width,) in float64, and how many there were."""
    sums = {site: torch.zeros((), dtype=torch.float64) for site in where}
    count = 0
    total = len(prompts) if isinstance(prompts, (list, tuple)) else None
    with tqdm(total=total, desc=f"reading {side} prompts", leave=False, disable=not progress) as bar:
        for indices, got in capture(model, prompts, where, read=read, batch_size=batch_size):
            count += len(indices)
            bar.update(len(indices))
            for site in where:
                sums[site] = sums[site] + got[site].double().sum(0)
    if count == 0:
        raise SteerlibError(f"there are no {side} prompts: a contrast needs at least one on each side.")
    return {site: total_ / count for site, total_ in sums.items()}, count


def _paired(
    model: Model,
    biased: Iterable[Prompt],
    neutral: Iterable[Prompt],
    where: list[Site],
    read: Literal["last", "mean"],
    batch_size: int,
    progress: bool,
) -> tuple[dict[Site, Tensor], dict[Site, Tensor], dict[Site, Tensor], int]:
    """Both means and the principal direction of the paired differences, each (width,) in float64; how many pairs."""
    sums: list[dict[Site, Tensor]] = [{site: torch.zeros((), dtype=torch.float64) for site in where} for _ in range(3)]
    waiting: tuple[dict[int, dict[Site, Tensor]], ...] = ({}, {})  # read, their partner not yet: a window at most
    streams = [capture(model, side, where, read=read, batch_size=batch_size) for side in (biased, neutral)]
    count = 0
    with tqdm(desc="reading pairs of prompts", leave=False, disable=not progress) as bar:
        for batches in zip_longest(*streams):
            for side, batch in zip(waiting, batches, strict=True):
                for row, i in enumerate(batch[0] if batch else ()):
                    side[i] = {site: h[row].double() for site, h in batch[1].items()}
            ready = sorted(waiting[0].keys() & waiting[1].keys())
            pairs = [(waiting[0].pop(i), waiting[1].pop(i)) for i in ready]
            count += len(pairs)
            bar.update(len(pairs))
            for site in where if pairs else ():
                b, n = (torch.stack([pair[k][site] for pair in pairs]) for k in (0, 1))  # (pairs, width)
                for total, more in zip(sums, (b.sum(0), n.sum(0), (b - n).T @ (b - n)), strict=True):
                    total[site] = total[site] + more
            if None in batches:
                break
    if waiting[0] or waiting[1]:
        raise SteerlibError(
            "direction='pca' compares the i-th biased prompt with the i-th neutral one, and there are more "
            f"{'biased' if waiting[0] else 'neutral'} prompts than {'neutral' if waiting[0] else 'biased'} ones: "
            "give as many, or use direction='mean'."
        )
    if count == 0:
        raise SteerlibError("there are no biased prompts: a contrast needs at least one on each side.")
    principal = {site: torch.linalg.eigh(sums[2][site]).eigenvectors[:, -1] for site in where}
    mean_b, mean_n = ({site: total / count for site, total in side.items()} for side in sums[:2])
    return mean_b, mean_n, principal, count
