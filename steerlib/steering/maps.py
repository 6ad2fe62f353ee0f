"""Two operations that mix the coordinates of an activation, where those of `operations` do not.

    Erase   h - s ((h - c) . v) u       u, v, c: (width,); with v . u = 1, what v reads is at s = 1 what it reads of c
    Linear  h + s (W h + b)             W: (width, width), b: (width,)

`Erase` with u = v is `Ablate`. `leace` makes an Erase, `reft` learns a Linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steerlib.steering.operations import Operation


@dataclass(frozen=True)
class Erase(Operation):
    """h - s ((h - c) . v) u: takes away along u what v reads.

    Args:
        direction: u, (width,).
        reading: v, (width,); with v . u = 1, doing it twice is doing it once.
        center: c, (width,).

    Example:
        >>> import torch
        >>> erase = Erase(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.5]), torch.zeros(2))
        >>> erase(torch.tensor([3.0, 4.0]), 1.0)
        tensor([-2.,  4.])
    """

    fixed = ("reading", "center")
    signed = False

    direction: Tensor
    reading: Tensor
    center: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h - strength * ((h - self.center) @ self.reading).unsqueeze(-1) * self.direction

    def removed(self) -> Tensor | None:
        return self.direction


@dataclass(frozen=True)
class Linear(Operation):
    """h + s (W h + b): a full linear map beside the identity.

    Args:
        matrix: W, (width, width); zeros are the identity.
        shift: b, (width,).

    Example:
        >>> import torch
        >>> Linear(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2))(torch.tensor([3.0, 4.0]), 1.0)
        tensor([7., 4.])
    """

    matrices: ClassVar[tuple[str, ...]] = ("matrix",)

    matrix: Tensor
    shift: Tensor

    def __call__(self, h: Tensor, strength: float) -> Tensor:
        return h + strength * (h @ self.matrix.T + self.shift)

    def plus(self, other: Operation) -> Operation | None:
        return Linear(self.matrix + other.matrix, self.shift + other.shift) if isinstance(other, Linear) else None
