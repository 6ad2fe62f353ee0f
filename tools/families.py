"""Write data/families.json and book/families.md: what `sl.doctor` says of tiny random models of some dozens of real families.

    python tools/families.py                    # every family that this environment can build
    python tools/families.py llama gemma3-vl    # some of them
    python tools/families.py --page             # write only the page, from the records that there are

Each family is built (families_text.py, families_vision.py), saved to a folder, read back with `sl.load`, and handed to the doctor. The
records of families that need a package which is not installed, or another version of transformers, are kept as they are. Most
families that see need torchvision, Gemma 3n also timm, SmolVLM also num2words.

To add a family, give it a line in families_text.FAMILIES or a function in families_vision.py, and run this with its name. A
verdict "wrong" that stays is described in KNOWN; a test holds the two together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import families_text
import families_vision
import transformers

import steerlib as sl

tf: Any = transformers
ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "data" / "families.json"
PAGE = ROOT / "book" / "families.md"
PACKAGES = ("torchvision", "timm", "num2words")
BUILDERS: dict[str, Any] = {"text": families_text, "vision": families_vision}
Record = dict[str, Any]

KNOWN: dict[str, dict[str, str]] = {}
"""Faults that are there: family -> check -> what it means for whoever uses such a model."""

INTRO = """\
# Which models?

This page says which families of models the library was tried with, and what came of it. For each family, the configuration class of
`transformers` was given small sizes (width {width}, three or four blocks), its weights were drawn at random, and the model was saved to
a folder, read back with `sl.load`, and examined with `sl.doctor`. {text} families of language models and {vision} of
vision-language models were tried.

What the page does **not** say: whether a published checkpoint of that family is biased, or whether a steering helps it. The weights are
random and the models tiny. What a large model brings besides, such as quantised or sharded weights, is not tried, and neither are
pictures of a usual size. The tokenizer is a small one of our own; the chat template is a published one where the tables
name it (by its entry in `tests/templates.yml`), and otherwise a plain one of our own or, for base models, none. So look at your own model
before you rely on it:

```python
import steerlib as sl

print(sl.doctor(sl.load("Qwen/Qwen2.5-0.5B-Instruct")))
```

In the tables, *works* means that the check passed, *refused* that the library says it cannot and stops, *absent* that the model has
no such thing, and *wrong* that numbers from such a model cannot be trusted there. A model that `sl.load` refuses is not examined (–).
The sentences behind *refused* and *wrong* are below
each table.

| check | what was tried |
|---|---|
| load | `sl.load` reads the folder, and the model answers in a padded batch and with a cache as it does alone |
| chat template | a question, a begun answer and a system message survive the chat template |
| token ids | a chat becomes the token ids that the model's own reader makes |
| padding | a prompt gets the same logits in a padded batch as alone |
| cache | text written with a cache follows the logits of a pass without one |
| activations | what is captured after each block is what the model returns as its hidden states |
| norms, heads | the sites of these kinds are found |
| no trace | strength 0, and the model after a steering, are the plain model to the bit |
| steering | a push does in a batch what a hook by hand does to a text alone |
| scopes | every `tokens=` writes the same text with a cache and without |
| gradients | gradients reach every norm, so that `dso` can learn |
| pictures | pictures of two sizes, one or two per prompt and beside text, are read as the processor reads them |
| merging | whether the weights of norms can hold a steering |
"""

HEADINGS = {"text": "Language models", "vision": "Vision-language models"}


def examine(kind: str, name: str) -> Record:
    """The record of one family: what it is, with which packages it was tried, and the doctor's verdicts or the refusal.

    Raises:
        AttributeError, ImportError: this environment cannot build the family.
    """
    hf, reader = BUILDERS[kind].build(name)
    record: Record = {
        "kind": kind,
        "config": type(hf.config).__name__,
        "template": template(kind, name),
        "transformers": tf.__version__,
        "packages": installed() if kind == "vision" else {},
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf.save_pretrained(folder)
        reader.save_pretrained(folder)
        try:
            found = sl.doctor(replace(sl.load(folder, device="cpu"), name=name))
        except sl.SteerlibError as error:
            return {**record, "refused": str(error).replace(folder, name)}
    return {**record, "checks": {one.name: [one.verdict, one.found] for one in found.checks}}


def template(kind: str, name: str) -> str:
    """The name of a family's chat template in tests/templates.yml, "plain" for one of our own, or "" for none."""
    return str(BUILDERS[kind].FAMILIES[name][1])


