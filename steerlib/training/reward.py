"""What the trained methods learn from: decisions with a reward, and prompts on which the model is to stay as it was.

On a prompt about occupation o the model's policy is P(g), the probability of the options that stand for group g, normalised
over the options. m(o) is the group that the model, as it is at this moment, gives most often to o. With k groups

    r(g) = -1 if g = m(o), else 1 / (k - 1)             so that E[r] = (1 - k P(m(o) | o)) / (k - 1)

which is 0 when all groups are equally likely and -1 when one gets everything. With two groups r is -1 or +1, and its mean over
occupations is minus the Per-Occupation Bias. Source: Monteiro Paes et al., arXiv 2512.15926, section 4 and Theorem 1; more than
two groups, and m for a prompt in place of an occupation, are ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models.layout import laid_out
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt
from steerlib.models.scoring import Seen, refuse_prefixes
from steerlib.tasks import Task

Reward = Literal["occupation", "prompt"]
Estimator = Literal["reinforce", "ppo", "exact"]

CLIP = 0.2
"""How far a probability may move, as a ratio, before `ppo` stops rewarding it (Schulman et al., arXiv 1707.06347)."""


@dataclass(frozen=True)
class Question:
    """A prompt in token ids, and which groups its continuations stand for.

    rows: what the model has to read; each is token ids and continuations [(ids, group)] that differ in their last id only.
    prompt: how many ids of each row are the prompt. occupation: its number. answer: the right group, or None. whole: whether
    what the model says after every token of the prompt matters, and not only after the last.
    """

    rows: tuple[tuple[list[int], tuple[tuple[list[int], int], ...]], ...]
    prompt: int
    seen: Seen
    occupation: int = 0
    answer: int | None = None
    whole: bool = False


def questions(model: Model, task: Task, *, whole: bool = False) -> tuple[list[Question], list[str], list[str]]:
    """The items of a task in token ids, read once; the names of its groups and of its occupations.

    Raises SteerlibError if an item has one option only, or its groups are not those of the others.
    """
    groups = sorted({group for item in task for group in item.groups})
    names = sorted({item.occupation for item in task})
    found = []
    for item in task:
        if len(item.options) < 2:
            raise SteerlibError(
                f"occupation '{item.occupation}' has an item with one option only ({', '.join(map(repr, item.options))}): "
                "a decision needs two or more."
            )
        if len(item.groups) != len(item.options) or set(item.groups) != set(groups):
            raise SteerlibError(
                f"an item on '{item.occupation}' has options for {', '.join(item.groups)}, but '{task.name}' has the groups "
                f"{', '.join(groups)}: every item needs options for all of them."
            )
        start, tails, seen = model.split(item.prompt, item.options)
        refuse_prefixes(item.options, tails)
        rows: dict[tuple[int, ...], list[tuple[list[int], int]]] = {}
        for tail, group in zip(tails, item.groups, strict=True):  # those that differ in their last id share a row
            rows.setdefault(tuple(tail[:-1]), []).append((tail, groups.index(group)))
        found.append(
            Question(
                rows=tuple((start + list(head), tuple(same)) for head, same in rows.items()),
                prompt=len(start),
                seen=seen,
                occupation=names.index(item.occupation),
                answer=None if item.answer is None else groups.index(item.answer),
                whole=whole,
            )
        )
    return found, groups, names


def plain(model: Model, prompts: Sequence[Prompt]) -> list[Question]:
    """Prompts without options: only what the model says after each token is looked at."""
    read = [model.read(prompt) for prompt in prompts]
    if any(not ids for ids, _ in read):
        raise SteerlibError("an anchor is an empty prompt: there is no next token to hold.")
    return [Question(rows=((ids, ()),), prompt=len(ids), seen=seen, whole=True) for ids, seen in read]


def ask(model: Model, asked: Sequence[Question], groups: int, *, batch_size: int = 32) -> tuple[Tensor, list[Tensor]]:
    """What the model answers now, as log-probabilities; gradients flow if they are enabled.

    Returns (n, groups), normalised over the options (zeros for questions that have none), and for each question those of the
    token after the prompt, (1, vocabulary), or if it is `whole` after every token of it, (tokens, vocabulary); all float32.
    Rows of like length are read together, and the head works only where it is wanted.
    """
    rows = [(i, ids, options) for i, question in enumerate(asked) for ids, options in question.rows]
    scores: list[list[list[Tensor]]] = [[[] for _ in range(groups)] for _ in asked]
    said = [torch.empty(0)] * len(asked)
    for part in _alike([(asked[i].whole, len(ids)) for i, ids, _ in rows], batch_size):
        batch = model.batch([rows[r][1] for r in part], [asked[rows[r][0]].seen for r in part])
        sizes = [
            len(rows[r][1]) - asked[rows[r][0]].prompt + 1 for r in part
        ]  # places where an answer's tokens are read
        mask = batch["attention_mask"].bool()
        keep = mask.shape[1] if asked[rows[part[0]][0]].whole else max(sizes)
        ends = torch.tensor([mask.shape[1] + 1 - size for size in sizes], device=mask.device)
        with laid_out(mask, ends):
            logits = model.hf(**batch, use_cache=False, logits_to_keep=keep).logits  # (rows, keep, vocabulary)
        for r, size, line in zip(part, sizes, logits, strict=True):
            i, ids, options = rows[r]
            all_ = line[-len(ids) if asked[i].whole else -size :].float().log_softmax(-1)  # (places, vocabulary)
            said[i] = all_[: len(all_) - size + 1]
            for tail, group in options:
                scores[i][group].append(all_[-size:][torch.arange(size), tail].sum())
    none = torch.zeros(groups, device=said[0].device)
    lines = [
        torch.stack([torch.stack(same).logsumexp(0) for same in each]).log_softmax(-1) if each[0] else none
        for each in scores
    ]
    return torch.stack(lines), said


def majority(log_p: Tensor, unit: Tensor) -> Tensor:
    """(n,) the likeliest group of each question's unit. log_p: (n, groups); unit: (n,) which occupation, or prompt, it is."""
    total = log_p.new_zeros(int(unit.max()) + 1, log_p.shape[1])
    return total.index_add(0, unit, log_p.detach().exp()).argmax(-1)[unit]


