"""The page's engine, run from Python: the same WebAssembly, under wasmtime instead of a browser.

WebAssembly's arithmetic is the same everywhere, so what is measured here holds in every browser. This is how the book compares the page
with PyTorch, and how the tests do it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from wasmtime import Engine as Runtime
from wasmtime import Instance, Memory, Module, Store

from steerlib.errors import SteerlibError
from steerlib.inpage.vectors import vectors
from steerlib.inpage.weights import MATRICES, planes
from steerlib.steering.operations import Steering

WIDTH, HEAD, VOCABULARY, THETA = 576, 64, 49152, 100_000.0
LONGEST = 1024
"""Tokens of one sequence, at most."""


def engine_file(name: str = "engine.wasm") -> Path:
    """The engine, or its source: in a checkout beside the package, in an installed package inside.

    Args:
        name: "engine.wasm" or "engine.c".

    Raises:
        SteerlibError: there is no such file.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package, package.parent):
        if (folder / "engine" / name).is_file():
            return folder / "engine" / name
    raise SteerlibError(f"the engine's {name} is missing: this copy of steerlib is incomplete, install it again.")


def source(name: str) -> str:
    """A function of the engine's source, with the comment above it.

    Args:
        name: the function's.

    Raises:
        SteerlibError: the engine has no such function.

    Example:
        >>> print(source("total"))
        static float total(f4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }
    """
    lines = engine_file("engine.c").read_text(encoding="utf-8").splitlines()
    begins = [
        i for i, line in enumerate(lines) if re.match(rf"\S.*\b(EXPORT\()?{re.escape(name)}\)?\(.*[{{,]( |$|\w)", line)
    ]
    if not begins:
        raise SteerlibError(f"the engine has no function {name}.")
    first = begins[0]
    last = first
    while not (lines[last].startswith("}") or (last == first and lines[last].endswith("}"))):
        last += 1
    while lines[first - 1].startswith("// ") and "------" not in lines[first - 1] or lines[first - 1] == "//":
        first -= 1
    return "\n".join(lines[first : last + 1])


def frequencies() -> NDArray[np.float32]:
    """By how much each pair of coordinates of a head turns from one position to the next, in radians: (32,)."""
    exponents = torch.arange(0, HEAD, 2, dtype=torch.int64).float() / HEAD
    return (1.0 / THETA**exponents).numpy()