def installed() -> dict[str, str]:
    """The versions of the packages that processors of pictures may need, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return found


def page(records: dict[str, Record]) -> str:
    """The page of the book, from the records."""
    of = {kind: {name: one for name, one in records.items() if one["kind"] == kind} for kind in HEADINGS}
    lines = [INTRO.format(width=families_text.WIDTH, text=len(of["text"]), vision=len(of["vision"]))]
    for kind, heading in [(kind, heading) for kind, heading in HEADINGS.items() if of[kind]]:
        lines += [f"## {heading}", "", f"Tried with {environments(of[kind])}.", "", *table(of[kind]), ""]
        lines += [*reasons(of[kind]), ""]
    lines += ["## Known faults", ""]
    told = [f"- **{name}**, {check}: {what}" for name, checks in KNOWN.items() for check, what in checks.items()]
    lines += told or ["None of the verdicts above is *wrong*."]
    lines += ["", "The records are in `data/families.json`; `tools/families.py` makes them and this page.", ""]
    return "\n".join(lines)


def environments(records: dict[str, Record]) -> str:
    """The packages with which families were tried; where they differ, those with few families name them."""
    by: dict[str, list[str]] = {}
    for name, one in records.items():
        packages = {"transformers": one["transformers"], **one["packages"]}
        by.setdefault(", ".join(f"{package} {version}" for package, version in packages.items()), []).append(name)
    usual, *others = sorted(by, key=lambda packages: -len(by[packages]))
    return "; ".join([usual, *(f"{', '.join(by[packages])} with {packages}" for packages in others)])


def table(records: dict[str, Record]) -> list[str]:
    """One row per family and one column per check."""
    checks = list(dict.fromkeys(check for one in records.values() for check in one.get("checks", {})))
    head = ["family", "configuration", "template given", "load", *checks]
    rows = [":::{div} full-width", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, one in records.items():
        cells = ["works", *(one["checks"][check][0] for check in checks)] if "checks" in one else ["refused"]
        shown = [f"**{cell}**" if cell == "wrong" else cell for cell in cells + ["–"] * (len(checks) + 1 - len(cells))]
        rows.append(f"| {name} | `{one['config']}` | {one['template'] or 'none'} | {' | '.join(shown)} |")
    return [*rows, ":::"]


def reasons(records: dict[str, Record]) -> list[str]:
    """The sentences behind what is refused or wrong, each once, with the families that it is said of."""
    said: dict[tuple[str, str], list[str]] = {}
    for name, one in records.items():
        given = {"load": ["refused", one["refused"]]} if "refused" in one else one["checks"]
        for check, (verdict, sentence) in given.items():
            if verdict in ("refused", "wrong"):
                said.setdefault((f"{check}, {verdict}", sentence.replace(f"'{name}'", "'...'")), []).append(name)
    return [f"- **{', '.join(names)}** ({what}): {escape(sentence)}" for (what, sentence), names in said.items()]


def escape(sentence: str) -> str:
    """A sentence in which no character means something to Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_<>[]{}|$#" else c for c in sentence)


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine the families that were asked for, and write the records and the page."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="some families; all that can be built if none is named")
    parser.add_argument("--page", action="store_true", help="write only the page, from the records that there are")
    given = parser.parse_args(arguments)
    order = {name: kind for kind, builder in BUILDERS.items() for name in builder.FAMILIES}
    if unknown := [name for name in given.families if name not in order]:
        parser.error(f"no family is called {', '.join(unknown)}: known are {', '.join(order)}")
    records: dict[str, Record] = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}
    tf.utils.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    for name in [] if given.page else given.families or order:
        started = time.monotonic()
        try:
            records[name] = examine(order[name], name)
            bad = [
                f"{check} {line[0]}" for check, line in records[name].get("checks", {}).items() if line[0] == "wrong"
            ]
            print(f"{name}: {'; '.join(bad) or records[name].get('refused', 'nothing wrong')}", end=" ")
            print(f"({time.monotonic() - started:.0f} s)", flush=True)
        except (AttributeError, ImportError) as error:
            if isinstance(error, AttributeError) and "module transformers has no attribute" not in str(error):
                raise
            print(f"{name}: not built here, its record is kept ({' '.join(str(error).split())[:100]})", flush=True)
        records = {one: records[one] for one in order if one in records}  # in this order
        RECORDS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(records), encoding="utf-8")


if __name__ == "__main__":
    main()
