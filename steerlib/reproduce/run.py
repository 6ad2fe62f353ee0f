"""Run the book: every chapter from top to bottom, then its claims, then its pages.

The one idea: a chapter is a notebook that papermill runs in a fresh kernel of THIS Python (never
one that the user installed elsewhere), and everything about the run lies in plain files, of which
each chapter writes only its own, so that two can run side by side:

    _build/executed/NAME.ipynb    the executed copy, which the book shows
    _build/run/NAME.json          its record: claims, parameters, status, seconds, environment
    _build/run/run.json           the last run as a whole, with every verdict
    _build/html/index.html        the book
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from threading import Event
from typing import Any

import papermill
import psutil
import torch
import yaml
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from tqdm.auto import tqdm

from steerlib.errors import SteerlibError
from steerlib.reproduce.claims import Verdict, check, table, write_json
from steerlib.reproduce.ledger import Claim, load_ledger
from steerlib.reproduce.pages import build

PACKAGE = Path(__file__).resolve().parent.parent
MEMORY = 3e9  # bytes that one chapter may need
Record = dict[str, Any]


def find_root() -> Path:
    """The checkout of the book: the working folder or one above it, else the package's own.

    Raises:
        SteerlibError: there is none, as after a plain `pip install`.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, PACKAGE.parent):
        if (folder / "book" / "_toc.yml").is_file() and (folder / "_config.yml").is_file():
            return folder
    raise SteerlibError(
        "this needs a checkout of the book, and there is none here: run `git clone "
        "https://github.com/steerlib/steering-away-from-bias`, and then the command in its folder"
    )


def notebooks(root: Path) -> list[str]:
    """File stems of the chapters that are notebooks, in the order of book/_toc.yml."""

    def pages(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, content in node.items():
                if key in ("root", "file"):
                    yield content
                else:
                    yield from pages(content)
        elif isinstance(node, list):
            for content in node:
                yield from pages(content)

    book = root / "book"
    found = []
    for page in pages(yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))):
        if (book / f"{page}.ipynb").is_file():
            found.append(page)
        elif not (book / f"{page}.md").is_file():
            raise SteerlibError(f"book/_toc.yml lists {page}, but there is no such .md or .ipynb")
    return found