class InPage:
    """SmolLM2 in the page's engine.

    Args:
        wasm: the file of the engine; None is the one that the page loads.

    Example:
        >>> lm = InPage()  # doctest: +SKIP
        >>> lm.probabilities([[504, 7895]], [0.0]).shape  # doctest: +SKIP
        (1, 49152)
    """

    def __init__(self, wasm: Path | None = None) -> None:
        self.store = Store(_runtime())
        made = Instance(self.store, Module.from_file(_runtime(), str(wasm or engine_file())), [])
        self._exports = made.exports(self.store)
        memory = self._exports["memory"]
        assert isinstance(memory, Memory)
        self.memory = memory
        self._load()
        self._start = self._call("mark")

    def probabilities(
        self, sequences: Sequence[Sequence[int]], strengths: Sequence[float], steering: Steering | None = None
    ) -> NDArray[np.float32]:
        """How likely each word of the vocabulary comes next.

        Args:
            sequences: token ids of each sequence.
            strengths: of the steering, one per sequence.
            steering: with affine operations at norms, or with additions or ablations of the residual stream.

        Returns:
            (sequences, vocabulary), float32.

        Raises:
            SteerlibError: a sequence is empty or too long, or the engine cannot do what the steering wants.
        """
        logits = torch.from_numpy(self.logits(sequences, strengths, steering))
        return np.asarray(logits.softmax(-1).numpy())

    def logits(
        self, sequences: Sequence[Sequence[int]], strengths: Sequence[float], steering: Steering | None = None
    ) -> NDArray[np.float32]:
        """The logits that follow each sequence: (sequences, vocabulary); arguments and errors as of `probabilities`."""
        self._begin(sequences, strengths, steering, more=0)
        return self._forward(sequences, [0] * len(sequences), strengths)

    def write(
        self, sequence: Sequence[int], count: int, strength: float = 0.0, steering: Steering | None = None
    ) -> list[int]:
        """Go on with a sequence, always with the likeliest word.

        Args:
            sequence: token ids.
            count: how many tokens to write.
            strength: of the steering.
            steering: as in `probabilities`.

        Returns:
            The ids of the new tokens.

        Raises:
            SteerlibError: as in `probabilities`.
        """
        self._begin([sequence], [strength], steering, more=count)
        written: list[int] = []
        new, known = list(sequence), 0
        while len(written) < count:  # what came before is in the cache: only what is new runs
            logits = self._forward([new], [known], [strength])
            known += len(new)
            new = [int(logits[0].argmax())]
            written += new
        return written

    def _begin(
        self, sequences: Sequence[Sequence[int]], strengths: Sequence[float], steering: Steering | None, *, more: int
    ) -> None:
        lengths = [len(sequence) for sequence in sequences]
        if not lengths or min(lengths) < 1 or max(lengths) + more > LONGEST or len(strengths) != len(lengths):
            raise SteerlibError(
                f"the engine reads sequences of 1 to {LONGEST} tokens, with one strength each: these have {lengths} tokens"
                f"{f', and {more} are to follow' if more else ''}."
            )
        self._call("reset", self._start)
        self._steer(steering)
        if not self._call("make_room", len(lengths), max(lengths) + more):
            raise SteerlibError(
                f"{len(lengths)} sequences of {max(lengths) + more} tokens do not fit the engine's memory."
            )
        self._kept = self._call("mark")

    def _forward(
        self, sequences: Sequence[Sequence[int]], known: Sequence[int], strengths: Sequence[float]
    ) -> NDArray[np.float32]:
        """Run the new tokens of each sequence, of which `known` ran before."""
        self._call("reset", self._kept)
        lengths = [len(sequence) for sequence in sequences]
        words = np.concatenate([np.asarray(sequence, dtype="<i4") for sequence in sequences])
        rows = np.repeat(np.arange(len(lengths), dtype="<i4"), lengths)
        places = np.concatenate([first + np.arange(n, dtype="<i4") for first, n in zip(known, lengths, strict=True)])
        asked = np.cumsum(lengths, dtype="<i4") - 1
        given = [self._put(a) for a in (words, rows, places.astype("<i4"), np.asarray(strengths, dtype="<f4"))]
        size = 4 * len(lengths) * VOCABULARY
        out = self._room(size)
        if not self._call("forward", len(words), *given, 0, len(asked), self._put(asked), out):
            raise SteerlibError(f"{len(words)} tokens at once do not fit the engine's memory.")
        read = self.memory.read(self.store, out, out + size)
        return np.frombuffer(read, dtype="<f4").reshape(len(lengths), VOCABULARY).copy()

    def _steer(self, steering: Steering | None) -> None:
        self._call("set_affine", 0, 0)
        self._call("set_add", 0)
        self._call("set_ablate", 0, 0)
        if steering is not None:
            for name, arrays in vectors(steering).items():
                self._call(f"set_{name}", *(self._put(array) for array in arrays))

    def _load(self) -> None:
        held: dict[str, list[int]] = {}
        low = b""
        for plane in planes():
            if plane.part[0] in "dm":  # a scale's two bytes come apart
                if plane.part[1] == "0":
                    low = plane.data
                    continue
                pairs = np.stack([np.frombuffer(low, "u1"), np.frombuffer(plane.data, "u1")], axis=-1)
                held.setdefault(plane.of, []).append(self._put(pairs))
            else:
                held.setdefault(plane.of, []).append(self._put(np.frombuffer(plane.data, "u1")))
        angles = (torch.arange(LONGEST).float()[:, None] * torch.from_numpy(frequencies())).double()
        turns = torch.cat([angles.cos(), angles.sin()], dim=-1).float().numpy()
        self._call("set_turns", self._put(turns))
        self._call("set_embedding", *held.pop("embedding"))
        self._call("set_norms", *held.pop("norms"))
        for name, places in held.items():
            layer, _, matrix = name.partition(".")
            self._call("set_matrix", int(layer), MATRICES.index(matrix), *places)

    def _put(self, array: NDArray[Any]) -> int:
        """The address of a copy of an array in the engine's memory."""
        data = np.ascontiguousarray(array).tobytes()
        at = self._room(len(data))
        self.memory.write(self.store, data, at)
        return at

    def _room(self, size: int) -> int:
        at = self._call("alloc", size)
        if not at:
            raise SteerlibError(f"{size} bytes more do not fit the engine's memory of 384 MB.")
        return at

    def _call(self, name: str, *arguments: int) -> int:
        function: Any = self._exports[name]
        return int(function(self.store, *arguments) or 0) & 0xFFFFFFFF  # addresses have no sign


@cache
def _runtime() -> Runtime:
    return Runtime()
