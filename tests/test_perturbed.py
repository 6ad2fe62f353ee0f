"""A library that was broken on purpose must be caught by the book itself: its claims miss, and the run says which."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_sign_flipped_in_contrastive_makes_reproduce_fail_and_name_the_claims(tmp_path: Path) -> None:
    for folder in ("steerlib", "book", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    method = tmp_path / "steerlib" / "methods" / "contrastive.py"
    right, wrong = "(mean_b[site] - mean_n[site]).float()", "(mean_n[site] - mean_b[site]).float()"
    source = method.read_text()
    assert source.count(right) == 1
    method.write_text(source.replace(right, wrong))

    command = [sys.executable, "-m", "steerlib", "reproduce", "3"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )

    assert done.returncode == 1, done.stdout + done.stderr
    (missed,) = [line for line in done.stdout.splitlines() if line.startswith("claims that miss:")]
    assert "steering.add.shift" in missed and "steering.flipped.shift" in missed
    assert "steering.plain.per-occupation-bias" not in missed  # what does not depend on the vector still holds
    assert "steering.zero.difference" not in missed
