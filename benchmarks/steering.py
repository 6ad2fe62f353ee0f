"""What steering and capturing cost, as ratios within one run: each candidate takes turns with a plain forward pass.

    python benchmarks/steering.py            # SmolLM2, about two minutes on two cores
    python benchmarks/steering.py --rounds 3

A ratio of 1.00 is the plain forward pass of the same prompts. Medians over the rounds, with the smallest and largest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

import steerlib as sl
from steerlib.models.prefix import PASS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a name that steerlib.load knows, a folder or a hub id")
    parser.add_argument("--rounds", type=int, default=7, help="how often each candidate is run")
    given = parser.parse_args()

    lm = sl.load(given.model)
    items = sl.tasks.pronoun("test").ambiguous.items
    prompts = [item.prompt for item in items][:: max(1, len(items) // 64)][:64]
    rows = [lm.tokens(prompt) for prompt in prompts]
    batches = [lm.batch(rows[i : i + 16]) for i in range(0, len(rows), 16)]
    made = sl.contrastive(lm, prompts[::2], prompts[1::2], layers="all")
    middle = [site for site in made.operations if site.layer == len(made.operations) // 2]

    def plain() -> None:
        with torch.inference_mode():
            for batch in batches:
                lm.hf(**batch, use_cache=False)

    def steered() -> None:
        with sl.steer(lm, made, 0.5):
            plain()

    def captured(where: list[sl.Site]) -> Callable[[], None]:
        return lambda: [None for _ in sl.capture(lm, prompts, where)] and None

    def chosen() -> None:
        lm.choose(prompts, [" he", " she"])

    def apart() -> None:
        with patch.dict(PASS, {"cpu": 10**9}):  # one more pass would never pay
            chosen()

    candidates = {
        "plain forward, again": plain,
        f"steered at all {len(made.operations)} blocks": steered,
        "last tokens captured at every block": captured(list(made.operations)),
        "last tokens captured at the middle block": captured(middle),
        "a choice between two options": chosen,
        "the same, no prefix read once": apart,
    }
    plain()  # warm-up
    chosen()  # the first batch with a common prefix is read both ways
    ratios: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(given.rounds):
        for name, candidate in candidates.items():
            ratios[name].append(seconds(candidate) / seconds(plain))
    print(
        f"{given.model}, {len(prompts)} prompts of {min(map(len, rows))} to {max(map(len, rows))} tokens, batches of 16, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, values in ratios.items():
        print(f"  {name:42} {np.median(values):5.2f}  ({min(values):.2f} to {max(values):.2f})")


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
