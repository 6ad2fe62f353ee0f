"""Run the blocks below a steering once: at every strength, and under every steering above them, they hand on the same.

A pass is known by what enters the first block: the embedded tokens, their positions, and the keys of what was read before them.
The first time, the output of the last block below is kept; after that the blocks are passed over and the kept output is handed
on, to the bit what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from steerlib.models import sites


@dataclass(frozen=True)
class Passed:
    """What the blocks below made of one pass.

    handed: what the last of them hands on, (batch, tokens, width). cached: the keys and values that each leaves in an empty cache.
    """

    handed: Tensor
    cached: list[tuple[Tensor, Tensor]]


Memory = dict[str, Passed]


@contextmanager
def remembered(hf: Any, depth: int, memory: Memory) -> Iterator[None]:
    """Within the `with`, the first blocks of a network run only on what is not in memory yet.

    Args:
        hf: A network of the Llama form, which nothing steers below.
        depth: How many blocks.
        memory: What was met so far; it is added to.
    """
    now: dict[str, Any] = {}  # of the running pass

    def passing(number: int, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(h: Tensor, *, position_ids: Tensor, past_key_values: Any = None, **how: Any) -> Tensor:
            if number == 0:
                now["empty"] = past_key_values is not None and past_key_values.get_seq_length() == 0
                before = None if past_key_values is None or now["empty"] else past_key_values.layers[0].keys
                now["key"] = _key(h, position_ids, before)
            met = memory.get(now["key"])
            if met is not None:
                if now["empty"]:
                    past_key_values.update(*met.cached[number], number)
                return met.handed if number == depth - 1 else h
            out = plain(h, position_ids=position_ids, past_key_values=past_key_values, **how)
            if number == depth - 1:
                layers = past_key_values.layers[:depth] if now["empty"] else []
                memory[now["key"]] = Passed(out.clone(), [(one.keys.clone(), one.values.clone()) for one in layers])
            return out

        return forward

    with ExitStack() as stack:
        for number, block in enumerate(sites.blocks(hf)[:depth]):
            block.forward = passing(number, block.forward)
            stack.callback(block.__dict__.pop, "forward")
        yield


def _key(*tensors: Tensor | None) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(
            b"-" if tensor is None else str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()
        )
    return digest.hexdigest()
