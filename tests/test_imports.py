"""What `import steerlib` needs, and that the first cell of every chapter installs what Colab does not have."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def run(code: str) -> list[str]:
    """The lines that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def code(chapter: Path) -> list[str]:
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def imported(sources: list[str]) -> set[str]:
    """The distributions that some code imports, by their canonical names."""
    text = "\n".join(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source) for source in sources)
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    known = packages_distributions()
    return {canonicalize_name(known[name][0]) for name in names - sys.stdlib_module_names - {"steerlib"}}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_first_cell_of_a_chapter_installs_all_that_colab_lacks(chapter: Path) -> None:
    first, *rest = code(chapter)
    (line,) = re.findall(r"%pip install (.*)", first)
    installed = {canonicalize_name(word) for word in line.split() if not word.startswith(("-", "git+"))}
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    comes_along = {canonicalize_name(Requirement(d).name) for d in project["dependencies"]}
    extras = {
        canonicalize_name(Requirement(d).name) for part in project["optional-dependencies"].values() for d in part
    }
    colab = (ROOT / "tests" / "colab.txt").read_text(encoding="utf-8").splitlines()
    there = {canonicalize_name(pin.split("==")[0]) for pin in colab if "==" in pin}
    assert imported(rest) - comes_along - there <= installed <= extras  # the library may import an extra by itself


def test_the_package_is_imported_without_what_only_some_functions_need() -> None:
    code = (
        "import sys\n"
        "sys.modules['resvg_py'] = sys.modules['vaderSentiment'] = None\n"
        "import steerlib\n"
        "print([name for name in ('matplotlib', 'seaborn', 'sklearn', 'peft', 'ipywidgets') if name in sys.modules])\n"
        "try:\n    steerlib.tasks.people(occupation='judge', gender='man')\n"
        "except steerlib.SteerlibError as error:\n    print(error)\n"
    )
    loaded, said = run(code)
    assert loaded == "[]"
    assert (
        said == "drawing people needs the package resvg-py: install it with `pip install resvg-py`." or "cache" in said
    )
