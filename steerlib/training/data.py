"""What a training learns from, read once: prompts to decide, anchors that must stay as they are, and who is met when."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.model import Model, weights_hash
from steerlib.models.parallel import divided, share
from steerlib.models.prompts import Prompt
from steerlib.tasks import Task
from steerlib.training.config import Training
from steerlib.training.policy import Question, policy, questions, without_options

Anchors = Task | Sequence[Prompt] | None

READ_AT_ONCE = 256  # questions asked of the unchanged model before their answers move to the CPU


@dataclass(frozen=True)
class Dataset:
    """What is learned from.

    questions: the ambiguous ones, weighted by weight (n,). anchors: what must stay as it was. groups: their names.
    reference: (1, vocabulary) each, the log-probabilities of the next token before training, on the CPU, by the number of the
    question: those that this process asks. batches: which questions each step has. weights: the hash of the model's weights.
    """

    questions: list[Question]
    weight: Tensor
    anchors: list[Question]
    groups: list[str]
    reference: dict[int, Tensor]
    batches: list[list[int]]
    weights: str

    def facts(self, task: Task, training: Training) -> dict[str, Any]:
        """What the provenance of everything that is learned from it says of the training."""
        return {**asdict(training), "task": task.name, "prompts": len(self.questions), "anchors": len(self.anchors)}


def prepare(model: Model, task: Task, anchors: Anchors, training: Training) -> Dataset:
    """The task's ambiguous items and the anchors, read once, with the unchanged model's answers to the former.

    Warns of unequal samples and of missing anchors. Raises SteerlibError if there is nothing to decide.
    """
    if len(task.ambiguous) == 0:
        raise SteerlibError(f"'{task.name}' has no ambiguous items: there is no decision to make fair.")
    if isinstance(anchors, str):
        raise SteerlibError("one text was given as anchors: put it in a list.")
    asked, groups, clusters = questions(model, task.ambiguous)
    count = Counter(question.cluster for question in asked)
    few, many = min(count, key=lambda c: count[c]), max(count, key=lambda c: count[c])
    if count[few] < count[many]:
        warnings.warn(
            f"the {task.about}s have unequal samples ({count[few]} on '{clusters[few]}', {count[many]} on "
            f"'{clusters[many]}'): they are weighted so that each counts the same.",
            stacklevel=3,
        )
    weight = torch.tensor([len(asked) / len(count) / count[question.cluster] for question in asked])
    batches = schedule([question.cluster for question in asked], training)
    held = task.unambiguous if anchors is None else anchors
    if len(held) == 0:
        warnings.warn(
            "there are no anchors: the divergence is watched on ambiguous prompts only, so that the model may stop minding "
            "what a text says about a person's gender.",
            stacklevel=3,
        )
    kept = _anchors(model, held, groups, task, len(batches) * training.anchors_per_step, training.seed)
    own = sorted({i for batch in batches for i in share(batch)}) if divided() else list(range(len(asked)))
    reference: dict[int, Tensor] = {}
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=training.dtype == "bfloat16"):
        for start in range(0, len(own), READ_AT_ONCE):
            part = own[start : start + READ_AT_ONCE]
            tokens = policy(model, [asked[i] for i in part], len(groups), batch_size=training.batch_size).tokens
            reference |= {i: line.to("cpu", copy=True) for i, line in zip(part, tokens, strict=True)}
    return Dataset(asked, weight, kept, groups, reference, batches, weights_hash(model))


def _anchors(
    model: Model, held: Task | Sequence[Prompt], groups: list[str], task: Task, most: int, seed: int
) -> list[Question]:
    """The anchors that the steps will meet, in order: all of them in a random order, or the first `most`."""
    order = np.random.default_rng([seed, 1]).permutation(len(held))[:most].tolist()
    if not isinstance(held, Task):
        return without_options(model, [held[i] for i in order])
    if not order:
        return []
    kept, theirs, _ = questions(model, replace(held, items=tuple(held.items[i] for i in order)), whole=True)
    if theirs != groups:
        raise SteerlibError(f"the anchors are about {', '.join(theirs)}, but '{task.name}' about {', '.join(groups)}.")
    return kept


def schedule(cluster: Sequence[int], training: Training) -> list[list[int]]:
    """Which questions each step has. Two steps of ppo share a batch, so it sees half as many."""
    found = []
    for epoch in range(training.epochs):
        rng = np.random.default_rng([training.seed, 0, epoch])
        found += minibatches(cluster, training.batch_size, training.per_cluster, rng)
    return [found[step // 2] for step in range(len(found))] if training.estimator == "ppo" else found


def minibatches(
    cluster: Sequence[int], size: int, per_cluster: int | None, rng: np.random.Generator
) -> list[list[int]]:
    """One epoch: questions in batches of about `size`, each cluster's dealt into equal parts of at most `per_cluster`.

    Every cluster has its turn before one comes again. None keeps a cluster whole where it fits into a batch.
    """
    most = min(size, per_cluster or size)
    dealt: list[list[list[int]]] = []
    for name in sorted(set(cluster)):
        own = rng.permutation([i for i, c in enumerate(cluster) if c == name])
        dealt.append([part.tolist() for part in np.array_split(own, -(-len(own) // most))])
    found: list[list[int]] = [[]]
    for turn in zip_longest(*dealt, fillvalue=[]):
        for part in (turn[p] for p in rng.permutation(len(turn))):
            if found[-1] and len(found[-1]) + len(part) > size:
                found.append([])
            found[-1] += part
    return found
