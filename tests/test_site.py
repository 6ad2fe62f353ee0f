"""What a built site has for the pages that steer: always the scripts and the grid, the model where it is wanted, packed once."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerlib.inpage.site
from steerlib.inpage.site import place

SCRIPTS = Path(__file__).resolve().parents[1] / "book" / "live"


def test_a_site_without_the_model_has_everything_else(tmp_path: Path) -> None:
    place(SCRIPTS, tmp_path / "live", tmp_path / "packed", model=False)
    there = {path.name for path in (tmp_path / "live").iterdir()}
    assert there == {path.name for path in SCRIPTS.iterdir()} | {"grid.js"}
    assert not (tmp_path / "packed").exists()


def test_the_model_is_packed_again_only_when_something_of_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[Path] = []

    def pack(folder: Path) -> None:
        packed.append(folder)
        (folder / "people").mkdir(parents=True)
        (folder / "model.json").write_text(str(len(packed)))
        (folder / "people" / "somebody.png").write_bytes(b"png")

    monkeypatch.setattr(steerlib.inpage.site, "pack", pack)
    live, kept = tmp_path / "live", tmp_path / "packed"
    for _ in range(2):
        place(SCRIPTS, live, kept)
        assert (live / "model" / "model.json").read_text() == "1"
        assert (live / "model" / "people" / "somebody.png").is_file() and not (live / "model" / "made-of").exists()
    engine = tmp_path / "engine.wasm"
    engine.write_bytes(b"another engine")
    monkeypatch.setattr(steerlib.inpage.site, "engine_file", lambda: engine)
    place(SCRIPTS, live, kept)
    assert (live / "model" / "model.json").read_text() == "2"
    place(SCRIPTS, live, kept, model=False)  # a site that is to be small is small at once
    assert not (live / "model").exists() and (kept / "model.json").is_file()
