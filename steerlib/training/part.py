"""The part of a step that one process takes, and, where memory is short, that part in portions.

A step's loss L needs the answers to all of its rows x_i at once: rewards depend on majorities, and the KL term is a mean. Their
activations need not be there at once. With `micro_batch_size`, whose gradient is the same up to rounding:

    1. without gradients, portion by portion: the answers x_i
    2. the loss of the whole step, and its slopes dL / dx_i
    3. portion by portion, with gradients, the same rows again: sum over i of dL / dx_i * dx_i / dtheta

It costs a pass without gradients more, and keeps the activations of one portion instead of those of a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steerlib.models.model import Model
from steerlib.training.config import Training
from steerlib.training.data import Dataset
from steerlib.training.policy import Policy, Question, policy
from steerlib.training.reward import divergences
from steerlib.training.shared import Step, as_rows, of_rows


class Part:
    """What one process does of a step: `answered`, then the loss, then `backward`.

    Args:
        model: on which the learned tensors act.
        data: what is learned from.
        training: how.
        learned: by name.
        questions: by their number in the data.
        anchors: what must stay as it is.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        training: Training,
        learned: Mapping[str, Tensor],
        questions: Sequence[int],
        anchors: Sequence[Question],
    ) -> None:
        self.model, self.data, self.training, self.learned = model, data, training, learned
        self.questions, self.anchors = list(questions), list(anchors)
        self.count = portions(len(self.questions) + len(self.anchors), training.micro_batch_size)
        self.rows: Tensor | None = None  # the answers, where they are made without gradients at first

    def answered(self) -> Step:
        """What the model answers, with a gradient."""
        if self.count == 1:
            return self._ask(self.questions, self.anchors)
        with torch.no_grad():
            parts = [self._ask(*self._portion(r)) for r in range(self.count)]
        first = as_rows(parts[0])
        self.rows = first.new_empty(len(self.questions) + len(self.anchors), first.shape[1])
        for r, part in enumerate(parts):
            self.rows[r :: self.count] = as_rows(part)
        self.rows.requires_grad_()
        decided = any(part.divergences.decided for part in parts)
        return of_rows(self.rows, len(self.questions), decided, max(part.vocabulary for part in parts))

    def backward(self, loss: Tensor) -> None:
        """Give the learned tensors their gradients."""
        learned = list(self.learned.values())
        if self.rows is None:
            if loss.requires_grad:  # not where a process has nothing to do
                loss.backward(inputs=learned)  # type: ignore[no-untyped-call]
            return
        loss.backward(inputs=[self.rows, *learned])  # type: ignore[no-untyped-call]
        assert self.rows.grad is not None
        for r in range(self.count):
            again = as_rows(self._ask(*self._portion(r)))
            again.backward(self.rows.grad[r :: self.count], inputs=learned)  # type: ignore[no-untyped-call]

    def _portion(self, r: int) -> tuple[list[int], list[Question]]:
        """Every so-many-eth row from row r on, so that each portion has questions and anchors."""
        n = len(self.questions)
        rows = range(r, n + len(self.anchors), self.count)
        return [self.questions[i] for i in rows if i < n], [self.anchors[i - n] for i in rows if i >= n]

    def _ask(self, questions: list[int], anchors: list[Question]) -> Step:
        """What the model answers to some rows; gradients flow if they are enabled."""
        training, data = self.training, self.data
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=training.dtype == "bfloat16"):
            reference = reference_policy(self.model, data, questions, anchors, self.learned, training.batch_size)
            asked = [*(data.questions[i] for i in questions), *anchors]
            now = policy(self.model, asked, len(data.groups), batch_size=training.batch_size)
        vocabulary = now.tokens[0].shape[1] if now.tokens else 0
        return Step(now.groups, divergences(now, reference, len(questions)), vocabulary)


def portions(rows: int, size: int | None) -> int:
    """In how many portions of at most `size` rows a step is taken.

    >>> portions(20, 8), portions(20, None), portions(0, 8)
    (3, 1, 1)
    """
    return 1 if size is None else max(1, -(-rows // size))


def reference_policy(
    model: Model,
    data: Dataset,
    batch: Sequence[int],
    anchors: list[Question],
    learned: Mapping[str, Tensor],
    batch_size: int,
) -> Policy:
    """What the unchanged model says: read before training for the questions, asked now, with everything at 0, for the anchors."""
    tokens = [data.reference[i].to(model.device) for i in batch]
    groups = torch.zeros(len(batch), len(data.groups), device=model.device)  # not needed for the questions
    if not anchors:
        return Policy(groups, tokens)
    with torch.no_grad():
        current = [value.clone() for value in learned.values()]
        for value in learned.values():
            value.zero_()
        try:
            before = policy(model, anchors, len(data.groups), batch_size=batch_size)
        finally:
            for value, kept in zip(learned.values(), current, strict=True):
                value.copy_(kept)
    return Policy(torch.cat([groups, before.groups]), [*tokens, *before.tokens])