def choose(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The chapters that the user's words mean: a file stem, or its number ("03" or "3").

    Raises:
        SteerlibError: a word that means no chapter.
    """
    numbers = {str(int(stem.split("-")[0])): stem for stem in known if stem[:1].isdigit()}
    chosen = set()
    for name in names:
        stem = name.removesuffix(".ipynb")
        stem = numbers.get(stem.lstrip("0"), stem)
        if stem not in known:
            raise SteerlibError(f"unknown chapter {name!r}: the known ones are {', '.join(known)}")
        chosen.add(stem)
    return [stem for stem in known if stem in chosen or not names]


def read_ledger(root: Path) -> dict[str, Claim]:
    """The checkout's ledger, with the chapters it names compared to the table of contents."""
    ledger = load_ledger(root / "data" / "claims.yml")
    known = notebooks(root)
    for one in ledger.values():
        if one.chapter not in known:
            raise SteerlibError(f"claim {one.id} names the chapter {one.chapter}, no notebook of book/_toc.yml")
    return ledger


def read_records(root: Path) -> dict[str, Record]:
    """The records of all chapters that were run here, by chapter."""
    paths = {name: root / "_build" / "run" / f"{name}.json" for name in notebooks(root)}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def usual_jobs() -> int:
    """How many chapters to run side by side: one a core, but at most two, each with 3 GB; one with a GPU.

    Two chapters with half of the threads each end sooner than one after the other with all; a GPU they would only share.
    """
    if torch.cuda.is_available():
        return 1
    return max(1, min(2, torch.get_num_threads(), int(psutil.virtual_memory().available / MEMORY)))


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_terminable()
def reproduce(
    root: Path,
    chapters: Sequence[str] = (),
    *,
    parameters: Mapping[str, object] | None = None,
    resume: bool = False,
    minutes: float = 30.0,
    jobs: int | None = None,
) -> bool:
    """Run chapters, judge their claims, build the book, and print how each of these went.

    Args:
        root: the checkout.
        chapters: stems or numbers; all when empty.
        parameters: for the notebooks' `parameters` cells. Where one differs from the chapter's own,
            its claims are reported but not judged.
        resume: keep a chapter whose notebook, library, data, parameters and packages are as they
            were when it last ran whole.
        minutes: the longest that one chapter may take.
        jobs: how many chapters run side by side, each with its share of the threads; None is `usual_jobs()`.

    Returns:
        True when every chosen chapter ran and none of their claims missed.

    Raises:
        SteerlibError: an unknown chapter or parameter, a faulty ledger, no job, a book that is not built.
    """
    if jobs is not None and jobs < 1:
        raise SteerlibError(f"chapters run 1 or more side by side, not {jobs}")
    ledger = read_ledger(root)
    names = choose(chapters, notebooks(root))
    values = dict(parameters or {})
    other = {name: _other_parameters(root, name, values) for name in names}
    label = {name: f"[{number}/{len(names)}] {name}" for number, name in enumerate(names, start=1)}
    kept = [name for name in names if resume and _unchanged(root, name, values)]
    for name in kept:
        _say(f"{label[name]}: unchanged since it ran on {read_records(root)[name]['date']}")
    waiting = [name for name in names if name not in kept]
    jobs = min(jobs or usual_jobs(), max(1, len(waiting)))
    threads = max(1, torch.get_num_threads() // jobs)
    stop = Event()

    def run(name: str) -> None:
        _say(f"{label[name]}: running")
        seal = fingerprint(root, name, values)
        start = {"parameters": values, "other_parameters": other[name], "fingerprint": seal}
        record = run_chapter(root, name, start, minutes=minutes, threads=threads, stop=stop)
        error = "\n" * bool(record["error"]) + record["error"]
        _say(f"{label[name]}: {record['status']}, {record['seconds']:.0f} s" + error.replace("\n", "\n    "))

    pool = ThreadPoolExecutor(jobs)
    try:
        for running in [pool.submit(run, name) for name in waiting]:
            while wait([running], timeout=0.2).not_done:
                pass  # in short naps: on Windows a long one is deaf to Ctrl-C
            running.result()
    finally:  # also after Ctrl-C
        stop.set()
        pool.shutdown(cancel_futures=True)

    records = read_records(root)
    verdicts = [v for v in check(ledger, records) if v.claim.chapter in names]
    failed = [name for name in names if records[name].get("status") != "ran"]
    _write_run(root, records, check(ledger, records), threads)
    print(f"\n{table(verdicts)}\n")
    missed = [v.claim.id for v in verdicts if v.miss]
    for what, which in (("chapters that failed", failed), ("claims that miss", missed)):
        if which:
            print(f"{what}: {', '.join(which)}")
    if not failed and not missed:
        judged = sum(v.word in ("holds", "not reproduced, as recorded") for v in verdicts)
        print(f"{len(names)} chapters ran, {judged} of {len(verdicts)} claims judged: all hold")
    print(f"the book: {build(root, ledger, records, notebooks(root))}", flush=True)
    return not failed and not missed


def _unchanged(root: Path, name: str, values: Mapping[str, object]) -> bool:
    """Whether the chapter ran whole, and nothing that its numbers depend on has changed since."""
    old = read_records(root).get(name, {})
    whole = old.get("status") == "ran" and _executed(root, name).is_file()
    return whole and old.get("fingerprint") == fingerprint(root, name, values)


def _say(text: str) -> None:
    """Print lines at once, above the bars of the chapters that are running."""
    with tqdm.external_write_mode():
        print(text + "\n", end="", flush=True)  # in one piece: others print at the same time


def run_chapter(root: Path, name: str, start: Record, *, minutes: float, threads: int, stop: Event) -> Record:
    """Run one chapter in a kernel of its own and write its record.

    Args:
        root: the checkout.
        name: the chapter's file stem.
        start: what the record holds from the beginning; `start["parameters"]` go to the notebook.
        minutes: the kernel is killed after that.
        threads: how many the kernel computes with.
        stop: set by another thread, it kills the kernel too.

    Returns:
        The record; its status is "ran" or "failed", and its error is "" or a few lines.

    Raises:
        CancelledError: it was stopped before its end; its record has no status then.
    """
    path = root / "_build" / "run" / f"{name}.json"
    write_json(path, start)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we say ourselves how it went
    _executed(root, name).parent.mkdir(exist_ok=True)
    kernel = _kernel(root, name, path, threads)
    began, late = time.monotonic(), ""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            papermill.execute_notebook,
            root / "book" / f"{name}.ipynb",
            _executed(root, name),
            parameters=start["parameters"],
            kernel_name="python3",
            language="python",
            km=kernel,
            resources={"metadata": {"path": str(root / "book")}},  # where it runs; cwd= would move all of this process
            progress_bar={"leave": False, "desc": name} if sys.stderr.isatty() else False,
        )
        while wait([running], timeout=0.2).not_done:
            if time.monotonic() - began > 60 * minutes:
                late = f"stopped: it took longer than {minutes:g} minutes"
            if late or stop.is_set():
                _kill(kernel)  # more than once: it may have been about to start
        _kill(kernel)  # papermill leaves it running, with all its memory
    problem = running.exception()
    if problem and stop.is_set():
        raise CancelledError
    error = "" if problem is None else late or _few_lines(problem)
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    record |= {
        "status": "failed" if error else "ran",
        "error": error,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(root, threads),
    }
    write_json(path, record)
    return record


def _kernel(root: Path, name: str, record: Path, threads: int) -> AsyncKernelManager:
    """A kernel of the running Python and steerlib, without the user's own IPython settings."""
    home = root / "_build" / "ipython" / name
    home.mkdir(parents=True, exist_ok=True)
    variables = {
        "STEERLIB_RUN": str(record),
        "STEERLIB_LEDGER": str(root / "data" / "claims.yml"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures, whatever is set outside
        "IPYTHONDIR": str(home),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR"]
    command += ["-f", "{connection_file}"]

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(argv=command, language="python", env=variables)

    return AsyncKernelManager(kernel_spec_manager=ThisPython())


def _kill(kernel: AsyncKernelManager) -> None:
    """End the kernel with all that it started; papermill then notices within a second or two."""
    process = kernel.provisioner
    if isinstance(process, LocalProvisioner) and process.process is not None:
        if process.pgid is not None and sys.platform != "win32":
            try:
                os.killpg(process.pgid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            process.process.kill()
        process.process.wait()
    kernel.cleanup_connection_file()


def _few_lines(problem: BaseException) -> str:
    """What went wrong in a chapter: the cell, the error, the line."""
    if not isinstance(problem, papermill.PapermillExecutionError):
        return f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(problem.traceback))
    arrow = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    where = f"\nat: {arrow[1].strip()}" if arrow else ""
    return f"cell [{problem.exec_count}] raised {problem.ename}: {problem.evalue[:300]}{where}"


def _other_parameters(root: Path, name: str, values: Mapping[str, object]) -> bool:
    """Whether a value differs from the chapter's own; of a typo papermill would only warn."""
    if not values:
        return False
    try:
        own = papermill.inspect_notebook(root / "book" / f"{name}.ipynb")
    except ValueError as problem:
        raise SteerlibError(f"book/{name}.ipynb cannot take parameters: {problem}") from problem
    for key in values:
        if key not in own:
            raise SteerlibError(f"the chapter {name} has no parameter {key!r}: it has {', '.join(own) or 'none'}")
    return any(literal(own[key]["default"]) != value for key, value in values.items())


def literal(text: str) -> object:
    """The Python value that a text spells (3, 1e-3, True, "a", [1, 2]), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def fingerprint(root: Path, name: str, parameters: Mapping[str, object]) -> str:
    """SHA-256 of all that a chapter's numbers may depend on."""
    digest = hashlib.sha256(repr(sorted(parameters.items())).encode())
    digest.update(repr(sorted({f"{d.name}=={d.version}" for d in distributions()})).encode())
    digest.update(sys.version.encode())
    files = [*PACKAGE.rglob("*.py"), *(root / "data").rglob("*"), root / "book" / f"{name}.ipynb"]
    for path in sorted(files):
        if path.is_file():
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def environment(root: Path, threads: int) -> dict[str, str]:
    """Where a run took place: commit, versions, machine, and the threads that each chapter had."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        git = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = git.stdout.strip() if git.returncode == 0 else ""
    except OSError:
        commit = ""
    packages = ("torch", "transformers", "numpy")
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count() or 1),
        "threads": str(threads),
    }


def _write_run(root: Path, records: Mapping[str, Record], verdicts: Sequence[Verdict], threads: int) -> None:
    keep = ("status", "error", "seconds", "date", "parameters", "environment")
    run = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(root, threads),
        "chapters": {n: {key: r.get(key) for key in keep} for n, r in records.items()},
        "verdicts": [
            {
                "claim": v.claim.id,
                "recorded": v.claim.value,
                "got": v.got and vars(v.got),
                "drift": v.drift,
                "verdict": v.word,
            }
            for v in verdicts
        ],
    }
    write_json(root / "_build" / "run" / "run.json", run)


def _executed(root: Path, name: str) -> Path:
    return root / "_build" / "executed" / f"{name}.ipynb"
