"""What is known about a model while it runs: how the batch is laid out, who is running it, and what changes it.

A hook must tell prompt, answer and padding apart, so a Model says how its batch is laid out before it runs. And hooks act on
every pass of a network, whoever asked for it, so one model is run by one thread at a time: `alone` makes others wait.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

PATIENCE = 5.0  # seconds that a thread waits before it says what for


@dataclass(frozen=True)
class Layout:
    """How the running batch is laid out, so that a hook can tell prompt, answer and padding apart.

    Attributes:
        real: (batch, columns) bool, False where a column is padding; columns past the end are real, because they were generated.
        prompt_end: (batch,) the column just past each row's prompt.
    """

    real: Tensor
    prompt_end: Tensor


layout: ContextVar[Layout | None] = ContextVar("layout", default=None)
"""The layout of the batch that a Model is running now; None when somebody calls the model directly."""


@contextmanager
def laid_out(real: Tensor, prompt_end: Tensor) -> Iterator[None]:
    """Within the `with`, hooks read this layout.

    Args:
        real: (batch, columns) bool, as in `Layout`.
        prompt_end: (batch,), as in `Layout`.
    """
    token = layout.set(Layout(real, prompt_end))
    try:
        yield
    finally:
        layout.reset(token)


class _Gate:
    """Which thread runs a model now, how many `alone`s it is inside, and what changes the model."""

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.owner: int | None = None
        self.session: object = None  # a new one each time that the model is taken
        self.depth = 0
        self.changes: list[str] = []

    def shut(self) -> bool:
        """Whether another thread has the model, and this one does not work for it."""
        return self.owner not in (None, threading.get_ident()) and self.session not in _sessions.get()


_gates: WeakKeyDictionary[Any, _Gate] = WeakKeyDictionary()
_making = threading.Lock()
_sessions: ContextVar[tuple[object, ...]] = ContextVar("sessions", default=())


def _gate(hf: Any) -> _Gate:
    with _making:
        return _gates.setdefault(hf, _Gate())


@contextmanager
def alone(hf: Any, change: str | None = None) -> Iterator[None]:
    """Within the `with`, no other thread runs or changes this model: they wait until it is free.

    A thread that works for this one is let in if it carries its context: `Thread(target=contextvars.copy_context().run, args=(f,))`, or
    `asyncio.to_thread(f)`, which does so by itself.

    Args:
        hf: the network.
        change: what changes the network meanwhile, such as "a steering"; None if it only runs.
    """
    gate, told = _gate(hf), False
    with gate.free:
        while gate.shut():
            if not gate.free.wait(PATIENCE) and not told:
                told = True
                warnings.warn(
                    "this thread waits for another one that steers or runs the same model: leave its `with steer(...)`, load a "
                    "model for each thread, or start this one with contextvars.copy_context().run if it works for the other.",
                    stacklevel=4,
                )
        if gate.owner is None:
            gate.owner, gate.session = threading.get_ident(), object()
        gate.depth += 1
        if change is not None:
            gate.changes.append(change)
    token = _sessions.set((*_sessions.get(), gate.session))
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that holds the `with` may be closed in another context
            _sessions.reset(token)
        with gate.free:
            if change is not None:
                gate.changes.remove(change)
            gate.depth -= 1
            if gate.depth == 0:
                gate.owner = gate.session = None
                gate.free.notify_all()


def changed(hf: Any) -> str | None:
    """What changes a network for this thread now, such as "a steering" or "an adapter"; None if it runs as it was loaded."""
    gate = _gate(hf)
    return gate.changes[-1] if gate.changes and not gate.shut() else None
