"""The one place where a model is scored: rows of token ids in, log-probabilities of what follows them out.

Continuations that differ only in their last token are read from one row, rows of similar length run together, and the
language-model head works only on the positions that are wanted. Gradients flow wherever they are enabled; where they are not,
what the rows of a batch begin with is read once. `Model.choose`, `Model.loglik`, the policy of a training and the gradient
vectors are thin callers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from steerlib.errors import SteerlibError, check_count
from steerlib.models.layout import alone, laid_out
from steerlib.models.prefix import crowds, read_once
from steerlib.models.prompts import Prompt, listed
from steerlib.models.seen import WINDOW, Seen, crossed, fits, weight


class Network(Protocol):
    """What can be scored, such as a `Model`: a Hugging Face model, its tokenizer, and how rows become a batch for it."""

    @property
    def name(self) -> str: ...
    @property
    def hf(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    def batch(self, rows: Sequence[Sequence[int]], seen: Sequence[Seen] = ()) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Row:
    """One sequence that the model reads.

    ids: the prompt and whatever several continuations share. prompt: how many of the ids are the prompt. tails: the
    continuations scored here, by number; they begin with the ids after the prompt and end with one token more. whole: whether
    the log-probabilities after every token of the prompt are wanted, and not only those after its last.
    """

    ids: list[int]
    prompt: int
    tails: dict[int, list[int]]
    seen: Seen
    whole: bool = False


@dataclass(frozen=True)
class Query:
    """A prompt in token ids, the continuations to be scored after it, and its pictures."""

    prompt: list[int]
    tails: list[list[int]]
    seen: Seen

    def rows(self, *, whole: bool = False) -> list[Row]:
        """What the model has to read: one row for all continuations that differ only in their last token."""
        stems: dict[tuple[int, ...], dict[int, list[int]]] = {} if self.tails else {(): {}}
        for number, tail in enumerate(self.tails):
            stems.setdefault(tuple(tail[:-1]), {})[number] = tail
        return [Row([*self.prompt, *stem], len(self.prompt), same, self.seen, whole) for stem, same in stems.items()]


def log_probs(
    network: Network, rows: Sequence[Row], *, batch_size: int, stretch: float = math.inf
) -> Iterator[tuple[int, Tensor]]:
    """The log-probabilities of the next token at the wanted positions of each row, batch after batch.

    Args:
        network: what reads the rows.
        rows: in any order.
        batch_size: how many rows run together.
        stretch: how many times as long as the shortest of its batch a row may be, since padding costs time.

    Yields:
        The number of a row and (positions, vocabulary), in float32 at least: one line after the last token of the prompt and
        one after every id behind it, or for a `whole` row after every id.
    """
    lengths = [len(row.ids) for row in rows]
    shared = crowds(
        [row.ids[: row.prompt - 1] if _shares(row) else [] for row in rows], batch_size, network.device.type
    )
    kinds = [(int(row.whole), crossed(row.seen), crowd) for row, crowd in zip(rows, shared, strict=True)]
    for part in batches(lengths, batch_size, stretch=stretch, kinds=kinds):
        batch = [rows[i] for i in part]
        apart = partial(_apart, network, batch)
        with alone(network.hf):
            found = None
            if all(_shares(row) for row in batch):
                ids, prompts = [row.ids for row in batch], [row.prompt for row in batch]
                found = read_once(network.hf, network.batch, ids, prompts, apart)
            found = apart() if found is None else found
        for i, line in zip(part, found, strict=True):
            yield i, line.to(torch.promote_types(line.dtype, torch.float32)).log_softmax(-1)


def _shares(row: Row) -> bool:
    """Whether what other rows begin with, too, may be read without this one.

    Not where gradients are wanted: the batches of a training are small and mixed, so that it was no faster with SmolLM2.
    """
    return not row.whole and not row.seen and not torch.is_grad_enabled()


def _apart(network: Network, batch: Sequence[Row]) -> list[Tensor]:
    """The logits at the wanted positions of each row, (positions, vocabulary), of which all are `whole` or none."""
    whole = batch[0].whole
    inputs = network.batch([row.ids for row in batch], [row.seen for row in batch])
    mask = inputs["attention_mask"].bool()  # (rows, columns), padded on the left
    sizes = [len(row.ids) if whole else len(row.ids) - row.prompt + 1 for row in batch]
    ends = [mask.shape[1] - len(row.ids) + row.prompt for row in batch]  # just past each prompt
    with laid_out(mask, torch.tensor(ends, device=mask.device)):
        keep = mask.shape[1] if whole else max(sizes)
        logits = network.hf(**inputs, use_cache=False, logits_to_keep=keep).logits  # (rows, keep, vocabulary)
    return [line[-size:] for size, line in zip(sizes, logits, strict=True)]


def tail_log_probs(row: Row, lines: Tensor) -> dict[int, Tensor]:
    """Log-probabilities of each continuation of a row, {number: (tokens,)}, out of its lines (positions, vocabulary)."""
    size = len(row.ids) - row.prompt + 1
    return {number: lines[-size:][torch.arange(size), tail] for number, tail in row.tails.items()}


def batches(
    lengths: Sequence[int], size: int, *, stretch: float = math.inf, kinds: Sequence[tuple[int, ...]] = ()
) -> Iterator[list[int]]:
    """Indices in batches of at most `size` and of one kind each.

    The shortest come first, and none is more than `stretch` times as long as the first of its batch.
    """
    check_count("batch_size", size)
    kinds = kinds or [()] * len(lengths)
    part: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (kinds[i], lengths[i], i)):
        full = len(part) == size or (part and lengths[i] > stretch * lengths[part[0]])
        if part and (full or kinds[i] != kinds[part[0]]):
            yield part
            part = []
        part.append(i)
    if part:
        yield part


T = TypeVar("T")


def windows(stream: Iterable[T], seen: Callable[[T], Seen], most: int, *, pictured: bool = False) -> Iterator[list[T]]:
    """A stream of prompts in parts, each of which is emptied before the next is read.

    So only the pixels of one part are held at a time, however many prompts there are.

    Args:
        stream: what a model has read, one prompt after the other.
        seen: what one of them holds of its pictures.
        most: of a part; it is cut at a sixteenth of that, one batch, once its pixels are more than `seen.HELD`.
        pictured: whether only prompts with pictures count.

    Yields:
        Lists, which are cleared when the next one is asked for.
    """
    part: list[T] = []
    count = held = 0
    for one in stream:
        size = weight(seen(one))
        if size and (count == most or (count * WINDOW >= most and not fits(held + size))):
            yield part
            part.clear()
            count = held = 0
        part.append(one)
        count += bool(size) or not pictured
        held += size
        if count == most and not pictured:  # at once: nothing more is read than is wanted
            yield part
            part.clear()
            count = held = 0
    if part:
        yield part


def options_for(prompts: Sequence[Prompt], options: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """One list of options per prompt. Raises SteerlibError if they are not two texts or more for each."""
    given: list[Any] = [] if isinstance(options, str) else listed(options)
    if not given:
        raise SteerlibError(
            "no options were given: `options` is a list of at least two texts, such as [' he', ' she']."
        )
    shared = isinstance(given[0], str)
    each: list[list[str]] = [given] if shared else [listed(line) for line in given]
    if len({len(line) for line in each}) != 1 or (not shared and len(each) != len(prompts)):
        raise SteerlibError(f"{len(prompts)} prompts need {len(prompts)} lists of options, all of one length.")
    if len(each[0]) < 2:
        raise SteerlibError(f"only the option {each[0]} was given: a choice needs at least two.")
    for line in each:
        for number, option in enumerate(line):
            if not isinstance(option, str):
                raise SteerlibError(f"option {number} is a {type(option).__name__}, not a text: {option!r}.")
            if not option:
                raise SteerlibError(f"option {number} is empty: an option is a text of at least one token.")
    return each * len(prompts) if shared else each


def refuse_prefixes(options: Sequence[str], tails: Sequence[Sequence[int]]) -> None:
    """Refuse an option that was given twice, or whose tokens begin another's: it would win by including it."""
    for i, a in enumerate(tails):
        for j, b in enumerate(tails):
            if i != j and list(a) == list(b):
                raise SteerlibError(f"option {options[i]!r} was given twice: the options of a choice must differ.")
            if i != j and list(b[: len(a)]) == list(a):
                raise SteerlibError(
                    f"option {options[i]!r} is the beginning of option {options[j]!r}, so it includes it: "
                    "end the options so that they differ (with a full stop, say)."
                )


def refuse_long(network: Network, ids: Sequence[int], *, coming: int = 0) -> None:
    """Refuse a sequence that is longer than the model's context, in which it was trained to read.

    Args:
        network: what is to read it.
        ids: the tokens to be read, pieces of pictures included.
        coming: how many more the model is to write after them.

    Raises:
        SteerlibError: if there are more than `max_position_embeddings` of the text decoder's configuration; models that have
            no such number (as with ALiBi) read any length.
    """
    most = getattr(network.hf.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and len(ids) + coming > most > 0:
        with_new = f" and {coming} to be written" if coming else ""
        raise SteerlibError(
            f"the text ending {network.tokenizer.decode(ids[-20:])[-60:]!r} has {len(ids)} tokens{with_new}, but the context "
            f"of '{network.name}' is {most}: shorten it."
        )
