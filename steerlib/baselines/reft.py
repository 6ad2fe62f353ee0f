"""One learned linear map at one place, at the same reward, the same data and the same number of steps as `dso`.

    h + s (W h + b)       at one block;   W (width, width) and b start at 0 and are learned at s = 1

The other end from `dso`, which learns two numbers per coordinate at every norm: everything that a linear map can do, but at one
place only. Compare LoReFT (Wu et al., arXiv 2404.03592), which learns such a map of low rank, from demonstrations; here the rank is full
and the objective that of `dso`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import Site
from steerlib.steering.apply import steer
from steerlib.steering.maps import Linear
from steerlib.steering.operations import Steering, provenance
from steerlib.tasks import Task
from steerlib.training.config import Training
from steerlib.training.data import Anchors, prepare
from steerlib.training.loop import fit


def reft(
    model: Model,
    task: Task,
    training: Training | None = None,
    *,
    where: Site,
    anchors: Anchors = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Steering:
    """A Steering of one Linear operation under which the decisions on the ambiguous items of `task` are fair.

    Args:
        model: left as it was.
        task: as for `dso`, with which it shares data, order, objective and steps.
        training: as for `dso`; without an l1 of its own, size costs nothing.
        where: the site of the map.
        anchors: what must stay as it is, as for `dso`.
        checkpoint: a file from which a run that was stopped continues to the same bits.
        progress: show a bar.

    Returns:
        A Steering for strengths 0 to 1, with the same facts in its provenance as one of `dso` has.

    Raises:
        SteerlibError: as `dso` does.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> task = sl.tasks.Task("few", sl.tasks.pronoun("train").ambiguous.items[:2], about="occupation")
        >>> how = sl.Training(epochs=1, batch_size=2)
        >>> made = sl.reft(lm, task, how, anchors=["The rain began"], where=sl.Site("residual", 20), progress=False)
        >>> tuple(made["residual.20"].matrix.shape)
        (576, 576)
    """
    training = training or Training()
    training = replace(training, l1=training.l1 or 0.0)
    data = prepare(model, task, anchors, training)
    width = sites.find(model.hf, where).width
    matrix, shift = (
        torch.zeros(shape, device=model.device, requires_grad=True) for shape in ((width, width), (width,))
    )
    with steer(model, Steering({where: Linear(matrix, shift)})):
        learned = {f"{where}/matrix": matrix, f"{where}/shift": shift}
        history = fit(model, data, training, learned, method="reft", checkpoint=checkpoint, progress=progress)
    facts = data.facts(task, training)
    made = provenance(model, "reft", **facts, strengths=[0, 1], history=history)
    return Steering({where: Linear(matrix.detach().cpu(), shift.detach().cpu())}, made)
