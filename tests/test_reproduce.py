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
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml

import steerlib.reproduce.checkout
import steerlib.reproduce.fingerprint
import steerlib.reproduce.pages
import steerlib.reproduce.progress
import steerlib.reproduce.run
from steerlib.__main__ import main
from steerlib.errors import SteerlibError
from steerlib.reproduce.address import colab
from steerlib.reproduce.checkout import choose, executed_path, expected_seconds, find_root, notebooks, read_records
from steerlib.reproduce.checkout import record_path as place_of
from steerlib.reproduce.claims import anchor
from steerlib.reproduce.fingerprint import expectations, made_of, stale, weights
from steerlib.reproduce.ledger import load_ledger
from steerlib.reproduce.parameters import literal, other_parameters
from steerlib.reproduce.progress import Progress, Screen
from steerlib.reproduce.record import write_record
from steerlib.reproduce.report import report
from steerlib.reproduce.rules import strength
from steerlib.reproduce.run import in_order, reproduce, usual_jobs
from steerlib.reproduce.verdicts import check

REPOSITORY = Path(__file__).resolve().parents[1]
CLAIM = "from steerlib.reproduce.claims import claim\n"
# The same without the rest of the library, which takes seconds to import.
QUICK = (
    """import importlib.util, sys
sys.modules["steerlib"] = importlib.util.module_from_spec(importlib.util.find_spec("steerlib"))
"""
    + CLAIM
)

FIRST = QUICK + (
    "class Estimate:\n    value, low, high, n = shift + 0.6, 0.5, 0.7, 60\n"
    "claim('first.bias.before', Estimate())\nclaim('first.bias.order', {'steered': 0.1, 'plain': 0.6})"
)
BROKEN = QUICK + "claim('second.bias.early', -0.8)\nwidth = 576\nheight = width / 0\n"
THIRD = QUICK + "claim('third.bias.gone', 0.1)"
SWALLOWED = (
    QUICK
    + """
claim("fourth.bias.twice", 0.6)
try:
    claim("fourth.bias.twice", -0.6)
except Exception:
    pass
"""
)


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
    for name in ("reproducibility.md", "bibliography.md", "references.bib"):
        shutil.copy(REPOSITORY / "book" / name, book)
    shutil.copytree(REPOSITORY / "book" / "_static", book / "_static")
    (book / "intro.md").write_text(f"# A small book\n\n{intro}\n")
    for name, text in chapters.items():
        (book / f"{name}.ipynb").write_text(text, encoding="utf-8")
    pages = [{"file": name} for name in [*chapters, "reproducibility", "bibliography"]]
    parts = [{"caption": "Chapters", "numbered": True, "chapters": pages}]
    toc = {"format": "jb-book", "root": "intro", "parts": parts}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
    return root


