"""Every public name is explained: what it is in a line, what it takes, and an example that runs; and the book lists it once."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import steerlib
from steerlib.reproduce.contents import contents
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.reference import Entry, as_rst, entries, reference

ROOT = Path(__file__).resolve().parents[1]
MADE_BY_A_FUNCTION = {  # results, whose example is that of the function that makes them
    "Adapter",
    "Audit",
    "Benchmark",
    "BenchmarkItem",
    "Capability",
    "DecisionBias",
    "Estimate",
    "Fluency",
    "LayerChoice",
    "MentionRate",
    "PairItem",
    "Person",
    "Portrait",
    "Processes",
    "Scene",
    "Sentiment",
    "Tradeoff",
}
SHOWN_WITH = {"adapted": "lora", "audit": "merge"}  # an example that takes long is shared
CALLED = [entry for entry in entries() if entry.kind != "data"]


def found(entry: Entry) -> Any:
    """The object behind a public name."""
    thing: Any = steerlib
    for word in entry.written.split(".")[1:]:
        thing = getattr(thing, word)
    return thing


def methods(entry: Entry) -> dict[str, Any]:
    """What a class offers under a name without an underscore: its own methods and properties."""
    own = vars(found(entry)) if entry.kind == "class" else {}
    kinds = (property, classmethod, staticmethod)
    return {name: x for name, x in own.items() if name[0] != "_" and (inspect.isfunction(x) or isinstance(x, kinds))}


def parameters(function: Any) -> list[str]:
    plain = getattr(function, "__func__", function)
    taken = list(inspect.signature(plain.fget if isinstance(plain, property) else plain).parameters)
    return [name for name in taken if name not in ("self", "cls")]


def faults(name: str, doc: str, takes: list[str], above: str = "") -> list[str]:
    """What a docstring in Google style lacks; `above` has those of the classes that this one extends."""
    first, _, rest = inspect.cleandoc(doc).partition("\n")
    wrong = []
    if not doc.strip():
        return [f"{name} has no docstring"]
    if not first.rstrip().endswith(".") or (rest and rest.split("\n")[0].strip()):
        wrong.append(f"{name} does not begin with one line that is a sentence")
    listed = section(doc, "Args") | section(doc, "Attributes") | section(above, "Attributes")
    if missing := [one for one in takes if one not in listed]:
        wrong.append(f"{name} does not explain {', '.join(missing)} under Args:")
    if takes and (extra := sorted(section(doc, "Args") - set(takes))):
        wrong.append(f"{name} explains {', '.join(extra)}, which it does not take")
    return wrong


def section(doc: str, title: str) -> set[str]:
    """The names that a section explains: those before the first colon of its less indented lines."""
    match = re.search(rf"(?m)^{title}:\n((?:[ ]+.*\n|\n)*)", inspect.cleandoc(doc) + "\n")
    lines = [line for line in match[1].splitlines() if line.strip()] if match else []
    indent = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    heads = [line.strip().partition(":")[0] for line in lines if len(line) - len(line.lstrip()) == indent]
    return {name.strip().lstrip("*") for head in heads for name in head.split(",")}


@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.written)
def test_a_public_name_is_explained_in_google_style(entry: Entry) -> None:
    thing = found(entry)
    takes = [] if isinstance(thing, type) and issubclass(thing, BaseException) else parameters(thing)
    above = "".join(
        inspect.cleandoc(base.__doc__ or "") + "\n" for base in getattr(thing, "__mro__", (0, object))[1:-1]
    )
    wrong = faults(entry.written, inspect.getdoc(thing) or "", takes, above)
    for name, method in methods(entry).items():
        own, doc = method.__doc__, inspect.getdoc(getattr(thing, name)) or ""  # of what it overrides, if it has none
        wrong += faults(f"{entry.written}.{name}", doc, parameters(method) if own else [])
    assert wrong == []


@pytest.mark.parametrize("entry", CALLED, ids=lambda entry: entry.written)
def test_a_public_name_has_an_example_that_runs(entry: Entry) -> None:
    name = entry.written.rpartition(".")[2]
    with_it = inspect.getdoc(getattr(steerlib, SHOWN_WITH[name])) or "" if name in SHOWN_WITH else ""
    assert ">>> " in entry.doc or name in MADE_BY_A_FUNCTION or f"sl.{name}(" in with_it


def test_what_needs_no_example_is_a_public_class() -> None:
    assert {entry.written.rpartition(".")[2] for entry in CALLED if entry.kind == "class"} >= MADE_BY_A_FUNCTION


@pytest.mark.parametrize("entry", [e for e in entries() if e.kind == "data"], ids=lambda entry: entry.written)
def test_a_public_constant_says_what_it_is(entry: Entry) -> None:
    assert entry.summary.endswith("."), f"{entry.written} has no sentence below its assignment"


def test_the_reference_lists_every_public_name_once() -> None:
    page = reference()
    listed = re.findall(r"(?m)^\.\. (?:autofunction|autoclass):: (\S+)", page)
    listed += [f"{module}.{name}" for name, module in re.findall(r"(?m)^\.\. py:data:: (\S+)\n   :module: (\S+)", page)]
    modules = {"controls", "deploy", "plots", "tasks"}
    wanted = {f"steerlib.{name}" for name in steerlib.__all__ if name not in modules}
    wanted |= {f"steerlib.tasks.{name}" for name in steerlib.tasks.__all__}
    inside = {name for name in listed if name.startswith(("steerlib.controls.", "steerlib.deploy.", "steerlib.plots."))}
    assert len(listed) == len(set(listed)) and set(listed) - inside == wanted and len(inside) >= 5
    assert {name for name in steerlib.__all__ if inspect.ismodule(getattr(steerlib, name))} == modules


def test_a_public_name_is_found_where_it_is_defined() -> None:
    for entry in CALLED:
        thing = found(entry)
        assert thing.__module__ == entry.module and isinstance(thing, type) == (entry.kind == "class"), entry.written


PROSE = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", "book/intro.md", "book/api.md")


@pytest.mark.parametrize("page", PROSE)
def test_pages_name_only_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"\bsl\.(\w+(?:\.\w+)?)", text):
        thing: Any = steerlib
        for word in name.split("."):
            assert hasattr(thing, word), f"{page} names sl.{name}"
            thing = getattr(thing, word)
    for path in re.findall(r"[`(]((?:steerlib|tools|data|tests|book|benchmarks)/[\w./-]*\w/?)[`)]", text):
        assert (ROOT / path).exists() or "NAME" in path or "NN" in path, f"{page} names {path}"


def test_every_docstring_is_a_page_without_faults() -> None:
    """The book is built with warnings as errors, and a docstring that is no reStructuredText would stop it."""
    pytest.importorskip("sphinx")
    from docutils.core import publish_doctree
    from sphinx.ext.napoleon import Config, GoogleDocstring

    docs = {entry.written: entry.doc for entry in entries()}
    for entry in CALLED:
        docs |= {f"{entry.written}.{name}": inspect.getdoc(x) or "" for name, x in methods(entry).items()}
    wrong = {}
    for name, doc in docs.items():
        text = str(GoogleDocstring(as_rst(inspect.cleandoc(doc)), Config()))
        said: list[str] = []
        stream = type("Stream", (), {"write": lambda self, text, said=said: said.append(str(text))})()
        settings = {"warning_stream": stream, "report_level": 2, "halt_level": 5}
        publish_doctree(f".. default-role:: literal\n\n{text}", settings_overrides=settings)
        if said:
            wrong[name] = "".join(said).strip()
    assert wrong == {}


# ---------------------------------------------------------------- no measured number is typed into the book

CHAPTERS = [ROOT / "book" / f"{page.name}.ipynb" for page in contents(ROOT) if page.notebook]
NAMES = r"SmolLM2|Qwen2\.5-\w+(-\w+)?|A1"
NOT_PROSE = (r"(?s)\$\$.*?\$\$", r"\$[^$]*\$", r"\{[\w:]+\}`[^`]*`", r"`[^`]*`", r"\]\([^)]*\)", NAMES)
TYPED = r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?= ?%| per ?cent| times\b)|(?<![\w.])\d+\.\d+"  # 59 %, 35 times, 0.41


chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def cells(chapter: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def typed_in_alt(alt: str) -> list[str]:
    """The digits of an alt text that no run fills in."""
    return re.findall(r"\d[\d.]*", re.sub(NAMES, "", re.sub(r"\{[^{}]*\}", "", alt)))


def typed_in_prose(text: str, settings: set[float]) -> list[str]:
    """The decimal numbers, percentages and multiples of a Markdown text that may have been measured.

    They are not where the number is a setting (the chapter's code has it), a paper's (its paragraph, or the head of its table, has a citation), part of a
    question or an exercise, which state nothing, or the usual level of intervals.
    """
    found = []
    text = re.sub(r"(?m)^\|.*\{cite.*\n(?:\|.*\n?)+", "", text)  # a table whose head names the paper that it is from
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d\. |\|)", text.split("## Exercises")[0]):
        plain = paragraph if "{cite" not in paragraph else ""
        for pattern in NOT_PROSE:
            plain = re.sub(pattern, " ", plain)
        plain = re.sub(r"[^.:?]*(?:\.\d[^.:?]*)*\?|95 % interval", " ", plain)
        for match in re.finditer(TYPED, plain):
            number = float(match[0].replace(",", ""))
            if not {number, number / 100} & settings:
                found.append(match[0])
    return found


def settings_of(chapter: Path) -> set[float]:
    """The numbers in a chapter's code."""
    code = "\n".join("".join(cell["source"]) for cell in cells(chapter, "code"))
    return {float(number.replace("_", "")) for number in re.findall(r"(?<![\w.])\d[\d_]*(?:\.\d+)?(?:e-?\d+)?", code)}


@chapters
def test_the_digits_of_an_alt_text_come_from_the_run(chapter: Path) -> None:
    alts = [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "") for cell in cells(chapter, "code")]
    assert {alt: typed for alt in alts if (typed := typed_in_alt(alt))} == {}


