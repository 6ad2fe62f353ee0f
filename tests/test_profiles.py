"""One set of notebooks runs under every profile; the papers' numbers are judged by theirs, and the shipped files are sound."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_reproduce import QUICK, entry, make_book, notebook

import steerlib.reproduce.run
from steerlib.__main__ import main
from steerlib.reproduce.checkout import notebooks, record_path
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.parameters import other_parameters
from steerlib.reproduce.profiles import profile_names, read_profile
from steerlib.reproduce.record import read_record

ROOT = Path(__file__).resolve().parents[1]
MODEL = QUICK + "claim('first.bias.plain', {'small': 0.6, 'large@v1': 0.3, 'tiny': 0.9}[model])\n"


def made(root: Path, **profiles: Any) -> Path:
    """A book of one chapter, and the profiles of a large model and of a tiny one that stands in for it."""
    of_paper = entry(
        "first.paper.plain", "01-first", value=0.3, tier="gpu", profile="large", measured_as="first.bias.plain"
    )
    chapter = notebook(MODEL, parameters="model = 'small'\nsamples = 3")
    make_book(
        root,
        {"01-first": chapter, "02-other": notebook("1")},
        [entry("first.bias.plain", "01-first", value=0.6), of_paper],
    )
    usual: dict[str, Any] = {
        "large": {"about": "large", "revisions": {"large": "v1"}, "chapters": {"01-first": {"model": "large"}}},
        "tiny": {"about": "tiny", "rehearses": "large", "chapters": {"01-first": {"model": "tiny", "samples": 1}}},
    }
    (root / "profiles").mkdir()
    for name, content in (usual | profiles).items():
        (root / "profiles" / f"{name}.yml").write_text(yaml.safe_dump(content))
    return root


def command(root: Path, *words: str) -> tuple[int, str]:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        patch.chdir(root)
        patch.setattr(steerlib.reproduce.run, "build", lambda *_: root / "no-pages")
        return main(words), out.getvalue()


def test_a_profile_gives_a_chapter_its_parameters_and_is_judged_against_the_papers_numbers(tmp_path: Path) -> None:
    root = made(tmp_path)
    status, out = command(root, "reproduce", "1", "--jobs", "1")
    assert status == 0, out
    assert "NEVER RUN" in out
    before = record_path(root, "01-first").read_bytes()

    status, out = command(root, "reproduce", "--profile", "large", "--jobs", "1")
    assert status == 0, out
    assert "large: large. It takes no more than the book." in out
    assert "[1/1] 01-first" in out  # the profile has one chapter
    assert "1 of 1 claims judged: all hold" in out
    record = read_record(record_path(root, "01-first", "large"))
    assert record["parameters"] == {"model": "large@v1"}
    assert record["claims"]["first.bias.plain"]["value"] == 0.3
    assert record_path(root, "01-first").read_bytes() == before
    copy = (root / "_build" / "profiles" / "large" / "executed" / "01-first.ipynb").read_text(encoding="utf-8")
    assert "first.paper.plain" in copy  # the badge is that of the paper's claim
    assert command(root, "check", "--profile", "large")[0] == 0
    assert command(root, "check", "1")[0] == 0

    status, out = command(root, "reproduce", "--profile", "tiny", "--jobs", "1")
    assert status == 0, out
    assert "1 rehearsed" in out

    status, out = command(root, "reproduce", "--profile", "large", "--parameters", "model=small", "--jobs", "1")
    assert status == 0, out
    assert "1 other parameters" in out
    status, out = command(root, "reproduce", "--profile", "large", "--resume", "--jobs", "1")
    assert "1 of 1 claims judged: all hold" in out


def test_the_papers_numbers_cannot_be_accepted(tmp_path: Path) -> None:
    root = made(tmp_path)
    assert command(root, "reproduce", "--profile", "large", "--jobs", "1")[0] == 0
    before = (root / "data" / "claims.yml").read_bytes()
    status, out = command(root, "check", "--profile", "large", "--accept")
    assert status == 2
    assert "a run cannot change them" in out
    assert (root / "data" / "claims.yml").read_bytes() == before


def test_a_rehearsal_fails_where_a_number_would_not_arrive(tmp_path: Path) -> None:
    root = made(tmp_path)
    path = root / "data" / "claims.yml"
    claims = yaml.safe_load(path.read_text())
    claims.append(entry("first.bias.late", "01-first", value=0.5))
    claims.append(claims[1] | {"id": "first.paper.late", "measured_as": "first.bias.late"})
    path.write_text(yaml.safe_dump(claims, sort_keys=False))
    status, out = command(root, "reproduce", "--profile", "tiny", "--jobs", "1")
    assert status == 1
    assert "claims that miss: first.paper.late" in out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "not valid YAML"),
        ([1], "must be a mapping with at least about and chapters"),
        ({"about": "x"}, "must be a mapping with at least about and chapters"),
        ({"about": "x", "chapters": "some"}, "chapters must be a mapping"),
        ({"about": "x", "chapters": {"09-none": {}}}, "names the chapter 09-none"),
        ({"about": "x", "chapters": {"01-first": None}}, "the parameters of 01-first must be a mapping"),
        ({"about": "x", "chapters": {}, "revisions": []}, "revisions must be a mapping"),
        ({"about": 3, "chapters": {}}, "about must be a text"),
        ({"about": "x", "chapters": {}, "chapter": {}}, "unknown field chapter"),
        ({"about": "x", "chapters": {"01-first": {"modle": "y"}}}, "no parameter 'modle'"),
        ({"about": "x", "chapters": {"01-first": {"samples": "many"}}}, "samples of 01-first is a number"),
    ],
)
def test_a_faulty_profile_is_refused_in_a_sentence(tmp_path: Path, content: Any, says: str) -> None:
    root = made(tmp_path)
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (root / "profiles" / "odd.yml").write_text(text)
    status, out = command(root, "reproduce", "--profile", "odd")
    assert status == 2
    assert says in out
    assert not (root / "_build" / "profiles" / "odd" / "run").exists()


def test_an_unknown_profile_names_those_there_are(tmp_path: Path) -> None:
    root = made(tmp_path)
    assert "is large meant?" in command(root, "reproduce", "--profile", "larg")[1]
    status, out = command(root, "reproduce", "--profile", "xyz")
    assert status == 2
    assert "there are large, tiny." in out


def test_what_a_profile_needs_is_made_before_its_chapters_run(tmp_path: Path) -> None:
    chapter = {"01-first": {"model": "tiny"}}
    root = made(
        tmp_path,
        good={"about": "x", "prepare": "make.py --all", "chapters": chapter},
        bad={"about": "x", "prepare": "no.py", "chapters": chapter},
    )
    (root / "make.py").write_text("import sys; open('made.json', 'w').write(sys.argv[1])")
    assert command(root, "reproduce", "--profile", "good", "--jobs", "1")[0] in (0, 3)
    assert (root / "made.json").read_text() == "--all"
    status, out = command(root, "reproduce", "--profile", "bad")
    assert status == 2
    assert "`python no.py` failed" in out


@pytest.mark.parametrize("name", profile_names(ROOT))
def test_every_shipped_profile_fits_the_chapters(name: str) -> None:
    found = read_profile(ROOT, name, notebooks(ROOT))
    for chapter, values in found.chapters.items():
        other_parameters(ROOT, chapter, values)  # refuses what a chapter does not have
    assert name == "cpu" or found.needs


def test_every_number_of_a_paper_belongs_to_a_profile_that_runs_its_chapter_and_is_rehearsed() -> None:
    ledger = load_ledger(ROOT / "data" / "claims.yml")
    of_papers = [one for one in ledger.values() if one.tier == "gpu"]
    assert len(of_papers) > 20
    known = notebooks(ROOT)
    tiny = read_profile(ROOT, "tiny", known)
    for one in of_papers:
        profile = read_profile(ROOT, one.profile, known)
        assert one.chapter in profile.chapters, one.id
        if one.profile == tiny.rehearses:
            assert one.chapter in tiny.chapters, one.id
    rehearsed = read_profile(ROOT, tiny.rehearses, known)
    assert set(tiny.chapters) == set(rehearsed.chapters)


def test_models_of_the_hub_have_a_revision() -> None:
    for name in profile_names(ROOT):
        found = read_profile(ROOT, name, notebooks(ROOT))
        for values in found.chapters.values():
            for key, value in values.items():
                if isinstance(value, str) and "/" in value and not value.startswith((".", "/")) and key != "photos":
                    revision = value.partition("@")[2]
                    assert len(revision) == 40 and int(revision, 16) >= 0, (name, key)


def test_everything_up_to_the_papers_numbers_runs_on_tiny_models_of_the_same_classes() -> None:
    """The chapters of the GPU, with random weights and stand-ins for the data: a first real run fails on nothing but numbers."""
    command = [sys.executable, "-m", "steerlib", "reproduce", "--profile", "tiny", "--jobs", "1"]
    run = subprocess.run(
        command, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    ledger = load_ledger(ROOT / "data" / "claims.yml")
    for one in ledger.values():
        if one.profile == "gpu":
            (line,) = [line for line in run.stdout.splitlines() if line.startswith(f"{one.id} ")]
            assert line.endswith("rehearsed"), line
