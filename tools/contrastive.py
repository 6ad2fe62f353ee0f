"""Write the contrastive steerings of the chapter "Add or ablate" into data/steerings/, at every layer, for the page on which a reader steers.

    python tools/contrastive.py       # both, and the card; about two minutes

The prompts, the layers and the centre are those of the chapter: training items in which the gender was said, every third of them,
and the midpoint of the two means. The addition is hers minus his, times one factor. An addition has no strength of its own (ten
blocks each push by the whole difference between the means, and the model says one pronoun only), so strength 1 is
defined here: over the late third it makes the mean P(he | he or she) of the ambiguous VALIDATION items 0.5, the average of
a fair model. The factor is negative if the unsteered model leans towards "she".
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

import steerlib as sl
from steerlib.models.prompts import Prompt
from steerlib.steering.operations import Steering

sys.path.insert(0, str(Path(__file__).resolve().parent))

from train_steerings import FOLDER, write_card

NAMES = {"add": "contrastive-smollm2-pronoun-add", "ablate": "contrastive-smollm2-pronoun-ablate"}
LAYERS = "late"
"""The third in which that chapter steers, and for which the factor is chosen."""
EVEN = 0.5
WIDEST = 0.1
"""A factor at which the model says one pronoun only, on either side."""
STEP = 1e-4
"""Factors are multiples of this: finer ones change no probability that a page shows."""


def prompts() -> tuple[list[Prompt], list[Prompt]]:
    """His and hers: the prompts that the chapter contrasts."""
    train = sl.tasks.pronoun("train").unambiguous
    his, hers = ([item.prompt for item in train if item.answer == group][::3] for group in ("man", "woman"))
    return his, hers


def lean(lm: sl.Model, steering: Steering, strength: float) -> float:
    """The mean P(he | he or she) of the ambiguous validation items, steered in the late third."""
    asked = [item.prompt for item in sl.tasks.pronoun("validation").ambiguous]
    with sl.steer(lm, sl.subset(lm, steering, LAYERS), strength):
        return float(lm.choose(asked, [" he", " she"])[:, 0].mean())


def even_factor(lm: sl.Model, added: Steering) -> float:
    """The multiple of STEP at which the lean is nearest to even; it falls as the factor grows."""
    low, high = -round(WIDEST / STEP), round(WIDEST / STEP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if lean(lm, added, middle * STEP) > EVEN else (low, middle)
    return STEP * min((low, high), key=lambda n: abs(lean(lm, added, n * STEP) - EVEN))


def main() -> None:
    torch.set_num_threads(1)  # another number gives other last digits
    lm = sl.load("smollm2", device="cpu")
    his, hers = prompts()
    ablated = sl.contrastive(lm, his, hers, layers="all", center="midpoint")
    added = sl.contrastive(lm, his, hers, layers="all", operation="add")
    factor = round(even_factor(lm, added), 4)
    made = {"add": added.scaled(factor), "ablate": ablated}
    chosen = {
        "chosen": f"the mean P(he | he or she) of the ambiguous validation items is {EVEN} at strength 1",
        "chosen_at": LAYERS,
        "unsteered": lean(lm, ablated, 0.0),
        "reached": lean(lm, made["add"], 1.0),
    }
    for kind, steering in made.items():
        facts = {**steering.provenance, "task": "pronoun", "strengths": [0, 1], **(chosen if kind == "add" else {})}
        replace(steering, provenance=facts).save(FOLDER / f"{NAMES[kind]}.safetensors")
        print(
            f"wrote {NAMES[kind]}",
            f"factor {factor:g}: {chosen['unsteered']:.4f} -> {chosen['reached']:.4f}" * (kind == "add"),
        )
    write_card()


if __name__ == "__main__":
    main()
