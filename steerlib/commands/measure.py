"""`steerlib measure`: the bias of a model's decisions, steered or not, as a table and as a JSON file.

The file holds what was measured and all that it depends on: model and its weights, task, steering and its strength, seed,
versions and device. Numbers are Estimates, {"value", "low", "high", "n"}, or null where a task has none. It is written in one
step, by the first process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from steerlib.commands.asked import add_model_and_task, settings, task_of
from steerlib.commands.start import loaded, quiet, refuse_place, whole_file
from steerlib.errors import SteerlibError
from steerlib.evaluate.decisions import METRICS, DecisionBias, decision_bias
from steerlib.evaluate.intervals import Estimate
from steerlib.evaluate.language import compared, perplexities, perplexity
from steerlib.evaluate.style import table
from steerlib.models.model import Model, weights_hash
from steerlib.models.parallel import Processes, once, parallel
from steerlib.steering.apply import steer
from steerlib.steering.operations import Steering, load_steering
from steerlib.tasks import Task

FORMAT = "steerlib.measure/1"
PACKAGES = ("steerlib", "torch", "transformers", "accelerate", "numpy")


def add(commands: Any) -> None:
    """Add the command's words to the parser."""
    parser = commands.add_parser(
        "measure",
        help="measure the bias of a model's decisions, steered or not",
        description="Ask a model the questions of a task, steered or not, and print how biased its decisions are, with intervals.\n"
        "With several GPUs, `accelerate launch` starts a process for each, and the questions are divided among them.",
        epilog="examples:\n"
        "  steerlib measure smollm2 --task pronoun\n"
        "  steerlib measure smollm2 --task pronoun:test --steering fair.safetensors --strength 0.8 --perplexity --out fair.json\n"
        "  steerlib measure path/to/a/folder --task jobs.csv --task-option cluster=person\n"
        "  accelerate launch --num_processes 4 -m steerlib measure Qwen/Qwen2.5-7B-Instruct --task coreference --out bias.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_task(parser)
    parser.add_argument("--steering", type=Path, metavar="FILE", help="steer with it, as `steerlib train` wrote it")
    parser.add_argument("--strength", type=float, metavar="S", help="of the steering (default: 1)")
    parser.add_argument("--perplexity", action="store_true", help="also measure perplexity on plain English text")
    parser.add_argument(
        "--texts", type=Path, metavar="FILE", help="the same on other texts: paragraphs parted by empty lines"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything into this JSON file")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: 0)")
    parser.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    parser.add_argument(
        "--score",
        choices=("sum", "token", "character"),
        default="sum",
        help="how options of unequal length are compared",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="prompts per forward pass (default: 32)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, write."""
    with parallel() as here:
        quiet(here)
        if chosen.out is not None:
            refuse_place(chosen.out)
        if chosen.strength is not None and chosen.steering is None:
            raise SteerlibError("--strength is that of a steering: name its file with --steering.")
        options = settings(chosen.task_option, "--task-option")
        task, texts = task_of(chosen.task, options), _texts(chosen)
        steering = None if chosen.steering is None else load_steering(chosen.steering)
        strength = 1.0 if chosen.strength is None else chosen.strength
        model = loaded(chosen.model, here, chosen.device, settings(chosen.load_option, "--load-option"))
        bias, numbers = _measured(model, task, steering, strength, texts, chosen)
        if here.first:
            print(table(numbers).to_string())
        if chosen.out is not None:
            facts = _facts(model, task, bias, steering, strength, chosen, options, here)
            once(lambda: _write(chosen.out, {**facts, "numbers": {name: _plain(one) for name, one in numbers.items()}}))
            if here.first:
                print(f"\nwritten to {chosen.out}")
    return 0


def _texts(chosen: argparse.Namespace) -> list[str] | None:
    """The texts of --texts, one for each of its paragraphs."""
    if chosen.texts is None:
        return None
    try:
        text = chosen.texts.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SteerlibError(f"the texts in {chosen.texts} cannot be read ({error}).") from error
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _measured(
    model: Model,
    task: Task,
    steering: Steering | None,
    strength: float,
    texts: list[str] | None,
    chosen: argparse.Namespace,
) -> tuple[DecisionBias, dict[str, Estimate | None]]:
    """What was asked for; the plain model's perplexity is measured too where there is a steering to compare with."""
    drawn = {"resamples": chosen.resamples, "seed": chosen.seed}
    asked = chosen.perplexity or texts is not None
    plain = perplexities(model, texts, batch_size=chosen.batch_size) if asked and steering is not None else None
    with nullcontext() if steering is None else steer(model, steering, strength):
        bias = decision_bias(model, task, score=chosen.score, batch_size=chosen.batch_size, **drawn)
        numbers: dict[str, Estimate | None] = {name: getattr(bias, name) for name in METRICS}
        if asked:
            numbers["perplexity"] = perplexity(model, texts, batch_size=chosen.batch_size, **drawn)
        if plain is not None:
            after = perplexities(model, texts, batch_size=chosen.batch_size)
            numbers["perplexity_ratio"] = compared(plain, after, **drawn)
    return bias, numbers


def _facts(
    model: Model,
    task: Task,
    bias: DecisionBias,
    steering: Steering | None,
    strength: float,
    chosen: argparse.Namespace,
    options: dict[str, Any],
    here: Processes,
) -> dict[str, Any]:
    """What the numbers depend on."""
    steered = None
    if steering is not None:
        made = steering.provenance
        digest = hashlib.sha256(chosen.steering.read_bytes()).hexdigest()
        facts = {key: made.get(key) for key in ("method", "task", "seed", "model")}
        steered = {"file": str(chosen.steering), "sha256": digest, **facts}
    return {
        "format": FORMAT,
        "model": chosen.model,
        "load_options": list(chosen.load_option),
        "weights": weights_hash(model),
        "task": {
            "asked": chosen.task,
            "options": options,
            "name": task.name,
            "items": len(bias.frame),
            "ambiguous": len(bias.ambiguous),
            "clusters": len(bias.per_occupation),
        },
        "steering": steered,
        "strength": None if steering is None else strength,
        "seed": chosen.seed,
        "resamples": chosen.resamples,
        "score": chosen.score,
        "batch_size": chosen.batch_size,
        "processes": here.world,
        "device": _device(model.device),
        "dtype": str(model.hf.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    """The version of a package; None for one that runs from its source."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(device: torch.device) -> str:
    """What a model runs on, with the name of a GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    """An Estimate as JSON, which knows no NaN."""
    if estimate is None:
        return None
    return {key: None if isinstance(x, float) and not math.isfinite(x) else x for key, x in asdict(estimate).items()}


def _write(path: Path, result: dict[str, Any]) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(result, indent=1, allow_nan=False, default=str) + "\n", encoding="utf-8")
