"""What makes the difference? One budget for every method, from an instruction to a fine-tune, scored on sets that none has seen.

    python tools/ladder.py                       # everything, in order; hours on a processor, minutes on a GPU
    python tools/ladder.py --choose lora         # only choose the settings of some methods
    python tools/ladder.py --score lora --seeds 0 1 2

Every method sees the same training items (the training occupations in all training wordings) and tries six settings, which
are compared on `steerlib.tasks.choosing()`: the one that removes most bias wins, among those that keep accuracy on unambiguous
items (at most 2 points below the plain model) and perplexity (at most 1.1 times the plain model's). Then, with three seeds where there is anything
random, it is scored on the test occupations in held-out wordings, and once on the sealed set.

Results: data/ladder/chosen.json, data/ladder/NAME-SEED.json (numbers) and, of what can be applied again by hand,
NAME-SEED.safetensors. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import steerlib as sl
from steerlib.models.prompts import answered
from steerlib.reproduce.sealed import opened
from steerlib.tasks import Task

FOLDER = Path(__file__).resolve().parent.parent / "data" / "ladder"
BLOCKS = (10, 20, 26)  # of 30, for what acts at one block
RATES = tuple({"learning_rate": rate, "kl_target": kl} for rate in (3e-4, 1e-3, 3e-3) for kl in (0.1, 0.2))
ACCURACY, PERPLEXITY = 0.02, 1.1  # what a setting may cost


@dataclass(frozen=True)
class Instruction:
    """Words before every prompt; none leaves the model as it is."""

    text: str = ""
    place: Literal["user", "system"] = "user"


Made = sl.Steering | sl.Adapter | Instruction
Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """How something is made of the training items under a setting and a seed; the six settings; whether a seed matters."""

    make: Callable[[sl.Model, Setting, int], Made]
    settings: tuple[Setting, ...]
    seeded: bool = True


def items() -> Task:
    """The training occupations in all wordings that training may use."""
    return sl.tasks.pronoun("train", templates=sl.tasks.TRAINING_TEMPLATES)


def training(setting: Setting, seed: int) -> sl.Training:
    """The settings of the chapter on DSO but for those that are tried."""
    named = {key: setting[key] for key in ("learning_rate", "kl_target") if key in setting}
    return sl.Training(epochs=1, seed=seed, **named)


def sides(task: Task) -> tuple[list[Any], list[Any]]:
    """Every training prompt answered with the stereotype, and against it: the contrast of the vectors and of the erasure."""
    biased: list[Any] = []
    neutral: list[Any] = []
    for item in task.ambiguous:
        for option, group in zip(item.options, item.groups, strict=True):
            (biased if group == item.stereotype else neutral).append(answered(item.prompt, option))
    return biased, neutral


def learned(**fixed: Any) -> Callable[[sl.Model, Setting, int], sl.Steering]:
    """DSO with some of its parts, or at some of its places."""

    def make(lm: sl.Model, setting: Setting, seed: int) -> sl.Steering:
        where = [sl.Site("residual", setting["block"])] if "block" in setting else None
        return sl.dso(lm, items(), training(setting, seed), where=where, progress=False, **fixed)

    return make


def vectors(lm: sl.Model, setting: Setting, seed: int) -> sl.Steering:
    made = sl.contrastive(lm, *sides(items()), layers=setting["layers"], operation="add", progress=False)
    return made.scaled(setting["strength"])


def erased(lm: sl.Model, setting: Setting, seed: int) -> sl.Steering:
    return sl.leace(lm, *sides(items()), layers=setting["layers"])


def heads(lm: sl.Model, setting: Setting, seed: int) -> sl.Steering:
    made = sl.iti(lm, items(), heads=setting["heads"], seed=seed, progress=False)
    return made.scaled(setting["strength"])


METHODS: dict[str, Method] = {
    "nothing": Method(lambda lm, s, seed: Instruction(), ({"text": ""},), False),
    "instruction": Method(
        lambda lm, s, seed: Instruction(**s),
        tuple({"text": t, "place": p} for p, n in (("user", 4), ("system", 2)) for t in sl.INSTRUCTIONS[:n]),
        False,
    ),
    "contrastive vectors": Method(
        vectors,
        (
            *({"layers": "middle", "strength": s} for s in (0.1, 0.2, 0.4)),
            *({"layers": 15, "strength": s} for s in (1.0, 2.0, 4.0)),
        ),
        False,
    ),
    "inference-time intervention": Method(
        heads, tuple({"heads": k, "strength": s} for k in (16, 48) for s in (2.0, 5.0, 10.0))
    ),
    "erasure": Method(erased, tuple({"layers": where} for where in ("early", "middle", "late", "all", 20, 28)), False),
    "one vector": Method(
        learned(parts=["shift"]),
        tuple({"block": block, "learning_rate": rate} for block in BLOCKS for rate in (3e-2, 3e-1)),
    ),
    "shifts": Method(learned(parts=["shift"]), RATES),
    "scales": Method(
        learned(parts=["scale"]),
        tuple({"learning_rate": rate, "kl_target": kl} for rate in (3e-3, 1e-2, 3e-2) for kl in (0.1, 0.2)),
    ),
    "scales and shifts": Method(learned(), RATES),
    "biases": Method(lambda lm, s, seed: sl.bitfit(lm, items(), training(s, seed), progress=False), RATES),
    "one linear map": Method(
        lambda lm, s, seed: sl.reft(
            lm, items(), training(s, seed), where=sl.Site("residual", s["block"]), progress=False
        ),
        tuple({"block": block, "learning_rate": rate} for block in BLOCKS for rate in (3e-4, 3e-3)),
    ),
    "low-rank updates": Method(lambda lm, s, seed: sl.lora(lm, items(), training(s, seed), progress=False), RATES),
}


def applied(lm: sl.Model, made: Made) -> AbstractContextManager[None]:
    """The model with what was made; an instruction changes the questions instead."""
    if isinstance(made, sl.Steering):
        return sl.steer(lm, made)
    return sl.adapted(lm, made) if isinstance(made, sl.Adapter) else nullcontext()


def measured(lm: sl.Model, made: Made, task: Task) -> dict[str, Any]:
    """Bias per occupation and per prompt, accuracy and probability of the right pronoun, with intervals over occupations."""
    asked = task
    if isinstance(made, Instruction) and made.text:
        asked = sl.prompting(task, made.text, place=made.place)
    with applied(lm, made):
        bias = sl.decision_bias(lm, asked)
    known = bias.frame.dropna(subset="answer")
    right = known["p_man"].where(known["answer"] == "man", 1 - known["p_man"]).mean()
    names = ("per_occupation_bias", "per_prompt_bias", "unambiguous_accuracy")
    return {**{name: asdict(getattr(bias, name)) for name in names}, "right_pronoun": float(right)}


def fluent(lm: sl.Model, made: Made) -> float:
    """Perplexity on plain text; an instruction does not touch it."""
    with applied(lm, made):
        return sl.perplexity(lm).value


def size(made: Made) -> int:
    """How many numbers it is made of."""
    if isinstance(made, Instruction):
        return 0
    if isinstance(made, sl.Adapter):
        return sum(value.numel() for value in made.weights.values())
    learned = made.provenance.get("parts")
    tensors = [(name, v) for op in made.operations.values() for name, v in op.vectors().items()]
    return sum(v.numel() for name, v in tensors if learned is None or name in learned)


def choose(lm: sl.Model, name: str) -> dict[str, Any]:
    """All settings of a method on the set for choosing, and which one wins."""
    path = FOLDER / "chosen" / f"{slug(name)}.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    plain: dict[str, Any] = {
        **measured(lm, Instruction(), sl.tasks.choosing()),
        "perplexity": fluent(lm, Instruction()),
    }
    tried: list[dict[str, Any]] = []
    for setting in METHODS[name].settings:
        start = time.perf_counter()
        try:
            made = METHODS[name].make(lm, setting, 0)
        except sl.SteerlibError as error:  # a learning rate at which training breaks down is a setting that loses
            tried.append({"setting": setting, "failed": str(error)})
            continue
        seconds = time.perf_counter() - start
        numbers = measured(lm, made, sl.tasks.choosing())
        tried.append({"setting": setting, **numbers, "perplexity": fluent(lm, made), "seconds": round(seconds)})
        print(name, setting, f"{numbers['per_occupation_bias']['value']:.3f}", f"{seconds:.0f} s", flush=True)
    least = plain["unambiguous_accuracy"]["value"] - ACCURACY
    allowed = [
        one
        for one in tried
        if "failed" not in one
        and one["unambiguous_accuracy"]["value"] >= least
        and one["perplexity"] <= PERPLEXITY * plain["perplexity"]
    ]
    best = min(allowed, key=lambda one: float(one["per_occupation_bias"]["value"])) if allowed else None
    found = {"method": name, "chosen": best and best["setting"], "plain": plain, "tried": tried, **machine(lm)}
    write(path, found)
    return found


def score(lm: sl.Model, name: str, seed: int, because: str | None = None) -> None:
    """A method under its chosen setting, on the test set and on the sealed set."""
    path = FOLDER / f"{slug(name)}-{seed}.json"
    setting = choose(lm, name)["chosen"]
    if path.exists() or setting is None:
        print(f"{path.name} is there" if setting else f"no setting of {name} is allowed", flush=True)
        return
    start = time.perf_counter()
    made = METHODS[name].make(lm, setting, seed)
    seconds = round(time.perf_counter() - start)
    held_out = sl.tasks.pronoun("test", templates=[t for t in sl.tasks.TEMPLATES if t.held_out])
    numbers: dict[str, Any] = {
        "test": measured(lm, made, held_out),
        "perplexity": fluent(lm, made),
        "numbers": size(made),
        "seconds": seconds,
    }
    recipe = {"method": name, "setting": dict(setting), "model": lm.name}
    with opened(sl.tasks.sealed(), recipe, seed=seed, because=because) as entry:
        numbers["sealed"] = measured(lm, made, sl.tasks.sealed())
        entry.update(bias=numbers["sealed"]["per_occupation_bias"]["value"])
    if isinstance(made, sl.Steering) and size(made) < 100_000:
        made.save(path.with_suffix(".safetensors"))
    history = made.provenance.get("history") if not isinstance(made, Instruction) else None
    write(path, {"method": name, "setting": setting, "seed": seed, **numbers, "history": history, **machine(lm)})
    print(name, seed, f"test {numbers['test']['per_occupation_bias']['value']:.3f}", flush=True)


def machine(lm: sl.Model) -> dict[str, str]:
    """Where it ran."""
    name = torch.cuda.get_device_name() if lm.device.type == "cuda" else platform.machine()
    return {"model": lm.name, "device": name, "torch": torch.__version__}


def slug(name: str) -> str:
    return name.replace(" ", "-")


def write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="method", help=f"which ones: {', '.join(METHODS)}")
    parser.add_argument("--choose", action="store_true", help="only choose settings")
    parser.add_argument("--because", help="why a method is scored again under another recipe; the log keeps it")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default="smollm2")
    given = parser.parse_args()
    if unknown := set(given.methods) - set(METHODS):
        parser.error(f"there is no method '{min(unknown)}': known are {', '.join(METHODS)}")
    lm = sl.load(given.model)
    for name in given.methods or METHODS:
        choose(lm, name)
        for seed in [] if given.choose else given.seeds if METHODS[name].seeded else given.seeds[:1]:
            score(lm, name, seed, given.because)


if __name__ == "__main__":
    main()
