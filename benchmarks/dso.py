"""What it costs to reach a given bias: the three estimators of `dso`, and TRL's trainers with the same reward, in one run.

    python benchmarks/dso.py                     # SmolLM2, some minutes on two cores
    python benchmarks/dso.py --target 0.3 --epochs 3
    python benchmarks/dso.py --chapter           # the whole training of the chapter on DSO, in float32 and in bfloat16: wall time

Every candidate trains the same vectors (an affine map after every norm) on the same prompts in the same order with the same rate,
for the reward alone: no anchors and no weight on the divergence, since TRL's trainers have neither in this form. Each runs in a
process of its own, whose largest memory is taken. The bias is the model's own probability, averaged over the last epoch of
prompts. Seconds are of the processor, on all its threads, so that other work on the machine matters less; those in which the bias
is only measured do not count. TRL samples one token, of the options only. It is skipped where it
is not installed (pip install trl).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import steerlib as sl
from steerlib.methods.dso import dso
from steerlib.models.sites import find, sites
from steerlib.tasks import Task
from steerlib.training.data import prepare, schedule
from steerlib.training.policy import policy
from steerlib.training.reward import expected_reward, rewards

WHOLE = ("float32", "bfloat16")
CANDIDATES = ("exact", "reinforce", "ppo", "trl-rloo", "trl-grpo")
PLAIN = ("late", "advice", "tired", "cafe")  # wordings in plain text, so that all prompts are of like length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a name that steerlib.load knows, a folder or a hub id")
    parser.add_argument("--target", type=float, default=0.25, help="the Per-Occupation Bias to be reached")
    parser.add_argument("--epochs", type=int, default=4, help="the most that each may train")
    parser.add_argument("--samples", type=int, default=8, help="answers per prompt, where they are sampled")
    parser.add_argument("--rate", type=float, default=1e-3, help="the learning rate at first")
    parser.add_argument("--chapter", action="store_true", help="time the training of the chapter on DSO instead")
    parser.add_argument("--only", choices=(*CANDIDATES, *WHOLE), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(chapter(given) if given.only in WHOLE else measure(given)))
        return
    if given.chapter:
        print(
            f"{given.model}, the training of the chapter on DSO, torch {torch.__version__}, {torch.get_num_threads()} threads"
        )
        done = {name: run(name) for name in WHOLE}
        for name, one in done.items():
            ratio = one["seconds"] / done["float32"]["seconds"]
            print(
                f"  {name:10} {one['seconds']:6.0f} s {ratio:6.2f} {one['memory']:6.2f} GB, validation bias {one['bias']}"
            )
        return
    print(f"{given.model}, target {given.target}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"  {'':10} {'steps':>6} {'CPU s':>8} {'ratio':>6} {'memory':>8} {'ratio':>6} {'last bias':>10}")
    first: Any = None
    for name in CANDIDATES:
        one = run(name)
        if one is None:
            print(f"  {name:10} skipped: TRL is not installed")
            continue
        first = first or one
        known = one["seconds"] and first["seconds"]
        ratio = f"{one['seconds'] / first['seconds']:6.2f}" if known else f"{'':6}"
        seconds = f"{one['seconds']:8.0f}" if one["seconds"] else f"{'never':>8}"
        memory = f"{one['memory']:5.2f} GB {one['memory'] / first['memory']:6.2f}"
        print(f"  {name:10} {one['steps']:6} {seconds} {ratio} {memory} {one['bias']:10.3f}", flush=True)


def run(name: str) -> Any:
    """One candidate in a process of its own; None if what it needs is missing."""
    if name.startswith("trl") and importlib.util.find_spec("trl") is None:
        return None
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", name], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Train one candidate: seconds and steps until the mean bias of one pass is at the target, and the largest memory."""
    lm = sl.load(given.model, device="cpu")
    items = [item for item in sl.tasks.pronoun("train").ambiguous if item.template in PLAIN]
    names = sorted({item.occupation for item in items})[::3][:12]
    task = Task("pronoun", tuple(item for item in items if item.occupation in names))
    how = sl.Training(
        num_samples=given.samples,
        epochs=given.epochs,
        batch_size=24,
        per_cluster=None,
        learning_rate=given.rate,
        l1=0.0,
        kl_target=None,
        kl_coef=0.0,
    )
    warnings.filterwarnings("ignore", message="there are no anchors")  # as meant
    start = time.process_time()
    if given.only.startswith("trl"):
        biases, measuring = trl(lm, task, how, given.only.removeprefix("trl-"))
    else:
        made = dso(lm, task, replace(how, estimator=given.only), anchors=(), progress=False)
        biases, measuring = made.provenance["history"]["bias"], 0.0
    seconds = time.process_time() - start - measuring
    each = len(biases) // given.epochs
    means = [float(np.mean(biases[step - each : step])) for step in range(each, len(biases) + 1)]
    reached = next((each + i for i, mean in enumerate(means) if mean <= given.target), None)
    return {
        "steps": reached or len(biases),
        "seconds": seconds * reached / len(biases) if reached else None,
        "memory": peak(),
        "bias": means[-1],
    }