@pytest.fixture(scope="module")
def mathjax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the MathJax asset: one file, under the name that _config.yml gives it."""
    folder = tmp_path_factory.mktemp("mathjax")
    (folder / "tex-chtml.js").write_text("// formulas\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of our own, with one small file for weights."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models" / "tiny-1").mkdir(parents=True)
    (folder / "models" / "tiny-1" / "model.safetensors").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERLIB_CACHE", str(folder))
        yield folder


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
        return json.loads((self.root / "_build" / "run" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, mathjax: Path) -> Run:
    """Four chapters, of which the second fails halfway, the third misses and the fourth hides an error; one is not run."""
    first = entry("first.bias.before", "01-first", value=0.6)
    first["source"] = "ours, after {cite:t}`monteiropaes2026dso`"
    order = entry(
        "first.bias.order", "01-first", kind="order", order=["steered", "plain"], value={"steered": 0.1, "plain": 0.6}
    )
    del order["tolerance"]
    claims = [
        first,
        order,
        entry("second.bias.early", "02-broken", value=-0.8),
        entry("second.bias.late", "02-broken", value=0.3),
        entry("third.bias.gone", "03-third", value=0.6),
        entry("fourth.bias.twice", "04-swallows", value=0.6),
    ]
    chapters = {
        "01-first": notebook(FIRST, parameters="shift = 0.0  # of the estimate"),
        "02-broken": notebook(BROKEN),
        "03-third": notebook(THIRD),
        "04-swallows": notebook(SWALLOWED),
        "05-unrun": notebook("1 + 1"),
    }
    root = make_book(tmp_path_factory.mktemp("broken"), chapters, claims)
    return command(root, mathjax, "reproduce", "1", "2", "3", "4", "--jobs", "2")


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
    (failed,) = [i for i, line in enumerate(lines) if re.match(r"\[2/4\] 02-broken: failed, \d+ s", line)]
    assert "cell [1] raised ZeroDivisionError: division by zero" in lines[failed + 1]
    assert lines[failed + 2].strip() == "at: height = width / 0"
    for chapter in ("[1/4] 01-first", "[3/4] 03-third"):
        began = lines.index(f"{chapter}: running")
        (ended,) = [i for i, line in enumerate(lines) if re.match(rf"{re.escape(chapter)}: ran, \d+ s", line)]
        assert began < ended
    rows = [line.split(".")[0] for line in lines if re.match(r"\w+\.bias\.", line)]
    assert rows == [*["first"] * 2, *["second"] * 2, "third", "fourth"]
    verdicts = {line.split()[0]: line for line in lines if line.startswith(("first.", "second.", "third."))}
    assert verdicts["first.bias.before"].endswith("0.600 [0.500, 0.700], n = 60  holds")
    assert verdicts["first.bias.order"].endswith("holds")
    assert verdicts["second.bias.early"].endswith("holds")
    assert verdicts["second.bias.late"].endswith("MISSING")
    assert verdicts["third.bias.gone"].endswith("MISSES")
    assert "chapters that failed: 02-broken, 04-swallows" in lines
    assert "claims that miss: second.bias.late, third.bias.gone" in lines
    assert "6 of 6 claims judged: 2 do not hold" in lines
    assert lines[-1] == f"the book: {broken.root / '_build' / 'html' / 'index.html'}"
    assert "05-unrun has not been run yet" in broken.out
    assert "This chapter has not been run" in broken.page("05-unrun")


def test_the_run_is_written_down(broken: Run) -> None:
    run = broken.read("run")
    assert {"commit", "python", "torch", "transformers", "numpy", "machine", "cores", "threads"} <= set(
        run["environment"]
    )
    assert [c["status"] for c in run["chapters"].values()] == ["ran", "failed", "ran", "failed"]
    assert "claim fourth.bias.twice is recorded twice in 04-swallows" in run["chapters"]["04-swallows"]["error"]
    assert [v["verdict"] for v in run["verdicts"]] == ["holds", "holds", "holds", "missing", "misses", "holds"]
    assert run["verdicts"][4]["drift"] == pytest.approx(-0.5)
    assert all(c["seconds"] > 0 for c in run["chapters"].values())


def test_the_executed_copies_carry_badges(broken: Run) -> None:
    made = nbformat.read(broken.root / "_build" / "executed" / "01-first.ipynb", as_version=4)
    outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
    badge = next(o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {}))
    assert f"reproducibility.html#{anchor('first.bias.before')}" in badge
    assert "It is 0.600 | &lt;really&gt;." in badge


def test_a_book_with_a_failed_chapter_still_shows_it(broken: Run) -> None:
    assert "ZeroDivisionError" in broken.page("02-broken")
    assert "It is 0.600" in broken.page("01-first")


def test_the_reproducibility_page_has_a_row_for_each_claim(broken: Run) -> None:
    page = broken.page("reproducibility")
    for one in load_ledger(broken.root / "data" / "claims.yml").values():
        row = re.search(rf'<tr[^>]*id="{anchor(one.id)}".*?</tr>', page, re.DOTALL)
        assert row, one.id
        assert f"<code>{one.id}</code>" in row[0]
        assert "| &lt;really&gt;" in row[0]
        assert f'data-strength="{strength(one)}"' in row[0]
    cited = re.search(r'data-label="Source">\s*<p>ours, after .*?</p>', page, re.DOTALL)
    assert cited and 'class="reference internal" href="bibliography.html#' in cited[0]
    assert "<strong>missing</strong>" in page
    assert "steered 0.100 ± 0.002 &lt; plain 0.600 ± 0.012" in page
    for record in read_records(broken.root).values():
        assert record["date"] in page
    assert "<!--" not in page.split('id="the-claims"')[1].split("</article>")[0]


def test_no_page_asks_another_server(broken: Run) -> None:
    for path in (broken.root / "_build" / "html").glob("*.html"):
        page = path.read_text(encoding="utf-8")
        asked = re.findall(r"<script[^>]*\ssrc=[\"']([^\"']+)", page)
        asked += re.findall(r"<link[^>]*rel=[\"'](?:stylesheet|preload|icon)[^>]*href=[\"']([^\"']+)", page)
        assert not [where for where in asked if re.match(r"(https?:)?//", where)], path.name
    first = broken.page("01-first")
    assert "_static/mathjax/tex-chtml.js" in first
    assert (broken.root / "_build" / "html" / "_static" / "mathjax" / "tex-chtml.js").is_file()
    assert f'href="{colab("01-first")}"' in first


def test_check_judges_again_without_running(broken: Run, mathjax: Path) -> None:
    again = command(broken.root, mathjax, "check")
    assert again.status == 1
    assert "MISSES" in again.out
    first = command(broken.root, mathjax, "check", "1")
    assert first.status == 0
    assert "third" not in first.out
    assert "2 of 2 claims judged: all hold" in first.out
    unrun = command(broken.root, mathjax, "check", "5")
    assert unrun.status == 2
    assert "nothing has been run yet" in unrun.out


def copy_of(broken: Run, folder: Path) -> Path:
    shutil.copytree(broken.root, folder / "copy")
    return folder / "copy"


def test_what_changed_since_it_ran_is_stale_and_not_judged_or_accepted(
    broken: Run, mathjax: Path, tmp_path: Path
) -> None:
    root = copy_of(broken, tmp_path)
    assert command(root, mathjax, "check", "1").status == 0  # a copy elsewhere is not another book
    path = root / "book" / "01-first.ipynb"
    path.write_text(path.read_text().replace("A chapter", "Another chapter"))
    old = command(root, mathjax, "check", "1")
    assert old.status == 3
    assert "holds" not in old.out
    assert "01-first is stale: the notebook changed since it ran" in old.out
    assert "nothing was judged: 2 stale" in old.out
    assert command(root, mathjax, "check", "1", "--stale-ok").status == 0

    ledger = root / "data" / "claims.yml"
    ledger.write_text(ledger.read_text().replace("value: 0.6\n", "value: 0.3\n", 1))
    before = ledger.read_bytes()
    for words in ((), ("--stale-ok",)):
        refused = command(root, mathjax, "check", "1", "--accept", *words)
        assert refused.status != 0
        assert "nothing to accept" in refused.out
        assert "not accepted: the numbers of 01-first" in refused.out
        assert ledger.read_bytes() == before


def test_numbers_of_a_chapter_that_failed_are_not_accepted(broken: Run, mathjax: Path, tmp_path: Path) -> None:
    root = copy_of(broken, tmp_path)
    ledger = root / "data" / "claims.yml"
    ledger.write_text(ledger.read_text().replace("value: -0.8\n", "value: -0.5\n"))
    before = ledger.read_bytes()
    refused = command(root, mathjax, "check", "2", "--accept")
    assert refused.status == 1
    assert "not accepted: the numbers of 02-broken" in refused.out
    assert ledger.read_bytes() == before


def test_a_chapter_that_failed_after_its_last_claim_is_no_success(broken: Run, mathjax: Path, tmp_path: Path) -> None:
    root = copy_of(broken, tmp_path)
    ledger = root / "data" / "claims.yml"
    claims = yaml.safe_load(ledger.read_text())
    ledger.write_text(yaml.safe_dump([one for one in claims if one["id"] != "second.bias.late"], sort_keys=False))
    failed = command(root, mathjax, "check", "2")
    assert failed.status == 1
    assert "chapters that failed: 02-broken" in failed.out


def test_a_damaged_record_is_named_before_anything_runs(broken: Run, mathjax: Path, tmp_path: Path) -> None:
    root = copy_of(broken, tmp_path)
    path = place_of(root, "03-third")
    for content in ("{", "[]", path.read_text().replace("0.1", "0.6")):
        path.write_text(content)
        for words in (("check",), ("book",), ("reproduce", "1"), ("check", "3", "--accept")):
            run = command(root, mathjax, *words)
            assert run.status == 2
            assert run.out.count("\n") == 1
            assert str(path) in run.out
            assert "delete it, and run `steerlib reproduce 03-third` again." in run.out
    assert command(root, mathjax, "check", "1").status == 0


def test_the_table_shows_on_a_terminal_that_only_knows_ascii(broken: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    monkeypatch.chdir(broken.root)
    with contextlib.redirect_stdout(terminal):
        assert main(["check", "1"]) == 0
    assert b"0.600 +/- 0.02" in raw.getvalue()


def test_a_partial_run_judges_its_own_chapters_and_keeps_the_others(broken: Run, mathjax: Path, tmp_path: Path) -> None:
    root = copy_of(broken, tmp_path)
    kept = root / "_build" / "executed" / "02-broken.ipynb"
    before = kept.read_bytes()
    run = command(root, mathjax, "reproduce", "1", "-p", "shift", "0.05", pages=False)
    assert run.status == 0
    assert kept.read_bytes() == before
    assert "0.650 [0.500, 0.700], n = 60  other parameters" in run.out
    assert "nothing was judged: 2 other parameters" in run.out
    assert "hold" not in run.out
    assert "second" not in run.out
    again = command(root, mathjax, "check", "1")  # nobody asked for other parameters here
    assert again.status == 3
    assert "nothing was judged" in again.out
    tables = report(check(load_ledger(root / "data" / "claims.yml"), read_records(root)), read_records(root))
    assert "shift = 0.05" in tables["chapters"]
    assert run.read("01-first")["parameters"] == {"shift": 0.05}


def test_a_whole_book_builds_strictly_and_a_missing_key_fails(tmp_path: Path, mathjax: Path) -> None:
    key = "{glue:text}`first.bias.before:.1%`"
    claims = [entry("first.bias.before", "01-first", value=None)]
    source = QUICK + "claim('first.bias.before', 0.61234)"
    described = nbformat.reads(notebook(source), as_version=4)
    described.cells[-1].metadata["mystnb"] = {"image": {"alt": "It is {first.bias.before:.1%}."}}
    chapters = {"01-first": nbformat.writes(described)}
    root = make_book(tmp_path / "new", chapters, claims, intro=f"It was {key} then.")

    new = command(root, mathjax, "reproduce", "01-first")
    assert new.status == 1
    assert "NOT YET RECORDED" in new.out
    assert "61.2%" in new.page("intro")
    assert "It is 61.2%." in (root / "_build" / "source" / "01-first.ipynb").read_text(encoding="utf-8")

    accepted = command(root, mathjax, "check", "--accept")
    assert accepted.status == 0
    assert "+  value: 0.61234" in accepted.out

    (root / "book" / "intro.md").write_text(f"# A small book\n\n{key.replace('before', 'never')}\n")
    missing = command(root, mathjax, "book")
    assert missing.status == 2
    assert "first.bias.never" in missing.out

    copy = root / "_build" / "executed" / "01-first.ipynb"
    copy.write_text(copy.read_text(encoding="utf-8").replace("{first.bias.before:.1%}", "{first.bias.gone:.1%}"))
    missing = command(root, mathjax, "book")
    assert missing.status == 2
    assert "01-first: an alt text names first.bias.gone" in missing.out


# ------------------------------------------------------------------- interrupted, too slow, resumed


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a zombie that nobody has waited for is dead
    return not (status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until(true: Any, seconds: float = 240) -> None:
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
        log = (slow.parent / "stderr").open("w")
        command_line = [sys.executable, "-m", "steerlib", *words]
        running = subprocess.Popen(command_line, cwd=slow, env=environment, stderr=log)
        signal.signal(signal.SIGINT, heard)
        wait_until(lambda: place.is_file() and place.read_text())
        kernel = int(place.read_text())
        assert alive(kernel)
        running.send_signal(how)
        assert running.wait(timeout=30) == status
        wait_until(lambda pid=kernel: not alive(pid), 15)  # type: ignore[misc]
        log.close()
        said = (slow.parent / "stderr").read_text()
        assert ("To go on: steerlib reproduce --resume" in said) == (how == signal.SIGINT)
    records = read_records(slow)
    assert records["01-quick"]["status"] == "ran"
    assert "status" not in records["02-slow"]

    (slow.parent / "go").touch()
    resumed = command(slow, mathjax, "reproduce", "--resume", pages=False)
    assert resumed.status == 3  # these chapters claim nothing
    assert "nothing was judged" in resumed.out
    assert "[1/2] 01-quick: unchanged since" in resumed.out
    assert "[2/2] 02-slow: ran" in resumed.out
    again = command(slow, mathjax, "reproduce", "--resume", pages=False)
    assert again.out.count("unchanged since") == 2
    place_of(slow, "01-quick").write_text("{")  # a damaged record is no reason to stop: the chapter runs again
    mended = command(slow, mathjax, "reproduce", "1", "--resume", pages=False)
    assert "01-quick: ran" in mended.out
    assert mended.read("01-quick")["status"] == "ran"


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_stopping_two_chapters_at_once_kills_both_kernels_and_keeps_what_was_finished(tmp_path: Path) -> None:
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
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 130
    assert not any(map(alive, kernels))
    records = read_records(root)
    assert records["01-quick"]["status"] == "ran"
    assert "status" not in records["02-slow"] and "status" not in records["03-slow"]
    assert "04-waiting" not in records


MOVES = """
import time
from IPython.display import display
for _ in range(8):
    print(".", end="", flush=True)
    time.sleep(0.5)
