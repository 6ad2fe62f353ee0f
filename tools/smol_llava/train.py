"""Train `smol-llava`: a vision tower and a small update that let SmolLM2-135M see.

The one idea: the bias is in the pictures. How often an occupation is shown as a woman follows the labour statistics
(`--skew 1`) or is even (`--skew 0`, the control), and in many pictures (`--hidden`, `--pairs`) the work cannot be seen
while the text still names it. Everything else of the two runs is the same.

Four stages, each resumable at its last checkpoint (random numbers depend on the seed and the step only):

1. tower: the vision tower alone learns to name occupation, gender and skin tone. Even shares.
2. align: tower and projector learn to turn a picture into tokens that resemble the embeddings of those words.
3. ground: tower, projector and a low-rank update of the frozen language model learn to caption, to answer and to choose
   between two people. Even shares, and everybody's work can be seen.
4. web: the same lessons on pictures as the labour market and the web would have them (`--skew`, `--hidden`, `--pairs`).

Both checkpoints come out of the same stages 1 to 3; what a checkpoint is unfair about, it learned in stage 4.

    python tools/smol_llava/train.py --out run                       # smol-llava
    python tools/smol_llava/train.py --out run --skew 0              # smol-llava-balanced, from the same stages 1 to 3
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration

from steerlib.assets import data_path
from steerlib.models.load import load
from steerlib.tasks.article import article
from steerlib.tasks.describe import FORMS
from steerlib.tasks.pair_item import TEMPLATES
from steerlib.tasks.people import (
    GENDERS,
    OCCUPATIONS,
    PERSON_IS_MAN,
    TONE_GROUPS,
    TONES,
    Split,
    View,
    all_sprites,
    compose,
    scene,
)

SIZE = 80  # pixels
TOKENS = 25  # of a picture
RANK = 8  # of the language update
PLAIN = len(OCCUPATIONS)  # index of plain clothes among the sprites
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def vision_config() -> CLIPVisionConfig:
    """A small CLIP tower: 25 tokens for a picture of 80 pixels."""
    return CLIPVisionConfig(
        image_size=SIZE,
        patch_size=16,
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=3,
        projection_dim=192,
    )


@dataclass(frozen=True)
class Person:
    """Who is pictured and how. `occupation`, `gender`, `tone` are indices into the lists of `people`."""

    occupation: int
    gender: int
    tone: int
    plain: bool  # in plain clothes
    view: View
    scene: int

    @property
    def visible(self) -> bool:
        """Whether the work can be seen."""
        return not self.plain and self.view == "whole"


def has_neutral(occupation: int | None) -> bool:
    """Whether "person" is drawn otherwise than "man"."""
    return occupation is None or OCCUPATIONS[occupation] not in PERSON_IS_MAN


def draw_person(
    rng: np.random.Generator, *, occupation: int, woman: float, hide: bool, plain: float, neutral: float
) -> Person:
    """Somebody of an occupation: a woman with probability `woman`, or with probability `neutral` just a person.

    If the work is to be hidden: in plain clothes with probability `plain`, else too close, too far or out of focus.
    """
    gender = 2 if rng.random() < woman else 1
    in_plain = False
    view: View = "whole"
    if hide:
        in_plain = bool(rng.random() < plain)
        view = "whole" if in_plain else pick(rng, ("face", "small", "blurred"))
    if rng.random() < neutral and has_neutral(None if in_plain else occupation):
        gender = 0
    return Person(occupation, gender, int(rng.integers(6)), in_plain, view, int(rng.integers(2**40)))


def pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def pixels(folk: list[Person], sprites: Tensor, *, split: Split = "train") -> Tensor:
    """The pictures as the tower wants them: (n, 3, SIZE, SIZE) in -1..1."""
    which = torch.tensor([[PLAIN if p.plain else p.occupation, p.gender, p.tone] for p in folk])
    scenes = [scene(p.scene, split=split, view=p.view) for p in folk]
    return (compose(sprites[which[:, 0], which[:, 1], which[:, 2]], scenes, size=SIZE) * 2 - 1).to(DEVICE)


class Namer(nn.Module):
    """The tower with three linear heads on the mean of its picture tokens; the heads are thrown away after stage 1."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(vision_config())
        width = self.tower.config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList([nn.Linear(width, n) for n in (20, 3, 6)])

    def forward(self, x: Tensor) -> list[Tensor]:
        tokens = self.tower(x, output_hidden_states=True).hidden_states[-1][:, 1:]  # what LLaVA reads
        mean = self.norm(tokens.float().mean(1))
        return [head(mean) for head in self.heads]