def chapter(given: argparse.Namespace) -> dict[str, Any]:
    """The training of the chapter on DSO: its wall time with loading, the largest memory, and the bias on validation items before and after."""
    start = time.perf_counter()
    lm = sl.load(given.model, device="cpu")
    train = sl.tasks.pronoun("train", templates=sl.tasks.TRAINING_TEMPLATES)
    made = dso(lm, train, sl.Training(epochs=1, dtype=given.only), progress=False)
    seconds, memory = time.perf_counter() - start, peak()
    items, biases = sl.tasks.pronoun("validation").ambiguous, []
    for strength in (0.0, 1.0):
        with sl.steer(lm, made, strength):
            biases.append(f"{sl.decision_bias(lm, items).per_occupation_bias.value:.3f}")
    return {"seconds": seconds, "memory": memory, "bias": " -> ".join(biases)}


def peak() -> float:
    """The largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def trl(lm: sl.Model, task: Task, how: sl.Training, kind: str) -> tuple[list[float], float]:
    """TRL's RLOO or GRPO trainer on the same vectors: the bias before every step, and the seconds that measuring it took."""
    import datasets
    import pyarrow
    import trl

    data = prepare(lm, task, (), how)
    prompts, cluster = [item.prompt for item in task], [question.cluster for question in data.questions]
    order = [i for batch in schedule(cluster, how) for i in batch]
    ends = {lm.tokens(prompts[0], option)[-1]: group for option, group in zip(task.items[0].options, data.groups)}
    for site in sites(lm.hf, "norm"):
        module = find(lm.hf, site).module
        module.scale, module.shift = (nn.Parameter(torch.zeros(find(lm.hf, site).width)) for _ in range(2))
        module.register_forward_hook(lambda m, args, h: h + m.scale * h + m.shift)
    biases: list[float] = []
    measuring = 0.0

    def fair(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        nonlocal measuring
        start = time.process_time()
        part = sorted(set(number))
        with torch.no_grad():
            log_p = policy(lm, [data.questions[i] for i in part], 2).groups
        about = torch.tensor([cluster[i] for i in part])
        reward = rewards(log_p, about)
        biases.append(-float(expected_reward(log_p, reward, torch.ones(len(part)))))
        measuring += time.process_time() - start
        groups = [data.groups.index(ends[ids[0]]) for ids in completion_ids]
        return [float(reward[part.index(i), group]) for i, group in zip(number, groups, strict=True)]

    config, trainer = {"rloo": (trl.RLOOConfig, trl.RLOOTrainer), "grpo": (trl.GRPOConfig, trl.GRPOTrainer)}[kind]
    with tempfile.TemporaryDirectory() as folder:
        settings = config(
            output_dir=folder,
            learning_rate=how.learning_rate,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            max_grad_norm=0.0,
            num_train_epochs=1,
            num_generations=how.num_samples,
            max_completion_length=1,
            per_device_train_batch_size=how.batch_size,
            gradient_accumulation_steps=how.num_samples,
            beta=0.0,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            generation_kwargs={"suppress_tokens": [i for i in range(lm.hf.config.vocab_size) if i not in ends]},
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        table = pyarrow.Table.from_pylist([{"prompt": prompts[i], "number": i} for i in order])
        rows = datasets.Dataset(
            datasets.table.InMemoryTable(table), fingerprint="none"
        )  # hashing it may fail, and is not needed
        trainer(
            model=lm.hf, reward_funcs=fair, args=settings, train_dataset=rows, processing_class=lm.tokenizer
        ).train()
    return biases, measuring


if __name__ == "__main__":
    main()
