"""Measure the grid of the page on which a reader steers, into data/grid.json: what SmolLM2 answers under every method and strength.

    python tools/grid.py              # all, a good hour of one core; goes on where it was stopped
    python tools/grid.py add ablate   # only the cells of some methods, such as in a second process

A cell is one method at one strength (the unsteered model is one cell for all methods). Each is kept in the cache as soon as
it is measured, under a hash of its steering, the prompts and the weights, so that a change of any of them measures it anew. A cell has

    P(" he"), P(" she"), P(" they") over the whole vocabulary, for 74 occupations in the 10 ambiguous wordings
    Per-Occupation Bias, gap, accuracy and the probability of the right pronoun, for the 26 test occupations, the last two in the two
        held-out wordings that say the gender
    perplexity of every fifth paragraph of plain_text.txt, which are those of the chapter "Add or ablate"

each by the library's own functions. Prompts of one wording and one length are asked together, so that nothing is padded, and the blocks
below the first steered one run once for all strengths (below.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from below import Memory, remembered

import steerlib as sl
from steerlib.assets import cache_dir
from steerlib.evaluate.statistics import mean
from steerlib.inpage.grid import AMBIGUOUS, ANSWERS, STRENGTHS, TOLD, axes, packed, segments, unpacked
from steerlib.inpage.methods import CONTROL, METHODS, Method, applied
from steerlib.models.model import weights_hash
from steerlib.models.prompts import Prompt
from steerlib.tasks import Item, Task

FILE = Path(__file__).resolve().parent.parent / "data" / "grid.json"
MODEL = "smollm2"
SEED = 0
SPECIALS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Answered(sl.Model):
    """A model whose answers are known: bias is then computed from the very probabilities that the grid has."""

    known: Mapping[str, Tensor] = field(default_factory=dict, hash=False)

    def choose(self, prompts: Any, options: Any, **how: Any) -> Any:
        """What was answered, of " he" and " she" alone."""
        p = torch.stack([self.known[key(prompt)][:2] for prompt in prompts])  # (items, 2)
        return p / p.sum(-1, keepdim=True), p.sum(-1)


def key(prompt: Prompt) -> str:
    return json.dumps(prompt)


def everyone() -> Task:
    """All that is asked for the grid: an occupation after the other, in all ambiguous wordings."""
    return sl.tasks.pronoun("all", templates=AMBIGUOUS)


def told() -> Task:
    """Test occupations in wordings that say the gender and that no training has seen."""
    return sl.tasks.pronoun("test", templates=[template for template in TOLD if template.held_out])


def answers(lm: sl.Model, items: Sequence[Item]) -> Tensor:
    """P(word | prompt) over the whole vocabulary, (items, words) in float32."""
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        alike[item.template, len(lm.tokens(item.prompt))].append(place)
    found = torch.zeros(len(items), len(ANSWERS))
    for places in alike.values():
        p, mass = lm.choose([items[i].prompt for i in places], list(ANSWERS), return_mass=True, batch_size=80)
        found[places] = p * mass.unsqueeze(-1)
    return found


def cell(lm: sl.Model, method: Method | None, strength: float, memory: Memory) -> dict[str, Any]:
    """All numbers of one method at one strength; None is the model as it is. memory: of the blocks below the steered ones."""
    grid, gender = everyone().items, told().items
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="strength .* lies outside")  # the page says so itself
        with ExitStack() as stack:
            if method is not None:
                stack.enter_context(sl.steer(lm, applied(method), strength))
                if method.layers:
                    stack.enter_context(remembered(lm.hf, min(method.layers), memory))
            p, right = answers(lm, grid), answers(lm, gender)
            prose = sl.perplexity(lm, texts(), seed=SEED)
    known = {key(item.prompt): line for item, line in zip((*grid, *gender), (*p, *right), strict=True)}
    asked = sl.tasks.pronoun("test", templates=AMBIGUOUS) + told()
    recorded = Answered(lm.name, lm.hf, lm.tokenizer, lm.processor, lm.template, known)
    bias = sl.decision_bias(recorded, asked, seed=SEED)
    said = bias.unambiguous
    sure = mean(said["p_right"], said["family"].tolist(), bounds=(0, 1), seed=SEED)
    numbers = {
        "bias": bias.per_occupation_bias,
        "gap": bias.stereotype_gap,
        "right": sure,
        "accuracy": bias.unambiguous_accuracy,
        "perplexity": prose,
    }
    estimates = {name: [round(x, 5) for x in (e.value, e.low, e.high)] for name, e in numbers.items() if e}
    shape = len(grid) // len(AMBIGUOUS), len(AMBIGUOUS), len(ANSWERS)
    return {"p": packed(p.double().numpy()), "shape": shape, "summary": estimates}


def texts() -> list[str]:
    return sl.plain_text()[::5]


def cells() -> Iterator[tuple[Method | None, float]]:
    """Every cell, the model as it is first, then by strength, so that a page could be made of the strengths that are there."""
    yield None, 0.0
    for strength in sorted(STRENGTHS, key=lambda s: (not 0 <= s <= 1, s)):
        if strength:
            yield from ((method, strength) for method in METHODS)


def fingerprint(lm: sl.Model, method: Method | None, strength: float) -> str:
    """The hash of all that decides a cell."""
    digest = hashlib.sha256()
    for name, vector in [] if method is None else _vectors(method):
        digest.update(name.encode() + vector.float().numpy().tobytes())
    asked = [[item.prompt, item.stereotype, item.family] for item in (*everyone(), *told())]
    versions = [version("torch"), version("transformers")]
    digest.update(json.dumps([strength, asked, texts(), ANSWERS, SEED, versions, weights_hash(lm)]).encode())
    return digest.hexdigest()[:24]


def _vectors(method: Method) -> Iterator[tuple[str, Tensor]]:
    for site, operation in applied(method).operations.items():
        yield from ((f"{site}/{name}", vector) for name, vector in operation.vectors().items())


def chat(lm: sl.Model) -> list[Any]:
    """SmolLM2's chat, with places for what the user says and how the answer begins."""
    places = {"user": "USER'S WORDS", "answer": "ANSWER'S BEGINNING"}
    return segments(lm.render(sl.chat(places["user"], places["answer"])), SPECIALS, places)