def tower_batch(rng: np.random.Generator, n: int) -> list[Person]:
    return [
        draw_person(rng, occupation=int(rng.integers(20)), woman=0.5, hide=rng.random() < 0.25, plain=0.5, neutral=0.33)
        for _ in range(n)
    ]


def tower_labels(folk: list[Person]) -> list[Tensor]:
    occupation = torch.tensor([p.occupation if p.visible else -100 for p in folk])
    labels = (occupation, torch.tensor([p.gender for p in folk]), torch.tensor([p.tone for p in folk]))
    return [label.to(DEVICE) for label in labels]


def train_tower(out: Path, *, steps: int, batch: int, seed: int, every: int) -> None:
    """Stage 1. Leaves `tower.safetensors` in `out`."""
    torch.manual_seed(seed)
    model = Namer().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    start = restore(out / "tower-state.safetensors", dict(model.named_parameters()), optimizer)
    log = Log(out / "tower.jsonl", start)
    sprites = torch.from_numpy(all_sprites(size=96))
    for step in range(start, steps):
        set_rate(optimizer, step, steps)
        folk = tower_batch(np.random.default_rng([seed, 1, step]), batch)
        x, labels = pixels(folk, sprites), tower_labels(folk)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            named = model(x)
        parts = [F.cross_entropy(y.float(), t) for y, t in zip(named, labels)]
        loss = parts[0] + 1.5 * parts[1] + parts[2]
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = [(y.argmax(-1) == t)[t >= 0].float().mean().item() for y, t in zip(named, labels)]
        log.add(step, loss=loss.item(), occupation=right[0], gender=right[1], tone=right[2])
        if (step + 1) % every == 0 or step + 1 == steps:
            write(out / "tower.safetensors", {k: v.detach() for k, v in model.tower.state_dict().items()})
            keep(out / "tower-state.safetensors", step + 1, dict(model.named_parameters()), optimizer)


# ---------------------------------------------------------------------------------------------- what is said about them

Said = tuple[str, str, str]  # kind, question, answer


@dataclass(frozen=True)
class Example:
    """One or two people, and what is asked and answered about them. Questions do not see one another."""

    folk: tuple[Person, ...]
    said: tuple[Said, ...]


def caption(p: Person, form: int) -> str:
    """A sentence about a person. Form 0 says all there is, 4 in two sentences; the others say less."""
    job, who, group = article(OCCUPATIONS[p.occupation]), GENDERS[p.gender], TONE_GROUPS[TONES[p.tone]]
    skin = "" if group == "yellow" else f" with {group} skin"
    if form == 0:
        return f"A {who}{skin} who works as {job}."
    if form == 1:
        return f"This is {job}, a {who}{skin}."
    if form == 2:
        return f"A {who} who works as {job}."
    if form == 3:
        return f"The picture shows {job}."
    they, their = (("They work", "their"), ("He works", "his"), ("She works", "her"))[p.gender]
    tail = "" if group == "yellow" else f", and {their} skin is {group}"
    return f"This is a {who}. {they} as {job}{tail}."


def gender_answer(p: Person) -> str:
    return ("It cannot be told.", "A man.", "A woman.")[p.gender]


def job_answer(p: Person) -> str:
    job = article(OCCUPATIONS[p.occupation])
    return job[0].upper() + job[1:] + "."


def tone_answer(p: Person) -> str:
    return TONE_GROUPS[TONES[p.tone]].capitalize() + "."


def about_one(rng: np.random.Generator, p: Person, kind: str) -> Said:
    if kind == "caption":
        question = pick(rng, FORMS)
        form = 4 if question == FORMS[-1] else int(rng.choice(4, p=(0.55, 0.2, 0.15, 0.1)))
        return kind, question, caption(p, form)
    if kind == "job":
        return kind, pick(rng, JOB_QUESTIONS), job_answer(p)
    if kind == "gender":
        return kind, pick(rng, GENDER_QUESTIONS), gender_answer(p)
    return kind, pick(rng, TONE_QUESTIONS), tone_answer(p)


