"""Direct Steering Optimization: an affine steering of every norm, learned from what the model decides.

    h + s (a * h + b) at the output h of every norm;   a, b start at 0 and are learned at s = 1:

    maximise  E[r(y)] - l1 (|a|_1 + |b|_1)   subject to   KL(steered || base) <= eps

r is the reward of `steerlib.training.reward`. The divergence is a mean of four: over the whole vocabulary, of the answers to the
ambiguous prompts, of those to anchors, on which nothing should change, and of every token of the anchors; and of the anchors'
decisions between their options, which would hardly count among all words. Source: Monteiro Paes et al., arXiv 2512.15926,
section 4. Conventional rather than mathematical: see `steerlib.training.loop`. Ours: the expectation summed over the options
in place of samples, the reward per prompt, and anchors that are held at every token and in their decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import Site
from steerlib.steering.apply import steer
from steerlib.steering.operations import Affine, Operation, Steering, provenance
from steerlib.tasks import Task
from steerlib.training.config import Anchors, Dtype, Plan, gather
from steerlib.training.loop import fit
from steerlib.training.reward import Estimator, Reward


def dso(
    model: Model,
    task: Task,
    *,
    anchors: Anchors = None,
    where: Sequence[Site] | None = None,
    reward: Reward = "occupation",
    estimator: Estimator = "exact",
    samples: int = 8,
    passes: int = 2,
    batch_size: int = 16,
    together: int | None = 2,
    learning_rate: float = 1e-3,
    l1: float = 1e-5,
    eps: float | None = 0.2,
    kl_weight: float | None = None,
    seed: int = 0,
    dtype: Dtype = "float32",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Steering:
    """A Steering of Affine operations under which the decisions on the ambiguous items of `task` are fair.

    anchors: what is to stay as it is, a Task or prompts; None takes the task's own unambiguous items, () none at all.
    where: sites; None means every norm of the text decoder. reward: -1 for the group that an "occupation", or each single
    "prompt", gets most often. estimator: "reinforce" and "ppo" draw `samples` answers a prompt, "exact" sums over the options.
    passes: over the ambiguous prompts; batch_size: of them in a step, with a quarter as many anchors. together: how many prompts of
    an occupation share a step, from which its majority is read: with few of them a step sees many occupations, and wordings cannot
    make up for each other; None keeps an occupation whole. learning_rate: of Adam, at
    first. l1: what the size of a and b costs. eps: the divergence allowed, in nats; kl_weight: a fixed weight in its place.
    dtype: "bfloat16" runs the network in it, for processors that have it; a and b stay float32. checkpoint: a file, written at
    every step, from which a run that was stopped goes on to the same bits. progress: show a bar.

    Every occupation counts the same, however many prompts it has. The provenance keeps the settings and, of every step, bias,
    divergence and anchor accuracy. Raises SteerlibError on input that cannot be learned from, on a checkpoint of another
    training, and when the numbers stop being finite or the model is being destroyed.
    """
    plan = Plan(
        reward, estimator, samples, passes, batch_size, together, learning_rate, l1, eps, kl_weight, seed, dtype
    )
    data = gather(model, task, anchors, plan)
    chosen = sites.sites(model.hf, "norm") if where is None else list(where)
    widths = {site: sites.find(model.hf, site).width for site in chosen}
    affine = {site: Affine(*torch.zeros(2, width, device=model.device)) for site, width in widths.items()}
    learned = {f"{site}/{name}": v.requires_grad_() for site, op in affine.items() for name, v in vars(op).items()}
    with steer(model, Steering(affine)):  # learned under the very hooks that apply it
        history = fit(model, data, plan, learned, method="dso", checkpoint=checkpoint, progress=progress)
    made: dict[Site, Operation] = {
        s: Affine(op.scale.detach().cpu(), op.shift.detach().cpu()) for s, op in affine.items()
    }
    facts = {**asdict(plan), "task": task.name, "prompts": len(data.asked), "anchors": len(data.anchors)}
    return Steering(made, provenance(model, "dso", **facts, strengths=[0, 1], history=history))
