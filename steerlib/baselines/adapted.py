"""`with adapted(model, adapter): ...` runs a model with what a fine-tune learned, and takes it out again on every way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from steerlib.baselines.adapter import Adapter
from steerlib.baselines.bitfit import biased
from steerlib.baselines.lora import injected
from steerlib.errors import SteerlibError
from steerlib.models.layout import alone
from steerlib.models.model import Model


@contextmanager
def adapted(model: Model, adapter: Adapter) -> Iterator[None]:
    """Within the `with`, `model` runs with the adapter; on leaving it, however that happens, it is as before, to the bit.

    Args:
        model: the one it was trained on.
        adapter: made by `lora` (which has an example) or `bitfit`.

    Raises:
        SteerlibError: if the adapter was made for another network.
    """
    added = biased(model) if adapter.kind == "bitfit" else injected(model, adapter.rank, seed=adapter.seed)
    with alone(model.hf, "an adapter"), added as learned:
        shapes = {name: tuple(value.shape) for name, value in learned.items()}
        if shapes != {name: tuple(value.shape) for name, value in adapter.weights.items()}:
            raise SteerlibError(
                f"this adapter was made for another network than '{model.name}': their linear maps differ."
            )
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(adapter.weights[name])
        yield