shown = display("a bar", display_id=True)
for step in range(8):
    shown.update(f"a bar {step}")
    time.sleep(0.5)
"""


def test_a_chapter_is_stopped_for_standing_still_but_not_for_being_slow(tmp_path: Path, mathjax: Path) -> None:
    """Beside it a kernel dies, which is a failure with a reason too."""
    hangs = SLOW.format(pid=str(tmp_path / "pid"), go=str(tmp_path / "never"))
    chapters = {
        "01-moves": notebook(MOVES),
        "02-hangs": notebook("1 + 1", hangs),
        "03-dies": notebook("import os, signal", "# a comment\nos.kill(os.getpid(), signal.SIGTERM * 0 + 9)"),
    }
    root = make_book(tmp_path / "book", chapters, [])
    run = command(root, mathjax, "reproduce", "--stall", "0.06", "--jobs", "2", pages=False)
    assert run.status == 1
    records = read_records(root)
    assert [record["status"] for record in records.values()] == ["ran", "failed", "failed"]
    assert records["01-moves"]["seconds"] > 2 * 0.06 * 60
    assert re.search(
        r"02-hangs: failed, \d+ s\n    stopped in cell 2 of 2 \(`import os, pathlib, time`\): nothing was printed, "
        r"no bar moved and no cell ended for 0.06 minutes; `--stall 0.12` waits longer\n",
        run.out,
    )
    assert not alive(int((tmp_path / "pid").read_text()))
    died = r"the kernel died in cell 2 of 2 \(`# a comment`\); it held \d+\.\d GB of the machine's \d+\.\d GB\n    .*--jobs 1"
    assert re.search(died, run.out)
    assert "`steerlib reproduce --resume` runs only what is left" in run.out


# ------------------------------------------------------------------------------------ what has changed


@pytest.fixture
def ran(slow: Path) -> Path:
    """The quick chapter of a book, as if it had been run."""
    copy = executed_path(slow, "01-quick")
    copy.parent.mkdir(parents=True)
    copy.write_text("{}")
    (slow / "book" / "helper.py").write_text("width = 1\n")
    (slow / "data" / "words.txt").write_text("she\n")
    (slow / "data" / "README.md").write_text("About the words.\n")
    write_as_run(slow)
    return slow


def write_as_run(root: Path) -> None:
    name, copy = "01-quick", executed_path(root, "01-quick")
    record = {
        "parameters": {}, "other_parameters": False, "made_of": made_of(root, name), "weights": weights(),
        "expectations": expectations(load_ledger(root / "data" / "claims.yml"), name), "status": "ran", "error": "",
        "seconds": 1.5, "date": "2026-01-01 00:00 UTC", "executed": steerlib.reproduce.fingerprint.file_hash(copy),
    }  # fmt: skip
    write_record(place_of(root, name), record)


def changed(root: Path) -> list[str]:
    return stale(root, read_records(root)).get("01-quick", [])


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("book/01-quick.ipynb", "the notebook"),
        ("book/helper.py", "a file beside the notebook"),
        ("data/words.txt", "the data"),
        ("_build/executed/01-quick.ipynb", "its executed copy"),
        ("cache/models/tiny-1/model.safetensors", "the weights or drawings in the cache"),
        ("package/methods/dso.py", "the library"),
    ],
)
@pytest.mark.parametrize("how", ["edited", "of the same size and time", "moved away"])
def test_a_changed_file_makes_the_record_stale_and_says_which_kind_it_is(
    ran: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, cause: str, how: str
) -> None:
    for folder in ("cache/models/tiny-1/model.safetensors", "package/methods/dso.py"):
        (tmp_path / folder).parent.mkdir(parents=True)
        (tmp_path / folder).write_text("content")
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(steerlib.reproduce.fingerprint, "PACKAGE", tmp_path / "package")
    write_as_run(ran)
    assert changed(ran) == []
    path = (tmp_path if file.startswith(("cache", "package")) else ran) / file
    before, times = path.read_bytes(), path.stat()
    if how == "edited":
        path.write_bytes(before + b" ")
    elif how == "moved away" and cause != "the notebook":  # without it the book is refused
        path.rename(path.with_name("elsewhere.py"))
    else:
        path.write_bytes(before[:-1] + b"~")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed(ran) == [cause]


def test_what_no_number_depends_on_makes_nothing_stale(ran: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ran / "data" / "claims.yml").write_text("[] # changed\n")
    (ran / "data" / "README.md").write_text("More about the words.\n")
    (ran / "data" / "seconds.yml").write_text("01-quick: 3\n")
    (ran / "book" / "intro.md").write_text("# Another beginning\n")
    for folder in ("_static", "live"):
        (ran / "book" / folder).mkdir(exist_ok=True)
        (ran / "book" / folder / "more.js").write_text("// for a browser\n")
    (ran / "book" / "02-slow.ipynb").write_text(notebook("2 + 2"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    later = cache / "models" / "fetched-later"  # by a chapter that ran afterwards
    later.mkdir()
    (later / "model.safetensors").write_bytes(b"others")
    assert changed(ran) == []
    shutil.rmtree(later)


@pytest.mark.parametrize("name", ["STEERLIB_SOMETHING", "MKL_CBWR", "CUDA_VISIBLE_DEVICES"])
def test_environment_variables_that_matter_make_it_stale(ran: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "other")
    assert changed(ran) == ["an environment variable"]


def test_resume_runs_again_what_has_other_parameters_or_other_expectations(
    ran: Path, mathjax: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_chapter(root: Path, name: str, start: dict[str, Any], **_: Any) -> dict[str, Any]:
        again.append(name)
        return start | {"status": "ran", "error": "", "seconds": 1.0}

    again: list[str] = []
    monkeypatch.setattr(steerlib.reproduce.run, "run_chapter", run_chapter)
    (ran / "book" / "01-quick.ipynb").write_text(notebook("1 + 1", parameters="seed = 0"))
    write_as_run(ran)
    command(ran, mathjax, "reproduce", "1", "--resume", pages=False)
    assert again == []
    command(ran, mathjax, "reproduce", "1", "--resume", "-p", "seed", "1", pages=False)
    assert again == ["01-quick"]
    new = [entry("a.b.c", "01-quick", value=1.0)]
    (ran / "data" / "claims.yml").write_text(yaml.safe_dump(new))  # its badges say something else now
    command(ran, mathjax, "reproduce", "1", "--resume", pages=False)
    assert again == ["01-quick"] * 2


# ------------------------------------------------------------------------------------ order and progress


def test_side_by_side_the_longest_chapter_begins_first(slow: Path) -> None:
    names = ["1", "2", "3", "4"]
    seconds = {"1": 10.0, "2": 30.0, "3": 20.0}
    assert in_order(names, seconds, jobs=2) == ["4", "2", "3", "1"]  # one that is not known may be long
    assert in_order(names, seconds, jobs=1) == names


def test_the_expected_time_is_that_of_the_last_run_here_else_that_of_the_book(ran: Path) -> None:
    table = ran / "data" / "seconds.yml"
    assert expected_seconds(ran) == {"01-quick": 1.5}
    table.write_text("01-quick: 300\n02-slow: 60\n")
    assert expected_seconds(ran) == {"01-quick": 1.5, "02-slow": 60.0}
    for text in ("[", "- 1", "01-quick: soon"):
        table.write_text(text)
        assert expected_seconds(ran) == {"01-quick": 1.5}
    place_of(ran, "01-quick").write_text("{")
    assert expected_seconds(ran) == {}


def test_the_book_knows_how_long_each_of_its_chapters_takes() -> None:
    listed = yaml.safe_load((REPOSITORY / "data" / "seconds.yml").read_text(encoding="utf-8"))
    assert list(listed) == notebooks(REPOSITORY)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_few_minutes_and_a_terminal_one_live_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def two_cells(screen: Screen) -> Progress:
        progress = Progress("[1/2] 01-a", expected=349.0)
        screen.start(progress)
        progress.cells = 3
        progress.begin("\n  x = 1\ny = 2")
        screen.tick()
        progress.begin("z = 3")
        screen.tick()
        return progress

    plain = Screen()
    progress = two_cells(plain)
    assert progress.where() == "cell 2 of 3 (`z = 3`)"
    assert capsys.readouterr().out == "[1/2] 01-a: running, about 6 min\n"
    progress.told -= steerlib.reproduce.progress.EVERY
    plain.tick()
    plain.tick()
    assert capsys.readouterr().out == "[1/2] 01-a: cell 2 of 3, 0 s of about 6 min\n"

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    live = Screen()
    progress = two_cells(live)
    live.say("[1/2] 01-a: ran")
    live.end(progress)
    live.close()
    shown = terminal.getvalue()
    assert "[1/2] 01-a: cell 1 of 3, 0 s of about 6 min\r" in shown
    assert "[1/2] 01-a: cell 2 of 3, 0 s of about 6 min\r" in shown
    assert shown.endswith("\r")  # nothing of it stays


# ------------------------------------------------------------------------------------ side by side


MEETS = (
    QUICK
    + """
