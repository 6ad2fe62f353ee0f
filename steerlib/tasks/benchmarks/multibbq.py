"""MultiBBQ: questions of BBQ about two people on a picture, who differ in one thing that can be seen.

In an ambiguous context nothing tells the two apart, and the right answer is "Unknown"; a disambiguated one goes on to say who it was;
and in a third kind there is a picture and a question, and no context at all. A negative question asks who did what a stereotype
ascribes to one of the two, the target; a non-negative one asks the opposite. As in `bbq`, an answer is biased if it is the target of
a negative question or the other person of a non-negative one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from steerlib.assets import fetch
from steerlib.errors import SteerlibError
from steerlib.models.prompts import chat
from steerlib.tasks.benchmarks.source import BenchmarkItem, known
from steerlib.tasks.folder import folder_of
from steerlib.tasks.hub.photo import open_picture
from steerlib.tasks.item import Task

CATEGORIES = ("age", "gender", "race", "religion")
GENERATORS = ("gpt_image_gen", "imagen4ultra_image_gen")
PACKAGE, RECORDS = "multibbq", "gpt_image_gen/multibbq_visual_language.json"
LETTERS = ("A", "B", "C")
INSTRUCTION = "Only output 'A' or 'B' or 'C' in your response."
ANSWER = "Answer:"
IN_PICTURE = " in the image"


def multibbq(
    categories: str | Sequence[str] = CATEGORIES,
    *,
    pictures: str | Path | None = None,
    generator: Literal["gpt_image_gen", "imagen4ultra_image_gen"] = "gpt_image_gen",
    size: int | None = 448,
) -> Task:
    """MultiBBQ (Chen et al., NeurIPS 2026), asked as a choice between the letters A, B and C.

    Without pictures it is its authors' test of a language model ("llm"): the context names the two people's groups, and the question
    says nothing of an image. With pictures it is their main test: the ambiguous context and the options say who is on the left
    and who on the right, and every question also comes with the picture alone. `steerlib.benchmark` gives its Fairness Score and Bias
    Score.

    The groups are "target", "other" and "unknown", as in `bbq`. `condition` is "ambig", "disambig" or "visual" (the picture alone);
    the cluster is the template, such as "gender 3", and `template` reads "ambig-neg". Their instruction to output a letter follows the
    options here, where they make it a system message, which some models do not have.

    - Source: the package multibbq, MIT; the data, CC BY 4.0, is made from BBQ (CC BY 4.0). 410 records from 89 templates. The pictures
      (2.7 GB) are on the hub only, MLL-Lab/MultiBBQ: `multibbq download` puts them below data/images.
    - Known faults: pictures are made by a model, and two of those without a context were refused by it and are missing; the
      stereotypes are those of the United States.

    Args:
        categories: One or several of "age", "gender", "race" and "religion".
        pictures: The folder with the pictures, or one above it. None asks the questions without.
        generator: Which of the two models made the pictures.
        size: The longer side of the pictures, in pixels; None leaves them as they are.

    Returns:
        A Task of `BenchmarkItem`s, all with a right answer: four questions per record, or six with pictures.

    Raises:
        SteerlibError: If there is no such category, the package cannot be fetched, or a picture with a context is missing.

    >>> item = multibbq("gender")[0]  # doctest: +SKIP
    >>> item.options, item.groups, item.answer  # doctest: +SKIP
    ((' A', ' B', ' C'), ('target', 'unknown', 'other'), 'unknown')
    """
    wanted = [categories] if isinstance(categories, str) else list(categories)
    if not wanted:
        raise SteerlibError(f"give at least one category of MultiBBQ, such as {CATEGORIES[0]!r}.")
    for category in wanted:
        known("category of MultiBBQ", category, CATEGORIES)
    known("generator of MultiBBQ's pictures", generator, GENERATORS)
    records = json.loads((fetch(PACKAGE) / RECORDS).read_text(encoding="utf-8"))
    files = None if pictures is None else _files(folder_of(pictures), generator)
    items: list[BenchmarkItem] = []
    absent: list[str] = []
    for record in records:
        if record["category"] not in wanted:
            continue
        name = record["image_path"].rsplit("/", 1)[-1]
        both: dict[str, Image.Image | None] = {"visual_language": None}
        if files is not None:
            both = {}
            for kind in ("visual_language", "visual_only"):
                file = files.get(name.replace("visual_language", kind, 1))
                if file is not None:
                    both[kind] = open_picture(file, f"'{file}'", size=size)
                elif kind == "visual_language":
                    raise SteerlibError(f"'{pictures}' lacks the picture {name} of MultiBBQ by {generator}.")
                else:
                    absent.append(name.replace("visual_language", kind, 1))
        items += read_record(record, both)
    if absent:
        warnings.warn(
            f"{len(absent)} pictures of MultiBBQ are not there, such as {absent[0]}: they are left out.", stacklevel=2
        )
    return Task("multibbq", tuple(items), "template")


def read_record(record: dict[str, Any], pictures: dict[str, Image.Image | None]) -> list[BenchmarkItem]:
    """The questions of a record.

    Args:
        record: One of the 410.
        pictures: The picture for questions with a context ("visual_language"; None asks without one), and the one for questions without
            ("visual_only"), if it is there.
    """
    seen = pictures["visual_language"] is not None
    options = record["options_masked"] if seen else record["options"]
    told = record["ambig_context_masked"] if seen else record["ambig_context"]
    contexts = {"ambig": told, "disambig": f"{told} {record['disambig_context']}"}
    if "visual_only" in pictures:
        contexts["visual"] = ""
    groups = tuple(
        "unknown" if i == record["unk_label_idx"] else "target" if i == record["stereotype_group_idx"] else "other"
        for i in range(3)
    )
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    made = []
    for condition, context in contexts.items():
        for polarity in ("neg", "nonneg"):
            question = record[f"{polarity}_q"] if seen else record[f"{polarity}_q"].replace(IN_PICTURE, "")
            asked = "\n\n".join(part for part in (context, f"{question}\n{listed}\n{INSTRUCTION}") if part)
            picture = pictures["visual_only" if condition == "visual" else "visual_language"]
            right = record[f"{polarity}_label_idx"] if condition == "disambig" else record["unk_label_idx"]
            made.append(
                BenchmarkItem(
                    chat(asked, ANSWER, pictures=[] if picture is None else [picture]),
                    tuple(f" {letter}" for letter in LETTERS),
                    groups,
                    cluster=f"{record['category']} {record['q_id']}",
                    stereotype="target" if polarity == "neg" else "other",
                    template=f"{condition}-{polarity}",
                    answer=groups[right],
                    category=record["category"],
                    condition=condition,
                )
            )
    return made


def _files(root: Path, generator: str) -> dict[str, Path]:
    """The pictures of a generator by their names: below a folder of its name, or else those of the folder."""
    every = sorted(root.rglob("*.png"))
    own = [file for file in every if generator in file.relative_to(root).parts]
    others = [file for file in every if set(GENERATORS) & set(file.relative_to(root).parts)]
    return {file.name: file for file in own or [file for file in every if file not in others]}
