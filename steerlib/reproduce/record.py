"""The record of a chapter's run: one JSON file under a seal.

The one idea: only a run writes numbers. The seal is a hash over everything else in the file, so a record that was
edited by hand, cut short, or written by another version of steerlib is refused with a sentence, never judged.

    {"parameters": {...}, "other_parameters": false, "made_of": {...}, "weights": {...},      at the start
     "claims": {id: {"value": 0.6, "low": 0.5, "high": 0.7, "n": 60}}, "faults": [...],       while it runs
     "status": "ran", "error": "", "seconds": 349.0, "date": "...", "environment": {...},     at the end
     "executed": "...", "seal": "..."}
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlib.errors import SteerlibError

FORMAT = "steerlib record 1"  # part of what is sealed: records of another format are refused
Record = dict[str, Any]


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            json.dump(content, file, indent=1, allow_nan=False)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Seal a record and write it in one step."""
    plain = {key: content for key, content in record.items() if key != "seal"}
    write_json(path, plain | {"seal": seal(plain)})


def read_record(path: Path) -> Record:
    """Read a record and check its seal.

    Raises:
        SteerlibError: the file cannot be read, is not a record, or was changed after it was sealed.
    """
    again = f"delete it, and run `steerlib reproduce {path.stem}` again"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SteerlibError(f"the record {path} is damaged ({' '.join(str(error).split())}): {again}.") from error
    if not isinstance(record, dict) or "seal" not in record:
        raise SteerlibError(f"the record {path} has no seal, so no run of this version wrote it: {again}.")
    if record.pop("seal") != seal(record):
        raise SteerlibError(f"the record {path} was changed after it was written, its seal is broken: {again}.")
    return record


def seal(content: Mapping[str, Any], tag: str = FORMAT) -> str:
    """The hash over everything in a file apart from the seal itself.

    Args:
        content: what the file holds, as JSON can hold it.
        tag: the name and version of the file's format.

    >>> seal({"a": (1, 2)}) == seal({"a": [1, 2]}) != seal({"a": [1, 2]}, "another format")
    True
    """
    plain = json.loads(json.dumps(content))  # tuples are lists, keys are texts
    return hashlib.sha256((tag + json.dumps(plain, sort_keys=True)).encode()).hexdigest()
