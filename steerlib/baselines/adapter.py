"""What a fine-tune learned, as data: tensors that act on a frozen model, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor


@dataclass(frozen=True)
class Adapter:
    """What `lora` or `bitfit` learned. Apply it with `adapted`.

    Args:
        weights: of each linear map by name: A (rank, in) and B (out, rank), or a bias (out,).
        rank: of every update of `lora`; 0 for `bitfit`.
        seed: of the training; a fresh A is drawn with it before it is overwritten.
        provenance: where it comes from, as a Steering says it.
        kind: which of the two made it.
    """

    weights: Mapping[str, Tensor]
    rank: int
    seed: int
    provenance: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["lora", "bitfit"] = "lora"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
