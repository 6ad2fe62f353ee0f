"""What all rows of a batch begin with is read once, and every row goes on from there: a chat's system message, say.

    keys and values of the common prefix (1, heads, prefix, width), seen by every row, then the rests padded on the right

No column is empty between the prefix and a rest, so positions, masks and biases of distance are those of a row that is read
alone. Only a network whose cache holds nothing but the keys and values of
every token is read so, and only once its first such batch has had the logits that it has when read apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from os.path import commonprefix
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from steerlib.models.layout import laid_out

HEAD = 16  # tokens that rows have in common if they are put into one batch for it
PASS = {"cpu": 32}  # what one more pass costs, in tokens that could have been read meanwhile
ACCELERATED = 2048  # the same on a device that reads many tokens as fast as a few
LIMITS = {torch.float16: 0.05, torch.bfloat16: 0.1}  # of `distance`, far above rounding; else 0.01

_able: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Whether a network gives the same logits after a prefix that it has read once; unknown until it was tried."""


def distance(one: Tensor, other: Tensor) -> Tensor:
    """How far logits (..., vocabulary) are from others, over the spread of the others: (...)."""
    spread = other - other.mean(-1, keepdim=True)
    far: Tensor = (one - other).norm(dim=-1) / spread.norm(dim=-1)
    return far


def limit(dtype: torch.dtype) -> float:
    """The `distance` that rounding in this precision stays well below."""
    return LIMITS.get(dtype, 0.01)


def crowds(rows: Sequence[Sequence[int]], batch_size: int, device: str) -> list[int]:
    """The number of the crowd that each row is in, where so many rows begin alike that a batch of them pays; else 0.

    Args:
        rows: token ids that may be shared, of each row.
        batch_size: how many rows run together.
        device: the kind of device that they run on.

    >>> crowds([[*range(16), 7], [*range(16), 8, 9], [*range(16)], [3, 4]], 16, "cpu")
    [1, 1, 1, 0]
    """
    heads = [tuple(row[:HEAD]) for row in rows]
    count = Counter(head for head in heads if len(head) == HEAD)
    paying = [head for head, n in count.items() if (min(n, batch_size) - 1) * HEAD >= PASS.get(device, ACCELERATED)]
    number = {head: n for n, head in enumerate(paying, 1)}
    return [number.get(head, 0) for head in heads]


def read_once(
    hf: Any,
    batch: Callable[[Sequence[Sequence[int]]], dict[str, Tensor]],
    rows: Sequence[Sequence[int]],
    prompts: Sequence[int],
    apart: Callable[[], list[Tensor]],
) -> list[Tensor] | None:
    """The logits of rows whose common prefix is read once; None if that does not pay, or not with this network.

    Args:
        hf: the network, which nobody else runs meanwhile.
        batch: makes rows of token ids a batch for it, as `Model.batch` does.
        rows: token ids of each row, all of them text.
        prompts: how many of its ids are the prompt, of each row.
        apart: reads the same rows as they are, to be compared with once per network.

    Returns:
        Of each row (positions, vocabulary): one line after the last token of the prompt and one after every id behind it.
    """
    size = len(commonprefix([list(row[: prompt - 1]) for row, prompt in zip(rows, prompts, strict=True)]))
    width = max(len(row) for row in rows) - size
    keep = width + size - min(prompts) + 1  # columns, from the last token of the shortest prompt on
    wanted = max(len(row) - prompt + 1 for row, prompt in zip(rows, prompts, strict=True))
    saved = (len(rows) - 1) * size - len(rows) * (keep - wanted)  # a column of logits counts as a token
    if saved < min(PASS.values()) or hf.training or _able.get(hf) is False:
        return None
    first = batch([rows[0][:size]])
    device = first["input_ids"].device
    if saved < PASS.get(device.type, ACCELERATED) or "position_ids" not in first:
        return None

    # the prefix, of which no token is the last of a prompt
    with laid_out(first["attention_mask"].bool(), torch.tensor([size + 1], device=device)):
        past: Any = getattr(hf(**first, use_cache=True, logits_to_keep=1), "past_key_values", None)
    if not _keeps_all(past, size):
        _able[hf] = False
        return None
    for layer in past.layers:
        layer.keys, layer.values = (t.expand(len(rows), *t.shape[1:]) for t in (layer.keys, layer.values))

    # the rests
    inputs = batch([[*row[size:], *[row[-1]] * (size + width - len(row))] for row in rows])
    inputs["position_ids"] = inputs["position_ids"] + size
    lengths = torch.tensor([len(row) for row in rows], device=device)
    real = torch.arange(size + width, device=device) < lengths.unsqueeze(1)  # (rows, columns), padded on the right
    inputs["attention_mask"] = real.to(inputs["attention_mask"].dtype)
    with laid_out(real, torch.tensor(list(prompts), device=device)):
        logits = hf(**inputs, past_key_values=past, use_cache=True, logits_to_keep=keep).logits
    gone = size + width - logits.shape[1]  # columns without logits
    found = [line[prompt - 1 - gone : len(row) - gone] for line, row, prompt in zip(logits, rows, prompts, strict=True)]
    if hf not in _able:
        _able[hf] = _same(found, apart(), max(limit(hf.dtype), limit(logits.dtype)))
    return found if _able[hf] else None


def _keeps_all(past: Any, size: int) -> bool:
    """Whether a cache is nothing but keys and values of `size` tokens in each layer."""
    return type(past) is DynamicCache and all(
        type(layer) is DynamicLayer
        and isinstance(layer.keys, Tensor)
        and isinstance(layer.values, Tensor)
        and layer.keys.shape[-2] == layer.values.shape[-2] == size
        for layer in past.layers
    )


def _same(found: Sequence[Tensor], apart: Sequence[Tensor], most: float) -> bool:
    """Whether the logits of one row, at least, are as near to those read apart as rounding explains.

    Rounding may send other rows to other experts.
    """
    return any(
        bool((distance(one.float(), other.float()) <= most).all()) for one, other in zip(found, apart, strict=True)
    )
