"""Direct Steering Optimization: an affine steering of every norm, learned from what the model decides.

    h + s (a * h + b) at the output h of every norm;   a, b start at 0 and are learned at s = 1:

    maximise  E[r(y)] - l1 (|a|_1 + |b|_1)   subject to   KL(steered || unsteered) <= kl_target

r is the reward of `steerlib.training.reward`; what the divergence is taken over is said at its `total_divergence`. Source:
Monteiro Paes et al., arXiv 2512.15926, section 4. Conventional rather than mathematical: see `steerlib.training.loop`.

The authors' own code is apple/ml-dso. It, too, learns a scale and a bias at the output of each LayerNorm from a reward, which
is pluggable there. This is an independent implementation, from the paper. Ours: the expectation summed over the options in
place of samples (which "reinforce" and "ppo" still offer), the reward per prompt, anchors that are held at every token and in
their decisions, a KL weight that follows a target, and runs that resume to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.holds import Part
from steerlib.models.mergeable import mergeable_sites
from steerlib.models.model import Model
from steerlib.models.sites import Site
from steerlib.steering.apply import steer
from steerlib.steering.operations import Affine, Operation, Steering, provenance
from steerlib.tasks import Task
from steerlib.training.config import Training
from steerlib.training.data import Anchors, prepare
from steerlib.training.loop import fit

L1 = 1e-5  # the price of the size of a and b, unless a training sets its own


def dso(
    model: Model,
    task: Task,
    training: Training | None = None,
    *,
    anchors: Anchors = None,
    where: Sequence[Site] | Literal["mergeable"] | None = None,
    parts: Sequence[Part] = ("scale", "shift"),
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Steering:
    """A Steering of Affine operations under which the decisions on the ambiguous items of `task` are fair.

    Every cluster of the task (such as an occupation) counts the same, however many prompts it has.

    Args:
        model: left as it was.
        task: with ambiguous items, whose options stand for two groups or more.
        training: reward, epochs, learning rate, constraint and all other settings; None takes the defaults.
        anchors: what must stay as it is, a Task or prompts; None takes the task's own unambiguous items, () none at all.
        where: sites; None means every norm of the text decoder, and "mergeable" what `merge` can put into a plain checkpoint of
            this family: norms, and of each a, b or both.
        parts: which of a ("scale") and b ("shift") are learned; the others stay 0.
        checkpoint: a file, written at every step, from which a run that was stopped continues to the same bits.
        progress: show a bar.

    Returns:
        A Steering for strengths 0 to 1. Its provenance keeps the settings and, for every step, bias, divergence (nats) and
        anchor accuracy.

    Raises:
        SteerlibError: on input that cannot be learned from, on a checkpoint of another training, and when numbers stop being
            finite or the model is being destroyed.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> task = sl.tasks.Task("few", sl.tasks.pronoun("train").ambiguous.items[:2], about="occupation")
        >>> how = sl.Training(epochs=1, batch_size=2)
        >>> made = sl.dso(lm, task, how, anchors=["The rain began"], where=[sl.Site("norm", -1)], progress=False)
        >>> [str(site) for site in made.operations], len(made.provenance["history"]["bias"])
        (['norm.final'], 1)
    """
    if isinstance(parts, str) or not parts or not set(parts) <= {"scale", "shift"}:
        raise SteerlibError(f"parts must be 'scale', 'shift' or both, in a list, not {parts!r}.")
    training = training or Training()
    training = replace(training, l1=L1 if training.l1 is None else training.l1)
    data = prepare(model, task, anchors, training)
    chosen = _chosen(model, where, parts)
    affine = {}
    for site in chosen:
        width = sites.find(model.hf, site).width
        affine[site] = Affine(torch.zeros(width, device=model.device), torch.zeros(width, device=model.device))
    learned = {
        f"{site}/{part}": getattr(op, part).requires_grad_() for site, op in affine.items() for part in chosen[site]
    }
    with steer(model, Steering(affine)):  # learned under the very hooks that apply it
        history = fit(model, data, training, learned, method="dso", checkpoint=checkpoint, progress=progress)
    made: dict[Site, Operation] = {
        site: Affine(op.scale.detach().cpu(), op.shift.detach().cpu()) for site, op in affine.items()
    }
    facts = data.facts(task, training)
    facts["parts"] = [part for part in ("scale", "shift") if part in parts]
    if where == "mergeable":
        facts["where"] = where
    return Steering(made, provenance(model, "dso", **facts, strengths=[0, 1], history=history))


def _chosen(
    model: Model, where: Sequence[Site] | Literal["mergeable"] | None, parts: Sequence[Part]
) -> dict[Site, tuple[Part, ...]]:
    """Which parts are learned at which sites."""
    if where is None or where != "mergeable":
        if isinstance(where, str):
            raise SteerlibError(f"where must be sites, None or 'mergeable', not {where!r}.")
        return {site: tuple(parts) for site in (sites.sites(model.hf, "norm") if where is None else where)}
    held = {site: tuple(part for part in own if part in parts) for site, own in mergeable_sites(model.hf).items()}
    if not any(held.values()):
        raise SteerlibError(f"no norm of '{model.name}' can be merged with {' and '.join(parts)}: learn other parts.")
    return {site: own for site, own in held.items() if own}
