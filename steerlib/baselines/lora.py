"""Why not just train? A low-rank fine-tune at the same reward, the same data and the same number of steps as `dso`.

    W + (scale / rank) B A  for every linear map W of the text decoder's blocks;   B starts at 0

Linear maps are nn.Linear and GPT-2's Conv1D. A mixture of experts keeps most of its weights in tensors that are neither: it is
told which share of the blocks' weights an adapter reaches.

The comparison that a steering must stand: an adapter has many times the parameters of `dso`, no strength to turn, and changes
the weights. Source: Hu et al., arXiv 2106.09685; the objective is that of Monteiro Paes et al. (see `steerlib.methods.dso`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerlib.baselines.adapter import Adapter
from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.steering.operations import provenance
from steerlib.tasks import Task
from steerlib.training.config import Training
from steerlib.training.data import Anchors, prepare
from steerlib.training.loop import fit


def lora(
    model: Model,
    task: Task,
    training: Training | None = None,
    *,
    anchors: Anchors = None,
    rank: int = 8,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Adapter:
    """An Adapter under which the decisions on the ambiguous items of `task` are fair; the model is left as it was.

    Args:
        model: left as it was.
        task: as for `dso`, with which it shares data, order, objective and steps.
        training: as for `dso`; without an l1 of its own, size costs nothing.
        anchors: what must stay as it is, as for `dso`.
        rank: of the update of each linear map.
        checkpoint: a file from which a run that was stopped continues to the same bits.
        progress: show a bar.

    Returns:
        An Adapter for `adapted`, with the same facts in its provenance as a steering of `dso` has.

    Raises:
        SteerlibError: as `dso` does, or if the package peft is missing.

    Warns:
        UserWarning: the linear maps hold less than 95 % of the weights of the blocks' matrices.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> task = sl.tasks.Task("few", sl.tasks.pronoun("train").ambiguous.items[:2], about="occupation")
        >>> how = sl.Training(epochs=1, batch_size=2)
        >>> adapter = sl.lora(lm, task, how, anchors=["The rain began"], rank=1, progress=False)
        >>> with sl.adapted(lm, adapter):
        ...     lm.choose("The nurse said that", [" he", " she"]).shape
        torch.Size([2])
    """
    if rank < 1:
        raise SteerlibError(f"the rank of an update must be at least 1, not {rank}.")
    training = training or Training()
    training = replace(training, l1=training.l1 or 0.0)
    data = prepare(model, task, anchors, training)
    _tell_share(model)
    with injected(model, rank, seed=training.seed) as learned:
        for value in learned.values():
            value.requires_grad_()
        history = fit(model, data, training, learned, method=f"lora-{rank}", checkpoint=checkpoint, progress=progress)
        weights = {name: value.detach().cpu().clone() for name, value in learned.items()}
    facts = data.facts(task, training)
    return Adapter(weights, rank, training.seed, provenance(model, "lora", rank=rank, **facts, history=history))


@contextmanager
def injected(model: Model, rank: int, *, seed: int) -> Iterator[dict[str, Tensor]]:
    """The model with fresh low-rank updates in its blocks, frozen; yields them by name, and takes them out again."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SteerlibError("lora needs the package peft: install it with `pip install peft`.") from error
    blocks = sites.blocks(model.hf)
    maps = [name for name, module in blocks.named_modules() if is_map(module)]
    if not maps:
        raise SteerlibError(f"the blocks of '{model.name}' hold no linear maps (nn.Linear) that could be updated.")
    before = {name: blocks.get_submodule(name) for name in maps}
    transposed = any(isinstance(module, Conv1D) for module in before.values())
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=maps, fan_in_fan_out=transposed)
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, blocks)
        yield {name: value.requires_grad_(False) for name, value in blocks.named_parameters() if ".lora_" in name}
    finally:
        vars(blocks).pop("peft_config", None)
        for name, module in before.items():
            parent, _, last = name.rpartition(".")
            setattr(blocks.get_submodule(parent), last, module)


def is_map(module: nn.Module) -> bool:
    """Whether a module is a linear map that peft can update, and hands on what a linear map does (a router may not)."""
    theirs = type(module).__module__.startswith("transformers.models.")
    return isinstance(module, (nn.Linear, Conv1D)) and not theirs


def _tell_share(model: Model) -> None:
    """Warn where much of the blocks' weights is in no linear map."""
    parts = list(sites.blocks(model.hf).modules())
    reached = sum(part.weight.numel() for part in parts if isinstance(part, (nn.Linear, Conv1D)) and is_map(part))
    matrices = sum(w.numel() for part in parts for w in part.parameters(recurse=False) if w.dim() > 1)
    if 0 < reached < 0.95 * matrices:
        warnings.warn(
            f"the adapter reaches {reached / matrices:.0%} of the weights in the blocks of '{model.name}': the others, such as those "
            "of experts, are not linear maps of their own, so compare with care.",
            stacklevel=3,
        )
