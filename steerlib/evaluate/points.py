"""The file that keeps every finished point of a tradeoff, so that a run that was stopped goes on where it was.

Its first line says what the points belong to: model, steerings, strengths and tokens. Every other line is one point. A last line
that was cut short is dropped; a file of another run is refused and left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from steerlib.errors import SteerlibError
from steerlib.evaluate.intervals import Estimate
from steerlib.models.model import Model, weights_hash
from steerlib.steering.apply import Tokens
from steerlib.steering.operations import Steering

Score = Estimate | dict[str, float]
"""What a measure gave: an Estimate, or one value per cluster."""


def header(
    model: Model, steerings: Mapping[str, Steering], plan: list[tuple[str, float]], tokens: Tokens
) -> dict[str, Any]:
    """What a file of points belongs to."""
    return {
        "format": "steerlib.tradeoff/1",
        "model": weights_hash(model),
        "methods": {name: _fingerprint(steering) for name, steering in steerings.items()},
        "strengths": [list(point) for point in plan],
        "tokens": tokens,
    }


def _fingerprint(steering: Steering) -> str:
    """SHA-256 over sites, operations and their numbers."""
    digest = hashlib.sha256()
    for site, operation in sorted(steering.operations.items(), key=lambda pair: str(pair[0])):
        digest.update(f"{site} {type(operation).__name__}".encode())
        for name, value in sorted(vars(operation).items()):
            if isinstance(value, torch.Tensor):
                digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
            elif value is not None:
                digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


def resume(
    path: Path, opening: dict[str, Any], plan: list[tuple[str, float]]
) -> dict[tuple[str, float], tuple[Score, Score]]:
    """The points that a file holds; a last line that was cut short is dropped. A new file gets its header."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    start = json.dumps(opening) + "\n"
    if start.startswith(text):  # new, or killed while its first line was written
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(start, encoding="utf-8")
        return {}
    whole = text[: text.rfind("\n") + 1]
    try:
        first, *lines = map(json.loads, whole.splitlines())
        if first["format"] != opening["format"]:
            raise ValueError("its first line says so")
        points = {(line["method"], float(line["strength"])): tuple(map(_score_of, line["scores"])) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise SteerlibError(f"{path} is not a file of tradeoff points ({error}): give another path.") from error
    others = {
        "model": "another model",
        "methods": "other steerings",
        "strengths": "other strengths",
        "tokens": "other tokens",
    }
    for key, what in others.items():
        if first.get(key) != opening[key]:
            raise SteerlibError(f"{path} holds points of {what}: give another path, or remove the file.")
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return {key: points[key] for key in plan if key in points}  # type: ignore[misc]


def append(path: Path, line: dict[str, Any]) -> None:
    """Write one line, and see it to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def plain(score: Score) -> dict[str, Any]:
    """A score as JSON."""
    return {"estimate": asdict(score)} if isinstance(score, Estimate) else {"clusters": score}


def _score_of(line: dict[str, Any]) -> Score:
    """A score from JSON."""
    if "estimate" in line:
        return Estimate(**line["estimate"])
    return {str(name): float(value) for name, value in line["clusters"].items()}