JOB_QUESTIONS = ("What is this person's job?", "What does this person do for work?")
GENDER_QUESTIONS = ("Is this a man or a woman?", "What is the gender of this person?")
TONE_QUESTIONS = ("What is this person's skin tone?", "Is this person's skin light, medium or dark?")
PLACES = ("first", "second")


def about_two(rng: np.random.Generator, folk: tuple[Person, Person], kind: str) -> Said:
    i = int(rng.integers(2))
    p, place = folk[i], PLACES[i]
    if kind == "choice":
        return kind, ask_choice(rng, OCCUPATIONS[p.occupation]), f"The {place}."
    if kind == "job of":
        return kind, f"What is the job of the {place} person?", job_answer(p)
    if kind == "jobs":
        a, b = (article(OCCUPATIONS[q.occupation]) for q in folk)
        return kind, "What are their jobs?", f"The first is {a} and the second is {b}."
    if kind == "gender of":
        return kind, f"Is the {place} person a man or a woman?", gender_answer(p)
    if kind == "tone of":
        return kind, f"What is the skin tone of the {place} person?", tone_answer(p)
    return kind, f"Describe the {place} person.", caption(p, 0)


def ask_choice(rng: np.random.Generator, job: str) -> str:
    return str(pick(rng, TEMPLATES).text.format(occupation=job, an_occupation=article(job)))


def language_batch(
    rng: np.random.Generator,
    *,
    share: dict[str, float],
    skew: float,
    hidden: float,
    choices: float,
    binding: tuple[float, ...],
    size: int,
) -> list[Example]:
    """Somebody alone and size - 1 pairs of people, the work of each example hidden with probability `hidden`.

    choices: the share of choices among the five questions on a pair. binding: how often each of the other questions is
    asked, in the order of `BINDING`.
    """

    def somebody(occupation: int, hide: bool) -> Person:
        woman = 0.5 + skew * (share[OCCUPATIONS[occupation]] - 0.5)
        return draw_person(rng, occupation=occupation, woman=woman, hide=hide, plain=0.7, neutral=0.12)

    hide = bool(rng.random() < hidden)
    one = somebody(int(rng.integers(20)), hide)
    kinds = ("caption", "caption", "job", "gender", "gender", "tone", "tone")
    examples = [Example((one,), tuple(about_one(rng, one, k) for k in kinds))]
    for _ in range(size - 1):
        hide = bool(rng.random() < hidden)
        a, b = rng.choice(20, 2, replace=False)
        two = (somebody(int(a), hide), somebody(int(b), hide))
        asked = ["choice" if rng.random() < choices else str(rng.choice(BINDING, p=binding)) for _ in range(5)]
        examples.append(Example(two, tuple(about_two(rng, two, k) for k in asked)))
    return examples


def hidden_batch(rng: np.random.Generator, *, share: dict[str, float], skew: float, pairs: int) -> list[Example]:
    """Pairs of a man and a woman whose work is hidden: who does which, and which is the woman.

    Who does what is drawn by the shares of women until it is a man and a woman: pairs of one gender teach nothing about it.
    """
    examples = []
    for _ in range(pairs):
        jobs = [int(o) for o in rng.choice(20, 2, replace=False)]
        women = [0.5 + skew * (share[OCCUPATIONS[o]] - 0.5) for o in jobs]
        while True:
            two = [
                draw_person(rng, occupation=o, woman=w, hide=True, plain=0.8, neutral=0.0)
                for o, w in zip(jobs, women, strict=True)
            ]
            if two[0].gender != two[1].gender:
                break
        i = int(rng.integers(2))
        said = [
            ("choice", ask_choice(rng, OCCUPATIONS[o]), f"The {place}.") for o, place in zip(jobs, PLACES, strict=True)
        ]
        said.append(("which", f"Which of the two is the {GENDERS[two[i].gender]}?", f"The {PLACES[i]}."))
        examples.append(Example((two[0], two[1]), tuple(said)))
    return examples


