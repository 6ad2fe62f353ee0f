"""Training a handful of tensors that act on a frozen model, by the reward of `steerlib.training.reward`.

    each step:  loss = mu KL(changed || base) + l1 |learned|_1 - E[r];    Adam, its rate rising shortly and then
                falling linearly to 0;    log mu moves by at most 0.1 towards KL = eps (a dual variable), unless mu is fixed

No weight of the model gets a gradient. Everything random is drawn anew from (seed, step), and whatever else a step needs is in
the checkpoint, so that a run that was stopped goes on to the same bits. How fast mu moves, and the rise of the
rate, are ours.
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
from steerlib.training.checkpoint import History, Run
from steerlib.training.config import Data, Plan
from steerlib.training.reward import (
    Draw,
    Question,
    ask,
    divergence,
    draw,
    expected,
    fingerprint,
    rewards,
)

BETAS, SMALL = (0.9, 0.99), 1e-8  # of Adam
WARM_UP = 0.1  # of the steps, in which the learning rate rises
DUAL_SPEED = 0.1  # the most that log mu changes in a step
LOST = 0.5  # of log(vocabulary): a divergence above it means that the model is destroyed
SURE, STUCK = 0.9999, 10  # so many steps in which every answer is the same and so certain: nothing moves any more


def fit(
    model: Model,
    data: Data,
    plan: Plan,
    learned: Mapping[str, Tensor],
    *,
    method: str,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Train tensors in place. learned: by name; they act on the model already. method: what the bar and the file say.

    Returns bias, divergence (nats) and anchor accuracy of every step, each before the step is taken. Raises SteerlibError if
    training breaks down, or if the checkpoint is of another training.
    """
    run = Run(learned)
    path, key = None if checkpoint is None else Path(checkpoint), _key(data, plan, method, learned)
    if path is not None:
        run.resume(path, key)
    drawn: Draw | None = None
    with tqdm(total=len(data.turns), initial=run.step, desc=method, disable=not progress) as bar:
        for step in range(run.step, len(data.turns)):
            part, weight = data.turns[step], data.weight[data.turns[step]].to(model.device)
            first = step * plan.anchors  # of the anchors, which come round again
            held = [i % len(data.anchors) for i in range(first, first + plan.anchors)] if data.anchors else []
            anchors, k = [data.anchors[i] for i in held], len(part)
            with torch.autocast(model.device.type, torch.bfloat16, enabled=plan.dtype == "bfloat16"):
                kept, held_base = _before(model, anchors, data, plan, learned)
                base = [*(data.base[i].to(model.device) for i in part), *held_base]
                log_p, said = ask(
                    model, [*(data.asked[i] for i in part), *anchors], len(data.groups), batch_size=plan.batch_size
                )
            policy, kl = log_p[:k], _apart(said, base, k, log_p[k:], kept)
            about = torch.tensor([data.asked[i].occupation for i in part], device=log_p.device)
            reward = rewards(
                policy, about if plan.reward == "occupation" else torch.arange(len(part), device=about.device)
            )
            if plan.estimator != "exact" and (drawn is None or plan.estimator == "reinforce" or step % 2 == 0):
                drawn = draw(policy, reward, plan.samples, np.random.default_rng([plan.seed, 2, step]))
            gain = expected(policy, reward, weight, drawn, clip=plan.estimator == "ppo")
            mu = math.exp(run.log_mu) if plan.kl_weight is None else plan.kl_weight
            size = sum(value.abs().sum() for value in learned.values()) if plan.l1 else 0.0
            loss = mu * kl + plan.l1 * size - gain
            slopes = torch.autograd.grad(loss, list(learned.values()))
            now = _numbers(policy.detach(), about, weight, kl.detach(), log_p[k:], anchors)
            _refuse_ruin(method, step, now["kl"], said[0].shape[1], [loss, *slopes])
            _refuse_collapse(method, run, policy, data.groups)
            _adam(run, slopes, plan.learning_rate * _rate(step, len(data.turns)))
            if plan.kl_weight is None and plan.eps is not None:
                run.log_mu += DUAL_SPEED * min(1.0, now["kl"] / plan.eps - 1)
            for name, value in now.items():
                run.history[name].append(None if math.isnan(value) else value)
            run.step = step + 1
            if path is not None and (plan.estimator != "ppo" or run.step % 2 == 0):
                run.save(path, key)
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in now.items()})
    return run.history


