"""What `import steerlib` needs, and that the first cell of every chapter installs it where Colab does not have it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
COLAB = {  # our dependencies that Colab's image holds (googlecolab/backend-info, pip-freeze.txt)
    "torch",
    "transformers",
    "huggingface-hub",
    "tokenizers",
    "safetensors",
    "accelerate",
    "numpy",
    "pandas",
    "matplotlib",
    "seaborn",
    "pyyaml",
    "tqdm",
    "platformdirs",
    "filelock",
    "ipywidgets",
    "packaging",
    "pillow",
    "scikit-learn",
    "scipy",
    "regex",
    "peft",
    "jinja2",
}
USES = {  # what a chapter calls, and the package that is imported only then
    "resvg-py": r"tasks\.(people|who_is|describe)\(|contact_sheet\(",
    "vadersentiment": r"\bsentiment\(",
    "gguf": r"\bsl\.load\(",
}


def run(code: str) -> list[str]:
    """The lines that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@cache
def at_import() -> frozenset[str]:
    """The distributions that the modules behind `import steerlib` import at once, not later inside a function."""
    loaded = run(
        "import steerlib, sys; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('steerlib')))"
    )
    names: set[str] = set()
    for path in loaded[0].split():
        for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    known = packages_distributions()
    third_party = names - sys.stdlib_module_names - {"steerlib"}
    return frozenset(canonicalize_name(known[name][0]) for name in third_party)


def code(chapter: Path) -> list[str]:
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_dependency_is_either_in_colab_or_known_not_to_be() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        wanted = {canonicalize_name(Requirement(d).name) for d in tomllib.load(file)["project"]["dependencies"]}
    assert wanted <= COLAB | set(USES)
    assert not COLAB & set(USES)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_first_cell_of_a_chapter_installs_all_that_colab_lacks(chapter: Path) -> None:
    first, *rest = code(chapter)
    (line,) = re.findall(r"%pip install (.*)", first)
    installed = {canonicalize_name(word) for word in line.split() if not word.startswith(("-", "git+"))}
    used = {package for package, call in USES.items() if re.search(call, "\n".join(rest))}
    assert (at_import() - COLAB) | used <= installed


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
