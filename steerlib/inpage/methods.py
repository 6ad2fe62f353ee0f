"""The five ways of steering that the page offers, and the Steering of each.

Two are contrastive (one direction, added or ablated in the late third of the layers), two are learned (DSO, rewarded
per occupation or per prompt), and one is the control that they are compared with: DSO's operations with random numbers of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from steerlib.assets import data_path
from steerlib.steering.controls import random_like
from steerlib.steering.operations import Steering, load_steering

LATE = tuple(range(20, 30))
"""The last third of SmolLM2's 30 blocks, which the chapter on adding and ablating steers."""
CONTROL = "random-smollm2-pronoun-0"
"""What the control is called among the steerings of the page; it is not a file of data/steerings."""
CONTROLLED = "dso-smollm2-pronoun-0"
"""The steering that the control is like."""


@dataclass(frozen=True)
class Method:
    """One way of steering.

    Attributes:
        id: What the page and the grid call it.
        name: What a reader sees.
        steering: A file of data/steerings without its ending, or `CONTROL`.
        layers: Which layers of it are used by default, or None for all that it has.
        about: One sentence for a reader.
        trained: The least and the greatest strength for which it was made.
    """

    id: str
    name: str
    steering: str
    layers: tuple[int, ...] | None
    about: str
    trained: tuple[float, float] = (0.0, 1.0)


METHODS = (
    Method(
        "add",
        "Contrastive, added",
        "contrastive-smollm2-pronoun-add",
        LATE,
        "Pushes every activation of the late layers the same way along one direction, the difference between sentences about "
        "men and about women; at strength 1 the average over occupations is even.",
    ),
    Method(
        "ablate",
        "Contrastive, ablated",
        "contrastive-smollm2-pronoun-ablate",
        LATE,
        "Takes that direction out of the late layers: at strength 1 every activation lies midway between the two along it.",
    ),
    Method(
        "dso",
        "DSO, per occupation",
        CONTROLLED,
        None,
        "Two learned vectors at every norm, rewarded when the choices about an occupation are even on average over wordings.",
    ),
    Method(
        "dso-per-prompt",
        "DSO, per prompt",
        "dso-smollm2-pronoun-per-prompt-0",
        None,
        "Two learned vectors at every norm, rewarded when each single choice is even.",
    ),
    Method(
        "random",
        "Random control",
        CONTROL,
        None,
        "As many numbers as the first DSO steering has, of the same size at every norm, drawn at random: what any push of that size does.",
    ),
)


def control() -> Steering:
    """The control: random vectors at the norms of `CONTROLLED`, each as long as the one it stands for (seed 0).

    >>> control().provenance["control"]
    'random, seed 0'
    """
    return random_like(steering(CONTROLLED), seed=0)


def steering(name: str) -> Steering:
    """The whole steering that a method names.

    Args:
        name: A file of data/steerings without its ending, or `CONTROL`.

    Returns:
        The Steering, at all of its sites.

    Raises:
        SteerlibError: If there is no such file.

    >>> len(steering("dso-smollm2-pronoun-0").operations)
    61
    """
    return control() if name == CONTROL else load_steering(data_path("steerings", f"{name}.safetensors"))


def applied(method: Method) -> Steering:
    """The part of a method's steering that is used: its own layers.

    Args:
        method: One of `METHODS`.

    Returns:
        The Steering at those layers.

    >>> len(applied(METHODS[0]).operations)
    10
    """
    whole = steering(method.steering)
    if method.layers is None:
        return whole
    kept = {site: operation for site, operation in whole.operations.items() if site.layer in method.layers}
    return replace(whole, operations=kept, provenance={**whole.provenance, "subset": list(method.layers)})
