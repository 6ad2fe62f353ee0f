"""A library that was broken on purpose must be caught by the book itself: its claims miss, and the run says which."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "a-direction-inside"
REPRODUCE = """
import sys
import steerlib.__main__, steerlib.reproduce.run
steerlib.reproduce.run.build = lambda *_: "no pages, to save time"
sys.exit(steerlib.__main__.main(["reproduce", "a-direction-inside"]))
"""
THIN = """
whole = sl.tasks.pronoun
def thin(split, **options):
    task = whole(split, **options)
    return sl.tasks.Task(task.name, task.items[::5]) if split == "test" else task
sl.tasks.pronoun = thin
"""


def test_a_sign_flipped_in_contrastive_makes_reproduce_fail_and_name_the_claims(tmp_path: Path) -> None:
    for folder in ("steerlib", "book", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)

    method = tmp_path / "steerlib" / "methods" / "contrastive.py"
    right, wrong = "(mean_b[site] - mean_n[site]).float()", "(mean_n[site] - mean_b[site]).float()"
    source = method.read_text(encoding="utf-8")
    assert source.count(right) == 1
    method.write_text(source.replace(right, wrong), encoding="utf-8")

    # To save time the copy ends where the first claims about the vector have been made, draws nothing, and reads a
    # fifth of the test sentences: the flipped sign turns a correlation over any part of them.
    path = tmp_path / "book" / f"{CHAPTER}.ipynb"
    chapter = json.loads(path.read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in chapter["cells"]]
    (last,) = [i for i, source in enumerate(sources) if '"steering.direction.sees-jobs"' in source]
    (first,) = [i for i, source in enumerate(sources) if "sl.load(model)" in source]
    thin = {"cell_type": "code", "id": "thin", "metadata": {}, "outputs": [], "execution_count": None, "source": THIN}
    chapter["cells"] = [
        *chapter["cells"][: first + 1],
        thin,
        *(cell for i, cell in enumerate(chapter["cells"]) if first < i <= last and "plt.subplots" not in sources[i]),
    ]
    path.write_text(json.dumps(chapter), encoding="utf-8")

    command = [sys.executable, "-c", REPRODUCE]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )

    assert done.returncode == 1, done.stdout + done.stderr
    (missed,) = [line for line in done.stdout.splitlines() if line.startswith("claims that miss:")]
    assert "steering.direction.by-hand" in missed
    run = json.loads((tmp_path / "_build" / "run" / "run.json").read_text(encoding="utf-8"))
    words = {verdict["claim"]: verdict["verdict"] for verdict in run["verdicts"]}
    assert words["steering.direction.by-hand"] == words["steering.direction.sees-jobs"] == "misses"
    assert words["steering.direction.share-of-length"] == "holds"  # it does not depend on the library's vector
    assert words["steering.where.from-21"] == "missing"  # the copy was cut before it
