"""Does a network do what steerlib takes for granted? A few short passes tell, whatever the network is called.

    batched_alike   a short prompt beside a long one gets the logits that it gets alone: padding is ignored
    cached_alike    tokens written with a cache, beside a longer prompt, get the logits of one pass over the whole text alone

Two sets of logits are compared by their distance over the spread of the second, which rounding leaves far below its
`limit`. A network fails if every one of the short prompts does, because rounding may send one of them to other experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.layout import alone
from steerlib.models.model import Model
from steerlib.models.prefix import distance, limit
from steerlib.models.sampling import own_distribution
from steerlib.models.sites import keeps_cache

SHORT = ("The nurse said that", "Once upon a time", "My")
LONG = "The mechanic was tired because of the long day, and so the other people at the table asked what had happened, and where"
WRITTEN = 3


def usable(model: Model) -> None:
    """Refuse a model that reads or writes otherwise in a padded batch, or with a cache, than it does alone.

    Args:
        model: ready to be asked; it runs about ten short prompts.

    Raises:
        SteerlibError: what is wrong with it, in one sentence.

    Example:
        >>> import steerlib as sl
        >>> usable(sl.load("smollm2"))
    """
    for fault in (batched_alike(model), cached_alike(model)):
        if fault is not None:
            raise SteerlibError(fault)


def batched_alike(model: Model) -> str | None:
    """What is wrong if short prompts get other logits beside a long one than alone, in one sentence; None if nothing is.

    Args:
        model: ready to be asked.

    Example:
        >>> import steerlib as sl
        >>> batched_alike(sl.load("smollm2")) is None
        True
    """
    rows = [model.tokens(text) for text in (*SHORT, LONG)]
    with torch.inference_mode(), alone(model.hf):
        together = last_logits(model, rows)[: len(SHORT)]
        each = torch.cat([last_logits(model, [row]) for row in rows[: len(SHORT)]])
    if _differ(model, together, each):
        return (
            f"'{model.name}' cannot be used: a prompt in a padded batch gets other logits than alone, because its network "
            f"({type(model.hf).__name__}) does not leave padding out."
        )
    return None


def cached_alike(model: Model) -> str | None:
    """What is wrong if text written with a cache in a padded batch does not follow the logits of a whole pass; None if nothing is.

    Args:
        model: ready to be asked.

    Example:
        >>> import steerlib as sl
        >>> cached_alike(sl.load("smollm2")) is None
        True
    """
    rows = [model.tokens(text) for text in (*SHORT, LONG)]
    batch = model.batch(rows)
    batch.pop("position_ids", None)
    width = batch["input_ids"].shape[1]
    how = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False, "use_cache": True}
    with torch.inference_mode(), alone(model.hf), own_distribution(model.hf):
        wrote: Any = model.hf.generate(
            **batch,
            **how,
            return_dict_in_generate=True,
            output_logits=True,
            disable_compile=True,
            pad_token_id=model.tokenizer.pad_token_id,
        )
        whole = [row + new[: WRITTEN - 1] for row, new in zip(rows, wrote.sequences[:, width:].tolist(), strict=True)]
        each = torch.cat([last_logits(model, [row]) for row in whole[: len(SHORT)]])
    if _differ(model, wrote.logits[-1][: len(SHORT)].cpu(), each):
        return (
            f"'{model.name}' cannot be used: what it writes with a cache in a padded batch is not what it would write alone "
            f"(its network is {type(model.hf).__name__})."
        )
    past = getattr(wrote, "past_key_values", None)
    if keeps_cache(model.hf) and past is not None and int(past.get_seq_length()) != width + WRITTEN - 1:
        return (
            f"'{model.name}' cannot be used: its cache says that it holds {int(past.get_seq_length())} tokens where it holds "
            f"{width + WRITTEN - 1}, so a steering could not tell prompt and answer apart."
        )
    return None


def last_logits(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """(rows, vocabulary) logits after the last token of each row, in float32 on the CPU.

    Args:
        model: steered or not; no other thread runs it meanwhile.
        rows: token ids, which run together as one batch.
    """
    with torch.no_grad(), alone(model.hf):
        logits = model.hf(**model.batch(rows), use_cache=False, logits_to_keep=1).logits
    return cast(Tensor, logits[:, -1].float().cpu())


def _differ(model: Model, one: Tensor, other: Tensor) -> bool:
    """Whether every row of the one, (rows, vocabulary), is further from that of the other than rounding explains."""
    return bool((distance(one.float(), other) > limit(model.hf.dtype)).all())
