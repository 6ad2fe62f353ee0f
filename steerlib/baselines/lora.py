"""Why not just train? A low-rank fine-tune at the same reward, the same data and the same number of steps as `dso`.

    W + (scale / rank) B A  for every linear map W of the text decoder's blocks;   B starts at 0

The comparison that a steering must stand: an adapter has many times the numbers of `dso`, no strength to turn, and acts by other
weights. Source: Hu et al., arXiv 2106.09685; the objective is that of Monteiro Paes et al. (see `steerlib.methods.dso`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.steering.operations import provenance
from steerlib.tasks import Task
from steerlib.training.config import Anchors, Dtype, Plan, gather
from steerlib.training.loop import fit
from steerlib.training.reward import Estimator, Reward


@dataclass(frozen=True)
class Adapter:
    """What `lora` learned: A (rank, in) and B (out, rank) of each linear map, by name. Apply it with `adapted`."""

    weights: Mapping[str, Tensor]
    rank: int
    seed: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))


def lora(
    model: Model,
    task: Task,
    *,
    anchors: Anchors = None,
    rank: int = 8,
    reward: Reward = "occupation",
    estimator: Estimator = "exact",
    samples: int = 8,
    passes: int = 2,
    batch_size: int = 16,
    together: int | None = 2,
    learning_rate: float = 1e-3,
    eps: float | None = 0.2,
    kl_weight: float | None = None,
    seed: int = 0,
    dtype: Dtype = "float32",
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Adapter:
    """An Adapter under which the decisions on the ambiguous items of `task` are fair; the model is left as it was.

    rank: of the update of each linear map. The rest is as at `dso`, with which it shares data, order, objective and steps.
    Raises SteerlibError as `dso` does, or if the package peft is missing.
    """
    if rank < 1:
        raise SteerlibError(f"the rank of an update must be at least 1, not {rank}.")
    plan = Plan(
        reward, estimator, samples, passes, batch_size, together, learning_rate, 0.0, eps, kl_weight, seed, dtype
    )
    data = gather(model, task, anchors, plan)
    with _injected(model, rank, seed) as learned:
        for value in learned.values():
            value.requires_grad_()
        history = fit(model, data, plan, learned, method=f"lora-{rank}", checkpoint=checkpoint, progress=progress)
        weights = {name: value.detach().cpu().clone() for name, value in learned.items()}
    facts = {**asdict(plan), "task": task.name, "prompts": len(data.asked), "anchors": len(data.anchors)}
    return Adapter(weights, rank, seed, provenance(model, "lora", rank=rank, **facts, history=history))


@contextmanager
def adapted(model: Model, adapter: Adapter) -> Iterator[None]:
    """Within the `with`, `model` runs with the adapter; on leaving it, however that happens, it is as before, to the bit.

    Raises SteerlibError if the adapter was made for another network.
    """
    with _injected(model, adapter.rank, adapter.seed) as learned:
        shapes = {name: tuple(value.shape) for name, value in learned.items()}
        if shapes != {name: tuple(value.shape) for name, value in adapter.weights.items()}:
            raise SteerlibError(
                f"this adapter was made for another network than '{model.name}': their linear maps differ."
            )
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(adapter.weights[name])
        yield


@contextmanager
def _injected(model: Model, rank: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """The model with fresh low-rank updates in its blocks, frozen; yields them by name, and takes them out again."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SteerlibError("lora needs the package peft: install it with `pip install peft`.") from error
    blocks = sites.blocks(model.hf)
    maps = [name for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]
    if not maps:
        raise SteerlibError(f"the blocks of '{model.name}' hold no linear maps (nn.Linear) that could be updated.")
    before = {name: blocks.get_submodule(name) for name in maps}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=maps)
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
