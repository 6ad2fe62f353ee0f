"""`capture` reads activations at Sites, batch after batch, without running the language-model head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.layout import laid_out
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.sites import Place, Site, hook


def capture(
    model: Model,
    prompts: Iterable[Prompt],
    where: Sequence[Site],
    *,
    read: Literal["last", "mean"] = "last",
    batch_size: int = 16,
) -> Iterator[tuple[list[int], dict[Site, Tensor]]]:
    """The activations at `where` on each prompt, batch after batch, without running the language-model head.

    read: at each prompt's "last" token, or the "mean" over its tokens; padding is never read.
    Yields (which prompts, {site: (batch, width) float32 on the CPU}); prompts may be any stream, of which no more than
    some batches are held at a time. A residual of the last block is read before the final norm, where `steer` writes.
    Raises SteerlibError on NaN or infinite activations, naming site and prompt.
    """
    if read not in ("last", "mean"):
        raise SteerlibError(f"'{read}' is no way to read: use 'last' or 'mean'.")
    places = {site: sites.find(model.hf, site) for site in where}
    if not places:
        raise SteerlibError("no site to read was given: `where` is a list of sites.")
    if isinstance(prompts, str):
        raise SteerlibError("one text was given: put it in a list, for capture reads many prompts.")
    stream, seen = iter(prompts), 0
    while window := list(islice(stream, 16 * batch_size)):
        if any(isinstance(prompt, Mapping) for prompt in window):
            raise SteerlibError("one chat was given: put it in a list, for capture reads many prompts.")
        rows, pictures = map(list, zip(*map(model.read, window), strict=True))
        if [] in rows:
            raise SteerlibError(f"prompt {seen + rows.index([])} is empty: there is no token to read.")
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for part in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
            batch = model.batch([rows[i] for i in part], [pictures[i] for i in part])
            got = _read_batch(model, batch, places, read)
            for site, values in got.items():
                for i, value in zip(part, values, strict=True):
                    if not value.isfinite().all():
                        shown = model.tokenizer.decode(rows[i])[-60:]
                        raise SteerlibError(
                            f"NaN or infinite activation at {site} on prompt {seen + i} (ending {shown!r})."
                        )
            yield [seen + i for i in part], got
        seen += len(window)


class _Enough(Exception):
    """Raised inside a forward pass once everything wanted has been read."""


def _read_batch(
    model: Model, batch: dict[str, Tensor], places: dict[Site, Place], read: Literal["last", "mean"]
) -> dict[Site, Tensor]:
    """{site: (batch, width)} for one batch of `Model.batch`."""
    mask = batch["attention_mask"].bool()  # (batch, tokens), padded on the left
    got: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], Tensor]:
        def look(h: Tensor) -> Tensor:  # (batch, tokens, width)
            if read == "last":
                got[site] = h[:, -1].float().cpu().clone()  # not a view, which would keep every token
            else:
                real = mask.unsqueeze(-1)
                got[site] = (h.float().masked_fill(~real, 0).sum(1) / real.sum(1)).cpu()
            if len(got) == len(places):
                raise _Enough
            return h

        return look

    ends = torch.full((len(mask),), mask.shape[1], device=mask.device)
    with ExitStack() as stack:
        for site, place in places.items():
            stack.callback(hook(place, keep(site)).remove)
        stack.enter_context(torch.no_grad())  # not inference mode: probes may learn from what is read
        stack.enter_context(laid_out(mask, ends))
        try:
            model.hf.base_model(**batch, use_cache=False)  # all but the head, its vision tower included
        except _Enough:
            pass
    return got