def steerings() -> dict[str, str]:
    """The SHA-256 of the file of each method's steering; the control is made from the first of them."""
    names = [method.steering for method in METHODS if method.steering != CONTROL]
    paths = {name: sl.data_path("steerings", f"{name}.safetensors") for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [method.id for method in METHODS]
    parser.add_argument("methods", nargs="*", metavar="method", help=f"which ones: {', '.join(known)}")
    wanted = parser.parse_args().methods or known
    if unknown := set(wanted) - set(known):
        parser.error(f"there is no method {min(unknown)}: there are {', '.join(known)}")
    torch.set_num_threads(1)  # another number gives other last digits
    lm = sl.load(MODEL, device="cpu")
    folder = cache_dir() / "runs" / "grid"
    folder.mkdir(parents=True, exist_ok=True)
    kept: dict[tuple[str, float], dict[str, Any]] = {}
    memory: Memory = {}
    todo = list(cells())
    for number, (method, strength) in enumerate(todo, 1):
        name = "plain" if method is None else method.id
        path = folder / f"{name}@{strength:+.2f}-{fingerprint(lm, method, strength)}.json"
        if not path.exists():
            if method is not None and method.id not in wanted:
                continue
            start = time.perf_counter()
            found = cell(lm, method, strength, memory)
            found["seconds"] = round(time.perf_counter() - start, 1)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found), encoding="utf-8")
            part.rename(path)
        kept[name, strength] = json.loads(path.read_text(encoding="utf-8"))
        bias = kept[name, strength]["summary"]["bias"][0]
        print(
            f"{number}/{len(todo)} {name} {strength:+.2f}: {kept[name, strength]['seconds']} s, bias {bias:.3f}",
            flush=True,
        )
    if len(kept) == len(todo):
        write(lm, kept)
    else:
        print(f"{len(todo) - len(kept)} of {len(todo)} cells are still to be measured")


def write(lm: sl.Model, kept: Mapping[tuple[str, float], Mapping[str, Any]]) -> None:
    """The file, from all cells."""
    p, summary = {}, {}
    for method in METHODS:
        own = [kept[(method.id, s) if s else ("plain", 0.0)] for s in STRENGTHS]
        parts = [unpacked(one["p"], one["shape"]) for one in own]  # each (occupations, wordings, words)
        p[method.id] = packed(np.stack(parts, axis=2))  # (occupations, wordings, strengths, words)
        summary[method.id] = [
            {"strength": s, **possible(one["summary"])} for s, one in zip(STRENGTHS, own, strict=True)
        ]
    grid = {
        "about": "what SmolLM2 answers under every method and strength; the card is in data/README.md, the maker tools/grid.py",
        "model": MODEL,
        "weights": weights_hash(lm),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "seed": SEED,
        "steerings": steerings(),
        **axes(),
        "told": [template.name for template in TOLD if template.held_out],
        "texts": len(texts()),
        "chat": chat(lm),
        "p": p,
        "summary": summary,
    }
    FILE.write_text(_lines(grid), encoding="utf-8", newline="\n")
    print(f"wrote {FILE.name}: {FILE.stat().st_size:,} bytes, {sum(one['seconds'] for one in kept.values()):.0f} s")


def possible(summary: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The estimates, none of whose ends lies below the least perplexity there is, 1: where language is destroyed, intervals reach below."""
    value, low, high = summary["perplexity"]
    return {**summary, "perplexity": [value, max(low, 1.0), high]}


def _lines(grid: Mapping[str, Any]) -> str:
    """JSON with a line per key."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in grid.items()) + "\n}\n"


if __name__ == "__main__":
    main()
