"""Several processes that ask one model together: `with parallel():` in a program that `accelerate launch` started.

Every process loads the model and runs the same program. Within the `with`, each answers its share of every list of questions and
gets the answers of the others, so that what it goes on with is always the whole:

    process r of k answers the questions r, r + k, r + 2 k, ...; the answers come back in the order of the questions

What is divided: `Model.choose`, `Model.loglik` and `Model.generate`, and with them every evaluation; and the steps of `dso`, `lora`,
`bitfit` and `reft`. Everything else, such as the reading of activations by `contrastive`, is done in full by every process. The
numbers are those of one process, up to rounding: rows run in other batches, and gradients are added in another order.

Nothing is divided outside of the `with`, or in a program that was started as a single process, whose results stay the same to the
bit. A thread that is started inside it divides nothing either. Before answers are used, the processes compare what they were asked:
if they do not ask the same questions in the same order, all stop with one sentence, instead of mixing answers or waiting forever. A
process that fails, or leaves the `with` early, says so to the others, and they stop with its sentence. Files are written and
numbers printed by the first process only:

    import steerlib as sl                      # accelerate launch --num_processes 4 measure.py

    with sl.parallel() as here:                # before the model is loaded, so that each process has a GPU of its own
        lm = sl.load("Qwen/Qwen2.5-7B-Instruct", device=here.device)
        bias = sl.decision_bias(lm, sl.tasks.pronoun())
        if here.first:
            print(bias.table())

Process groups, devices and messages are those of Accelerate (gloo between CPUs, NCCL between GPUs).
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env, reduce
from torch import Tensor

from steerlib.errors import SteerlibError

PATIENCE = timedelta(hours=6)  # how long a process waits for the others, which may load or answer more slowly

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Processes:
    """Which of the processes that run a program together this one is.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        device: where its model belongs, to be given to `load`; None where `load` may choose, since there is one process only.
    """

    rank: int = 0
    world: int = 1
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes files."""
        return self.rank == 0


@dataclass
class _Group:
    """The processes inside a `with parallel()`, and why they no longer work together, once one of them has left."""

    here: Processes
    over: str | None = None


@dataclass(frozen=True)
class _Message:
    """What a process tells the others: what it is doing, what it gives, and what went wrong."""

    doing: str
    gives: Any = None
    failure: str | None = None
    leaves: bool = False


_group: ContextVar[_Group | None] = ContextVar("processes", default=None)


@contextmanager
def parallel() -> Iterator[Processes]:
    """Within the `with`, the processes that `accelerate launch` (or torchrun) started divide the questions among themselves.

    In a program that was started as one process it does nothing. It stands outside of every `with steer(...)`, and every process runs
    through the same lines: only printing and writing files go under `if here.first:`.

    Yields:
        A Processes: `rank`, `world`, `device` and `first` of this process.

    Raises:
        SteerlibError: in every process, if one of them fails, leaves the `with` early or asks something else than the others.

    Example:
        >>> import steerlib as sl
        >>> with sl.parallel() as here:  # under `accelerate launch --num_processes 4`, each process asks a quarter
        ...     lm = sl.load("smollm2", device=here.device)
        ...     chosen = lm.choose(["The nurse said that", "The pilot said that"], [" he", " she"])
        ...     if here.first:
        ...         print(tuple(chosen.shape))
        (2, 2)
    """
    outer = _group.get()
    if outer is not None:
        yield outer.here
        return
    here = _processes()
    if here.world == 1:
        yield here
        return
    group = _Group(here)
    token = _group.set(group)
    try:
        yield here
    except BaseException as error:
        if group.over is None:  # the others may be waiting for this process
            said = str(error) if isinstance(error, SteerlibError) else f"process {here.rank} stopped: {error!r}."
            with suppress(Exception):
                gather_object([_Message("leave", failure=said, leaves=True)])
        raise
    else:
        _exchange(group, _Message("leave", leaves=True))
    finally:
        _group.reset(token)


def is_first() -> bool:
    """Whether this process prints and writes files: always, if it is the only one."""
    group = _group.get()
    return group is None or group.here.first


def divided() -> bool:
    """Whether several processes divide the questions now."""
    return _group.get() is not None


def share(items: Sequence[T]) -> Sequence[T]:
    """What this process does of some items: all of them, if it is the only one.

    >>> share("abc")
    'abc'
    """
    group = _group.get()
    return items if group is None else items[group.here.rank :: group.here.world]


def exchange(doing: str, gives: T) -> list[T]:
    """What every process gives, in the order of their ranks; all must be `doing` the same.

    Raises:
        SteerlibError: in all processes, if one failed or does something else.
    """
    group = _group.get()
    return [gives] if group is None else _exchange(group, _Message(doing, gives))


