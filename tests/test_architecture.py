"""The library is built in floors, and ARCHITECTURE.md is the map of it: both are read from the source, nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (  # from the ground up; what shares a floor may not import its neighbours
    ("errors",),
    ("assets",),
    ("models",),
    ("steering", "tasks"),
    ("training",),
    ("baselines", "evaluate", "methods"),
    ("inpage",),
    ("commands", "deploy", "doctor", "plots", "reproduce"),
)
LEVEL = {part: level for level, parts in enumerate(FLOORS) for part in parts}
ABOVE = ("steerlib", "steerlib.__main__")  # the public face, and the command


@cache
def modules() -> dict[str, Path]:
    """Every module of the library by its dotted name."""
    found = {}
    for path in sorted((ROOT / "steerlib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement inside a node, however deep; much quicker than a walk over every expression."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, field, []):
            yield child
            yield from statements(child)


@cache
def imports(source: ast.Module) -> tuple[tuple[str, str], ...]:
    """What a source takes from steerlib, wherever in it: (module, name), the name "" for the whole module."""
    return tuple(_imports(source))


def _imports(source: ast.Module) -> Iterator[tuple[str, str]]:
    for node in statements(source):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full, not relative"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules():
                    yield whole, ""
                elif str(node.module).split(".")[0] == "steerlib":
                    yield str(node.module), alias.name
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "steerlib")


def part(module: str) -> str:
    """The folder or file on a floor: "models" for steerlib.models.load."""
    return module.split(".")[1]


def upward(name: str, source: ast.Module) -> list[str]:
    """Imports of a module that go up, or sideways into another part of its own floor."""
    wrong = []
    for module, _ in imports(source):
        if module == "steerlib":
            wrong.append(f"{name} imports steerlib itself")
        elif part(module) != part(name) and LEVEL[part(module)] >= LEVEL[part(name)]:
            wrong.append(f"{name} imports {module}")
    return wrong


def private(name: str, source: ast.Module) -> list[str]:
    """Names that begin with an underscore and are taken from another file, by import or as `module._name`."""
    taken = [(module, word) for module, word in imports(source) if word.startswith("_")]
    places = {module.split(".")[-1]: module for module, word in imports(source) if not word}
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr.startswith("_"):
            taken += [(places[node.value.id], node.attr)] if node.value.id in places else []
    return [f"{name} takes {word} from {module}" for module, word in taken if not word.startswith("__")]


def test_every_part_of_the_library_is_on_a_floor() -> None:
    assert {part(name) for name in modules() if name not in ABOVE} == set(LEVEL)


def test_nothing_imports_upward_or_from_a_neighbour_on_its_floor() -> None:
    wrong = [fault for name in modules() if name not in ABOVE for fault in upward(name, tree(name))]
    assert wrong == []


def test_methods_and_evaluations_never_import_each_other() -> None:
    assert LEVEL["methods"] == LEVEL["evaluate"]  # which the test above then holds apart
    source = ast.parse("from steerlib.evaluate.statistics import mean")
    assert upward("steerlib.methods.mine", source) == ["steerlib.methods.mine imports steerlib.evaluate.statistics"]


def test_modules_import_each_other_in_one_direction_only() -> None:
    graph = {name: {module for module, _ in imports(tree(name))} for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other: {' -> '.join(error.args[1])}") from None


def test_no_private_name_crosses_a_file() -> None:
    assert [fault for name in modules() for fault in private(name, tree(name))] == []


def test_the_checks_see_every_kind_of_import() -> None:
    inside = "def f():\n    from steerlib.evaluate.statistics import _draw, mean\n    import steerlib.reproduce.run\n"
    source = ast.parse(inside + "from steerlib.models import sites\nfrom steerlib import plots\nsites._norms\n")
    assert upward("steerlib.models.mine", source) == [
        "steerlib.models.mine imports steerlib.evaluate.statistics",
        "steerlib.models.mine imports steerlib.evaluate.statistics",
        "steerlib.models.mine imports steerlib.reproduce.run",
        "steerlib.models.mine imports steerlib.plots",
    ]
    assert private("steerlib.models.mine", source) == [
        "steerlib.models.mine takes _draw from steerlib.evaluate.statistics",
        "steerlib.models.mine takes _norms from steerlib.models.sites",
    ]


def test_the_map_names_every_file_and_every_file_it_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+(?:/\w+)*)/?` \| (.+) \|$", text, re.MULTILINE)
    named: set[str] = set()
    for folder, about in rows:
        files = re.findall(r"`(\w+)\.py`", about)
        assert len(files) == len(set(files)), f"{folder}/: a file is listed twice"
        named |= {f"steerlib/{folder}/{file}.py" for file in files} or {f"steerlib/{folder}.py"}
    there = {path.relative_to(ROOT).as_posix() for path in modules().values() if path.name[:2] != "__"}
    assert named == there, f"only on the map: {sorted(named - there)}; not on it: {sorted(there - named)}"


def test_the_map_draws_the_floors_that_are_checked() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = [re.findall(r"\w+", line) for line in text.split("```")[1].removeprefix("text").strip().splitlines()]
    assert [sorted(parts) for parts in reversed(drawn)] == [sorted(parts) for parts in FLOORS]