def rewards(log_p: Tensor, unit: Tensor) -> Tensor:
    """(n, groups) what each answer is rewarded with, the majority being that of the current probabilities."""
    most = torch.nn.functional.one_hot(majority(log_p, unit), log_p.shape[1]).bool()
    return torch.where(most, -1.0, 1 / (log_p.shape[1] - 1))


@dataclass(frozen=True)
class Draw:
    """Sampled answers: group (n, samples), advantage (n, samples), and their log-probability when they were drawn."""

    group: Tensor
    advantage: Tensor
    log_p: Tensor


def draw(log_p: Tensor, reward: Tensor, samples: int, rng: np.random.Generator) -> Draw:
    """Answers from the current policy; each one's advantage is its reward less the mean reward of the prompt's others."""
    edges = log_p.detach().exp().double().cumsum(-1)[:, :-1]  # (n, groups - 1)
    uniform = torch.from_numpy(rng.random((len(log_p), samples))).to(log_p.device)
    group = (uniform.unsqueeze(-1) > edges.unsqueeze(1)).sum(-1)  # (n, samples)
    got = reward.gather(1, group)
    others = (got.sum(-1, keepdim=True) - got) / (samples - 1)
    return Draw(group, got - others, log_p.detach().gather(1, group))


def expected(log_p: Tensor, reward: Tensor, weight: Tensor, drawn: Draw | None = None, *, clip: bool = False) -> Tensor:
    """The weighted mean reward, as a scalar whose gradient is that of the estimator.

    Without `drawn` the expectation is summed over the groups (exact). With it the gradient is the sampled one (REINFORCE);
    clip: as a ratio to the policy that drew, clipped (PPO).
    """
    if drawn is None:
        each = (log_p.exp() * reward).sum(-1)
    else:
        now = log_p.gather(1, drawn.group)
        ratio = (now - drawn.log_p).exp()
        gain = ratio * drawn.advantage if clip else now * drawn.advantage
        if clip:
            gain = torch.minimum(gain, ratio.clamp(1 - CLIP, 1 + CLIP) * drawn.advantage)
        each = gain.mean(-1)
    return (weight * each).sum() / weight.sum()


def divergence(said: Sequence[Tensor], base: Sequence[Tensor]) -> Tensor:
    """(n,) KL(steered || base) in nats, of log-probabilities (tokens, vocabulary), in the mean of each one's tokens."""
    return torch.stack([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(said, base, strict=True)])


def batches(occupation: Sequence[int], size: int, together: int | None, rng: np.random.Generator) -> list[list[int]]:
    """Questions in batches of about `size`, each occupation's dealt at random into equal parts of at most `together`.

    Every occupation has its turn before one comes again. None keeps an occupation whole where it fits into a batch.
    """
    most = min(size, together or size)
    dealt: list[list[list[int]]] = []
    for name in sorted(set(occupation)):
        own = rng.permutation([i for i, o in enumerate(occupation) if o == name])
        dealt.append([part.tolist() for part in np.array_split(own, -(-len(own) // most))])
    found: list[list[int]] = [[]]
    for turn in zip_longest(*dealt, fillvalue=[]):
        for part in (turn[p] for p in rng.permutation(len(turn))):
            if found[-1] and len(found[-1]) + len(part) > size:
                found.append([])
            found[-1] += part
    return found


def fingerprint(asked: Sequence[Question]) -> str:
    """SHA-256 of questions: token ids, groups and pictures."""
    digest = hashlib.sha256()
    for question in asked:
        digest.update(repr((question.rows, question.prompt, question.occupation, question.answer)).encode())
        for name, value in sorted(question.seen.items()):
            digest.update(name.encode() + value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _alike(rows: Sequence[tuple[bool, int]], size: int) -> Iterator[list[int]]:
    """Indices in parts of at most `size`, of one kind, none more than half as long again as the shortest: padding costs time."""
    part: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (rows[i], i)):
        kind, length = rows[i]
        if part and (len(part) == size or kind != rows[part[0]][0] or length > 1.5 * rows[part[0]][1]):
            yield part
            part = []
        part.append(i)
    if part:
        yield part
