"""One table of many measurements: `python workflow/collect.py --out table.csv a.json b.json ...`.

One row for each file that `steerlib measure` wrote: what was measured, and of every number its value and the ends of its interval.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

FORMAT = "steerlib.measure/1"


def row(path: Path) -> dict[str, Any]:
    """A measurement in one row."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise SystemExit(f"{path} was not written by `steerlib measure`.")
    steering = found["steering"] or {}
    cells = {
        "model": found["model"],
        "method": steering.get("method"),
        "steering": Path(steering["file"]).stem if steering else None,
        "train_seed": steering.get("seed"),
        "strength": found["strength"],
        "task": found["task"]["name"],
        "items": found["task"]["items"],
    }
    for name, estimate in found["numbers"].items():
        value = estimate or {"value": None, "low": None, "high": None}
        cells |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One table of many measurements.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table, as CSV")
    parser.add_argument("files", type=Path, nargs="+", metavar="JSON", help="what `steerlib measure --out` wrote")
    chosen = parser.parse_args(arguments)
    scratch = chosen.out.with_name(f".{chosen.out.name}.{os.getpid()}")
    pd.DataFrame([row(path) for path in chosen.files]).to_csv(scratch, index=False)
    os.replace(scratch, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
