"""`steerlib train`: a Steering from a model and a task, in one file with its provenance.

`dso` and `reft` learn from the task's decisions, and go on from their checkpoint if they were killed. `contrastive`, `leace` and
`iti` read the activations of its ambiguous items, each with its answers: those that follow the stereotype against the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from steerlib.baselines.reft import reft
from steerlib.commands.asked import add_model_and_task, options_of, refuse_unknown, settings, task_of
from steerlib.commands.start import loaded, quiet, refuse_place, whole_file
from steerlib.errors import SteerlibError
from steerlib.methods.contrastive import contrastive
from steerlib.methods.dso import dso
from steerlib.methods.iti import iti
from steerlib.methods.leace import leace
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.models.parallel import once, parallel
from steerlib.models.prompts import Prompt, answered
from steerlib.steering.operations import Steering
from steerlib.tasks import Task
from steerlib.training.config import Training

LEARNED: dict[str, Callable[..., Steering]] = {"dso": dso, "reft": reft}
READ: dict[str, Callable[..., Steering]] = {"contrastive": contrastive, "leace": leace, "iti": iti}
SET = {"epochs": "epochs", "samples": "num_samples", "dtype": "dtype", "batch_size": "batch_size", "seed": "seed"}
"""The command's own options, and what `Training` calls them."""


