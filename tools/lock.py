"""Write requirements.lock and environment.yml from the environment that runs this file.

Both files come from one walk, so they agree by construction: start at what pyproject.toml asks for
(run time, the extras for the book and its tests, the build backend), follow the installed packages' own requirements, and pin
whatever is reached to the version that is installed. Whatever else is installed is left out.

To update (about once a season, or when a requirement in pyproject.toml changes):

    python3.11 -m venv /tmp/fresh && /tmp/fresh/bin/pip install -e '.[book,test]' hatchling
    /tmp/fresh/bin/python tools/lock.py
    make test && make reproduce           # the claims must still hold

Where the newest release of a package has left the first Python 3.11 behind, it says so: install an
older release of that package and run it again.
To move one package only, install that version into .venv and run `make lock`.
"""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"  # the version the lock is made on
OLDEST = f"{PYTHON}.0"  # Debian 12 has 3.11.2: every pin must accept the first release, too
PLATFORMS = {  # name in `sys_platform`: the marker values that go with it
    "linux": {"os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    "darwin": {"os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    "win32": {"os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
}
GPU_ONLY = ("nvidia-", "cuda-", "triton")  # torch brings what its own platform needs
APART = (
    "harness",
    "vision",
    "sweep",
)  # extras for models of one's own and for sweeps: neither the book nor its tests need them
NAMED_IN_CONDA = (
    "jupyter-book",
    "torch",
    "transformers",
    "matplotlib",
    "seaborn",
    "ipywidgets",
    "papermill",
)

LOCK_HEADER = f"""\
# Every version the book and the tests are run with. Written by tools/lock.py; do not edit by hand.
# Made on Python {PYTHON} for Linux, macOS (Apple silicon) and Windows. A package that only another
# platform or a newer Python asks for (colorama on Windows, say) may be missing here: pip then takes
# the version that its neighbours allow.
# torch is pinned without its GPU packages: it brings those that its own platform needs.
"""

CONDA_HEADER = """\
# The same versions as requirements.lock, for conda. Written by tools/lock.py; do not edit by hand.
#
#     conda env create -f environment.yml
#     conda activate steerlib
#     steerlib reproduce
#
# conda brings Python, pip and make; pip brings everything else, so that there is one lock and not
# two. The packages named below are the ones most often asked about; "-r" adds all the others.
# Run it from the root of the repository: "-r" and "-e" are relative to this file.
"""


def wanted() -> list[Requirement]:
    """What pyproject.toml asks for: run time, the extras that are not `APART`, and the build backend."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    texts = [*project["dependencies"], *pyproject["build-system"]["requires"]]
    for name, extra in project["optional-dependencies"].items():
        texts += [] if name in APART else extra
    return [Requirement(text) for text in texts]


def closure(roots: list[Requirement], environment: dict[str, str]) -> set[str]:
    """Names of all packages that `roots` lead to where the markers read `environment`."""
    reached: set[tuple[str, str]] = set()  # (package, extra asked of it; "" for none)
    todo = list(roots)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(GPU_ONLY):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in reached:
                continue
            reached.add((name, extra))
            try:
                lines = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue  # another platform's package, or reported by `pins`
            for child in map(Requirement, lines):
                if child.marker is None or child.marker.evaluate({**environment, "extra": extra}):
                    todo.append(child)
    return {name for name, _ in reached}


def pins() -> dict[str, tuple[str, str]]:
    """Name -> (version, marker); the marker is empty where all platforms need the package."""
    roots = wanted()
    versions = {"python_version": PYTHON, "python_full_version": OLDEST}
    platforms: dict[str, list[str]] = {}
    for platform, markers in PLATFORMS.items():
        for name in closure(roots, {**markers, **versions, "sys_platform": platform}):
            platforms.setdefault(name, []).append(platform)

    pinned: dict[str, tuple[str, str]] = {}
    for name, needed_on in sorted(platforms.items()):
        try:
            version = Version(metadata.version(name)).public  # without a local part such as +cpu
        except metadata.PackageNotFoundError:
            if sys.platform in needed_on:
                sys.exit(f"lock: {name} is required but not installed here: install it first.")
            continue
        runs_on = str(metadata.metadata(name).json.get("requires_python", ""))
        if not SpecifierSet(runs_on).contains(OLDEST):
            sys.exit(f"lock: {name} {version} needs Python {runs_on}: install an older one here.")
        marker = " or ".join(f'sys_platform == "{platform}"' for platform in needed_on)
        pinned[name] = (version, "" if len(needed_on) == len(PLATFORMS) else marker)
    return pinned


def main() -> None:
    if "{}.{}".format(*sys.version_info) != PYTHON:
        sys.exit(f"lock: run this with Python {PYTHON}, the oldest one we support.")
    pinned = pins()
    lock = LOCK_HEADER + "".join(
        f"{name}=={version}" + (f" ; {marker}" if marker else "") + "\n" for name, (version, marker) in pinned.items()
    )
    conda = CONDA_HEADER + "name: steerlib\nchannels:\n  - conda-forge\ndependencies:\n"
    conda += f"  - python={PYTHON}\n  - pip\n  - make\n  - pip:\n"
    conda += "".join(f"      - {name}=={pinned[name][0]}\n" for name in NAMED_IN_CONDA)
    conda += "      - -r requirements.lock\n      - -e .\n"
    for name, text in {"requirements.lock": lock, "environment.yml": conda}.items():
        (ROOT / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
