"""A model changed for a while, and the plain one it is compared with: a Steering, an adapter, or any other `with`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.models.layout import changed
from steerlib.models.model import Model
from steerlib.steering.apply import Tokens, steer
from steerlib.steering.operations import Steering

Change = Steering | AbstractContextManager[Any] | Callable[[], AbstractContextManager[Any]]
"""What changes a model: a Steering, or a `with` such as `steerlib.adapted(model, adapter)`, or a function that makes one."""


def applied(
    model: Model, change: Change, strength: float = 1.0, *, tokens: Tokens = "all"
) -> AbstractContextManager[Any]:
    """The `with` in which a model is changed.

    Raises:
        SteerlibError: the change is neither a Steering nor a context manager, or a strength is given for one that has none.
    """
    if isinstance(change, Steering):
        return steer(model, change, strength, tokens=tokens)
    if strength != 1.0 or tokens != "all":
        raise SteerlibError("only a Steering has a strength and tokens: leave them out for another change.")
    made = change() if callable(change) and not hasattr(change, "__enter__") else change
    if not hasattr(made, "__enter__") or not hasattr(made, "__exit__"):
        raise SteerlibError(
            "a change of a model is a Steering or a `with`, such as steerlib.adapted(model, adapter), not "
            f"{type(made).__name__}."
        )
    return made


def refuse_changed(model: Model, what: str) -> None:
    """Refuse a model that something changes now. what: who needs the plain model, as the error's first words.

    Raises:
        SteerlibError: the call is inside a `with` that changes the model.
    """
    if now := changed(model.hf):
        raise SteerlibError(
            f"{what} needs the model as it was loaded, and {now} changes it now: call it after the `with` has ended."
        )
