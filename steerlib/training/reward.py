"""What a training maximises, and what it is held to.

On a prompt about occupation o the policy is P(g), the probability of the options that stand for group g, normalised over the
options. m(o) is the group that the model, as it is at this moment, gives most often to o. With k groups

    r(g) = -1 if g = m(o), else 1 / (k - 1)             so that E[r] = (1 - k P(m(o) | o)) / (k - 1)

which is 0 when all groups are equally likely and -1 when one gets everything. With two groups r is -1 or +1, and its mean over
occupations is minus the Per-Occupation Bias. Source: Monteiro Paes et al., arXiv 2512.15926, section 4 and Theorem 1; more than
two groups, and m for a prompt in place of an occupation, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steerlib.training.policy import Policy

CLIP = 0.2
"""How far a probability ratio may move before `ppo` stops rewarding it (Schulman et al., arXiv 1707.06347)."""


def majority(log_p: Tensor, cluster: Tensor) -> Tensor:
    """(n,) the likeliest group of each prompt's cluster. log_p: (n, groups); cluster: (n,) its number."""
    total = log_p.new_zeros(int(cluster.max()) + 1, log_p.shape[1])
    return total.index_add(0, cluster, log_p.detach().exp()).argmax(-1)[cluster]


def rewards(log_p: Tensor, cluster: Tensor) -> Tensor:
    """(n, groups) what each answer is rewarded with; the majority is that of the current probabilities."""
    most = torch.nn.functional.one_hot(majority(log_p, cluster), log_p.shape[1]).bool()
    return torch.where(most, -1.0, 1 / (log_p.shape[1] - 1))


@dataclass(frozen=True)
class Rollout:
    """Sampled answers, all (n, samples): the group drawn, its advantage, and its log-probability when it was drawn."""

    action: Tensor
    advantage: Tensor
    log_p: Tensor


def rollout(log_p: Tensor, reward: Tensor, num_samples: int, rng: np.random.Generator) -> Rollout:
    """Answers sampled from the policy (n, groups); an advantage is over the mean reward of the prompt's other samples."""
    edges = log_p.detach().exp().double().cumsum(-1)[:, :-1]  # (n, groups - 1)
    uniform = torch.from_numpy(rng.random((len(log_p), num_samples))).to(log_p.device)
    action = (uniform.unsqueeze(-1) > edges.unsqueeze(1)).sum(-1)  # (n, samples)
    earned = reward.gather(1, action)
    others = (earned.sum(-1, keepdim=True) - earned) / (num_samples - 1)
    return Rollout(action, earned - others, log_p.detach().gather(1, action))


def expected_reward(
    log_p: Tensor, reward: Tensor, weight: Tensor, samples: Rollout | None = None, *, clip: bool = False
) -> Tensor:
    """The weighted mean reward, a scalar whose gradient is that of the estimator.

    log_p, reward: (n, groups); weight: (n,). Without samples the expectation is summed over the groups (exact); with them the
    gradient is that of REINFORCE, or with `clip` that of PPO's clipped ratio to the policy that was sampled from.
    """
    if samples is None:
        each = (log_p.exp() * reward).sum(-1)  # (n,)
    else:
        now = log_p.gather(1, samples.action)
        ratio = (now - samples.log_p).exp()
        gain = ratio * samples.advantage if clip else now * samples.advantage
        if clip:
            gain = torch.minimum(gain, ratio.clamp(1 - CLIP, 1 + CLIP) * samples.advantage)
        each = gain.mean(-1)
    return (weight * each).sum() / weight.sum()


def kl_divergence(now: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """(n,) KL(now || reference) in nats, of log-probabilities (tokens, vocabulary), averaged over each one's tokens."""
    return torch.stack([(a.exp() * (a - b)).sum(-1).mean() for a, b in zip(now, reference, strict=True)])


@dataclass(frozen=True)
class Divergences:
    """How far a policy is from that of the unchanged model, in nats, question by question and anchor by anchor.

    Over the whole vocabulary, that of the next token after each question (asked,), after each anchor (anchors,), and after every
    token of each anchor (anchors,); and that of the anchors' decisions between their options (anchors,), however seldom any
    option is said. decided: whether the anchors have options at all.
    """

    questions: Tensor
    anchors: Tensor
    tokens: Tensor
    decisions: Tensor
    decided: bool

    def mean(self) -> Tensor:
        """What the KL target is for: the mean of the up to four means, a scalar."""
        parts = [self.questions, self.anchors, self.tokens, *([self.decisions] if self.decided else [])]
        return torch.stack([part.mean() for part in parts if len(part)]).mean()


def divergences(now: Policy, reference: Policy, asked: int) -> Divergences:
    """Those of the first `asked` questions, and of the anchors that follow them."""
    held, kept = now.groups[asked:], reference.groups[asked:]  # (anchors, groups)
    last = tokens = held.new_zeros(0)
    if now.tokens:
        last = kl_divergence([a[-1:] for a in now.tokens], [b[-1:] for b in reference.tokens])
    if len(now.tokens) > asked:
        tokens = kl_divergence(now.tokens[asked:], reference.tokens[asked:])
    decisions = (held.exp() * (held - kept)).sum(-1)
    return Divergences(last[:asked], last[asked:], tokens, decisions, bool(kept.any()))


def total_divergence(now: Policy, reference: Policy, asked: int) -> Tensor:
    """The mean of the divergences of `asked` questions and the anchors that follow them: see `Divergences`."""
    return divergences(now, reference, asked).mean()