def spread(work: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T], *about: object) -> list[U]:
    """What `work` makes of each item, each process doing its share.

    Args:
        work: makes one result of each item of a part, in order; the results are sent to the other processes.
        items: the same in all processes.
        about: what the items are, which is compared between the processes.

    Returns:
        The results of all items, in their order.

    Raises:
        SteerlibError: in all processes, if it is raised in one of them, or if they do not have the same to do.

    >>> spread(lambda part: [2 * n for n in part], range(3), "doubling")
    [0, 2, 4]
    """
    group = _group.get()
    if group is None:
        return list(work(items))
    own, error, mine = share(items), None, list[U]()
    if own:
        token = _group.set(None)  # what the work asks is this process's own affair
        try:
            mine = list(work(own))
        except SteerlibError as raised:
            error = raised
        finally:
            _group.reset(token)
    said = None if error is None else str(error)
    try:
        parts = _exchange(group, _Message(_fingerprint(len(items), *about), mine, said))
    except SteerlibError:
        if error is not None:
            raise error  # this process's own, with its traceback
        raise
    whole: list[Any] = [None] * len(items)
    for rank, part in enumerate(parts):
        whole[rank :: group.here.world] = part
    return whole


def once(work: Callable[[], T]) -> T:
    """What `work` returns in the first process, which alone does it: the reading and writing of files.

    Raises:
        SteerlibError: in all processes, if it is raised in the first.

    >>> once(lambda: 3)
    3
    """
    return spread(lambda part: [work() for _ in part], (0,), "once")[0]


def added(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """The sum over the processes of each tensor, the same bits in all of them; one that is None everywhere stays None.

    Args:
        tensors: of the same shapes in all processes, in float32; None stands for zeros.
        like: a tensor of the shape, dtype and device of each sum.

    Raises:
        SteerlibError: in all processes, if one failed or does something else.
    """
    group = _group.get()
    if group is None or not tensors:
        return list(tensors)
    exchange(f"add {len(tensors)} tensors", None)  # an all-reduce would wait forever for a process that has left
    device = group.here.device
    used = torch.tensor([tensor is not None for tensor in tensors], dtype=torch.float32, device=device)
    flat = [torch.zeros_like(b) if a is None else a for a, b in zip(tensors, like, strict=True)]
    sums = reduce(torch.cat([used, *(one.reshape(-1).to(device) for one in flat)]), "sum")
    parts = sums[len(flat) :].split([one.numel() for one in flat])
    shaped = [part.reshape(one.shape).to(one.device, one.dtype) for part, one in zip(parts, flat, strict=True)]
    return [part if count > 0 else None for part, count in zip(shaped, sums[: len(flat)].tolist(), strict=True)]


def _exchange(group: _Group, message: _Message) -> list[Any]:
    """What the processes give each other; what went wrong in one of them is raised in all."""
    if group.over is not None:
        raise SteerlibError(group.over)
    said: list[_Message] = gather_object([message])
    failures = [one.failure for one in said if one.failure is not None]
    differ = len({one.doing for one in said}) > 1
    if failures:
        if any(one.leaves for one in said):
            group.over = failures[0]
        raise SteerlibError(failures[0])
    if differ:
        gone = [rank for rank, one in enumerate(said) if one.leaves]
        what = f"process {gone[0]} left the `with parallel()`" if gone else "the processes do not ask the same"
        group.over = (
            f"{what} while another one asks something: all of them must run through the same lines with the same questions, in the "
            "same order."
        )
        raise SteerlibError(group.over)
    return [one.gives for one in said]


def _fingerprint(*things: object) -> str:
    """A hash of what is asked, by which processes see whether they ask the same; pictures count by their kind and size."""

    def kind(thing: Any) -> str:
        return f"{type(thing).__name__} {getattr(thing, 'size', '')}"

    return hashlib.sha256(json.dumps(things, default=kind).encode()).hexdigest()


def _processes() -> Processes:
    """Which process this is, as Accelerate has it; the process group is made if the program was started as several."""
    made = torch.distributed.is_available() and torch.distributed.is_initialized()
    world = torch.distributed.get_world_size() if made else int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes()
    gpu = torch.accelerator.is_available() and torch.accelerator.current_accelerator() != torch.device("mps")
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not gpu, timeout=PATIENCE)
    if state.num_processes != world:
        raise SteerlibError(
            f"{world} processes were started, but Accelerate sees {state.num_processes}: start the program with `accelerate launch` or "
            "torchrun, and make no process group before `with parallel()`."
        )
    if not made:
        atexit.register(state.destroy_process_group)
    return Processes(state.process_index, world, state.device)
