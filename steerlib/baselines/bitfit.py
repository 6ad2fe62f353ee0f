"""Biases only: a learned number on every output of every linear map, at the same reward, the same data and the same steps as `dso`.

    W x + b  for every linear map W of the text decoder's blocks;   b starts at 0

BitFit (Ben Zaken et al., arXiv 2106.10199) trains the biases that a model has. Llama and its kin have none, so each linear map
gets one; where there is one already, b adds to it. The objective is that of Monteiro Paes et al. (see `steerlib.methods.dso`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerlib.baselines.adapter import Adapter
from steerlib.baselines.lora import is_map
from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import uncompiled
from steerlib.steering.operations import provenance
from steerlib.tasks import Task
from steerlib.training.config import Training
from steerlib.training.data import Anchors, prepare
from steerlib.training.loop import fit


def bitfit(
    model: Model,
    task: Task,
    training: Training | None = None,
    *,
    anchors: Anchors = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Adapter:
    """An Adapter of biases under which the decisions on the ambiguous items of `task` are fair; the model is left as it was.

    Args:
        model: left as it was.
        task: as for `dso`, with which it shares data, order, objective and steps.
        training: as for `dso`; without an l1 of its own, size costs nothing.
        anchors: what must stay as it is, as for `dso`.
        checkpoint: a file from which a run that was stopped continues to the same bits.
        progress: show a bar.

    Returns:
        An Adapter for `adapted`, with the same facts in its provenance as a steering of `dso` has.

    Raises:
        SteerlibError: as `dso` does.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> task = sl.tasks.Task("few", sl.tasks.pronoun("train").ambiguous.items[:2], about="occupation")
        >>> how = sl.Training(epochs=1, batch_size=2)
        >>> adapter = sl.bitfit(lm, task, how, anchors=["The rain began"], progress=False)
        >>> sum(bias.numel() for bias in adapter.weights.values())
        155520
    """
    training = training or Training()
    training = replace(training, l1=training.l1 or 0.0)
    data = prepare(model, task, anchors, training)
    with biased(model) as learned:
        for value in learned.values():
            value.requires_grad_()
        history = fit(model, data, training, learned, method="bitfit", checkpoint=checkpoint, progress=progress)
        weights = {name: value.detach().cpu().clone() for name, value in learned.items()}
    facts = data.facts(task, training)
    return Adapter(weights, 0, training.seed, provenance(model, "bitfit", **facts, history=history), "bitfit")


@contextmanager
def biased(model: Model) -> Iterator[dict[str, Tensor]]:
    """The model with a bias of 0 on every linear map of its blocks; yields the biases by name, and takes them off again."""
    maps = {name: module for name, module in sites.blocks(model.hf).named_modules() if is_map(module)}
    if not maps:
        raise SteerlibError(f"the blocks of '{model.name}' hold no linear maps (nn.Linear) that could get a bias.")
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.hf))
        learned = {}
        for name, module in maps.items():
            bias = torch.zeros(_outputs(module), device=module.weight.device)
            learned[name] = bias

            def add(module: nn.Module, args: Any, output: Tensor, bias: Tensor = bias) -> Tensor:
                return output + bias.to(output.dtype)

            stack.callback(module.register_forward_hook(add).remove)
        yield learned


def _outputs(module: nn.Module) -> int:
    """How many numbers a linear map gives."""
    return int(module.nf if isinstance(module, Conv1D) else module.out_features)  # type: ignore[arg-type]
