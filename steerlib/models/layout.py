"""How the running batch is laid out: what a Model says before it runs, so that a hook can tell prompt, answer and padding apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the running batch is laid out, so that a hook can tell prompt, answer and padding apart.

    real: (batch, columns) bool, False where a column is padding; columns past the end are real, they were generated.
    prompt_end: (batch,) the column just past each row's prompt.
    """

    real: Tensor
    prompt_end: Tensor


layout: ContextVar[Layout | None] = ContextVar("layout", default=None)
"""The layout of the batch that a Model is running now; None when somebody calls the model directly."""


@contextmanager
def laid_out(real: Tensor, prompt_end: Tensor) -> Iterator[None]:
    """Within the `with`, hooks read this layout. real: (batch, columns) bool; prompt_end: (batch,)."""
    token = layout.set(Layout(real, prompt_end))
    try:
        yield
    finally:
        layout.reset(token)