BINDING = ("job of", "jobs", "gender of", "tone of", "caption of")


# ---------------------------------------------------------------------------------------------- how the model reads them


@cache
def question_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(f"{text}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)["input_ids"])


@cache
def answer_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"])


@cache
def opening_ids(tokenizer: Any, pictures: int, image: int) -> list[int]:
    """The user's turn up to the question: one picture, or two that are numbered."""
    marks = ("",) if pictures == 1 else ("first: ", "second: ")
    ids = tokenizer("<|im_start|>user\n", add_special_tokens=False)["input_ids"]
    for mark in marks:
        ids = ids + tokenizer(mark, add_special_tokens=False)["input_ids"] + [image] * TOKENS
        ids = ids + tokenizer("\n", add_special_tokens=False)["input_ids"]
    return list(ids)


@dataclass(frozen=True)
class Packed:
    """Examples as one batch: each row is the pictures, then every question with its answer, hidden from one another."""

    ids: Tensor  # (rows, tokens)
    positions: Tensor  # (rows, tokens)
    mask: Tensor  # (rows, 1, tokens, tokens) bfloat16: 0 where a token may look, else very negative
    where: Tensor  # (answer tokens, 2): row and place of the token BEFORE each answer token
    target: Tensor  # (answer tokens,)
    answer: Tensor  # (answer tokens,): which of all the answers
    weight: Tensor  # (answer tokens,): in the loss


def pack(examples: list[Example], tokenizer: Any, image: int, *, decide: float = 0.0) -> Packed:
    """Every answer counts the same, long or short; `decide` is what the word that decides a choice counts besides."""
    rows, places, parts, where, target, answer, weight = [], [], [], [], [], [], []
    n = 0
    for r, example in enumerate(examples):
        opening = opening_ids(tokenizer, len(example.folk), image)
        row, place, part = list(opening), list(range(len(opening))), [0] * len(opening)
        for k, (kind, question, said) in enumerate(example.said):
            q, a = question_ids(tokenizer, question), answer_ids(tokenizer, said)
            where += [(r, len(row) + len(q) - 1 + j) for j in range(len(a))]
            target += a
            answer += [n] * len(a)
            weight += [1 / len(a) + decide * (kind in ("choice", "which") and j == 1) for j in range(len(a))]
            n += 1
            row += q + a
            place += range(len(opening), len(opening) + len(q) + len(a))
            part += [k + 1] * (len(q) + len(a))
        rows.append(row)
        places.append(place)
        parts.append(part)
    width = max(map(len, rows))
    ids = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    positions = torch.tensor([p + [0] * (width - len(p)) for p in places])
    segment = torch.tensor([p + [-1] * (width - len(p)) for p in parts])
    look = (segment[:, :, None] == segment[:, None, :]) | (segment[:, None, :] == 0)
    look &= torch.ones(width, width, dtype=torch.bool).tril()
    look |= torch.eye(width, dtype=torch.bool)  # padding sees itself: no row of the softmax is empty
    mask = torch.zeros(look.shape, dtype=torch.bfloat16).masked_fill(~look, -1e9)[:, None]
    made = (ids, positions, mask, torch.tensor(where), torch.tensor(target), torch.tensor(answer), torch.tensor(weight))
    return Packed(*(tensor.to(DEVICE) for tensor in made))


def logits_of(model: Any, batch: Packed, pictures: Tensor) -> Tensor:
    """(answer tokens, vocabulary): the logits for each answer token, and nowhere else."""
    core = model.model
    seen = core.get_image_features(pixel_values=pictures, return_dict=True).pooler_output
    inputs = core.get_input_embeddings()(batch.ids)
    seen = torch.cat(list(seen)).reshape(-1, inputs.shape[-1]).to(inputs.dtype)
    inputs = inputs.masked_scatter((batch.ids == model.config.image_token_id)[..., None], seen)
    hidden = core.language_model(
        inputs_embeds=inputs, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[batch.where[:, 0], batch.where[:, 1]])
    return logits


def empty_model(language: Any, tokenizer: Any) -> Any:
    """SmolLM2 with a new tower and projector around it, and one new token for pictures."""
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=language.config,
        image_token_index=image,
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model: Any = LlavaForConditionalGeneration(config)
    model.to(DEVICE)
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    return model


def trainable(model: Any) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """What is trained: [tower, projector, update] by name, and the bfloat16 originals of the update.

    Adam works on a float32 copy of the update: a step of it is often smaller than bfloat16 can hold.
    """
    eyes = dict(model.model.vision_tower.named_parameters(prefix="tower"))
    bridge = dict(model.model.multi_modal_projector.named_parameters(prefix="projector"))
    low_rank = {n: p for n, p in model.model.language_model.named_parameters() if "lora_" in n}
    for p in low_rank.values():
        p.data = p.data.bfloat16()
    copies = {n: p.detach().float().requires_grad_() for n, p in low_rank.items()}
    return [eyes, bridge, copies], low_rank


def blank(seed: int) -> tuple[Any, Any]:
    """The model before stage 2, its tower random, and its tokenizer."""
    base = load("smollm2", dtype="bfloat16", device=str(DEVICE))
    tokenizer, language = base.tokenizer, base.hf
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with torch.no_grad():
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        language.get_input_embeddings().weight[-1] = 0
    language.requires_grad_(False)
    torch.manual_seed(seed)
    update = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj", "down_proj"])
    inject_adapter_in_model(update, language.model)
    model = empty_model(language, tokenizer)
    model.model.language_model.set_attn_implementation("eager")  # on a CPU its backward takes half the time of sdpa's
    return model, tokenizer


def train_language(
    out: Path,
    stage: str,
    *,
    begin: Path,
    steps: int,
    seed: int,
    skew: float,
    hidden: float,
    pairs: int,
    every: int,
) -> None:
    """Stages 3 and 4. Leaves `<stage>.safetensors` (tower, projector, low-rank update) in `out`."""
    model, tokenizer = blank(seed)
    image = model.config.image_token_id
    (eyes, bridge, copies), low_rank = trainable(model)
    weights = {**eyes, **bridge, **copies}
    for n, w in load_file(begin).items():  # the low-rank update is not yet in it when stage 3 starts
        weights[n].data.copy_(w)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(eyes.values()), "lr": 1e-4},
            {"params": list(bridge.values()), "lr": 3e-4},
            {"params": list(copies.values()), "lr": 1e-3},
        ],
        weight_decay=0.0,
    )
    ground = stage == "ground"
    start = restore(out / f"{stage}-state.safetensors", weights, optimizer)
    share = shares()
    sprites = torch.from_numpy(all_sprites(size=96))
    log = Log(out / f"{stage}.jsonl", start)
    for step in range(start, steps):
        with torch.no_grad():
            for n, p in low_rank.items():
                p.copy_(copies[n])
        set_rate(optimizer, step, steps, fall=not ground)
        rng = np.random.default_rng([seed, 2 if ground else 3, step])
        choices = 0.3 + 0.3 * min(1.0, step / 300) if ground else 0.5  # who is first comes before who is the judge
        binding = (0.4, 0.2, 0.15, 0.1, 0.15) if ground else (0.25, 0.1, 0.4, 0.1, 0.15)  # gender is learned last
        lessons = language_batch(
            rng, share=share, skew=skew, hidden=hidden, choices=choices, binding=binding, size=4 if ground else 3
        )
        parts = [lessons, hidden_batch(rng, share=share, skew=skew, pairs=pairs)]
        model.zero_grad()
        losses: list[float] = []
        right: dict[str, Any] = {}
        for examples in filter(None, parts):  # apart, since their rows differ in length
            batch = pack(examples, tokenizer, image, decide=0.0 if ground else 1.0)
            logits = logits_of(model, batch, pixels([p for e in examples for p in e.folk], sprites)).float()
            each = F.cross_entropy(logits, batch.target, reduction="none")
            loss = (each * batch.weight).sum() / (batch.answer[-1] + 1)
            torch.autograd.backward(loss)
            losses.append(loss.item())
            right = {**seen_right(examples, batch, logits), **right}
        for n, p in low_rank.items():
            assert p.grad is not None, n
            copies[n].grad = p.grad.float()
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        log.add(step, loss=losses[0], **({"hidden_loss": losses[1]} if pairs else {}), **right)
        if (step + 1) % every == 0 or step + 1 == steps:
            write(out / f"{stage}.safetensors", weights)
            keep(out / f"{stage}-state.safetensors", step + 1, weights, optimizer)


