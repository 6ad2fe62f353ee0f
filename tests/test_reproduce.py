"""A small book of tiny notebooks is run, judged and built; what goes wrong in it is named."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml

import steerlib.reproduce.pages
import steerlib.reproduce.run
from steerlib.__main__ import main
from steerlib.errors import SteerlibError
from steerlib.reproduce.claims import anchor, check
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.run import (
    choose,
    find_root,
    fingerprint,
    literal,
    notebooks,
    read_records,
    reproduce,
    usual_jobs,
)

REPOSITORY = Path(__file__).resolve().parents[1]
CLAIM = "from steerlib.reproduce.claims import claim\n"

FIRST = CLAIM + (
    "class Estimate:\n    value, low, high, n = shift + 0.6, 0.5, 0.7, 60\n"
    "claim('first.bias.before', Estimate())\nclaim('first.bias.order', {'steered': 0.1, 'plain': 0.6})"
)
BROKEN = CLAIM + "claim('second.bias.early', -0.8)\nwidth = 576\nheight = width / 0\n"
THIRD = CLAIM + "claim('third.bias.gone', 0.1)"


def notebook(*cells: str, parameters: str = "") -> str:
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    made.cells.append(nbformat.v4.new_markdown_cell("# A chapter\n\nIt has a formula, $x^2$."))
    if parameters:
        tags = {"tags": ["parameters"]}
        made.cells.append(nbformat.v4.new_code_cell(parameters, metadata=tags))
    made.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    return nbformat.writes(made)


def entry(id: str, chapter: str, **fields: Any) -> dict[str, Any]:
    common = {"says": "It is {value} | <really>.", "source": "ours", "kind": "close", "tolerance": 0.02}
    return {"id": id, **common, "tier": "cpu", "seed": 0, "chapter": chapter} | fields


def make_book(root: Path, chapters: dict[str, str], claims: list[dict[str, Any]], intro: str = "") -> Path:
    """A checkout with the real configuration and Reproducibility page, and chapters of our own."""
    book = root / "book"
    book.mkdir(parents=True)
    (root / "data").mkdir()
    (root / "data" / "claims.yml").write_text(yaml.safe_dump(claims, sort_keys=False))
    shutil.copy(REPOSITORY / "_config.yml", root)
    for name in ("reproducibility.md", "references.bib"):
        shutil.copy(REPOSITORY / "book" / name, book)
    shutil.copytree(REPOSITORY / "book" / "_static", book / "_static")
    (book / "intro.md").write_text(f"# A small book\n\n{intro}\n")
    for name, text in chapters.items():
        (book / f"{name}.ipynb").write_text(text, encoding="utf-8")
    pages = [{"file": name} for name in [*chapters, "reproducibility"]]
    toc = {"format": "jb-book", "root": "intro", "chapters": pages}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def mathjax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the MathJax asset: one file, under the name that _config.yml gives it."""
    folder = tmp_path_factory.mktemp("mathjax")
    (folder / "tex-chtml.js").write_text("// formulas\n")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, mathjax: Path) -> None:
    monkeypatch.setattr(steerlib.reproduce.pages, "fetch", lambda name: mathjax)


