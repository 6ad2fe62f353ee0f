"""Reading activations at Sites without running the language-model head: `activations` at once, `capture` batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor

from steerlib.errors import SteerlibError, check_count
from steerlib.models import sites
from steerlib.models.layout import alone, laid_out
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.scoring import batches, refuse_long, windows
from steerlib.models.seen import WINDOW, Seen, crossed
from steerlib.models.sites import Place, Site, hook, uncompiled

Read = Literal["last", "mean"]


def capture(
    model: Model,
    prompts: Iterable[Prompt],
    where: Sequence[Site | str],
    *,
    read: Read = "last",
    batch_size: int = 16,
) -> Iterator[tuple[list[int], dict[Site, Tensor]]]:
    """Stream the activations at some sites, batch after batch, without running the language-model head.

    `activations` returns them all at once; this one never holds more than a few batches. A residual of the last block is read before the
    final norm, where `steer` writes.

    Args:
        model: the model, steered or not.
        prompts: any stream of prompts.
        where: the sites to read, or their names.
        read: at each prompt's "last" token, or the "mean" over its tokens; padding is never read.
        batch_size: how many prompts are run together.

    Yields:
        Which prompts, by their number in the stream, and {site: (batch, width) float32 on the CPU}; batches come in order of length.

    Raises:
        SteerlibError: no site was given, a prompt is empty, an activation is NaN or infinite (naming site and prompt) or not (batch,
            tokens, width), or a pass did not reach a site.

    Example:
        >>> import steerlib as sl
        >>> for which, got in sl.capture(sl.load("smollm2"), ["The nurse", "The cook"], ["residual.12"]):
        ...     print(sorted(which), [tuple(h.shape) for h in got.values()])
        [0, 1] [(2, 576)]
    """
    check_count("batch_size", batch_size)
    if read not in ("last", "mean"):
        raise SteerlibError(f"'{read}' is not a way to read activations: use 'last' or 'mean'.")
    if isinstance(where, (str, Site)):
        raise SteerlibError(f"`where` is a list of sites: write [{where!r}].")
    chosen = [sites.parse(site) if isinstance(site, str) else site for site in where]
    places = {site: sites.find(model.hf, site) for site in chosen}
    if not places:
        raise SteerlibError("no site to read was given: `where` is a list of sites.")
    if isinstance(prompts, str):
        raise SteerlibError("one text was given: put it in a list, because capture reads many prompts.")
    return _stream(model, iter(prompts), places, read, batch_size)


def activations(
    model: Model,
    prompts: Sequence[Prompt],
    where: Sequence[Site | str],
    *,
    read: Read = "last",
    batch_size: int = 16,
) -> dict[Site, Tensor]:
    """The activations at some sites, one row per prompt, in the order of the prompts.

    Args:
        model: the model, steered or not.
        prompts: n prompts; all of their activations must fit into memory, `capture` streams them.
        where: the sites to read, or their names.
        read: at each prompt's "last" token, or the "mean" over its tokens.
        batch_size: how many prompts are run together.

    Returns:
        {site: (n, width) float32 on the CPU}.

    Raises:
        SteerlibError: as `capture` does, or if there is no prompt.

    Example:
        >>> import steerlib as sl
        >>> got = sl.activations(sl.load("smollm2"), ["The nurse", "The cook"], ["residual.12", "norm.final"])
        >>> {str(site): tuple(h.shape) for site, h in got.items()}
        {'residual.12': (2, 576), 'norm.final': (2, 576)}
    """
    found: dict[Site, list[Tensor]] = {}
    order: list[int] = []
    for which, got in capture(model, prompts, where, read=read, batch_size=batch_size):
        order += which
        for site, h in got.items():
            found.setdefault(site, []).append(h)
    if not order:
        raise SteerlibError("no prompt was given: there is nothing to read.")
    back = torch.tensor(order).argsort()
    named = [sites.parse(site) if isinstance(site, str) else site for site in where]
    return {site: torch.cat(found[site])[back] for site in named}


def _stream(
    model: Model, stream: Iterator[Prompt], places: dict[Site, Place], read: Read, batch_size: int
) -> Iterator[tuple[list[int], dict[Site, Tensor]]]:
    def reading() -> Iterator[tuple[list[int], Seen]]:
        for prompt in stream:
            if isinstance(prompt, Mapping):
                raise SteerlibError("one chat was given: put it in a list, because capture reads many prompts.")
            yield model.read(prompt)

    seen = 0
    for window in windows(reading(), lambda row: row[1], WINDOW * batch_size):
        rows = [row for row, _ in window]
        if [] in rows:
            raise SteerlibError(f"prompt {seen + rows.index([])} is empty: there is no token to read.")
        for row in rows:
            refuse_long(model, row)
        kinds = [(False, crossed(shown)) for _, shown in window]
        for part in batches([len(row) for row in rows], batch_size, kinds=kinds):
            batch = model.batch([rows[i] for i in part], [window[i][1] for i in part])
            got = _read_batch(model, batch, places, read)
            for site, values in got.items():
                for i, value in zip(part, values, strict=True):
                    if not value.isfinite().all():
                        shown = model.tokenizer.decode(rows[i])[-60:]
                        raise SteerlibError(
                            f"NaN or infinite activation at {site} on prompt {seen + i} (ending {shown!r})."
                        )
            yield [seen + i for i in part], got
        seen += len(rows)


class _Enough(Exception):
    """Raised inside a forward pass once everything wanted has been read."""


def _read_batch(model: Model, batch: dict[str, Tensor], places: dict[Site, Place], read: Read) -> dict[Site, Tensor]:
    """{site: (batch, width)} for one batch of `Model.batch`."""
    mask = batch["attention_mask"].bool()  # (batch, tokens), padded on the left
    got: dict[Site, Tensor] = {}

    def keep(site: Site) -> Callable[[Tensor], Tensor]:
        def look(h: Tensor) -> Tensor:  # (batch, tokens, width)
            if read == "last":
                got[site] = h[:, -1].float().cpu().clone()  # not a view, which would keep every token
            elif h.shape[1] < mask.shape[1]:
                raise SteerlibError(
                    f"the mean at {site} cannot be taken: its block is handed {h.shape[1]} of {mask.shape[1]} tokens, so use "
                    "read='last'."
                )
            else:
                real = mask.unsqueeze(-1).to(h.device)
                got[site] = (h.float().masked_fill(~real, 0).sum(1) / real.sum(1)).cpu()
            if len(got) == len(places):
                raise _Enough
            return h

        return look

    ends = torch.full((len(mask),), mask.shape[1], device=mask.device)
    with ExitStack() as stack:
        stack.enter_context(alone(model.hf))
        stack.enter_context(uncompiled(model.hf))
        for site, place in places.items():
            stack.callback(hook(place, keep(site), lambda: mask.shape).remove)
        stack.enter_context(torch.no_grad())  # not inference mode: probes may learn from what is read
        stack.enter_context(laid_out(mask, ends))
        try:
            model.hf.base_model(**batch, use_cache=False)  # all but the head, its vision tower included
        except _Enough:
            pass
    if missed := sorted(places.keys() - got.keys()):
        raise SteerlibError(
            f"nothing can be read at {', '.join(map(str, missed))}: the pass over these prompts never reached "
            f"{'it' if len(missed) == 1 else 'them'}, as where a block is only for prompts with a picture; leave such layers out."
        )
    return got
