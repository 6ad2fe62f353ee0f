"""The log of the sealed sets: what was scored on them, and under which recipe.

A sealed set tells the truth once. Whoever looks at its score, changes the recipe and scores again has begun to choose on it. So a
method that was scored under one recipe is refused under another, unless a reason is given, which the log then keeps for
everybody to read. The same recipe may be scored as often as you like: under other seeds, or to see that the numbers come out again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from steerlib.assets import data_path
from steerlib.errors import SteerlibError
from steerlib.tasks import Task
from steerlib.tasks.sealed import digest


@contextmanager
def opened(
    task: Task, recipe: Mapping[str, Any], *, seed: int = 0, because: str | None = None, log: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Within the `with`, a sealed set may be scored; on leaving it without an error, the log has an entry.

    Args:
        task: the sealed set.
        recipe: everything that was settled, as JSON can hold it, but for the seed; with a "method" and a "model".
        seed: which run of the recipe it is.
        because: why the method is scored under another recipe than before.
        log: the file; None is data/sealed/log.yml.

    Yields:
        The entry, to which the score is added.

    Raises:
        SteerlibError: the log has the method under another recipe, and no reason was given; or the recipe lacks a name.

    Example:
        >>> import tempfile
        >>> from steerlib.tasks import pronoun
        >>> log = Path(tempfile.mkdtemp()) / "log.yml"
        >>> with opened(pronoun()[:2], {"method": "dso", "model": "smollm2", "epochs": 1}, log=log) as entry:
        ...     entry["bias"] = 0.1
        >>> [(line["method"], line["seed"], line["bias"]) for line in read_log(log)]
        [('dso', 0, 0.1)]
    """
    if missing := {"method", "model"} - set(recipe):
        raise SteerlibError(f"the recipe of what is scored on a sealed set has no '{min(missing)}'.")
    path = log or data_path("sealed", "log.yml")
    entry: dict[str, Any] = {
        "set": task.name,
        "items": digest(task)[:12],
        **recipe,
        "recipe": hashlib.sha256(json.dumps(dict(recipe), sort_keys=True).encode()).hexdigest()[:12],
        "seed": seed,
        "on": datetime.date.today(),
    }
    _changed(entry, read_log(path), because)
    yield entry
    with FileLock(f"{path}.lock"):
        lines = read_log(path)
        if _changed(entry, lines, because):
            entry["because"] = because
        whole = yaml.safe_dump([*lines, entry], sort_keys=False, allow_unicode=True, width=140)
        path.write_text(whole, encoding="utf-8", newline="\n")


def read_log(path: Path | None = None) -> list[dict[str, Any]]:
    """The entries of the log, oldest first; none if there is no such file yet."""
    path = path or data_path("sealed", "log.yml")
    return list(yaml.safe_load(path.read_text(encoding="utf-8")) or []) if path.exists() else []


def _changed(entry: Mapping[str, Any], lines: list[dict[str, Any]], because: str | None) -> bool:
    """Whether the method was last scored under another recipe; refused without a reason."""
    same = ("set", "items", "method", "model")
    before = [line for line in lines if all(line[key] == entry[key] for key in same)]
    changed = bool(before) and before[-1]["recipe"] != entry["recipe"]
    if changed and not (because or "").strip():
        raise SteerlibError(
            f"'{entry['method']}' was scored on '{entry['set']}' on {before[-1]['on']} under another recipe: a sealed set is not for "
            "choosing, so give the reason with because=, and it goes into the log."
        )
    return changed
