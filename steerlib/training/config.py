"""What a training is given: how to train, and on what, read once and asked once of the model as it is.

Every step has some questions, a few of each occupation in it, and a quarter as many anchors, on which the model is to stay as it was.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.model import Model, weights_hash
from steerlib.models.prompts import Prompt
from steerlib.tasks import Task
from steerlib.training.reward import Estimator, Question, Reward, ask, batches, plain, questions

Anchors = Task | Sequence[Prompt] | None
Dtype = Literal["float32", "bfloat16"]

ANCHORS = 4  # a step has one for so many of its questions


@dataclass(frozen=True)
class Plan:
    """How to train; the words stand at `dso`."""

    reward: Reward
    estimator: Estimator
    samples: int
    passes: int
    batch_size: int
    together: int | None
    learning_rate: float
    l1: float
    eps: float | None
    kl_weight: float | None
    seed: int
    dtype: Dtype

    @property
    def anchors(self) -> int:
        """How many of them a step has."""
        return -(-self.batch_size // ANCHORS)

    def __post_init__(self) -> None:
        if self.reward not in ("occupation", "prompt"):
            raise SteerlibError(f"'{self.reward}' is no reward: use 'occupation' or 'prompt'.")
        if self.estimator not in ("reinforce", "ppo", "exact"):
            raise SteerlibError(f"'{self.estimator}' is no estimator: use 'reinforce', 'ppo' or 'exact'.")
        if self.dtype not in ("float32", "bfloat16"):
            raise SteerlibError(f"'{self.dtype}' is no type to train in: use 'float32' or 'bfloat16'.")
        if self.kl_weight is None and not (self.eps is not None and self.eps > 0):
            raise SteerlibError(
                f"eps must be above 0 nats, not {self.eps}: at 0 the model would not be allowed to change."
            )
        for name, least in (("passes", 1), ("batch_size", 1), ("samples", 1 if self.estimator == "exact" else 2)):
            if getattr(self, name) < least:
                raise SteerlibError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        if self.together is not None and self.together < 1:
            raise SteerlibError(f"together must be at least 1, not {self.together}, or None for a whole occupation.")
        if not self.learning_rate > 0:
            raise SteerlibError(f"learning_rate must be above 0, not {self.learning_rate}.")
        for name in ("l1", "kl_weight"):
            if (getattr(self, name) or 0) < 0:
                raise SteerlibError(f"{name} must be at least 0, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Data:
    """What is learned from. asked: ambiguous questions, weighted by weight (n,); anchors: what is to stay as it was.

    groups: their names. base: (1, vocabulary) each, what the model answered before, as log-probabilities, on the CPU.
    turns: which questions, at every step. model: the hash of its weights.
    """

    asked: list[Question]
    weight: Tensor
    anchors: list[Question]
    groups: list[str]
    base: list[Tensor]
    turns: list[list[int]]
    model: str


def gather(model: Model, task: Task, anchors: Anchors, plan: Plan) -> Data:
    """The task's ambiguous items and the anchors, read once and asked once of the model as it is.

    Says aloud what is unusual about them. Raises SteerlibError if there is nothing to decide.
    """
    if len(task.ambiguous) == 0:
        raise SteerlibError(f"'{task.name}' has no ambiguous items: there is no decision to make fair.")
    asked, groups, names = questions(model, task.ambiguous)
    count = Counter(question.occupation for question in asked)
    few, many = min(count, key=lambda o: count[o]), max(count, key=lambda o: count[o])
    if count[few] < count[many]:
        warnings.warn(
            f"occupations have unequal samples ({count[few]} on '{names[few]}', {count[many]} on '{names[many]}'): they are "
            "weighted so that each counts the same.",
            stacklevel=3,
        )
    weight = torch.tensor([len(asked) / len(count) / count[question.occupation] for question in asked])
    if isinstance(anchors, str):
        raise SteerlibError("one text was given as anchors: put it in a list.")
    turns = _turns(asked, plan)
    held = _met(task.unambiguous if anchors is None else anchors, len(turns), plan)
    if len(held) == 0:
        warnings.warn(
            "there are no anchors: the divergence is watched on ambiguous prompts only, so that the model may stop minding "
            "what a text says of a person's gender.",
            stacklevel=3,
        )
    if not isinstance(held, Task):
        kept = plain(model, held)
    elif held.items:
        kept, theirs, _ = questions(model, held, whole=True)
        if theirs != groups:
            raise SteerlibError(
                f"the anchors are about {', '.join(theirs)}, but '{task.name}' about {', '.join(groups)}."
            )
    else:
        kept = []
    base: list[Tensor] = []
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=plan.dtype == "bfloat16"):
        for start in range(0, len(asked), 256):
            part = asked[start : start + 256]
            base += [line.to("cpu", copy=True) for line in ask(model, part, len(groups), batch_size=plan.batch_size)[1]]
    return Data(asked, weight, kept, groups, base, turns, weights_hash(model))


def _turns(asked: Sequence[Question], plan: Plan) -> list[list[int]]:
    """Of every step, which questions. Two steps of ppo share theirs, so that it sees half as many."""
    occupation = [question.occupation for question in asked]
    parts = [
        part
        for number in range(plan.passes)
        for part in batches(occupation, plan.batch_size, plan.together, np.random.default_rng([plan.seed, 0, number]))
    ]
    return [parts[step // 2] for step in range(len(parts))] if plan.estimator == "ppo" else parts


def _met(anchors: Task | Sequence[Prompt], steps: int, plan: Plan) -> Task | Sequence[Prompt]:
    """The anchors that so many steps will meet, in the order in which they do: all of them, or as many as there is time for."""
    each = np.random.default_rng([plan.seed, 1]).permutation(len(anchors))[: steps * plan.anchors].tolist()
    if isinstance(anchors, Task):
        return Task(anchors.name, tuple(anchors.items[i] for i in each))
    return [anchors[i] for i in each]
