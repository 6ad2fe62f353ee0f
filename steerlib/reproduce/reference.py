"""The library's reference in the book: every public name once, in the order of the library's one idea.

Nothing is listed by hand. `steerlib/__init__.py` says what is public, and the module in which a name is defined says to which
section it belongs; Sphinx then writes the entries from the docstrings. Sources are read, not imported. This file is a Sphinx
extension, too: docstrings are written as Markdown is, and `as_rst` turns what Sphinx would read differently.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from steerlib.errors import SteerlibError
from steerlib.reproduce.checkout import PACKAGE

SECTIONS = {
    "Models and prompts": ("A model is loaded by its name, and asked with texts, chats and pictures.", "models doctor"),
    "Tasks": ("A task is a list of items: prompts with options that stand for groups, or open questions.", "tasks"),
    "Methods": ("A method makes a Steering from a model and data.", "methods training"),
    "Baselines": ("What a steering must beat: an instruction, and fine-tunes of several kinds.", "baselines"),
    "Steerings": ("A Steering is data: an operation at each site. It is applied at a strength.", "steering"),
    "Controls": ("What a steering must be told apart from before its effect is believed.", "steering.controls"),
    "Deployment": (
        "A Steering leaves the library as a plain checkpoint, an adapter or a file for another engine.",
        "deploy",
    ),
    "Evaluations": ("An evaluation scores a model, steered or not; a tradeoff sweeps the strength.", "evaluate"),
    "Statistics": (
        "Every number is an Estimate: a value with an interval over clusters.",
        "evaluate.statistics evaluate.intervals evaluate.trend evaluate.reduction evaluate.crossed",
    ),
    "Figures": ("What results do not draw by themselves.", "plots"),
    "Reproduction": ("How a number that a chapter measured reaches its page.", "reproduce"),
    "Data and errors": ("What ships with the library, and what wrong input raises.", "assets errors"),
}
"""By title: what a section is about, and the modules below steerlib whose names it lists; the longest match counts."""
KINDS = ("function", "class", "data")  # in the order in which a section lists them


@dataclass(frozen=True)
class Entry:
    """A public name: how a user writes it, the module that defines it, which of `KINDS` it is, and its docstring."""

    written: str
    module: str
    kind: str
    doc: str

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, in one line."""
        return " ".join(self.doc.split("\n\n")[0].split())

    @property
    def section(self) -> str:
        """The title of its section."""
        below = self.module.removeprefix("steerlib.")
        fits = {
            prefix: title
            for title, (_, modules) in SECTIONS.items()
            for prefix in modules.split()
            if f"{below}.".startswith(f"{prefix}.")
        }
        if not fits:
            raise SteerlibError(f"{self.written} is in no section of the reference: name {self.module} in SECTIONS.")
        return fits[max(fits, key=len)]


def entries() -> list[Entry]:
    """Every public name of the library, those of `steerlib.tasks`, `steerlib.controls` and `steerlib.plots` included."""
    return list(_listed("steerlib", "steerlib"))


def reference() -> str:
    """The reference in Markdown: sections, each with a table of its names and an entry for each."""
    found = entries()
    lines: list[str] = []
    for title, (about, _) in SECTIONS.items():
        own = sorted((entry for entry in found if entry.section == title), key=lambda entry: KINDS.index(entry.kind))
        lines += [f"## {title}", "", about, "", "| name | what it is |", "|---|---|"]
        lines += [f"| {{py:obj}}`{entry.written}` | {entry.summary.replace('|', chr(92) + '|')} |" for entry in own]
        lines += ["", "```{eval-rst}"] + [line for entry in own for line in _directive(entry)] + ["```", ""]
    return "\n".join(lines)