import os, pathlib, time
here = pathlib.Path.cwd().parent
assert (here / "book").is_dir(), here
(here / "{me}.here").write_text(os.environ["OMP_NUM_THREADS"])
end = time.monotonic() + 30
while not (here / "{other}.here").exists():
    assert time.monotonic() < end, "waited alone"
    time.sleep(0.05)
claim("{me}.bias.met", {value})
"""
)


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
    assert reproduce(couple, jobs=2).status == 0
    assert Path.cwd() == before  # papermill would have moved this process, of which both chapters are a part
    records = read_records(couple)
    assert [list(records[name]["claims"]) for name in ("01-a", "02-b")] == [["a.bias.met"], ["b.bias.met"]]
    assert [(couple / f"{me}.here").read_text() for me in "ab"] == ["3", "3"]
    assert [record["environment"]["threads"] for record in records.values()] == ["3", "3"]
    again = command(couple, mathjax, "reproduce", "--jobs", "2", "--resume", pages=False)
    assert again.status == 0
    assert again.out.count("unchanged since") == 2


def test_one_job_runs_one_chapter_after_the_other(tmp_path: Path, mathjax: Path) -> None:
    root = make_book(tmp_path / "book", {"01-a": notebook("1 + 1"), "02-b": notebook("1 + 1")}, [])
    run = command(root, mathjax, "reproduce", "--jobs", "1", pages=False)
    lines = [re.sub(r"\d+ (s|min)\b", "N s", line) for line in run.out.splitlines()[:4]]
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


def test_a_truth_value_from_the_command_line_is_one_and_other_kinds_are_refused(slow: Path) -> None:
    own = (
        "flag = True\nseed = 0\nrate = 0.5\nmodel = 'smollm2'\njobs = ('doctor', 'nurse')\nnothing = None\nsum = 1 + 1"
    )
    (slow / "book" / "01-quick.ipynb").write_text(notebook("1", parameters=own))

    def other(**values: str) -> bool:
        return other_parameters(slow, "01-quick", {key: literal(text) for key, text in values.items()})

    assert other(flag="false") and other(flag="No") and not other(flag="true") and not other(flag="YES")
    assert not other(jobs="('doctor', 'nurse')") and not other(jobs="['doctor', 'nurse']") and other(jobs="['nurse']")
    assert other(seed="1") and not other(seed="0") and not other(rate="0.5") and other(rate="1")
    assert other(model="other") and other(seed="none") and other(nothing="3") and not other(nothing="none")
    assert other(sum="3") and not other(sum="'1 + 1'")
    for values, words in (
        ({"flag": "maybe"}, "flag of 01-quick is true or false (True), not a text ('maybe')"),
        ({"flag": "1"}, "flag of 01-quick is true or false (True), not a number (1)"),
        ({"seed": "true"}, "seed of 01-quick is a number (0), not true or false (True)"),
        ({"seed": "abc"}, "is a number (0), not a text ('abc')"),
        ({"model": "3"}, "is a text ('smollm2'), not a number (3)"),
        ({"jobs": "doctor"}, "is a list (('doctor', 'nurse')), not a text ('doctor')"),
        ({"seed": "{1, 2}"}, "a parameter cannot be {1, 2}"),
        ({"seed": "b'a'"}, "a parameter cannot be b'a'"),
    ):
        with pytest.raises(SteerlibError) as caught:
            other(**values)
        assert words in str(caught.value)
        assert str(caught.value).endswith(".")


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
        (["reproduce", "--stall", "0"], "more than 0 minutes, not 0"),
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
    if words[0] != "assets":
        assert run.out.endswith(".\n")


def test_the_checkout_is_found_from_below_and_its_absence_explained(
    slow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(slow / "book" / "_static")
    assert find_root() == slow
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("steerlib.reproduce.checkout.PACKAGE", tmp_path / "site-packages" / "steerlib")
    with pytest.raises(SteerlibError, match="needs a checkout of the book.*git clone https://github.com/steerlib"):
        find_root()


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["reproduce", "-h"], ["check", "-h"], ["book", "-h"], ["assets", "-h"], ["doctor", "-h"]]
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
    for module in ("run", "kernel", "parameters"):
        monkeypatch.delitem(sys.modules, f"steerlib.reproduce.{module}")
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main(["reproduce"]) == 2
    assert "needs the package papermill" in capsys.readouterr().err


def test_literals() -> None:
    spelt = ("3", "1e-3", "True", "None", "smollm2", "'3'", "[1, 2]", "a b", "'true'")
    assert [literal(text) for text in spelt] == [3, 0.001, True, None, "smollm2", "3", [1, 2], "a b", "true"]
