"""How to train: one set of settings for everything that learns by the reward of `steerlib.training.reward`."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Literal

from steerlib.errors import SteerlibError, check_count

Reward = Literal["occupation", "prompt"]
Estimator = Literal["exact", "reinforce", "ppo"]
Dtype = Literal["float32", "bfloat16"]

ANCHOR_SHARE = 4  # a step has one anchor per so many of its prompts


@dataclass(frozen=True)
class Training:
    """How `dso` and `lora` train. Every setting has a default; `dataclasses.replace` changes some.

    Args:
        reward: -1 for the group that is given most often to an "occupation" (any cluster of the task), or at each single
            "prompt".
        estimator: of the expected reward's gradient. "exact" sums over the options; "reinforce" (with a leave-one-out
            baseline) and "ppo" (clipped, two steps per batch) sample answers.
        num_samples: answers sampled per prompt; not used by "exact".
        epochs: passes over the ambiguous prompts.
        batch_size: ambiguous prompts per step; a quarter as many anchors join them.
        per_cluster: the most prompts about one occupation in a step, from which its majority is read. With few of them a step
            sees many occupations, and wordings cannot make up for each other; None keeps an occupation whole.
        learning_rate: of Adam, at its peak; it warms up over the first tenth of the steps and then falls linearly to 0.
        l1: the price of the size of what is learned; None takes the method's own (1e-5 for `dso`, 0 for `lora`).
        kl_target: the divergence from the unchanged model that is allowed, in nats; the weight of the KL term follows it.
        kl_coef: a fixed weight of the KL term, in place of a target.
        seed: of everything random.
        micro_batch_size: how many prompts and anchors keep their activations at a time. A step is the same, up to rounding, in
            less memory and about a third more time; None keeps those of a whole step.
        dtype: "bfloat16" runs the network in it, on processors that have it; what is learned stays float32.

    Raises:
        SteerlibError: if a setting is not one that can be trained with.

    Example:
        >>> from steerlib import Training
        >>> Training(epochs=1).batch_size
        16
        >>> Training(epochs=0)
        Traceback (most recent call last):
        steerlib.errors.SteerlibError: epochs must be a whole number of at least 1, not 0.
    """

    reward: Reward = "occupation"
    estimator: Estimator = "exact"
    num_samples: int = 8
    epochs: int = 2
    batch_size: int = 16
    per_cluster: int | None = 2
    learning_rate: float = 1e-3
    l1: float | None = None
    kl_target: float | None = 0.2
    kl_coef: float | None = None
    seed: int = 0
    micro_batch_size: int | None = None
    dtype: Dtype = "float32"

    @property
    def anchors_per_step(self) -> int:
        """How many anchors a step has."""
        return -(-self.batch_size // ANCHOR_SHARE)

    def __post_init__(self) -> None:
        for name, known in (
            ("reward", ("occupation", "prompt")),
            ("estimator", ("exact", "reinforce", "ppo")),
            ("dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in known:
                raise SteerlibError(f"unknown {name} '{getattr(self, name)}': choose {' or '.join(map(repr, known))}.")
        least = {"epochs": 1, "batch_size": 1, "num_samples": 1 if self.estimator == "exact" else 2, "seed": 0}
        for name in ("per_cluster", "micro_batch_size"):
            if getattr(self, name) is not None:
                least[name] = 1
        for name, lowest in least.items():
            object.__setattr__(self, name, check_count(name, getattr(self, name), lowest))
        for name in ("learning_rate", "l1", "kl_target", "kl_coef"):
            value = getattr(self, name)
            if value is None and name != "learning_rate":
                continue
            if not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
                raise SteerlibError(f"{name} must be a number of at least 0, not {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.learning_rate == 0:
            raise SteerlibError("learning_rate must be above 0: at 0 nothing is learned.")
        if self.kl_coef is None and not self.kl_target:
            raise SteerlibError(
                f"kl_target must be above 0 nats, not {self.kl_target}: at 0 the model would not be allowed to change."
            )
