"""Run the book: every chapter from top to bottom, then its claims, then its pages.

The one idea: a chapter is a notebook that papermill runs in a fresh kernel of THIS Python (never
one that the user installed elsewhere), and everything about the run lies in plain files:

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
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import papermill
import yaml
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from steerlib.book import build
from steerlib.claims import Verdict, check, table, write_json
from steerlib.errors import SteerlibError
from steerlib.ledger import Claim, load_ledger

PACKAGE = Path(__file__).resolve().parent
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


def reproduce(
    root: Path,
    chapters: Sequence[str] = (),
    *,
    parameters: Mapping[str, object] | None = None,
    resume: bool = False,
    minutes: float = 30.0,
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

    Returns:
        True when every chosen chapter ran and none of their claims missed.

    Raises:
        SteerlibError: an unknown chapter or parameter, a faulty ledger, a book that is not built.
    """
    ledger = read_ledger(root)
    names = choose(chapters, notebooks(root))
    values = dict(parameters or {})
    other = {name: _other_parameters(root, name, values) for name in names}
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name}: ", end="", flush=True)
        old = read_records(root).get(name, {})
        seal = fingerprint(root, name, values)
        whole = old.get("status") == "ran" and _executed(root, name).is_file()
        if resume and whole and old.get("fingerprint") == seal:
            print(f"unchanged since it ran on {old['date']}", flush=True)
            continue
        start = {"parameters": values, "other_parameters": other[name], "fingerprint": seal}
        record = run_chapter(root, name, start, minutes=minutes)
        print(f"{record['status']}, {record['seconds']:.0f} s", flush=True)
        if record["error"]:
            print("    " + record["error"].replace("\n", "\n    "), flush=True)

    records = read_records(root)
    verdicts = [v for v in check(ledger, records) if v.claim.chapter in names]
    failed = [name for name in names if records[name].get("status") != "ran"]
    _write_run(root, records, check(ledger, records))
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


def run_chapter(root: Path, name: str, start: Record, *, minutes: float) -> Record:
    """Run one chapter in a kernel of its own and write its record.

    Args:
        root: the checkout.
        name: the chapter's file stem.
        start: what the record holds from the beginning; `start["parameters"]` go to the notebook.
        minutes: the kernel is killed after that.

    Returns:
        The record; its status is "ran" or "failed", and its error is "" or a few lines.
    """
    path = root / "_build" / "run" / f"{name}.json"
    write_json(path, start)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we say ourselves how it went
    _executed(root, name).parent.mkdir(exist_ok=True)
    kernel = _kernel(root, path)
    began, error = time.monotonic(), ""
    with ThreadPoolExecutor(1) as pool:  # in the main thread papermill would swallow Ctrl-C
        running = pool.submit(
            papermill.execute_notebook,
            root / "book" / f"{name}.ipynb",
            _executed(root, name),
            parameters=start["parameters"],
            kernel_name="python3",
            language="python",
            km=kernel,
            cwd=root / "book",
            progress_bar={"leave": False} if sys.stderr.isatty() else False,
        )
        try:
            running.result(timeout=60 * minutes)
        except TimeoutError:
            error = f"stopped: it took longer than {minutes:g} minutes"
        except Exception as problem:  # noqa: BLE001  (whatever it is, the other chapters still run)
            error = _few_lines(problem)
        finally:  # also after Ctrl-C
            _kill(kernel)
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    record |= {
        "status": "failed" if error else "ran",
        "error": error,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(root),
    }
    write_json(path, record)
    return record


def _kernel(root: Path, record: Path) -> AsyncKernelManager:
    """A kernel of the running Python and steerlib, without the user's own IPython settings."""
    variables = {
        "STEERLIB_RUN": str(record),
        "STEERLIB_LEDGER": str(root / "data" / "claims.yml"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures, whatever is set outside
        "IPYTHONDIR": str(root / "_build" / "ipython"),
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


def _few_lines(problem: Exception) -> str:
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


def environment(root: Path) -> dict[str, str]:
    """Where a run took place: commit, versions, machine."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        git = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = git.stdout.strip() if git.returncode == 0 else ""
    except OSError:
        commit = ""
    packages = ("torch", "transformers", "numpy")
    cores = os.cpu_count() or 1
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(cores),
        "threads": os.environ.get("OMP_NUM_THREADS", str(cores)),
    }


def _write_run(root: Path, records: Mapping[str, Record], verdicts: Sequence[Verdict]) -> None:
    keep = ("status", "error", "seconds", "date", "parameters", "environment")
    run = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(root),
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
