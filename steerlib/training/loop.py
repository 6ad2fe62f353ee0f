"""The loop that trains a handful of tensors acting on a frozen model.

    each step:  loss = c KL(changed || unchanged) + l1 |learned|_1 - E[r]
                Adam, its rate warming up shortly and then falling linearly to 0
                log c moves by at most 0.1 towards KL = kl_target (a dual variable), unless c is fixed

Several processes, within `steerlib.parallel`, take each step together: see `steerlib.training.shared`.

No weight of the model gets a gradient. Everything random is drawn anew from (seed, step), and whatever else a step needs is in
the checkpoint, so that a run that was stopped continues to the same bits. How fast c moves, and the warm-up, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.models.model import Model
from steerlib.models.parallel import is_first
from steerlib.training.checkpoint import History, Run
from steerlib.training.config import Training
from steerlib.training.data import Dataset
from steerlib.training.part import Part
from steerlib.training.policy import Question, fingerprint
from steerlib.training.reward import Rollout, expected_reward, rewards, rollout
from steerlib.training.shared import add_gradients, own_part, whole_step

WARM_UP = 0.1  # of the steps, in which the learning rate rises
DUAL_SPEED = 0.1  # the most that log c changes in a step
MAX_KL = 0.5  # of log(vocabulary): a divergence above it means that the model is destroyed
CERTAIN, COLLAPSE_STEPS = 0.9999, 10  # so many steps in which every answer is the same and so certain: nothing moves


def fit(
    model: Model,
    data: Dataset,
    training: Training,
    learned: Mapping[str, Tensor],
    *,
    method: str,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train tensors in place.

    Args:
        model: on which they act already.
        data: what is learned from.
        training: how; its l1 is a number.
        learned: by name; they require gradients, and the model is unchanged where all of them are 0.
        method: what the bar, the errors and the checkpoint say.
        checkpoint: a file, written after every step (of ppo: every second step).
        progress: show a bar.

    Returns:
        Bias, divergence (nats) and anchor accuracy of every step, each before the step is taken.

    Raises:
        SteerlibError: if training diverges or collapses, or the checkpoint is of another training.
    """
    run, steps, ppo = Run(learned), len(data.batches), training.estimator == "ppo"
    path, key = None if checkpoint is None else Path(checkpoint), _key(data, training, method, learned)
    if path is not None:
        run.resume(path, key)
    samples: Rollout | None = None
    with tqdm(total=steps, initial=run.step, desc=method, disable=not (progress and is_first())) as bar:
        for step in range(run.step, steps):
            # what the model says now, and what it said before: first n questions, then the anchors
            batch = data.batches[step]
            anchors, n = anchors_of(data, step, training.anchors_per_step), len(batch)
            asked = [*(data.questions[i] for i in batch), *anchors]
            part = Part(
                model, data, training, learned, *own_part(batch, anchors)
            )  # all, unless processes share the step
            said = whole_step(part.answered(), n, len(asked), learned, f"{method} {step}")
            log_p = said.groups[:n]  # (n, groups)

            # the reward of every answer, and samples of them
            cluster = torch.tensor([question.cluster for question in asked[:n]], device=log_p.device)  # (n,)
            unit = cluster if training.reward == "occupation" else torch.arange(n, device=log_p.device)
            reward = rewards(log_p, unit)  # (n, groups)
            if training.estimator == "reinforce" or (ppo and (samples is None or step % 2 == 0)):
                samples = rollout(log_p, reward, training.num_samples, np.random.default_rng([training.seed, 2, step]))

            # the loss
            weight = data.weight[batch].to(log_p.device)  # (n,)
            gain = expected_reward(log_p, reward, weight, samples, clip=ppo)
            kl = said.divergences.mean()
            kl_coef = math.exp(run.log_kl_coef) if training.kl_coef is None else training.kl_coef
            size = sum(value.abs().sum() for value in learned.values()) if training.l1 and is_first() else 0.0  # once
            loss = kl_coef * kl + (training.l1 or 0.0) * size - gain

            # the step
            run.optimizer.zero_grad()
            part.backward(loss)
            add_gradients(learned)
            numbers = metrics(log_p.detach(), cluster, weight, kl.detach(), said.groups[n:], anchors)
            slopes = [value.grad for value in learned.values() if value.grad is not None]
            refuse_divergence(method, step, numbers["kl"], said.vocabulary, [loss, *slopes])
            refuse_collapse(method, run, log_p, data.groups)
            run.optimizer.param_groups[0]["lr"] = training.learning_rate * lr_factor(step, steps)
            run.optimizer.step()
            if training.kl_coef is None and training.kl_target is not None:
                run.log_kl_coef += DUAL_SPEED * min(1.0, numbers["kl"] / training.kl_target - 1)

            # the record
            run.step = step + 1
            for name, value in numbers.items():
                run.history[name].append(None if math.isnan(value) else value)
            if path is not None and is_first() and not (ppo and run.step % 2):
                run.save(path, key)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in numbers.items()})
    return run.history


def anchors_of(data: Dataset, step: int, count: int) -> list[Question]:
    """The anchors of a step, which come round again; none if there are none."""
    first = step * count
    return [data.anchors[i % len(data.anchors)] for i in range(first, first + count)] if data.anchors else []


def metrics(
    log_p: Tensor, cluster: Tensor, weight: Tensor, kl: Tensor, held: Tensor, anchors: Sequence[Question]
) -> dict[str, float]:
    """Bias per occupation, divergence, and the share of anchors answered correctly (NaN if none has an answer)."""
    bias = -expected_reward(log_p, rewards(log_p, cluster), weight)
    right = [int(line.argmax()) == a.answer for line, a in zip(held, anchors, strict=True) if a.answer is not None]
    return {"bias": float(bias), "kl": float(kl), "anchor_accuracy": sum(right) / len(right) if right else math.nan}


def lr_factor(step: int, steps: int) -> float:
    """What the learning rate is multiplied by: it rises at first, since Adam's first steps are large, then falls to 0."""
    return min((step + 1) / (WARM_UP * steps), 1 - step / steps, 1.0)


def refuse_divergence(method: str, step: int, kl: float, vocabulary: int, tensors: Sequence[Tensor]) -> None:
    """Stop when numbers are not finite any more, or when the model says nothing of what it said before."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise SteerlibError(
            f"{method} broke down at step {step}: the loss or a gradient is NaN or infinite; use a smaller learning_rate."
        )
    if kl > MAX_KL * math.log(vocabulary):
        raise SteerlibError(
            f"{method} destroyed the model by step {step}: its next words are {kl:.1f} nats away from what it said before; "
            "use a smaller learning_rate."
        )


def refuse_collapse(method: str, run: Run, log_p: Tensor, groups: Sequence[str]) -> None:
    """Stop when every answer has been the same, and certain, for so long that nothing will move again."""
    sure, answer = log_p.exp().max(-1)
    run.collapsed = run.collapsed + 1 if bool((sure > CERTAIN).all() and (answer == answer[0]).all()) else 0
    if run.collapsed == COLLAPSE_STEPS:
        raise SteerlibError(
            f"{method} collapsed: for {COLLAPSE_STEPS} steps every answer has been '{groups[int(answer[0])]}' with a probability "
            f"above {CERTAIN}, so that there is nothing to learn from; use a smaller learning_rate."
        )


def _key(data: Dataset, training: Training, method: str, learned: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint must agree with."""
    places = {name: list(value.shape) for name, value in learned.items()}
    asked = fingerprint([*data.questions, *data.anchors])
    return {"method": method, "model": data.weights, "task or anchors": asked, "places": places, **asdict(training)}
