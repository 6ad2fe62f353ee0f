"""Train the Steerings that the chapters read instead of train: DSO under other seeds and rewards, into data/steerings/.

    python tools/train_steerings.py                                  # all; minutes each
    python tools/train_steerings.py dso-smollm2-pronoun-1            # some
    python tools/train_steerings.py lora-smollm2-pronoun-0           # the fine-tune to compare with: its numbers, as JSON
    python tools/train_steerings.py dso-gemma3-270m-pronoun-0        # fetches Gemma 3 270M, under the terms at ai.google.dev/gemma/terms
    python tools/train_steerings.py --card                           # only write the card again

Every run writes a checkpoint and goes on from it, so it may be stopped at any time. What is there already is left alone; remove a
file to have it made anew. The card, data/steerings/README.md, is written from the files themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import steerlib as sl
from steerlib.assets import cache_dir
from steerlib.methods.dso import dso
from steerlib.tasks import Task
from steerlib.training.config import Reward

FOLDER = Path(__file__).resolve().parent.parent / "data" / "steerings"


@dataclass(frozen=True)
class Recipe:
    """One Steering: everything that is not `dso`'s own default."""

    model: str
    task: str
    seed: int
    reward: Reward = "occupation"
    few: bool = False
    mergeable: bool = False

    @property
    def name(self) -> str:
        kind = "few-" if self.few else "per-prompt-" if self.reward == "prompt" else ""
        kind += "mergeable-" if self.mergeable else ""
        return f"dso-{self.model}-{self.task}-{kind}{self.seed}"

    def items(self) -> Task:
        if self.task == "pronoun":
            asked = sl.tasks.pronoun("train") if self.few else pronouns()
            return asked if self.model == "smollm2" else asked.as_text()  # the other one has no chat template
        return sl.tasks.who_is("train", scenes=2)

    def options(self) -> dict[str, Any]:
        """What differs from the defaults. The one that shows how a reward is fooled sees an occupation only as a whole."""
        if self.task == "pronoun":
            return {} if self.few else ONCE
        return {"epochs": 3, "kl_target": 0.3} if self.pictured else {"per_cluster": None, "kl_target": 0.05}

    @property
    def pictured(self) -> bool:
        """Whether it is one of those that are made for use with pictures."""
        return self.task == "who-is" and self.reward == "prompt"

    def anchors(self) -> Task | None:
        """What is to stay: of a model that sees, its way with text alone as well."""
        if not self.pictured:
            return None
        text = sl.tasks.pronoun("train").unambiguous.items[::3]
        return Task("unambiguous", (*self.items().unambiguous.items, *text))


def pronouns() -> Task:
    """The training occupations in all the wordings that training may use."""
    return sl.tasks.pronoun("train", templates=sl.tasks.TRAINING_TEMPLATES)


ONCE: dict[str, Any] = {"epochs": 1}  # over so many wordings

FORMER_NAMES = {
    "epochs": "passes",
    "num_samples": "samples",
    "per_cluster": "together",
    "kl_target": "eps",
    "kl_coef": "kl_weight",
}
"""What the settings were called when most of the files that ship were made: their headers have these names."""

RECIPES = (
    Recipe("smollm2", "pronoun", 0),
    Recipe("smollm2", "pronoun", 1),
    Recipe("smollm2", "pronoun", 2),
    Recipe("smollm2", "pronoun", 0, few=True),  # half of the wordings, twice: for "Direct Steering Optimization"
    Recipe("smollm2", "pronoun", 0, "prompt"),
    Recipe("smollm2", "pronoun", 0, mergeable=True),  # only what a plain checkpoint can hold: for "Ship it"
    Recipe(
        "gemma3-270m", "pronoun", 0
    ),  # the first recipe on a second model, settings untouched: for "Does it hold elsewhere?"
    Recipe("gemma3-270m", "pronoun", 1),
    Recipe("gemma3-270m", "pronoun", 2),
    Recipe("smol-llava", "who-is", 0),  # learns to answer "the first" to everybody: for "Fooling the metric"
    Recipe("smol-llava", "who-is", 0, "prompt"),
    Recipe("smol-llava", "who-is", 1, "prompt"),
    Recipe("smol-llava", "who-is", 2, "prompt"),
)

TUNED = "lora-smollm2-pronoun-0"
"""A LoRA fine-tune at the same reward, data and steps as `dso-smollm2-pronoun-0`: only what it measured is kept."""

