"""How a command begins and ends: quiet in all processes but the first, with its model on its own device, and files that are whole.

A file is written beside its final name and moved there in one step, so that a run that is killed leaves a whole file or none.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers.utils import logging

from steerlib.commands.asked import options_of, refuse_unknown
from steerlib.errors import SteerlibError
from steerlib.models.load import load
from steerlib.models.model import Model
from steerlib.models.parallel import Processes


def quiet(here: Processes) -> None:
    """Leave warnings and bars to the first process."""
    if not here.first:
        warnings.simplefilter("ignore")
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def loaded(name: str, here: Processes, device: str | None, given: Mapping[str, Any]) -> Model:
    """The model of this process.

    Args:
        name: as `load` takes it.
        here: which process this is; with several, each has a device of its own.
        device: what was asked for; None leaves the choice to Accelerate, or to `load`.
        given: other arguments of `load`.

    Raises:
        SteerlibError: a device was named for several processes, `load` has no such argument, or it refuses the model.
    """
    refuse_unknown(given, set(options_of(load)) - {"device"}, "loading a model", "--load-option")
    if device is not None and here.world > 1:
        raise SteerlibError(
            f"{here.world} processes cannot share --device {device}: leave it out, and each has its own."
        )
    return load(name, device=here.device if device is None else device, **given)


def refuse_place(path: Path) -> None:
    """Refuse, before hours of work, a file that could not be written."""
    if path.is_dir() or not path.parent.is_dir():
        raise SteerlibError(f"--out {path} cannot be written: name a file in a folder that exists.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the `with` ends well and is removed otherwise."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        raise SteerlibError(f"{path} cannot be written ({error}).") from error
    finally:
        with suppress(OSError):
            scratch.unlink()
