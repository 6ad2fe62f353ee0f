"""The page of families is what the records say, no fault among them is untold, and the doctor still says what is recorded."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
AGAIN = (
    "mistral",
    "gpt2",
    "olmo",
)  # quick, and each with something of its own: a window, no template, no weights in norms
RECORDS: dict[str, dict[str, Any]] = json.loads((ROOT / "data" / "families.json").read_text(encoding="utf-8"))


@cache
def tool() -> Any:
    """tools/families.py as a module; tests/families.py is another."""
    sys.path.append(str(ROOT / "tools"))
    try:
        spec = importlib.util.spec_from_file_location("families_tool", ROOT / "tools" / "families.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "tools"))


def wrong(records: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """(family, check) of every verdict "wrong"."""
    return {(n, c) for n, one in records.items() for c, line in one.get("checks", {}).items() if line[0] == "wrong"}


def test_the_page_is_what_the_records_say() -> None:
    assert (ROOT / "book" / "families.md").read_text(encoding="utf-8") == tool().page(RECORDS)


def test_every_family_that_can_be_built_has_a_record() -> None:
    names = {name: kind for kind, builder in tool().BUILDERS.items() for name in builder.FAMILIES}
    assert {name: one["kind"] for name, one in RECORDS.items()} == names
    assert all(one["template"] == tool().template(one["kind"], name) for name, one in RECORDS.items())


def test_every_fault_is_told_and_no_other() -> None:
    told = {(name, check) for name, checks in tool().KNOWN.items() for check in checks}
    assert wrong(RECORDS) == told


def test_the_page_shows_a_fault_and_the_sentence_of_a_refusal() -> None:
    broken = json.loads(json.dumps(RECORDS))
    broken["llama"]["checks"]["padding"] = ["wrong", "a *prompt* reads padding"]
    broken["gpt2"] = {key: value for key, value in broken["gpt2"].items() if key != "checks"} | {
        "refused": "no, 'gpt2'."
    }
    text = tool().page(broken)
    assert "- **llama** (padding, wrong): a \\*prompt\\* reads padding" in text
    assert "- **gpt2** (load, refused): no, '...'." in text
    assert text.count("**wrong**") == len(wrong(RECORDS)) + 1
    assert ("llama", "padding") in wrong(broken)


def test_a_family_that_cannot_be_built_here_keeps_its_record(monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    def lacking(kind: str, name: str) -> Any:
        raise ImportError("torchvision is not installed")

    for name, content in {"RECORDS": "families.json", "PAGE": "families.md"}.items():
        copy = tmp_path / content
        copy.write_text(getattr(tool(), name).read_text(encoding="utf-8"), encoding="utf-8")
        monkeypatch.setattr(tool(), name, copy)
    monkeypatch.setattr(tool(), "examine", lacking)
    tool().main(["llava", "pixtral"])
    assert json.loads((tmp_path / "families.json").read_text(encoding="utf-8")) == RECORDS
    assert capsys.readouterr().out.count("its record is kept (torchvision is not installed)") == 2


def test_a_fault_in_a_builder_is_not_taken_for_a_missing_package(monkeypatch: Any, tmp_path: Path) -> None:
    def broken(kind: str, name: str) -> Any:
        raise AttributeError("'int' object has no attribute 'eval'")

    monkeypatch.setattr(tool(), "RECORDS", tmp_path / "families.json")
    monkeypatch.setattr(tool(), "PAGE", tmp_path / "families.md")
    monkeypatch.setattr(tool(), "examine", broken)
    with pytest.raises(AttributeError, match="eval"):
        tool().main(["llama"])


@pytest.mark.parametrize("family", AGAIN)
def test_the_doctor_still_says_what_is_recorded(family: str) -> None:
    now, recorded = tool().examine("text", family), RECORDS[family]
    if now["transformers"] == recorded["transformers"]:
        assert now == recorded
    else:  # the sentences may have changed with the library, and what is wrong must not
        assert wrong({family: now}) == wrong({family: recorded})