CARD = """\
# Steerings

Affine steerings of every norm, made by Direct Steering Optimization (`steerlib.dso`), so that the chapters can show what other
seeds and rewards give without training for as long again; and the two contrastive steerings of the chapter "Add or ablate", for the page on which a
reader steers.

| file | model | task | reward | seed | bias in the first third of the steps, in the last | SHA-256 |
|---|---|---|---|---|---|---|
{rows}

| file | model | task | operation | factor | SHA-256 |
|---|---|---|---|---|---|
{contrasts}

**What.** safetensors, two vectors of the hidden width a norm; the header has every setting, the hash of the model's weights, the
versions, and bias, divergence and anchor accuracy at every step of training. Read one with `steerlib.load_steering`.

**How made.** `python tools/train_steerings.py`, with the versions in requirements.lock, in float32 on a processor, one thread. The
settings are `dso`'s defaults of that day, but for what the script sets; they stand in each file, in the older ones under names that
`steerlib.Training` has changed since: passes is now epochs, samples num_samples, together per_cluster, eps kl_target and kl_weight kl_coef. Training items only (see
occupations.csv for the split), in fourteen ambiguous wordings; those with `few` in their name saw seven of them, twice. The one
with `mergeable` learned only what the weights of a plain Llama can hold: all but the shift of the last norm. Those of
gemma3-270m have every setting of SmolLM2's, none of which was tried on that model; it has no chat template, so each chat was asked as one
text. The per-prompt steerings of smol-llava made three passes, and are held on unambiguous prompts without pictures as well, since without
them its plain text suffers.

The contrastive ones were made by `python tools/contrastive.py`, as in the chapter "A direction inside the model": training items in which the gender was said, every third,
read at the last token after each of the 30 blocks, his minus hers, about the midpoint of the two means. The addition is hers minus
his times the factor. It makes strength 1 mean that, over the late third of the layers, the mean P(he | he or she) of the ambiguous validation items
is 0.5. Unsteered it is {unsteered:.2f}. Where that is below 0.5, as here, the model leans to "she", the factor is negative and a positive
strength pushes from woman towards man.

**How the settings were chosen.** On validation items. Two earlier recipes had been looked at on test items, too. One, with eps 0.05,
seven wordings and whole occupations in a step, removed 55 % of SmolLM2's bias in wordings that it had not seen, and a third to a half
of smol-llava's. The other, with what `dso` does now but for the anchors' decisions, which it did not hold, lost eleven points of
accuracy on unambiguous test items. Both led to what is done now. One of smol-llava's steerings was made with eps 0.2 as well: it
removed 59 % of the test bias, was looked at there too, and gave way to eps 0.3, which was better on validation items at the same
accuracy. So the test items were not quite unseen when the settings were set; the chapters' numbers are those of the last recipe alone.

**Limits.** Each is for one model: another one is refused. It makes the model's choice between two options fairer on questions like
those it was trained on, for two genders, in English. It does not make the model fair, and elsewhere it may do nothing or harm; the
chapters on DSO and on the tradeoff show what was measured. The bias in the table is that of the training's batches, and no test. The contrastive ones do what "Add or ablate"
shows: the ablation cuts the tie to the labour market and lets the wording decide, and the addition moves everybody by about as much, so that an even average hides
the same stereotypes. The factor was chosen for the late third: over other layers, strength 1 means nothing in particular.

`lora-smollm2-pronoun-0.json` has the numbers of a LoRA fine-tune (`steerlib.lora`) with the reward, the questions, the constraint
and the steps of `dso-smollm2-pronoun-0`, next to those of that steering and of the plain model, on test occupations in held-out
wordings. The fine-tune itself is not kept.

`dso-smol-llava-who-is-0` is a warning and no tool: rewarded per occupation, it learned to answer "the first" to nearly every
question. Each pair is shown in both orders, so that its Per-Occupation Bias is almost 0; it is fair because it no longer looks.

**Who could be misled.** Somebody who takes a low bias on this task for a low bias. Somebody who ships one without measuring it on
questions of their own.

**License.** CC BY 4.0, the steerlib authors; the vectors act on SmolLM2 (Apache-2.0), smol-llava (Apache-2.0) and Gemma 3 270M. Gemma is
provided under and subject to the Gemma Terms of Use found at <https://ai.google.dev/gemma/terms>; nothing of Gemma itself is here, but whoever
passes on a steering that was made with it should pass on this notice.

**How to update.** Remove a file, run the command, measure the claims of the chapters again. Another processor or another
version of PyTorch gives other last digits, and so another hash.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known: dict[str, Recipe | None] = {**{recipe.name: recipe for recipe in RECIPES}, TUNED: None}
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ones: {', '.join(known)}")
    parser.add_argument("--card", action="store_true", help="train nothing")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"there is no recipe {min(unknown)}: known are {', '.join(known)}")
    FOLDER.mkdir(exist_ok=True)
    for name in [] if given.card else given.names or known:
        recipe = known[name]
        make(recipe) if recipe else tune()
    write_card()


def make(recipe: Recipe) -> None:
    path = FOLDER / f"{recipe.name}.safetensors"
    if path.exists():
        print(f"{recipe.name} is there")
        return
    checkpoint, start = runs() / path.name, time.perf_counter()
    torch.set_num_threads(1)  # another number gives other last digits
    model = sl.load(recipe.model, device="cpu")
    how = sl.Training(reward=recipe.reward, seed=recipe.seed, **recipe.options())
    where: Literal["mergeable"] | None = "mergeable" if recipe.mergeable else None
    made = dso(model, recipe.items(), how, anchors=recipe.anchors(), where=where, checkpoint=checkpoint)
    made.save(path)
    checkpoint.unlink()
    print(f"wrote {path.name} after {time.perf_counter() - start:.0f} s")


def runs() -> Path:
    """The folder for checkpoints."""
    folder = cache_dir() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tune() -> None:
    """Train the fine-tune, and write what it does to test items, beside the plain model and the steering of the same seed."""
    torch.set_num_threads(1)
    lm, start = sl.load("smollm2", device="cpu"), time.perf_counter()
    checkpoint = runs() / f"{TUNED}.safetensors"
    made = sl.lora(lm, pronouns(), sl.Training(**ONCE), checkpoint=checkpoint)
    print(f"trained {TUNED} after {time.perf_counter() - start:.0f} s")
    kept = ("rank", "epochs", "batch_size", "learning_rate", "kl_target", "reward", "seed")
    facts = {key: made.provenance[key] for key in kept}
    numbers: dict[str, Any] = {**facts, "parameters": sum(value.numel() for value in made.weights.values())}
    numbers["unsteered"] = measured(lm)
    with sl.steer(lm, sl.load_steering(FOLDER / "dso-smollm2-pronoun-0.safetensors")):
        numbers["DSO"] = measured(lm)
    with sl.adapted(lm, made):
        numbers["LoRA"] = measured(lm)
    checkpoint.unlink()
    path = FOLDER / f"{TUNED}.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8", newline="\n")


def measured(lm: sl.Model) -> dict[str, Any]:
    """The model as it is now, on test occupations in held-out wordings."""
    held_out = [template for template in sl.tasks.TEMPLATES if template.held_out]
    bias = sl.decision_bias(lm, sl.tasks.pronoun("test", templates=held_out))
    names = ("per_occupation_bias", "per_prompt_bias", "unambiguous_accuracy")
    told = bias.frame.dropna(subset="answer")
    right = told["p_man"].where(told["answer"] == "man", 1 - told["p_man"]).mean()
    numbers = {name: asdict(getattr(bias, name)) for name in names}
    return {**numbers, "right_pronoun": float(right), "perplexity": sl.perplexity(lm).value}


def write_card() -> None:
    rows = []
    for recipe in RECIPES:
        path = FOLDER / f"{recipe.name}.safetensors"
        if path.exists():
            facts = sl.load_steering(path).provenance
            bias, each = facts["history"]["bias"], len(facts["history"]["bias"]) // 3
            first, last = (sum(part) / each for part in (bias[:each], bias[-each:]))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            what = f"`{path.name}` | {recipe.model} | {recipe.task} | per {recipe.reward} | {recipe.seed}"
            rows.append(f"| {what} | {first:.2f}, {last:.2f} | `{digest}` |")
    contrasts, unsteered = [], 0.5
    for path in sorted(FOLDER.glob("contrastive-*.safetensors")):
        facts = sl.load_steering(path).provenance
        unsteered = facts.get("unsteered", unsteered)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        what = f"`{path.name}` | {facts['model']} | {facts['task']} | {facts['operation']} | {facts.get('scaled', 1):g}"
        contrasts.append(f"| {what} | `{digest}` |")
    card = CARD.format(rows="\n".join(rows), contrasts="\n".join(contrasts), unsteered=unsteered)
    (FOLDER / "README.md").write_text(card, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
