"""A step of a training that several processes take together, as one process would.

A step's loss L is made of rows x_i, one for each of its questions and anchors: the log-probabilities of the groups, and the
divergences from the unchanged model. Process r of k runs the rows r, r + k, r + 2 k, ..., and all rows are exchanged. So every
process knows the reward, the majorities, the samples and the loss of the whole step, and only the rows of the others have no gradient:

    dL / dtheta = sum over processes of sum over their rows i of dL / dx_i * dx_i / dtheta

The sum over processes is an all-reduce, after which all take the same step. Outside of `steerlib.parallel` nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.parallel import added, divided, exchange, share
from steerlib.training.reward import Divergences

APART = 1e-3  # how far, relatively, the tensors of two processes may drift apart; rounding stays well below

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What is known of a whole step: (rows, groups) log-probabilities, divergences, and how many tokens there are."""

    groups: Tensor
    divergences: Divergences
    vocabulary: int


def own_part(batch: Sequence[int], anchors: Sequence[T]) -> tuple[list[int], list[T]]:
    """Which of a step's questions and anchors this process asks: all of them, if it is the only one.

    >>> own_part([4, 2, 7], ["The rain"])
    ([4, 2, 7], ['The rain'])
    """
    rows = share(range(len(batch) + len(anchors)))
    return [batch[i] for i in rows if i < len(batch)], [anchors[i - len(batch)] for i in rows if i >= len(batch)]


def as_rows(part: Step) -> Tensor:
    """A row per question and anchor, (rows, groups + 3): its log-probabilities, and its divergences, 0 where it has none."""
    apart = part.divergences
    nothing = apart.questions.new_zeros(len(apart.questions))
    columns = [torch.cat([apart.questions, apart.anchors])]
    columns += [torch.cat([nothing, apart.tokens]), torch.cat([nothing, apart.decisions])]
    return torch.cat([part.groups, torch.stack(columns, -1)], -1)


def of_rows(rows: Tensor, asked: int, decided: bool, vocabulary: int) -> Step:
    """The step that rows are of, the first `asked` of which are questions."""
    groups, (last, tokens, decisions) = rows[:, :-3], rows[:, -3:].unbind(-1)
    found = Divergences(last[:asked], last[asked:], tokens[asked:], decisions[asked:], decided)
    return Step(groups, found, vocabulary)


def whole_step(part: Step, asked: int, count: int, learned: Mapping[str, Tensor], doing: str) -> Step:
    """The whole step, of which this process has answered its part.

    Args:
        part: what the model says of the part.
        asked: how many questions the whole step has.
        count: how many questions and anchors.
        learned: what is trained, which must be the same in all processes.
        doing: which step this is.

    Raises:
        SteerlibError: in all processes, if they are not at the same step of the same training, or one of them failed.
    """
    if not divided():
        return part
    own, mine = share(range(count)), as_rows(part)
    size = float(sum(value.detach().abs().sum() for value in learned.values()))
    told = exchange(
        f"step of {doing}, {count} rows", (mine.detach().cpu(), part.divergences.decided, part.vocabulary, size)
    )
    if max(one[3] for one in told) > (1 + APART) * min(one[3] for one in told):
        raise SteerlibError(
            f"the processes have drifted apart at step {doing}: what they have learned is no longer the same, so run the training "
            "with one process, or on devices of one kind."
        )
    rows = mine.new_empty(count, mine.shape[1])
    for rank, (theirs, *_) in enumerate(told):
        rows[rank :: len(told)] = theirs.to(rows.device, rows.dtype)
    if own:
        rows = rows.index_copy(0, torch.tensor(own, device=rows.device), mine)  # with its gradient
    return of_rows(rows, asked, any(one[1] for one in told), max(one[2] for one in told))


def add_gradients(learned: Mapping[str, Tensor]) -> None:
    """Give every tensor the sum of its gradients over the processes."""
    if not divided():
        return
    values = list(learned.values())
    for value, slope in zip(values, added([value.grad for value in values], values), strict=True):
        value.grad = slope