@chapters
def test_no_measured_number_is_typed_into_prose(chapter: Path) -> None:
    text = "\n\n".join("".join(cell["source"]) for cell in cells(chapter, "markdown"))
    assert typed_in_prose(text, settings_of(chapter)) == []


@chapters
def test_the_numbers_of_an_alt_text_are_in_the_ledger(chapter: Path) -> None:
    ledger = load_ledger()
    for cell in cells(chapter, "code"):
        for key in re.findall(r"\{([^{}:]*)", cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")):
            id, name = ".".join(key.split(".")[:3]), ".".join(key.split(".")[3:])
            assert id in ledger, key
            assert name in (*ledger[id].order, "low", "high") if name else not ledger[id].order, key


def test_the_reader_of_typed_numbers_sees_them_and_only_them() -> None:
    assert typed_in_alt("falls from {a.b.c:.2f} to 0.3 at step 7 with SmolLM2") == ["0.3", "7"]
    seen = "It removes 59 %, or 0.4, which is 35 times as much as 2.5 per cent."
    assert typed_in_prose(seen, set()) == ["59", "0.4", "35", "2.5"]
    assert typed_in_prose(f"{seen} {{cite}}`somebody2026`", set()) == []
    assert typed_in_prose(f"One.\n\n{seen}\n\nTwo {{cite}}`somebody2026`", set()) == ["59", "0.4", "35", "2.5"]
    assert typed_in_prose("At strength 0.4 and 60 % of the numbers.", {0.4, 0.6}) == []
    assert typed_in_prose("It is {glue:text}`a.b.c:.1%` of $0.3$, and `0.5`. Is it 0.3 or 0.6?", set()) == []
    assert typed_in_prose("A 95 % interval. It fell by 0.7.\n\n## Exercises\n\nSay it is 0.8.", set()) == ["0.7"]
