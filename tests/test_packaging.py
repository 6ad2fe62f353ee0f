"""What says the same thing in several files must say it in all of them.

Versions of packages: pyproject.toml, requirements.lock, environment.yml. Our own version:
pyproject.toml, steerlib, CITATION.cff, CHANGELOG.md. The commands: README.md, Makefile, .ci/run, the
workflow.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {  # what environment.yml must name, besides bringing everything
    "jupyter-book",
    "torch",
    "transformers",
    "matplotlib",
    "seaborn",
    "ipywidgets",
    "papermill",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def wanted() -> list[str]:
    """Every requirement of pyproject.toml: run time, extras, build; but not what only work of one's own needs."""
    project = pyproject()["project"]
    apart = ("harness", "sweep", "vision")
    extras = [t for name, extra in project["optional-dependencies"].items() if name not in apart for t in extra]
    return [*project["dependencies"], *extras, *pyproject()["build-system"]["requires"]]


def lock() -> dict[str, Requirement]:
    lines = [line for line in read("requirements.lock").splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    pins: dict[str, Requirement] = {canonicalize_name(pin.name): pin for pin in requirements}
    assert len(pins) == len(lines), "requirements.lock pins a package twice"
    return pins


def pinned(requirement: Requirement) -> str:
    """The version of `name==version`."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, str(requirement)
    return specifier.version


def conda() -> tuple[list[str], list[str]]:
    """environment.yml's conda packages, and its lines for pip."""
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return [entry for entry in dependencies if isinstance(entry, str)], pip


def test_every_line_of_the_lock_is_one_exact_version() -> None:
    for requirement in lock().values():
        assert pinned(requirement) and not requirement.url and not requirement.extras


@pytest.mark.parametrize("text", wanted())
def test_the_lock_satisfies_pyproject(text: str) -> None:
    requirement = Requirement(text)
    pin = lock()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned(pin), prereleases=True), f"{text} against {pin}"
    assert pin.marker is None, f"{pin}: needed on every platform"


def test_the_lock_suits_every_platform() -> None:
    for name, pin in lock().items():
        assert not name.startswith(("nvidia-", "triton", "cuda-")), f"{name}: torch brings its own"
        assert "+" not in pinned(pin), f"{pin}: a local version exists on one index only"
    for name in ("requirements.lock", "environment.yml", "pyproject.toml", "Makefile"):
        assert not re.search(r"--hash|index-url|--find-links|-f http|PIP_INDEX", read(name)), name


def test_the_first_python_311_can_install_the_lock() -> None:
    """Debian 12 has Python 3.11.2, and some packages ask for 3.11.5; this looks at what is here."""
    for name, pin in lock().items():
        try:
            about = metadata.metadata(name).json
        except metadata.PackageNotFoundError:
            continue  # another platform's, or pip was given fewer packages
        if about["version"] == pinned(pin):
            needs = str(about.get("requires_python", ""))
            assert SpecifierSet(needs).contains("3.11.0"), f"{pin} needs Python {needs}"


def test_conda_gets_the_same_versions() -> None:
    packages, pip = conda()
    assert "python=3.11" in packages and "pip" in packages
    assert pip[-2:] == ["-r requirements.lock", "-e ."]
    named = {canonicalize_name(r.name): pinned(r) for r in map(Requirement, pip[:-2])}
    assert set(named) >= PROMISED
    assert named == {name: pinned(lock()[name]) for name in named}


def test_the_lowest_python_is_the_same_everywhere() -> None:
    assert pyproject()["project"]["requires-python"] == ">=3.11"
    assert pyproject()["tool"]["mypy"]["python_version"] == "3.11"
    assert pyproject()["tool"]["ruff"]["target-version"] == "py311"
    assert "(3, 11)" in read("Makefile")


def test_our_version_is_the_same_everywhere() -> None:
    version = pyproject()["project"]["version"]
    library = read("steerlib/__init__.py")
    assert re.findall(r'^__version__\s*=\s*"([^"]+)"', library, re.MULTILINE) == [version]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    top = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert top and top[1] == version


def test_the_citation_names_both_papers() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[field] for field in ("title", "message", "authors"))
    urls = [reference["url"] for reference in citation["references"]]
    assert urls == ["https://arxiv.org/abs/2411.12590", "https://arxiv.org/abs/2512.15926"]


def test_the_package_is_typed_and_brings_its_data() -> None:
    assert (ROOT / "steerlib/py.typed").is_file()
    wheel = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["only-include"] == ["steerlib", "data", "engine"]
    assert wheel["sources"] == {"data": "steerlib/data", "engine": "steerlib/engine"}


def test_the_command_is_the_module() -> None:
    assert pyproject()["project"]["scripts"] == {"steerlib": "steerlib.__main__:main"}
    assert re.search(r"^def main\(", read("steerlib/__main__.py"), re.MULTILINE)


def test_readme_begins_with_the_two_commands() -> None:
    blocks = re.findall(r"```\w+\n(.*?)```", read("README.md"), re.DOTALL)
    assert "\n".join(blocks).splitlines()[:2] == ["make reproduce", "make test"]


@pytest.mark.parametrize("name", [".ci/run", ".github/workflows/check.yml"])
def test_the_checks_are_the_commands_of_the_makefile(name: str) -> None:
    used = re.findall(r"^(?: *run: )?make (\S+)$", read(name), re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
    assert used == ["test", "reproduce"] and set(used) <= set(targets)


def test_the_site_is_published_only_after_the_check_on_main() -> None:
    jobs = yaml.safe_load(read(".github/workflows/check.yml"))["jobs"]
    assert jobs["publish"]["needs"] == "check"
    assert "github.ref == 'refs/heads/main'" in jobs["publish"]["if"]
    (upload,) = (s for s in jobs["check"]["steps"] if "pages-artifact" in s.get("uses", ""))
    assert upload["with"]["path"] == "_build/html"