def as_rst(doc: str) -> str:
    r"""A docstring in Google style as napoleon and reStructuredText should read it.

    Args:
        doc: the docstring.

    Returns:
        The same with four changes: the attributes of a class are arguments, because it is a dataclass; a colon in what follows
        "Returns:" or "Yields:" does not end a type; a letter may follow `code` directly; and bars, stars and a trailing
        underscore are just that. Examples stay as they are.

    >>> print(as_rst("Returns:\n    Pairs: one per `Item`s, |a| of each."))
    Returns:
        : Pairs: one per `Item`\ s, \|a\| of each.
    """
    chunks = re.split(r"(?m)(^ *>>>.*(?:\n.*\S.*)*)", doc)  # text, example, text, ...
    for number in range(0, len(chunks), 2):
        parts = re.split(r"(`[^`]+`)", chunks[number])  # text, code, text, ...
        parts[::2] = [re.sub(r"[|*]|(?<=\w)_(?!\w)", r"\\\g<0>", text) for text in parts[::2]]
        parts[2::2] = [rf"\ {text}" if text[:1].isalnum() else text for text in parts[2::2]]
        text = re.sub(r"(?m)^( *)(Returns|Yields):\n(\s+)", r"\1\2:\n\3: ", "".join(parts))
        chunks[number] = re.sub(r"(?m)^( *)Attributes:$", r"\1Args:", text)
    return "".join(chunks)


def setup(app: Any) -> dict[str, bool]:
    """Make this file an extension of Sphinx."""

    def read(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
        lines[:] = as_rst("\n".join(lines)).split("\n")

    def sign(app: Any, what: str, name: str, obj: object, options: object, arguments: Any, returns: Any) -> Any:
        return arguments and arguments.replace("<factory>", "{}"), returns  # a default that Sphinx cannot parse

    def name_types(app: Any, config: Any) -> None:
        config.autodoc_type_aliases = {alias: alias for alias in [*aliases(), "ArrayLike"]}

    app.connect("autodoc-process-docstring", read, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", sign)
    app.connect("config-inited", name_types)
    return {"parallel_read_safe": True}


def aliases() -> list[str]:
    """The names of the library's own types, such as Prompt, which signatures show as they are."""
    modules = (path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py"))
    defined = {
        name: node for parts in modules for name, (node, _) in _definitions(".".join(("steerlib", *parts))).items()
    }
    return sorted(
        name for name, node in defined.items() if re.match("[A-Z].*[a-z]", name) and not isinstance(node, ast.ClassDef)
    )


def _directive(entry: Entry) -> list[str]:
    if entry.kind == "data":
        module, _, name = entry.written.rpartition(".")
        body = [f"   {line}".rstrip() for line in entry.doc.splitlines()]
        return [f".. py:data:: {name}", f"   :module: {module}", "", *body, ""]
    return [f".. auto{entry.kind}:: {entry.written}", *(["   :members:"] if entry.kind == "class" else []), ""]


def _listed(module: str, written: str) -> Iterator[Entry]:
    """The public names of a module: those in its `__all__`, else the functions and classes that it defines."""
    body = _tree(module).body
    public = _definitions(module).get("__all__")
    if public is not None:
        names = [str(name) for name in ast.literal_eval(public[0].value)] if isinstance(public[0], ast.Assign) else []
    else:
        names = [
            node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
        ]
    for name in names:
        source, node, doc = _find(module, name)
        if node is None:
            yield from _listed(source, f"{written}.{name}")
        else:
            kind = {ast.FunctionDef: "function", ast.ClassDef: "class"}.get(type(node), "data")
            yield Entry(f"{written}.{name}", source, kind, doc)


def _find(module: str, name: str) -> tuple[str, ast.stmt | None, str]:
    """Where a name is defined: its module, its statement (None if it is a module itself) and its docstring."""
    if name in _definitions(module):
        node, doc = _definitions(module)[name]
        return module, node, doc
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and any((a.asname or a.name) == name for a in node.names):
            inside = f"{node.module}.{name}"
            return (inside, None, "") if _path(inside).exists() else _find(node.module, name)
    raise SteerlibError(f"{module} lists {name} in __all__, but does not define or import it.")


@cache
def _definitions(module: str) -> dict[str, tuple[ast.stmt, str]]:
    """What a module defines by name, with the docstring; for data, the text below the assignment."""
    body = _tree(module).body
    found: dict[str, tuple[ast.stmt, str]] = {}
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node, ast.get_docstring(node) or ""
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            said = after.value if isinstance(after, ast.Expr) else None
            doc = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    found[target.id] = node, doc
    return found


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