def _apart(said: Sequence[Tensor], base: Sequence[Tensor], asked: int, held: Tensor, kept: Tensor) -> Tensor:
    """The divergence of a step: the mean of that of the answers to questions, to anchors, of every token of anchors, and of the
    decisions of anchors, held and kept (anchors, groups), however seldom any option is said."""
    answers = divergence([a[-1:] for a in said], [b[-1:] for b in base])
    parts = [answers[:asked]]
    if said[asked:]:
        parts += [answers[asked:], divergence(said[asked:], base[asked:])]
    if kept.any():  # some have options
        parts.append((held.exp() * (held - kept)).sum(-1))
    return torch.stack([part.mean() for part in parts]).mean()


def _before(
    model: Model, anchors: list[Question], data: Data, plan: Plan, learned: Mapping[str, Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """What the model answers on anchors, as `ask`, while everything that is learned is 0: what it said before."""
    if not anchors:
        return torch.zeros(0, len(data.groups), device=model.device), []
    with torch.no_grad():
        now = [value.clone() for value in learned.values()]
        for value in learned.values():
            value.zero_()
        try:
            return ask(model, anchors, len(data.groups), batch_size=plan.batch_size)
        finally:
            for value, kept in zip(learned.values(), now, strict=True):
                value.copy_(kept)


def _numbers(
    policy: Tensor, about: Tensor, weight: Tensor, kl: Tensor, held: Tensor, anchors: Sequence[Question]
) -> dict[str, float]:
    """What the bar shows: bias per occupation, divergence, and the share of anchors answered rightly (NaN without answers)."""
    bias = -expected(policy, rewards(policy, about), weight)
    right = [int(line.argmax()) == a.answer for line, a in zip(held, anchors, strict=True) if a.answer is not None]
    return {"bias": float(bias), "kl": float(kl), "anchor_accuracy": sum(right) / len(right) if right else math.nan}


def _rate(step: int, steps: int) -> float:
    """Of the learning rate: it rises over the first tenth of the steps, since Adam's first steps are large, then falls to 0."""
    return min((step + 1) / (WARM_UP * steps), 1 - step / steps, 1.0)


def _adam(run: Run, slopes: Sequence[Tensor], rate: float) -> None:
    """One step of Adam (Kingma and Ba, arXiv 1412.6980), in place."""
    (one, two), count = BETAS, run.step + 1
    with torch.no_grad():
        for (name, value), slope in zip(run.learned.items(), slopes, strict=True):
            mean = run.mean[name].mul_(one).add_(slope, alpha=1 - one)
            square = run.square[name].mul_(two).addcmul_(slope, slope, value=1 - two)
            value.addcdiv_(mean, (square / (1 - two**count)).sqrt_().add_(SMALL), value=-rate / (1 - one**count))


def _refuse_ruin(method: str, step: int, kl: float, vocabulary: int, tensors: Sequence[Tensor]) -> None:
    """Stop when the numbers are no numbers any more, or when the model says nothing of what it said before."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise SteerlibError(
            f"{method} broke down at step {step}: the loss or a gradient is NaN or infinite; use a smaller learning_rate."
        )
    if kl > LOST * math.log(vocabulary):
        raise SteerlibError(
            f"{method} destroyed the model by step {step}: its next words are {kl:.1f} nats away from what it said before; "
            "use a smaller learning_rate."
        )


def _refuse_collapse(method: str, run: Run, policy: Tensor, groups: Sequence[str]) -> None:
    """Stop when every answer has been the same, and certain, for so long that nothing will move again."""
    sure, answer = policy.exp().max(-1)
    run.stuck = run.stuck + 1 if bool((sure > SURE).all() and (answer == answer[0]).all()) else 0
    if run.stuck == STUCK:
        raise SteerlibError(
            f"{method} collapsed: for {STUCK} steps every answer has been '{groups[int(answer[0])]}' with a probability above "
            f"{SURE}, so that there is nothing to learn from; use a smaller learning_rate."
        )


def _key(data: Data, plan: Plan, method: str, learned: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint must agree with."""
    places = {name: list(value.shape) for name, value in learned.items()}
    asked = fingerprint([*data.asked, *data.anchors])
    return {"method": method, "model": data.model, "task or anchors": asked, "places": places, **asdict(plan)}
