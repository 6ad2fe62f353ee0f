"""What a model wants of a prompt's pictures, as its processor names it, and how that of several prompts becomes a batch.

The keys and shapes are the family's own: pixel_values (pictures, 3, height, width) and kin. Pixels are large (1.4 MB for a picture
of 336 x 336, and several times that where it is cut into tiles), so those of many prompts are not held together: `windows`
in scoring empties one window before it reads the next, and a `Later` makes them anew whenever they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Seen = Mapping[str, Tensor]

WINDOW = 16  # batches whose prompts are read, and whose pictures are held, at a time
HELD = 512 * 2**20  # bytes of pixels that are held together, unless one batch has more


@dataclass(frozen=True)
class Later(Mapping[str, Tensor]):
    """What a prompt's pictures show, made anew each time that it is asked for.

    names: its keys. crossed: as `crossed` says. make: reads the prompt again.
    """

    names: tuple[str, ...]
    crossed: int
    make: Callable[[], Seen]

    def __getitem__(self, key: str) -> Tensor:
        return self.make()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def now(seen: Seen) -> Seen:
    """The tensors themselves."""
    return seen.make() if isinstance(seen, Later) else seen


def crossed(seen: Seen) -> int:
    """How many pictures a prompt has that are attended to across (Llama 3.2 Vision), and 0 for any other model.

    Such a model skips its cross-attention only if no row of a batch has a picture, and what comes before the first picture attends
    evenly to every place for one, empty places too. So rows with unequal numbers of pictures do not share a batch.
    """
    if isinstance(seen, Later):
        return seen.crossed
    return seen["cross_attention_mask"].shape[2] if "cross_attention_mask" in seen else 0


def weight(seen: Seen) -> int:
    """How many bytes are held; 0 if they are made later."""
    return 0 if isinstance(seen, Later) else sum(value.nbytes for value in seen.values())


def fits(size: int) -> bool:
    """Whether so many bytes may be held together."""
    return size <= HELD


def stacked(values: Sequence[Tensor]) -> Tensor:
    """One after the other along the first axis; the other axes are filled up with zeros at their ends, as processors do.

    >>> stacked([torch.ones(1, 2), torch.ones(1, 3)])
    tensor([[1., 1., 0.],
            [1., 1., 1.]])
    """
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    filled = []
    for value in values:
        whole = value
        if list(value.shape[1:]) != shape:
            whole = value.new_zeros(len(value), *shape)
            whole[(slice(None), *(slice(size) for size in value.shape[1:]))] = value
        filled.append(whole)
    return torch.cat(filled)


def counted_on(views: Sequence[Seen], key: str) -> list[Tensor]:
    """The places of patches among those of all pictures in a batch (Molmo 2), for each view that has the key.

    Each view counts them from its own first patch; -1 stands for none.
    """
    found, before = [], 0
    for view in views:
        if key in view:
            found.append(torch.where(view[key] >= 0, view[key] + before, view[key]))
            before += view["pixel_values"].shape[:2].numel()
    return found


def token_kinds(kinds: Sequence[Tensor | None], rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """One number per token, (batch, width), padded with 0 on the left; a row has none if it has no picture.

    Text that follows a prompt is of kind 0 where pictures have another one. Where pictures have kind 0 themselves, it stands for
    what is read in both directions (PaliGemma), and text that follows, or has no picture, is of kind 1.
    """
    text = int(not any(bool(kind.any()) for kind in kinds if kind is not None))
    lines = torch.zeros(len(rows), width, dtype=torch.long)
    for line, kind, row in zip(lines, kinds, rows, strict=True):
        start = width - len(row)
        line[start:] = text
        if kind is not None:
            told = kind[0][: len(row)]
            line[start : start + len(told)] = told
    return lines


def sights(mask: Tensor, length: int, width: int) -> Tensor:
    """Which pictures each token of a padded row sees, (1, width, pictures, tiles): text that follows sees what the last token does.

    Args:
        mask: (1, tokens of the prompt, pictures, tiles).
        length: of the row; more than the prompt if text follows.
        width: of the batch.
    """
    told = mask[:, :length]
    padded = mask.new_zeros(1, width, *mask.shape[2:])
    start = width - length
    padded[:, start:] = told[:, -1:]
    padded[:, start : start + told.shape[1]] = told
    return padded
