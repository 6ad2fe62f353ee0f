"""How the next token is drawn: from the model's own distribution, unless asked otherwise.

Greedy decoding takes the likeliest token. Sampling takes the largest of log p_t + g_t, where g_t is Gumbel noise; the token it
finds has probability p_t exactly (Gumbel-max; see Maddison et al., A* Sampling, 2014). Each row draws its noise from a generator
of its own, seeded by the prompt, so that a text depends neither on the other prompts of a batch nor on the global generator.
Whatever a checkpoint's generation_config says about temperatures, cut-offs and penalties plays no part.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steerlib.errors import SteerlibError


class _Finite(LogitsProcessor):
    """Refuse logits of a destroyed model, which would otherwise end in an empty or a constant text."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wrong = scores.isnan().any(-1) | scores.isposinf().any(-1) | (scores.amax(-1) == scores.amin(-1))  # (batch,)
        if wrong.any():
            raise SteerlibError(
                f"'{self.name}' gave logits that are not finite, or all equal, while it wrote: its weights or its activations are "
                "damaged; use a smaller strength, or load it again."
            )
        return scores


class _Gumbel(LogitsProcessor):
    """Add Gumbel noise to the log-probabilities, a generator per row."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.rows = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        size = scores.shape[-1]
        noise = torch.stack([torch.empty(size, dtype=torch.float64).exponential_(generator=row) for row in self.rows])
        gumbel = -noise.log()  # (batch, vocabulary); float64, since the tail decides which rare token wins
        drawn: Tensor = scores.double().log_softmax(-1) + gumbel.to(scores.device)
        return drawn


def decoding(name: str, *, temperature: float, top_p: float, top_k: int, seeds: Sequence[int]) -> LogitsProcessorList:
    """What turns logits into scores of which the largest is the next token.

    Args:
        name: of the model, for errors.
        temperature: 0 is greedy; 1 the model's own distribution.
        top_p: keep the likeliest tokens that together have at least this probability; 1 keeps all.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        seeds: one per row of the batch.

    Raises:
        SteerlibError: an option is out of its range.
    """
    if not isinstance(temperature, numbers.Real) or not 0 <= temperature < math.inf:
        raise SteerlibError(f"temperature is 0 (greedy) or a finite number above it, not {temperature!r}.")
    if not isinstance(top_p, numbers.Real) or not 0 < top_p <= 1:
        raise SteerlibError(f"top_p is above 0 and at most 1 (all tokens), not {top_p!r}.")
    if not isinstance(top_k, numbers.Integral) or top_k < 0:
        raise SteerlibError(f"top_k is a number of tokens, or 0 for all of them, not {top_k!r}.")
    steps: list[Any] = [_Finite(name)]
    if temperature > 0:
        steps += [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
        steps += [TopKLogitsWarper(int(top_k))] if top_k else []
        steps += [TopPLogitsWarper(float(top_p))] if top_p < 1 else []
        steps.append(_Gumbel(seeds))
    return LogitsProcessorList(steps)


def seeds_of(rows: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A seed for each prompt, from `seed`, its token ids and how many equal prompts come before it.

    So a prompt is answered alike in any company, and a prompt that is asked twice gets two draws.
    """
    found, met = [], dict[tuple[int, ...], int]()
    for row in map(tuple, rows):
        met[row] = met.get(row, -1) + 1
        digest = hashlib.sha256(repr((seed, met[row], row)).encode()).digest()
        found.append(int.from_bytes(digest[:8], "big") >> 1)
    return found


@contextmanager
def own_distribution(hf: Any) -> Iterator[None]:
    """Within the `with`, of the checkpoint's generation_config only the tokens that end a text count."""
    tokens = ("eos_token_id", "pad_token_id", "bos_token_id")
    config: Any = GenerationConfig  # it has no types
    own = config(**{key: getattr(hf.generation_config, key, None) for key in tokens})
    kept = {part: vars(part)["generation_config"] for part in hf.modules() if "generation_config" in vars(part)}
    try:
        for part in kept:  # a wrapper hands its own to what it wraps
            part.generation_config = own
        yield
    finally:
        for part, config in kept.items():
            part.generation_config = config
