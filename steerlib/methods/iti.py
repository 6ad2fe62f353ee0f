"""Inference-Time Intervention: probes find the attention heads that know, and those are shifted.

For every head (l, h), x = what it hands on at the last token of prompt + answer, y = 1 if the answer goes against the stereotype.
A logistic probe learns y from x on some occupations and is scored on others; the K heads with the best scores get

    h + s sigma d      d: unit direction from answers with the stereotype to those against it,   sigma: the spread of x . d

d is the difference of the two means ("mean") or the probe's weights ("probe"). So a strength of 1 is one standard deviation; the
paper uses up to 15. Source: Li et al., arXiv 2306.03341, section 3, with "against the stereotype" in place of "truthful", as
the baseline of Monteiro Paes et al., arXiv 2512.15926. Ours: a probe is scored on occupations that it has not seen.
"""

from __future__ import annotations

import numbers
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError, check_count
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.prompts import Prompt, answered
from steerlib.models.sites import Layers, Site
from steerlib.steering.capture import capture
from steerlib.steering.operations import Add, Operation, Steering, provenance
from steerlib.tasks import Task


def iti(
    model: Model,
    task: Task,
    *,
    heads: int = 16,
    direction: Literal["mean", "probe"] = "mean",
    layers: Layers = "all",
    validation: float = 0.2,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Steering:
    """A Steering of Add operations at the attention heads whose probes tell best whether an answer is a stereotype.

    Args:
        model: whose heads are read.
        task: its ambiguous items are read, each with every option as its answer.
        heads: K, how many heads are steered.
        direction: along the difference of the "mean"s, or the weights of the "probe".
        layers: where to look.
        validation: the share of occupations on which probes are scored.
        batch_size: how many answers are read together.
        seed: which occupations those are.
        progress: show a bar.

    Returns:
        A Steering whose provenance keeps the validation accuracy of every head.

    Raises:
        SteerlibError: if there are too few items or heads, or scikit-learn is missing.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2", device="cpu")
        >>> task = sl.tasks.Task("few", sl.tasks.pronoun("train").ambiguous.items[::40])
        >>> made = sl.iti(lm, task, heads=4, layers=[14, 15], progress=False)
        >>> len(made.operations), len(made.provenance["accuracy"])
        (4, 18)
    """
    try:
        from sklearn.linear_model import LogisticRegression  # slow to import, and only needed here
    except ImportError as error:
        raise SteerlibError(
            "iti needs the package scikit-learn: install it with `pip install scikit-learn`."
        ) from error

    if direction not in ("mean", "probe"):
        raise SteerlibError(f"unknown direction '{direction}': choose 'mean' or 'probe'.")
    heads, seed = check_count("heads", heads), check_count("seed", seed, 0)
    where = sites.sites(model.hf, "head", layers)
    if heads > len(where):
        raise SteerlibError(f"{heads} heads cannot be steered: these layers have {len(where)}.")
    texts, against, names = _answered(task)
    origin = provenance(model, "iti")  # before the work
    unseen = _unseen(names, validation, seed)
    found: dict[Site, list[Tensor]] = {site: [torch.empty(0)] * len(texts) for site in where}
    with tqdm(total=len(texts), desc="iti", disable=not progress) as bar:
        for indices, got in capture(model, texts, where, batch_size=batch_size):
            for site, values in got.items():
                for i, value in zip(indices, values, strict=True):
                    found[site][i] = value
            bar.update(len(indices))
    accuracy, vectors = {}, {}
    for site in where:
        x = torch.stack(found[site]).double().numpy()  # (texts, head width)
        probe = LogisticRegression(max_iter=1000, class_weight="balanced").fit(x[~unseen], against[~unseen])
        hit = probe.predict(x[unseen]) == against[unseen]
        accuracy[site] = float(np.mean([hit[against[unseen] == side].mean() for side in (False, True)]))
        d = probe.coef_[0] if direction == "probe" else x[against].mean(0) - x[~against].mean(0)
        d = d / max(float(np.linalg.norm(d)), 1e-12)
        vectors[site] = torch.from_numpy((x @ d).std() * d).float()
    best = sorted(where, key=lambda site: -accuracy[site])[:heads]  # ties: the earlier head
    operations: dict[Site, Operation] = {site: Add(vectors[site]) for site in sorted(best)}
    facts: dict[str, Any] = {
        "task": task.name,
        "answers": len(texts),
        "heads": heads,
        "direction": direction,
        "seed": seed,
    }
    scores = {str(site): round(value, 4) for site, value in accuracy.items()}
    return Steering(operations, {**origin, **facts, "accuracy": scores})


def _answered(task: Task) -> tuple[list[Prompt], Any, list[str]]:
    """Every ambiguous item with every answer: the prompts, (n,) whether it goes against the stereotype, the occupations."""
    texts: list[Prompt] = []
    against, names = [], []
    for item in task.ambiguous:
        if item.stereotype not in item.groups:
            raise SteerlibError(f"'{item.cluster}' has no stereotype among its groups, {', '.join(item.groups)}.")
        if set(item.groups) == {item.stereotype}:
            raise SteerlibError(
                f"an item on '{item.cluster}' has no answer against the stereotype ({item.stereotype}): a probe learns to tell "
                "answers of both kinds apart."
            )
        for option, group in zip(item.options, item.groups, strict=True):
            texts.append(answered(item.prompt, option))
            against.append(group != item.stereotype)
            names.append(item.cluster)
    if len(set(names)) < 2:
        raise SteerlibError(
            f"'{task.name}' has ambiguous items on {len(set(names))} {task.about}(s): probes need two or more, to be scored on "
            "some that they have not seen."
        )
    return texts, np.array(against), names


def _unseen(names: list[str], share: float, seed: int) -> Any:
    """(n,) bool: answers about the occupations on which probes are scored, at least one and never all of them."""
    if not isinstance(share, numbers.Real) or not 0 < share < 1:
        raise SteerlibError(
            f"validation must be between 0 and 1, not {share}: it is the share of the occupations kept back."
        )
    each = np.random.default_rng(seed).permutation(sorted(set(names)))
    kept = set(each[: min(max(1, round(share * len(each))), len(each) - 1)].tolist())
    return np.array([name in kept for name in names])