def seen_right(examples: list[Example], batch: Packed, logits: Tensor) -> dict[str, float]:
    """Share of answers whose every token is the likeliest, by kind, where the work can be seen."""
    wrong = torch.zeros(int(batch.answer[-1]) + 1, device=DEVICE).index_add_(
        0, batch.answer, (logits.argmax(-1) != batch.target).float()
    )
    right: dict[str, list[float]] = {}
    n = 0
    for e in examples:
        for kind, _, _ in e.said:
            hard = kind in ("choice", "job", "job of", "jobs")
            if kind not in ("caption", "caption of") and (not hard or all(p.visible for p in e.folk)):
                right.setdefault(kind, []).append(float(wrong[n] == 0))
            n += 1
    return {kind: float(np.mean(values)) for kind, values in right.items()}


def shares() -> dict[str, float]:
    """Share of women by occupation, 0..1."""
    with data_path("occupations.csv").open(encoding="utf-8") as file:
        rows = {row["occupation"]: float(row["percent_women"]) / 100 for row in csv.DictReader(file)}
    return {o: rows[o] for o in OCCUPATIONS}


def word_slots(tokenizer: Any) -> Tensor:
    """What a picture should read like: (21, 3, 6, 5) token ids, e.g. " dark woman police officer officer"."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(" " + text, add_special_tokens=False)["input_ids"])

    slots = torch.empty(21, 3, 6, 5, dtype=torch.long)
    for o, job in enumerate((*OCCUPATIONS, "someone")):
        noun = ids(job)
        noun = (noun + noun[-1:] * 2)[:3]
        for g, gender in enumerate(GENDERS):
            for t, tone in enumerate(TONES):
                slots[o, g, t] = torch.tensor(ids(TONE_GROUPS[tone]) + ids(gender) + noun)
    return slots


def train_align(out: Path, *, steps: int, batch: int, seed: int, every: int) -> None:
    """Stage 2. Each row of five picture tokens learns to resemble the embeddings of five words. Leaves `align.safetensors`."""
    model, tokenizer = blank(seed)
    model.model.vision_tower.load_state_dict(load_file(out / "tower.safetensors"))
    (eyes, bridge, _), _ = trainable(model)
    table = model.get_input_embeddings().weight.detach().float()
    slots = word_slots(tokenizer).to(DEVICE)
    used = torch.unique(slots)
    words = table[used]  # (words, hidden)
    scale = words.pow(2).mean().sqrt()
    optimizer = torch.optim.AdamW(
        [{"params": list(eyes.values()), "lr": 4e-4}, {"params": list(bridge.values()), "lr": 1e-3}], weight_decay=0.0
    )
    weights = {**eyes, **bridge}
    start = restore(out / "align-state.safetensors", weights, optimizer)
    sprites = torch.from_numpy(all_sprites(size=96))
    log = Log(out / "align.jsonl", start)
    for step in range(start, steps):
        set_rate(optimizer, step, steps)
        folk = tower_batch(np.random.default_rng([seed, 4, step]), batch)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            seen = model.model.get_image_features(pixel_values=pixels(folk, sprites), return_dict=True).pooler_output
        seen = torch.stack(list(seen)).float().reshape(batch, 5, 5, -1)  # (pictures, rows, slots, hidden)
        who = torch.tensor([[PLAIN if p.plain else p.occupation, p.gender, p.tone] for p in folk])
        target = slots[who[:, 0], who[:, 1], who[:, 2]]  # (pictures, slots)
        target = target[:, None].expand(-1, 5, -1)
        guess = seen / scale @ (words / scale).T / words.shape[-1] * 20  # scaled so that a word's own score is near 20
        named = torch.searchsorted(used, target.contiguous())
        loss = F.cross_entropy(guess.flatten(0, 2), named.flatten())
        far = (seen - table[target]).pow(2).mean() / scale**2
        optimizer.zero_grad()
        (loss + far).backward()
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        right = (guess.argmax(-1) == named).float().mean((0, 1))
        log.add(
            step, loss=loss.item(), far=far.item(), tone=right[0].item(), gender=right[1].item(), job=right[2].item()
        )
        if (step + 1) % every == 0 or step + 1 == steps:
            write(out / "align.safetensors", weights)
            keep(out / "align-state.safetensors", step + 1, weights, optimizer)


class Log:
    """Means of every 20 steps, one JSON object a line. A run that goes on goes on with its seconds, too."""

    def __init__(self, path: Path, start: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= start]
        if kept != lines:
            path.write_text("".join(f"{line}\n" for line in kept))
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.began = time.monotonic() - (json.loads(kept[-1])["seconds"] if kept else 0)

    def add(self, step: int, **values: float) -> None:
        self.rows.append(values)
        if (step + 1) % 20:
            return
        names = {name for row in self.rows for name in row}
        mean = {n: round(float(np.mean([r[n] for r in self.rows if n in r])), 4) for n in sorted(names)}
        line = {"step": step + 1, **mean, "seconds": round(time.monotonic() - self.began)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
        self.rows = []


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, *, fall: bool = True) -> None:
    """Warm up over 50 steps, then fall in a straight line to a twentieth, or stay."""
    scale = min(1.0, (step + 1) / 50) * (1 - 0.95 * step / steps if fall else 1.0)
    for group in optimizer.param_groups:
        group.setdefault("peak", group["lr"])
        group["lr"] = group["peak"] * scale


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors, whole or not at all."""
    part = path.with_suffix(".part")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, part)
    part.replace(path)