class Run:
    """What a call of the command line did."""

    def __init__(self, root: Path, status: int, out: str) -> None:
        self.root, self.status, self.out = root, status, out

    def page(self, name: str) -> str:
        return (self.root / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8")

    def read(self, name: str) -> Any:
        return json.loads((self.root / "_build" / "run" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, mathjax: Path) -> Run:
    """Three chapters, of which the second fails halfway and the third misses."""
    first = entry("first.bias.before", "01-first", value=0.6)
    order = entry(
        "first.bias.order", "01-first", kind="order", order=["steered", "plain"], value={"steered": 0.1, "plain": 0.5}
    )
    del order["tolerance"]
    claims = [
        first,
        order,
        entry("second.bias.early", "02-broken", value=-0.8),
        entry("second.bias.late", "02-broken", value=0.3),
        entry("third.bias.gone", "03-third", value=0.6),
    ]
    chapters = {
        "01-first": notebook(FIRST, parameters="shift = 0.0  # of the estimate"),
        "02-broken": notebook(BROKEN),
        "03-third": notebook(THIRD),
    }
    root = make_book(tmp_path_factory.mktemp("broken"), chapters, claims)
    return command(root, mathjax, "reproduce", "--jobs", "2")


def command(root: Path, mathjax: Path, *words: str, pages: bool = True) -> Run:
    """The command line in this process, with what it printed; without `pages` no book is built."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(root)
        patch.setattr(steerlib.reproduce.pages, "fetch", lambda name: mathjax)
        if not pages:
            patch.setattr(steerlib.reproduce.run, "build", lambda *_: root / "no-pages")
        with contextlib.redirect_stderr(out):
            status = main(words)
    return Run(root, status, out.getvalue())


def test_the_others_run_and_the_table_and_status_say_which_failed(broken: Run) -> None:
    assert broken.status == 1
    lines = broken.out.splitlines()
    (failed,) = [i for i, line in enumerate(lines) if re.match(r"\[2/3\] 02-broken: failed, \d+ s", line)]
    assert "cell [1] raised ZeroDivisionError: division by zero" in lines[failed + 1]
    assert lines[failed + 2].strip() == "at: height = width / 0"
    for chapter in ("[1/3] 01-first", "[3/3] 03-third"):
        began = lines.index(f"{chapter}: running")
        (ended,) = [i for i, line in enumerate(lines) if re.match(rf"{re.escape(chapter)}: ran, \d+ s", line)]
        assert began < ended
    assert [line.split(".")[0] for line in lines if ".bias." in line][:5] == [*["first"] * 2, *["second"] * 2, "third"]
    verdicts = {line.split()[0]: line for line in lines if line.startswith(("first.", "second.", "third."))}
    assert verdicts["first.bias.before"].endswith("0.600 [0.500, 0.700], n = 60  holds")
    assert verdicts["first.bias.order"].endswith("holds")
    assert verdicts["second.bias.early"].endswith("holds")
    assert verdicts["second.bias.late"].endswith("MISSING")
    assert verdicts["third.bias.gone"].endswith("MISSES")
    assert "chapters that failed: 02-broken" in lines
    assert "claims that miss: second.bias.late, third.bias.gone" in lines
    assert lines[-1] == f"the book: {broken.root / '_build' / 'html' / 'index.html'}"


def test_the_run_is_written_down(broken: Run) -> None:
    run = broken.read("run")
    assert {"commit", "python", "torch", "transformers", "numpy", "machine", "cores", "threads"} <= set(
        run["environment"]
    )
    assert [c["status"] for c in run["chapters"].values()] == ["ran", "failed", "ran"]
    assert [v["verdict"] for v in run["verdicts"]] == ["holds", "holds", "holds", "missing", "misses"]
    assert run["verdicts"][4]["drift"] == pytest.approx(-0.5)
    assert all(c["seconds"] > 0 for c in run["chapters"].values())


def test_the_executed_copies_carry_glue_and_badge(broken: Run) -> None:
    made = nbformat.read(broken.root / "_build" / "executed" / "01-first.ipynb", as_version=4)
    outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
    keys = {o["metadata"]["scrapbook"]["name"]: o["data"] for o in outputs if "scrapbook" in o.get("metadata", {})}
    assert set(keys) == {
        *("first.bias.before", "first.bias.before.low", "first.bias.before.high"),
        *("first.bias.order.steered", "first.bias.order.plain"),
    }
    assert list(keys["first.bias.before"].values()) == ["0.6"]
    badge = next(o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {}))
    assert f"reproducibility.html#{anchor('first.bias.before')}" in badge
    assert "It is 0.600 | &lt;really&gt;." in badge


def test_a_book_with_a_failed_chapter_still_shows_it(broken: Run) -> None:
    assert "ZeroDivisionError" in broken.page("02-broken")
    assert "It is 0.600" in broken.page("01-first")


def test_the_reproducibility_page_has_a_row_for_each_claim(broken: Run) -> None:
    page = broken.page("reproducibility")
    for one in load_ledger(broken.root / "data" / "claims.yml").values():
        row = re.search(rf'<tr[^>]*>(?:(?!</tr>).)*id="{anchor(one.id)}".*?</tr>', page, re.DOTALL)
        assert row, one.id
        assert one.id in row[0]
        assert "| &lt;really&gt;" in row[0]
    assert "<strong>missing</strong>" in page
    assert "steered &lt; plain" in page
    for record in read_records(broken.root).values():
        assert record["date"] in page
    assert "<!--" not in page.split('id="the-claims"')[1].split('id="references"')[0]


def test_no_page_asks_another_server(broken: Run) -> None:
    for path in (broken.root / "_build" / "html").glob("*.html"):
        page = path.read_text(encoding="utf-8")
        asked = re.findall(r"<script[^>]*\ssrc=[\"']([^\"']+)", page)
        asked += re.findall(r"<link[^>]*rel=[\"'](?:stylesheet|preload|icon)[^>]*href=[\"']([^\"']+)", page)
        assert not [where for where in asked if re.match(r"(https?:)?//", where)], path.name
    first = broken.page("01-first")
    assert "_static/mathjax/tex-chtml.js" in first
    assert (broken.root / "_build" / "html" / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert "colab.research.google.com/github/steerlib/steering-away-from-bias/blob/main/book/01-first.ipynb" in first


def test_check_judges_again_without_running(broken: Run, mathjax: Path) -> None:
    again = command(broken.root, mathjax, "check")
    assert again.status == 1
    assert "MISSES" in again.out
    first = command(broken.root, mathjax, "check", "1")
    assert first.status == 0
    assert "third" not in first.out


def test_a_partial_run_judges_its_own_chapters_and_keeps_the_others(broken: Run, mathjax: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(broken.root, root)
    kept = root / "_build" / "executed" / "02-broken.ipynb"
    before = kept.read_bytes()
    run = command(root, mathjax, "reproduce", "1", "-p", "shift", "0.05", pages=False)
    assert run.status == 0
    assert kept.read_bytes() == before
    assert "0.650 [0.500, 0.700], n = 60  other parameters" in run.out
    assert "second" not in run.out
    tables = steerlib.reproduce.pages.report(
        check(load_ledger(root / "data" / "claims.yml"), read_records(root)), read_records(root)
    )
    assert "shift = 0.05" in tables["chapters"]
    assert run.read("01-first")["parameters"] == {"shift": 0.05}


def test_a_whole_book_builds_strictly_and_a_missing_key_fails(tmp_path: Path, mathjax: Path) -> None:
    key = "{glue:text}`01-first.ipynb::first.bias.before:.1%`"
    claims = [entry("first.bias.before", "01-first", value=None)]
    source = CLAIM + "claim('first.bias.before', 0.61234)"
    root = make_book(tmp_path / "new", {"01-first": notebook(source)}, claims, intro=f"It was {key} then.")

    new = command(root, mathjax, "reproduce", "01-first")
    assert new.status == 1
    assert "NOT YET RECORDED" in new.out
    assert "61.2%" in new.page("intro")

    accepted = command(root, mathjax, "check", "--accept")
    assert accepted.status == 0
    assert "+  value: 0.61234" in accepted.out

    (root / "book" / "intro.md").write_text(f"# A small book\n\n{key.replace('before', 'never')}\n")
    missing = command(root, mathjax, "book")
    assert missing.status == 2
    assert "first.bias.never" in missing.out

    (root / "_build" / "executed" / "01-first.ipynb").unlink()
    unrun = command(root, mathjax, "book")
    assert unrun.status == 0
    assert "01-first has not been run yet" in unrun.out
    assert "This chapter has not been run" in unrun.page("01-first")


# ------------------------------------------------------------------- interrupted, too slow, resumed


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a zombie that nobody has waited for is dead
    return not (status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


SLOW = """
import os, pathlib, time
pathlib.Path({pid!r}).write_text(str(os.getpid()))
while not pathlib.Path({go!r}).exists():
    time.sleep(0.1)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A quick chapter, then one that waits for a file `go`; it writes its process id to `pid`."""
    cell = SLOW.format(pid=str(tmp_path / "pid"), go=str(tmp_path / "go"))
    chapters = {"01-quick": notebook("1 + 1"), "02-slow": notebook(cell)}
    return make_book(tmp_path / "slow", chapters, [])


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_ctrl_c_and_kill_leave_no_kernel_and_resume_goes_on(slow: Path, mathjax: Path) -> None:
    place = slow.parent / "pid"
    for how, words, status in (
        (signal.SIGINT, ["reproduce"], 130),
        (signal.SIGKILL, ["reproduce", "--resume"], -signal.SIGKILL),
    ):
        place.unlink(missing_ok=True)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that put us behind has it ignored
        running = subprocess.Popen([sys.executable, "-m", "steerlib", *words], cwd=slow, env=environment)
        signal.signal(signal.SIGINT, heard)
        wait_until(lambda: place.is_file() and place.read_text())
        kernel = int(place.read_text())
        assert alive(kernel)
        running.send_signal(how)
        assert running.wait(timeout=30) == status
        wait_until(lambda pid=kernel: not alive(pid), 15)  # type: ignore[misc]
    records = read_records(slow)
    assert records["01-quick"]["status"] == "ran"
    assert "status" not in records["02-slow"]

    (slow.parent / "go").touch()
    resumed = command(slow, mathjax, "reproduce", "--resume", pages=False)
    assert resumed.status == 0
    assert "[1/2] 01-quick: unchanged since" in resumed.out
    assert "[2/2] 02-slow: ran" in resumed.out
    again = command(slow, mathjax, "reproduce", "--resume", pages=False)
    assert again.out.count("unchanged since") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_two_chapters_at_once_kills_both_kernels_and_keeps_what_was_finished(
    tmp_path: Path, how: signal.Signals
) -> None:
    quick, *places = [tmp_path / f"pid-{number}" for number in (1, 2, 3)]
    cells = [SLOW.format(pid=str(quick), go=str(tmp_path))]
    cells += [SLOW.format(pid=str(place), go=str(tmp_path / "never")) for place in places]
    names = ("01-quick", "02-slow", "03-slow", "04-waiting")
    chapters = dict(zip(names, map(notebook, [*cells, "1 + 1"]), strict=True))
    root = make_book(tmp_path / "book", chapters, [])
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        [sys.executable, "-m", "steerlib", "reproduce", "--jobs", "2"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    signal.signal(signal.SIGINT, heard)
    wait_until(lambda: all(place.is_file() and place.read_text() for place in places))
    kernels = [int(place.read_text()) for place in places]
    assert all(map(alive, kernels))
    assert not alive(int(quick.read_text()))  # a finished chapter gives its memory back
    running.send_signal(how)
    assert running.wait(timeout=30) == 130
    assert not any(map(alive, kernels))
    records = read_records(root)
    assert records["01-quick"]["status"] == "ran"
    assert "status" not in records["02-slow"] and "status" not in records["03-slow"]
    assert "04-waiting" not in records


def test_a_chapter_that_takes_too_long_is_stopped(slow: Path, mathjax: Path) -> None:
    began = time.monotonic()
    run = command(slow, mathjax, "reproduce", "--minutes", "0.1", pages=False)
    assert time.monotonic() - began < 30
    assert run.status == 1
    assert re.search(r"02-slow: failed, \d+ s\n    stopped: it took longer than 0.1 minutes\n", run.out)
    assert read_records(slow)["01-quick"]["status"] == "ran"
    assert read_records(slow)["02-slow"]["status"] == "failed"
    place = slow.parent / "pid"
    assert not place.exists() or not alive(int(place.read_text()))


def test_the_fingerprint_sees_every_cause(slow: Path) -> None:
    def seal(**values: object) -> str:
        return fingerprint(slow, "01-quick", values)

    seals = [seal(), seal(seed=1), seal(seed=2)]
    (slow / "data" / "claims.yml").write_text("[] # changed\n")
    seals.append(seal())
    (slow / "book" / "01-quick.ipynb").write_text(notebook("1 + 2"))
    seals.append(seal())
    assert seals[-1] == seal()
    assert len(set(seals)) == len(seals)


# ------------------------------------------------------------------------------------ side by side


MEETS = """
import os, pathlib, time
from steerlib.reproduce.claims import claim
here = pathlib.Path.cwd()
assert here.name == "book", here
(here / "{me}.here").write_text(os.environ["OMP_NUM_THREADS"])
end = time.monotonic() + 30
while not (here / "{other}.here").exists():
    assert time.monotonic() < end, "waited alone"
    time.sleep(0.05)
claim("{me}.bias.met", {value})
"""


@pytest.fixture
def couple(tmp_path: Path) -> Path:
    """Two chapters of which each fails unless the other one runs at the same time."""
    cells = [MEETS.format(me=me, other=other, value=v) for me, other, v in (("a", "b", 0.1), ("b", "a", 0.2))]
    chapters = {"01-a": notebook(cells[0]), "02-b": notebook(cells[1])}
    claims = [entry("a.bias.met", "01-a", value=0.1), entry("b.bias.met", "02-b", value=0.2)]
    return make_book(tmp_path / "couple", chapters, claims)


def test_two_chapters_run_at_the_same_time_each_with_its_claims_and_its_share_of_threads(
    couple: Path, mathjax: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setattr(steerlib.reproduce.run, "build", lambda *_: couple / "no-pages")
    before = Path.cwd()
    assert reproduce(couple, jobs=2)
    assert Path.cwd() == before  # papermill would have moved this process, of which both chapters are a part
    records = read_records(couple)
    assert [list(records[name]["claims"]) for name in ("01-a", "02-b")] == [["a.bias.met"], ["b.bias.met"]]
    assert [(couple / "book" / f"{me}.here").read_text() for me in "ab"] == ["3", "3"]
    assert [record["environment"]["threads"] for record in records.values()] == ["3", "3"]
    again = command(couple, mathjax, "reproduce", "--jobs", "2", "--resume", pages=False)
    assert again.status == 0
    assert again.out.count("unchanged since") == 2


def test_one_job_runs_one_chapter_after_the_other(tmp_path: Path, mathjax: Path) -> None:
    root = make_book(tmp_path / "book", {"01-a": notebook("1 + 1"), "02-b": notebook("1 + 1")}, [])
    run = command(root, mathjax, "reproduce", "--jobs", "1", pages=False)
    lines = [re.sub(r"\d+ s", "N s", line) for line in run.out.splitlines()[:4]]
    assert lines == ["[1/2] 01-a: running", "[1/2] 01-a: ran, N s", "[2/2] 02-b: running", "[2/2] 02-b: ran, N s"]


@pytest.mark.parametrize(
    ("gpu", "threads", "gigabytes", "jobs"),
    [
        (False, 2, 16, 2),
        (False, 16, 64, 2),
        (False, 1, 16, 1),
        (False, 8, 5.9, 1),
        (False, 8, 0.5, 1),
        (True, 8, 64, 1),
    ],
)
def test_as_many_jobs_as_cores_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, threads: int, gigabytes: float, jobs: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=gigabytes * 1e9))
    assert usual_jobs() == jobs


# --------------------------------------------------------------------------------------- bad input


def test_chapters_are_found_by_name_and_number(slow: Path) -> None:
    known = notebooks(slow)
    assert known == ["01-quick", "02-slow"]
    assert choose([], known) == known
    for word in ("2", "02", "02-slow", "02-slow.ipynb"):
        assert choose([word], known) == ["02-slow"]
    assert choose(["2", "1", "01"], known) == known
    for word in ("3", "slow", "", "intro", "0"):
        with pytest.raises(SteerlibError, match="the known ones are 01-quick, 02-slow"):
            choose([word], known)


def test_unknown_parameters_are_refused_before_anything_runs(slow: Path) -> None:
    text = notebook("print(seed)", parameters="seed = 0\nmodel: str = 'smollm2'")
    (slow / "book" / "01-quick.ipynb").write_text(text)
    with pytest.raises(SteerlibError, match="01-quick has no parameter 'sed': it has seed, model"):
        reproduce(slow, ["1"], parameters={"sed": 1})
    with pytest.raises(SteerlibError, match="02-slow has no parameter 'seed': it has none"):
        reproduce(slow, parameters={"seed": 1})
    assert not (slow / "_build").exists()


def test_the_table_of_contents_and_the_ledger_must_name_chapters_that_exist(slow: Path, mathjax: Path) -> None:
    (slow / "data" / "claims.yml").write_text(yaml.safe_dump([entry("a.b.c", "03-later", value=1)]))
    stray = command(slow, mathjax, "reproduce")
    assert (stray.status, stray.out.count("\n")) == (2, 1)
    assert "steerlib: claim a.b.c names the chapter 03-later" in stray.out
    (slow / "book" / "02-slow.ipynb").unlink()
    with pytest.raises(SteerlibError, match="lists 02-slow, but there is no such .md or .ipynb"):
        notebooks(slow)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reproduce", "9"], "unknown chapter '9'"),
        (["reproduce", "--jobs", "0"], "1 or more side by side, not 0"),
        (["reproduce", "--parameters", "seed"], "wants NAME=VALUE, not 'seed'"),
        (["check"], "nothing has been run yet"),
        (["assets", "nothing-like-this"], "unknown asset"),
    ],
)
def test_bad_words_get_one_sentence_and_status_2(slow: Path, mathjax: Path, words: list[str], said: str) -> None:
    run = command(slow, mathjax, *words)
    assert run.status == 2
    assert run.out.startswith("steerlib: ")
    assert run.out.count("\n") == 1
    assert said in run.out


def test_the_checkout_is_found_from_below_and_its_absence_explained(
    slow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(slow / "book" / "_static")
    assert find_root() == slow
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steerlib.reproduce.run.PACKAGE", tmp_path / "site-packages" / "steerlib")
    with pytest.raises(SteerlibError, match="needs a checkout of the book.*git clone https://github.com/steerlib"):
        find_root()


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["reproduce", "-h"], ["check", "-h"], ["book", "-h"], ["assets", "-h"]]
)
def test_help_is_there_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(words) == 0
    except SystemExit as stop:
        assert stop.code == 0
    shown = capsys.readouterr().out
    assert "  steerlib " in shown or "Begin with: steerlib reproduce" in shown


def test_without_the_tools_of_the_book_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "steerlib.reproduce.run")
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main(["reproduce"]) == 2
    assert "needs the package papermill" in capsys.readouterr().err


def test_literals() -> None:
    spelt = ("3", "1e-3", "True", "None", "smollm2", "'3'", "[1, 2]", "a b")
    assert [literal(text) for text in spelt] == [3, 0.001, True, None, "smollm2", "3", [1, 2], "a b"]
