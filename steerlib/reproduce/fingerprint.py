"""What a chapter's numbers were made of, as hashes; and what of it has changed since.

The one idea: every cause has a name that a person knows ("the notebook", "the library"), so that a stale record can
say why it is stale. Weights are hashed by their content, model by model: models that appear later were not used by the run.

Left out, because they move numbers by less than any tolerance or not at all: the number of threads and of chapters side
by side, the machine, the place of the cache. Models from the hub are not hashed; name a revision to pin one.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from steerlib.assets import cache_dir
from steerlib.reproduce.checkout import PACKAGE, executed_path
from steerlib.reproduce.profiles import USUAL
from steerlib.reproduce.rules import Claim

SETTINGS = ("STEERLIB_", "TORCH_", "PYTORCH_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_", "CUBLAS_", "CUDA_VISIBLE_DEVICES")
NO_SETTING = ("STEERLIB_RUN", "STEERLIB_LEDGER", "STEERLIB_CACHE", "STEERLIB_BOOK")  # these say where things are
NO_DATA = ("claims.yml", "papers.yml", "seconds.yml", "records")  # files and folders of data/ that no chapter reads
NO_CODE = ("_static", "live")  # folders of book/ that only a browser reads
PROSE = (".md", ".bib", ".toml")  # files that no number depends on
_seen: dict[tuple[str, int, int, int, int], str] = {}  # hashes of files that have not changed since


def made_of(root: Path, name: str) -> dict[str, str]:
    """The hash of everything, apart from weights, that a chapter's numbers depend on, by what a person calls it.

    Args:
        root: the checkout.
        name: the chapter's file stem.
    """
    return {"the notebook": file_hash(root / "book" / f"{name}.ipynb"), **_shared(root)}


def _shared(root: Path) -> dict[str, str]:
    book, data = root / "book", root / "data"
    beside = [path for path in _files(book) if path.suffix not in (".ipynb", *PROSE) and path.name != "_toc.yml"]
    beside = [path for path in beside if path.relative_to(book).parts[0] not in NO_CODE]
    shipped = [path for path in _files(data) if path.suffix not in PROSE]
    shipped = [path for path in shipped if path.relative_to(data).parts[0] not in NO_DATA]
    settings = {key: value for key, value in os.environ.items() if key.startswith(SETTINGS) and key not in NO_SETTING}
    packages = {f"{found.name}=={found.version}" for found in distributions()}
    return {
        "a file beside the notebook": _together(book, beside),
        "the library": _together(PACKAGE, PACKAGE.rglob("*.py")),
        "the data": _together(data, shipped),
        "the Python packages": _hash(f"{sorted(packages)} {sys.version}"),
        "an environment variable": _hash(repr(sorted(settings.items()))),
    }


def weights() -> dict[str, str]:
    """The hash of each model, each set of drawings and each script in steerlib's cache, by its path below the cache."""
    cache = cache_dir()
    found: dict[str, list[Path]] = {}
    for kind, depth in (("assets", 3), ("models", 2), ("people", 2)):  # assets/NAME/VERSION, models/NAME, people/FILE
        for path in _files(cache / kind):
            parts = path.relative_to(cache).parts
            if not path.name.endswith("lock") and not any(part.startswith("tmp-") for part in parts):
                found.setdefault("/".join(parts[:depth]), []).append(path)
    return {name: _together(cache, paths) for name, paths in found.items()}


def expectations(ledger: Mapping[str, Claim], name: str) -> str:
    """The hash of a chapter's own claims, which its executed copy shows in badges."""
    return _hash(repr([one for one in ledger.values() if one.chapter == name]))


def stale(root: Path, records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What records were made of and is no longer so.

    Args:
        root: the checkout.
        records: of the chapters' runs, by chapter.

    Returns:
        For each chapter of which something changed, what it was, in a few words each.
    """
    shared, cached = _shared(root), weights()
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        before = record.get("made_of", {})
        now = {"the notebook": file_hash(root / "book" / f"{name}.ipynb"), **shared}
        causes = [cause for cause in now if before.get(cause) != now[cause]]
        if any(cached.get(file) != old for file, old in record.get("weights", {}).items()):
            causes.append("the weights or drawings in the cache")
        copy = executed_path(root, name, record.get("profile", USUAL))
        if "executed" in record and not (copy.is_file() and file_hash(copy) == record["executed"]):
            causes.append("its executed copy")
        if causes:
            found[name] = causes
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content; read again only if the file's size, times or identity changed."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    if key not in _seen:
        with path.open("rb") as file:
            _seen[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _seen[key]


def _files(folder: Path) -> list[Path]:
    """All files below a folder, except hidden ones and what tools leave behind."""
    inside = ((path, path.relative_to(folder).parts) for path in folder.rglob("*"))
    left = {"__pycache__", "_build"}
    return [p for p, parts in inside if p.is_file() and not left & set(parts) and not any(x[0] == "." for x in parts)]


def _together(top: Path, paths: Iterable[Path]) -> str:
    return _hash(repr(sorted((path.relative_to(top).as_posix(), file_hash(path)) for path in paths)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