def add(commands: Any) -> None:
    """Add the command's words to the parser."""
    parser = commands.add_parser(
        "train",
        help="make a steering for a model and write it to a file",
        description="Make a Steering from a model and the questions of a task, and write it to a file with its provenance.\n"
        "A training that was stopped goes on from its checkpoint when the same command is given again.\n"
        "With several GPUs, `accelerate launch` starts a process for each, and every step is divided among them.",
        epilog="examples:\n"
        "  steerlib train smollm2 --method dso --task pronoun:train --out fair.safetensors\n"
        "  steerlib train smollm2 --method dso --task pronoun:train --epochs 4 --seed 1 --method-option reward=prompt --out fair.safetensors\n"
        "  steerlib train smollm2 --method contrastive --task pronoun:train --method-option layers=12 --out she-he.safetensors\n"
        "  accelerate launch --num_processes 4 -m steerlib train Qwen/Qwen2.5-7B-Instruct --method dso --task pronoun:train \\\n"
        "      --batch-size 64 --out fair.safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_task(parser)
    parser.add_argument("--method", required=True, choices=(*LEARNED, *READ), help="what makes the steering")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the steering, as safetensors")
    parser.add_argument(
        "--method-option", action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the method, or for dso and reft a setting of steerlib.Training; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N",
        help="of everything random (default: 0); contrastive and leace draw nothing",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the ambiguous prompts (dso, reft)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="prompts per step, or read together")
    parser.add_argument(
        "--samples", type=int, metavar="N",
        help="answers sampled per prompt (dso and reft with --method-option estimator=reinforce or estimator=ppo)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="what the network runs in while it is trained (dso, reft)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="where a training is kept while it runs (default: beside the steering)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Make it, write it, say so."""
    with parallel() as here:
        quiet(here)
        began = time.monotonic()
        refuse_place(chosen.out)
        given = settings(chosen.method_option, "--method-option")
        # what cannot be is refused before the model is loaded
        make = learning(chosen, given) if chosen.method in LEARNED else reading(chosen, given)
        task = task_of(chosen.task, settings(chosen.task_option, "--task-option"))
        model = loaded(chosen.model, here, chosen.device, settings(chosen.load_option, "--load-option"))
        made = make(model, task)
        facts = {"task": task.name, "asked": chosen.task, "seed": chosen.seed}
        steering = replace(made, provenance={**facts, **made.provenance})
        once(lambda: _write(chosen, steering))
        if here.first:
            print(_sentence(chosen, task, steering, time.monotonic() - began))
    return 0


def learning(chosen: argparse.Namespace, given: Mapping[str, Any]) -> Callable[[Model, Task], Steering]:
    """How a method that learns from decisions is called."""
    method = LEARNED[chosen.method]
    own, ours = {field.name for field in fields(Training)}, set(options_of(method)) - {"checkpoint", "progress"}
    refuse_unknown(given, own | ours, chosen.method, "--method-option")
    asked = {ours: getattr(chosen, name) for name, ours in SET.items() if getattr(chosen, name) is not None}
    training = Training(**({key: value for key, value in given.items() if key in own} | asked))
    if chosen.samples is not None and training.estimator == "exact":
        raise SteerlibError(
            "--samples has no effect on the exact estimator: add --method-option estimator=reinforce, or leave it out."
        )
    more = {key: value for key, value in given.items() if key in ours}
    if isinstance(where := more.get("where"), list):
        more["where"] = [sites.parse(str(name)) for name in where]
    elif isinstance(where, str) and where != "mergeable":
        one = sites.parse(where)
        more["where"] = one if chosen.method == "reft" else [one]
    if chosen.method == "reft" and "where" not in more:
        raise SteerlibError("reft needs the site of its map: add --method-option where=residual.20, say.")
    return lambda model, task: method(model, task, training, checkpoint=_checkpoint(chosen), **more)


def reading(chosen: argparse.Namespace, given: Mapping[str, Any]) -> Callable[[Model, Task], Steering]:
    """How a method that reads activations is called."""
    method = READ[chosen.method]
    known = options_of(method)
    refuse_unknown(given, set(known) - {"progress"}, chosen.method, "--method-option")
    for name in ("epochs", "samples", "dtype", "checkpoint"):
        if getattr(chosen, name) is not None:
            raise SteerlibError(f"{chosen.method} takes no --{name}: it reads activations once, and trains nothing.")
    more = dict(given)
    if chosen.batch_size is not None:
        more["batch_size"] = chosen.batch_size
    if "seed" in known:
        more["seed"] = chosen.seed

    def make(model: Model, task: Task) -> Steering:
        return method(model, task, **more) if method is iti else method(model, *sides(task), **more)

    return make


def sides(task: Task) -> tuple[list[Prompt], list[Prompt]]:
    """The ambiguous items of a task with their answers: those that follow the stereotype, and the others.

    Raises:
        SteerlibError: if an item has no stereotype among its groups, or no other answer.

    >>> from steerlib.tasks import pronoun
    >>> biased, neutral = sides(pronoun("train"))
    >>> len(biased) == len(neutral) == len(pronoun("train").ambiguous)
    True
    """
    biased: list[Prompt] = []
    neutral: list[Prompt] = []
    for item in task.ambiguous:
        if item.stereotype not in item.groups or set(item.groups) == {item.stereotype}:
            raise SteerlibError(
                f"an item on '{item.cluster}' does not have answers with and against a stereotype: without them there is nothing to "
                "contrast."
            )
        for option, group in zip(item.options, item.groups, strict=True):
            (biased if group == item.stereotype else neutral).append(answered(item.prompt, option))
    return biased, neutral


def _checkpoint(chosen: argparse.Namespace) -> Path:
    """Where a training is kept while it runs."""
    given: Path | None = chosen.checkpoint
    out: Path = chosen.out
    return out.with_name(f"{out.name}.checkpoint") if given is None else given


def _write(chosen: argparse.Namespace, steering: Steering) -> None:
    """Write the steering; its checkpoint is of no more use."""
    with whole_file(chosen.out) as scratch:
        steering.save(scratch)
    if chosen.method in LEARNED:
        with suppress(OSError):
            _checkpoint(chosen).unlink()


def _sentence(chosen: argparse.Namespace, task: Task, steering: Steering, seconds: float) -> str:
    """What was made."""
    history = steering.provenance.get("history")
    learned = ""
    if history:
        learned = (
            f"; {len(history['bias'])} steps, in which the bias of a batch went from {history['bias'][0]:.2f} to "
            f"{history['bias'][-1]:.2f} and the divergence to {history['kl'][-1]:.2f} nats"
        )
    return f"{chosen.method} on {task.name}: {len(steering.operations)} sites in {seconds:.0f} s{learned}\nwritten to {chosen.out}"