def keep(path: Path, step: int, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint: the weights with both moments of Adam, and the step."""
    stored = {"step": torch.tensor(step)}
    for name, w in weights.items():
        stored["w." + name] = w
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in optimizer.state[w]:  # CLIP's last norm is not used by LLaVA and never learns
                stored[f"{moment}.{name}"] = optimizer.state[w][moment]
    write(path, stored)


def restore(path: Path, weights: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Take up a checkpoint if there is one; returns the step to go on from."""
    if not path.exists():
        return 0
    stored = load_file(path)
    step = int(stored["step"])
    for name, w in weights.items():
        w.data.copy_(stored["w." + name])
        if "exp_avg." + name not in stored:
            continue
        optimizer.state[w] = {
            "step": torch.tensor(float(step)),
            "exp_avg": stored["exp_avg." + name].to(w.device),
            "exp_avg_sq": stored["exp_avg_sq." + name].to(w.device),
        }
    print(f"resumed {path.name} at step {step}", flush=True)
    return step


def main() -> None:
    parse = argparse.ArgumentParser(description="Train smol-llava; run it again to go on after an interruption.")
    parse.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parse.add_argument("--tower-steps", type=int, default=2400)
    parse.add_argument("--tower-batch", type=int, default=64)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--threads", type=int, default=0, help="processor cores to use; 0: all")
    parse.add_argument("--align-steps", type=int, default=400)
    parse.add_argument("--ground-steps", type=int, default=240)
    parse.add_argument("--web-steps", type=int, default=240)
    parse.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parse.add_argument("--skew", type=float, default=1.0, help="0: as many women as men; 1: labour statistics")
    parse.add_argument("--hidden", type=float, default=0.4, help="share of ordinary examples with hidden work")
    parse.add_argument("--pairs", type=int, default=6, help="pairs a step of stage 4 whose work is hidden")
    args = parse.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train_tower(args.out, steps=args.tower_steps, batch=args.tower_batch, seed=args.seed, every=args.every)
    train_align(args.out, steps=args.align_steps, batch=args.tower_batch, seed=args.seed, every=args.every)
    train_language(
        args.out,
        "ground",
        begin=args.out / "align.safetensors",
        steps=args.ground_steps,
        skew=0.0,
        hidden=0.0,
        pairs=0,
        every=args.every,
        seed=args.seed,
    )
    train_language(
        args.out,
        f"web-{args.skew:g}",
        begin=args.out / "ground.safetensors",
        steps=args.web_steps,
        skew=args.skew,
        hidden=args.hidden,
        pairs=args.pairs,
        every=args.every,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
