"""A release is one tag everywhere, and what is handed out with it is packed to the same bytes; Colab's packages are compared line by line."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from helpers import tool

from steerlib.reproduce.address import RELEASE

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "pyproject.toml",
    "steerlib/__init__.py",
    "CITATION.cff",
    ".zenodo.json",
    "steerlib/reproduce/address.py",
    "CHANGELOG.md",
)


def test_every_file_speaks_of_the_same_release() -> None:
    assert tool("release").disagreements(ROOT, RELEASE) == []


@pytest.mark.parametrize("path", FILES)
def test_a_file_of_another_release_is_named(path: str, tmp_path: Path) -> None:
    for one in FILES:
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / one, tmp_path / one)
    text = (tmp_path / path).read_text(encoding="utf-8")
    (tmp_path / path).write_text(text.replace(RELEASE.removeprefix("v"), "9.9.9"), encoding="utf-8")
    (wrong,) = tool("release").disagreements(tmp_path, RELEASE)
    assert wrong.startswith(f"{path} says ") and wrong.endswith(f", the tag {RELEASE}")


def test_what_is_handed_out_has_checksums_and_is_packed_the_same_way_twice(tmp_path: Path) -> None:
    release = tool("release")
    for root in (tmp_path / "one", tmp_path / "two"):
        for name in ("html", "colab"):
            (root / "_build" / name / "inside").mkdir(parents=True)
            (root / "_build" / name / "inside" / "a.txt").write_text(name)
        release.pack(root, "v1.0")
    one, two = (root / "_build" / "release" for root in (tmp_path / "one", tmp_path / "two"))
    assert (one / "SHA256SUMS").read_bytes() == (two / "SHA256SUMS").read_bytes()
    listed = [line.split("  ") for line in (one / "SHA256SUMS").read_text().splitlines()]
    assert [name for _, name in listed] == [f"steering-away-from-bias-v1.0-{name}.zip" for name in ("colab", "site")]
    with zipfile.ZipFile(one / listed[1][1]) as packed:
        assert packed.read("inside/a.txt") == b"html"
    with pytest.raises(FileNotFoundError, match="was not built"):
        release.pack(tmp_path / "three", "v1.0")


def test_the_deposit_of_a_release_is_described() -> None:
    about = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert about["title"] and about["license"] and about["creators"] and about["upload_type"] == "software"
    assert all(re.match(r"https://|arXiv:", one["identifier"]) for one in about["related_identifiers"])


def test_a_package_that_colab_would_lose_or_change_is_named() -> None:
    colab = tool("in_colab")
    before = colab.frozen("numpy==2.1.3\npandas==2.2.3\ntorch @ https://x/t.whl\n# a comment\n")
    assert colab.changes(before, before | {"gguf": "0.10", "vadersentiment": "3.3"}) == []
    assert colab.changes(before, before | {"numpy": "2.4"}) == ["numpy was 2.1.3 and is 2.4"]
    assert colab.changes(before, {k: v for k, v in before.items() if k != "torch"}) == [
        "torch was https://x/t.whl and is gone"
    ]
