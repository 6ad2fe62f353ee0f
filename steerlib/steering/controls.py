"""Controls: what a steering must be compared with before it can be said to work.

A random direction of equal size shows what any push does, a flipped one that the sign matters, another layer that the place
matters, shuffled labels that the contrast matters. Each is a new Steering (or new data); the original is left as it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.sites import Site
from steerlib.steering.operations import Steering


def random_like(steering: Steering, *, seed: int = 0) -> Steering:
    """The same operations at the same sites with random directions of the same length; the centres of ablations stay.

    Args:
        steering: what is to be compared with chance.
        seed: of the directions.

    Example:
        >>> import torch
        >>> from steerlib import Add, Steering
        >>> random = random_like(Steering({"residual.12": Add(torch.tensor([3.0, 4.0]))}))
        >>> round(float(random["residual.12"].vector.norm()), 4)
        5.0
    """
    generator = torch.Generator().manual_seed(seed)

    def rotated(vector: Tensor) -> Tensor:
        noise = torch.randn(vector.shape, generator=generator)
        scaled: Tensor = noise / noise.norm() * vector.norm().cpu()
        return scaled

    return Steering(steering.map(rotated).operations, {**steering.provenance, "control": f"random, seed {seed}"})


def flipped(steering: Steering) -> Steering:
    """The same steering with its sign reversed, for `Add` and `Affine`.

    Args:
        steering: of operations that have a sign.

    Raises:
        SteerlibError: an ablation has no sign (r and -r remove the same); steer with a negative strength instead.

    Example:
        >>> import torch
        >>> from steerlib import Add, Steering
        >>> flipped(Steering({"residual.12": Add(torch.tensor([3.0, 4.0]))}))["residual.12"]
        Add(vector=tensor([-3., -4.]))
    """
    for site, operation in steering.operations.items():
        if not operation.signed:
            raise SteerlibError(f"the ablation at {site} has no sign to flip: steer with a negative strength instead.")
    return Steering(steering.map(torch.neg).operations, {**steering.provenance, "control": "flipped"})


def wrong_layer(model: Model, steering: Steering, *, by: int | None = None) -> Steering:
    """The same operations `by` blocks further on, wrapping around at the end.

    Args:
        model: the model that the steering is for.
        steering: what is to be compared with itself elsewhere.
        by: how many blocks; None moves by half the network.

    Raises:
        SteerlibError: the move leads back to where it began, or the steering acts on the norm after the last block.

    Example:
        >>> import steerlib as sl
        >>> import torch
        >>> lm = sl.load("smollm2")
        >>> moved = sl.controls.wrong_layer(lm, sl.Steering({"residual.12": sl.Add(torch.ones(576))}))
        >>> [str(site) for site in moved.operations]
        ['residual.27']
    """
    depth = len(sites.blocks(model.hf))
    step = depth // 2 if by is None else by
    if step % depth == 0:
        raise SteerlibError(f"moving by {step} blocks in a network of {depth} moves nothing: choose another number.")
    if any(site.layer < 0 for site in steering.operations):
        raise SteerlibError("the norm after the last block has no other layer to be moved to.")
    moved = {Site(s.kind, (s.layer + step) % depth, s.part): op for s, op in steering.operations.items()}
    return Steering(moved, {**steering.provenance, "control": f"moved by {step} blocks"})


def shuffled(
    biased: Sequence[Prompt], neutral: Sequence[Prompt], *, seed: int = 0
) -> tuple[list[Prompt], list[Prompt]]:
    """The same prompts dealt at random to two sides of the same sizes: a contrast of them should do nothing.

    Args:
        biased: the prompts of one side.
        neutral: the prompts of the other.
        seed: of the deal.

    Returns:
        Two lists, as long as those given.

    Example:
        >>> one, other = shuffled(["a", "b", "c"], ["d"])
        >>> len(one), len(other), sorted(one + other)
        (3, 1, ['a', 'b', 'c', 'd'])
    """
    everything = [*biased, *neutral]
    random.Random(seed).shuffle(everything)
    return everything[: len(biased)], everything[len(biased) :]
