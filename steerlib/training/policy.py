"""The policy: how likely a model answers a prompt with each group, and what else it would say.

A group's probability is the sum over the options that stand for it, normalised over all options of the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.scoring import Query, log_probs, refuse_long, refuse_prefixes, tail_log_probs
from steerlib.models.seen import Later, Seen, crossed, fits, now, weight
from steerlib.tasks import Task

STRETCH = 1.5  # rows that run together are at most so many times as long as their shortest: padding costs time


@dataclass(frozen=True)
class Question:
    """A prompt in token ids with the options that the policy chooses among.

    groups: which group each option stands for, by number. cluster: what the prompt is about, by number. answer: the right
    group, or None. whole: whether the next token matters after every token of the prompt, and not only after its last.
    """

    query: Query
    groups: tuple[int, ...] = ()
    cluster: int = 0
    answer: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Policy:
    """What a model answers to n questions, as log-probabilities in float32.

    groups: (n, groups), normalised over the options; zeros for a question without options. tokens: of each question the next
    token after the prompt, (1, vocabulary), or after every token of the prompt if it is `whole`, (tokens, vocabulary).
    """

    groups: Tensor
    tokens: list[Tensor]


def questions(model: Model, task: Task, *, whole: bool = False) -> tuple[list[Question], list[str], list[str]]:
    """The items of a task in token ids, read once; the names of its groups and of its clusters.

    Pictures whose pixels would take too much memory together are read anew in each batch.

    Raises SteerlibError if an item's groups are not those of the others, or its options cannot be told apart.
    """
    groups = sorted({group for item in task for group in item.groups})
    clusters = sorted({item.cluster for item in task})
    found, keep = [], _keeper(model)
    for item in task:
        if set(item.groups) != set(groups):
            raise SteerlibError(
                f"an item on '{item.cluster}' has options for {', '.join(item.groups)}, but '{task.name}' has the groups "
                f"{', '.join(groups)}: every item needs options for all of them."
            )
        query = model.split(item.prompt, item.options)
        refuse_prefixes(item.options, query.tails)
        found.append(
            Question(
                query=replace(query, seen=keep(item.prompt, query.seen)),
                groups=tuple(groups.index(group) for group in item.groups),
                cluster=clusters.index(item.cluster),
                answer=None if item.answer is None else groups.index(item.answer),
                whole=whole,
            )
        )
    return found, groups, clusters


def without_options(model: Model, prompts: Sequence[Prompt]) -> list[Question]:
    """Prompts on which nothing is decided: only the next token after every one of their tokens matters."""
    found, keep = [], _keeper(model)
    for prompt in prompts:
        ids, seen = model.read(prompt)
        if not ids:
            raise SteerlibError("an anchor is an empty prompt: there is no next token to hold.")
        refuse_long(model, ids)
        found.append(Question(Query(ids, [], keep(prompt, seen)), whole=True))
    return found


def _keeper(model: Model) -> Callable[[Prompt, Seen], Seen]:
    """Keeps what pictures show as long as there is room, and after that only how to read them again."""
    held = 0

    def keep(prompt: Prompt, seen: Seen) -> Seen:
        nonlocal held
        held += weight(seen)
        return seen if fits(held) or not seen else Later(tuple(seen), crossed(seen), lambda: model.read(prompt)[1])

    return keep


def policy(model: Model, asked: Sequence[Question], num_groups: int, *, batch_size: int = 32) -> Policy:
    """What the model answers now; gradients flow if they are enabled."""
    if not asked:  # the share of a process that has nothing to do
        return Policy(torch.zeros(0, num_groups, device=model.device), [])
    rows = [(i, row) for i, question in enumerate(asked) for row in question.query.rows(whole=question.whole)]
    options: list[list[list[Tensor]]] = [[[] for _ in range(num_groups)] for _ in asked]
    tokens = [torch.empty(0)] * len(asked)
    for r, lines in log_probs(model, [row for _, row in rows], batch_size=batch_size, stretch=STRETCH):
        i, row = rows[r]
        tokens[i] = lines[: len(lines) - len(row.ids) + row.prompt]  # those of the prompt, not of its options
        for number, line in tail_log_probs(row, lines).items():
            options[i][asked[i].groups[number]].append(line.sum())
    zeros = tokens[0].new_zeros(num_groups)
    groups = [
        torch.stack([torch.stack(same).logsumexp(0) for same in each]).log_softmax(-1) if each[0] else zeros
        for each in options
    ]
    return Policy(torch.stack(groups), tokens)


def fingerprint(asked: Sequence[Question]) -> str:
    """SHA-256 of questions: token ids, groups and pictures."""
    digest = hashlib.sha256()
    for question in asked:
        query = question.query
        digest.update(repr((query.prompt, query.tails, question.groups, question.cluster, question.answer)).encode())
        for name, value in sorted(now(query.seen).items()):
            digest.update(name.encode() + value.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())  # any dtype
    return digest.hexdigest()
