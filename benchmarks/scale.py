"""What steering and training cost at the size of the papers' models: real configurations, random weights, one GPU.

    python benchmarks/scale.py                   # a GPU of 40 GB or more; minutes
    python benchmarks/scale.py --config tiny     # the same code on a processor

The weights are random, so nothing that the model says means anything; times and memory are those of the real one. Ratios are
to the unsteered model in the same run, medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import transformers as tf

import steerlib as sl
from steerlib.models.sites import sites
from steerlib.training.config import Training

CONFIGS = {  # the language models of Qwen2.5-VL-7B and LLaVA-1.5-7B; the vocabulary is that of the tokenizer in use
    "qwen2.5-7b": tf.Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
    "llama-2-7b": tf.LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=49280
    ),
    "tiny": tf.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=49280
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=["qwen2.5-7b", "llama-2-7b"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps of training that are timed")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # options of random models hold no probability
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "processor"
    print(f"{name}, torch {torch.__version__}, transformers {tf.__version__}, bfloat16")
    for config in given.config:
        report(config, device, given.rounds, given.steps)


def report(name: str, device: str, rounds: int, steps: int) -> None:
    torch.manual_seed(0)
    start = time.perf_counter()
    with torch.device(device):
        hf = tf.AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)
    lm = sl.wrap(hf, sl.load("smollm2", device="cpu").tokenizer, name=name, check=False)
    size = sum(weight.numel() for weight in hf.parameters())
    print(
        f"\n{name}: {size / 1e9:.2f} billion weights, {peak(device):.1f} GB, made in {time.perf_counter() - start:.0f} s"
    )

    width, norms, blocks = hf.config.hidden_size, sites(hf, "norm"), sites(hf, "residual")
    small = [0.01 * torch.randn(width, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    steerings = {
        f"affine at all {len(norms)} norms": sl.Steering({site: sl.Affine(small[0], small[1]) for site in norms}),
        f"a vector added at all {len(blocks)} blocks": sl.Steering({site: sl.Add(small[2]) for site in blocks}),
        f"a direction ablated at all {len(blocks)} blocks": sl.Steering({site: sl.Ablate(small[3]) for site in blocks}),
        "a vector added at one block": sl.Steering({blocks[len(blocks) // 2]: sl.Add(small[2])}),
    }
    generator = torch.Generator().manual_seed(0)
    for what, batch, tokens, new in (
        ("reading 512 tokens", 8, 512, 1),
        ("writing 32 tokens", 1, 64, 32),
        ("writing 32 tokens", 16, 64, 32),
    ):
        ids = torch.randint(100, 49000, (batch, tokens), generator=generator).to(device)

        def run(ids: torch.Tensor = ids, new: int = new) -> None:
            with torch.inference_mode():
                hf.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False
                )

        plain = [seconds(run, device) for _ in range(rounds + 1)][1:]
        print(f"  {what}, batch of {batch}: {1000 * np.median(plain) / new:.1f} ms per pass, unsteered")
        for label, steering in steerings.items():
            with sl.steer(lm, steering):
                ratios = [seconds(run, device) / np.median(plain) for _ in range(rounds + 1)][1:]
            print(f"    {label:42} {np.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    task = sl.tasks.pronoun("train")
    cut = sl.tasks.Task(task.name, task.items[: 30 * steps], task.about, task.statistic)
    for label, options in (
        ("DSO at all norms", {}),
        ("one vector at one block", {"where": [blocks[len(blocks) // 2]], "parts": ["shift"]}),
    ):
        how = Training(epochs=1, per_cluster=None)
        start = time.perf_counter()
        try:
            made = sl.dso(lm, cut, how, progress=False, **options)
        except sl.SteerlibError as error:  # random weights may break down
            print(f"  {label}: {error}")
            continue
        done = len(made.provenance["history"]["bias"])
        print(
            f"  {label}: {(time.perf_counter() - start) / done:.2f} s per step of 16 prompts and 4 anchors ({done} steps), {peak(device):.1f} GB"
        )


def peak(device: str) -> float:
    """The most GPU memory so far, in GB."""
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0


def seconds(run: Callable[[], None], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
