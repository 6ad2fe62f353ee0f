"""Choosing the layers: make a steering at all of them once, then try parts of it.

The rule: among candidate windows of layers under which the capability stays within `floor` of the unsteered model's, the one
with the lowest bias; of two that are equal, the smaller window. Nothing is read again from the model to try another window: a
window is a part of the steering (`subset`). What is scored must be validation items, never those that the result is reported on.
The papers leave the layers to the experimenter; the rule is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.sites import Layers
from steerlib.steering.apply import steer
from steerlib.steering.edits import layers_in_short, subset
from steerlib.steering.operations import Steering


@dataclass(frozen=True)
class LayerChoice:
    """What `choose_layers` found.

    Args:
        layers: the chosen ones.
        steering: the part of the steering there.
        table: one row per candidate, the unsteered model first, with the columns candidate, layers (how many), bias,
            capability (and bias_low, ..., where the scores are Estimates), allowed, chosen.
        rule: what was chosen by, in words.
        results: {candidate: what `score` returned as its third value}, the unsteered model under "unsteered"; None if it
            returned two.
    """

    layers: tuple[int, ...]
    steering: Steering
    table: pd.DataFrame
    rule: str
    results: Mapping[str, Any] = field(default_factory=dict)


def choose_layers(
    model: Model,
    steering: Steering,
    score: Callable[[Model], Sequence[Any]],
    *,
    candidates: Sequence[Layers] = ("early", "middle", "late", "all"),
    strength: float = 1.0,
    floor: float = 0.03,
) -> LayerChoice:
    """The window of layers at which a steering lowers bias most without costing capability.

    Args:
        model: to be steered.
        steering: made at every layer of every candidate, with layers="all" for instance.
        score: measures the running model on validation items, once unsteered and once per candidate. It returns
            (bias, capability) as numbers or Estimates, or (bias, capability, result), where the result is anything worth
            keeping. Bias is best at 0, capability at its highest.
        candidates: windows, each as any `layers`.
        strength: at which they are compared.
        floor: how much capability may fall, in its own units (0.03 is three points of a share).

    Returns:
        The chosen window, with the table of all.

    Raises:
        SteerlibError: if every candidate costs more capability, or none lowers the bias.

    Example:
        >>> import steerlib as sl
        >>> lm = sl.load("smollm2")
        >>> she = sl.contrastive(lm, ["he said", "he was"], ["she said", "she was"], layers="all", operation="add")
        >>> def score(steered):
        ...     he, _ = steered.choose("The plumber was late for work because", [" he", " she"]).tolist()
        ...     return he, 1.0  # the probability of "he" stands for a bias; nothing is asked of capability here
        >>> choose_layers(lm, she, score, candidates=["early", "middle"]).rule  # doctest: +ELLIPSIS
        'lowest bias at strength 1.0 among the windows whose capability is at least that of the unsteered model...'
    """
    if not candidates or isinstance(candidates, (str, int)):
        raise SteerlibError(f"candidates are a list of windows, such as ['middle', range(4, 8)], not {candidates!r}.")
    if not floor >= 0:
        raise SteerlibError(f"floor is how much capability may fall, 0 or more, not {floor!r}.")
    parts = [subset(model, steering, window) for window in candidates]
    windows = [sites.layers(model.hf, window) for window in candidates]
    names = [
        w if isinstance(w, str) else layers_in_short(layers) for w, layers in zip(candidates, windows, strict=True)
    ]
    given = {"unsteered": score(model)}
    rows = [_row("unsteered", [], given["unsteered"])]
    for name, part, layers in zip(tqdm(names, desc="scoring layers", leave=False), parts, windows, strict=True):
        with steer(model, part, strength):
            given[name] = score(model)
            rows.append(_row(name, layers, given[name]))
    bias, capability, size = ([row[key] for row in rows] for key in ("bias", "capability", "layers"))
    tried = range(1, len(rows))
    allowed = [i for i in tried if capability[i] >= capability[0] - floor - 1e-9]  # sums of shares are not exact
    if not allowed:
        best = max(tried, key=lambda i: capability[i])
        raise SteerlibError(
            f"every candidate takes more than {floor} from the capability {capability[0]:.3f} of the unsteered model "
            f"(the best, {names[best - 1]}, leaves {capability[best]:.3f}): lower the strength or try other layers."
        )
    chosen = min(allowed, key=lambda i: (round(bias[i], 9), size[i]))
    if not bias[chosen] < bias[0]:
        raise SteerlibError(
            f"no candidate that keeps the capability lowers the bias {bias[0]:.3f} of the unsteered model (the best, "
            f"{names[chosen - 1]}, has {bias[chosen]:.3f}): raise the strength or try other layers."
        )
    table = pd.DataFrame(rows).assign(allowed=[i in allowed for i in range(len(rows))])
    rule = (
        f"lowest bias at strength {strength} among the windows whose capability is at least that of the unsteered model "
        f"less {floor}; of equal ones the smaller"
    )
    part = parts[chosen - 1]
    made = Steering(part.operations, {**part.provenance, "chosen": rule})
    results = {name: got[2] if len(got) == 3 else None for name, got in given.items()}
    return LayerChoice(tuple(windows[chosen - 1]), made, table.assign(chosen=table.index == chosen), rule, results)


def _row(name: str, layers: Sequence[int], scores: Sequence[Any]) -> dict[str, Any]:
    """One row of the table: the two scores, with the ends of their intervals if they have them."""
    row: dict[str, Any] = {"candidate": name, "layers": len(layers)}
    try:
        if len(scores) > 3:
            raise ValueError("too many")
        for key, value in zip(("bias", "capability"), scores[:2], strict=True):
            row[key] = float(value)
            row |= {f"{key}_{end}": float(getattr(value, end)) for end in ("low", "high") if hasattr(value, end)}
    except (TypeError, ValueError) as error:
        raise SteerlibError(
            f"score must return two numbers, (bias, capability), and at most a result, not {scores!r}."
        ) from error
    if not math.isfinite(row["bias"]) or not math.isfinite(row["capability"]):
        raise SteerlibError(f"the score of {name} is not finite: bias {row['bias']}, capability {row['capability']}.")
    return row
