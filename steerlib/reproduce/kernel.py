"""Run one chapter: a notebook, in a fresh kernel of THIS Python (never one that the user installed elsewhere).

The one idea: a chapter is stopped for want of progress, never for being slow. Progress is a cell that begins or ends, a
line that is printed, a bar that moves: any message of the kernel.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any

import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from steerlib.errors import SteerlibError
from steerlib.reproduce.checkout import PACKAGE, executed_path, record_path
from steerlib.reproduce.device import gpu
from steerlib.reproduce.fingerprint import file_hash, made_of, weights
from steerlib.reproduce.progress import Progress
from steerlib.reproduce.record import Record, read_record, write_record

START = 60.0  # seconds that a kernel may take to start, at the least


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
    """papermill's client, which notes every message of the kernel as progress."""

    def __init__(self, managed: Any, *, progress: Progress, **settings: Any) -> None:
        super().__init__(managed, **settings)
        self.progress = progress
        progress.cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in managed.nb.cells)

    def process_message(self, *arguments: Any, **named: Any) -> Any:
        self.progress.move()
        return super().process_message(*arguments, **named)


class _Engine(NBClientEngine):  # type: ignore[misc]
    """papermill's engine with that client. A busy machine is slow to start a kernel and to deliver its messages."""

    @classmethod
    def execute_managed_notebook(
        cls, managed: Any, kernel_name: str, *, progress: Progress, km: Any, resources: Any, patience: int, **_: Any
    ) -> Any:
        def begin(cell: Any, **_: Any) -> None:
            progress.begin(cell.source)

        return _Client(
            managed, progress=progress, km=km, kernel_name=kernel_name, resources=resources, timeout=None,
            startup_timeout=patience, iopub_timeout=patience, on_cell_execute=begin, log=logging.getLogger("papermill"),
        ).execute()  # fmt: skip


papermill_engines.register("steerlib", _Engine)


def run_chapter(
    root: Path, name: str, start: Mapping[str, Any], *, progress: Progress, stall: float, threads: int, stop: Event
) -> Record:
    """Run one chapter in a kernel of its own and write its record.

    Args:
        root: the checkout.
        name: the chapter's file stem.
        start: what the record holds from the beginning; `start["parameters"]` go to the notebook, and `start["profile"]` says
            where its record and its executed copy go.
        progress: is kept up to date while the chapter runs.
        stall: the kernel is killed when nothing has moved for that many minutes.
        threads: how many the kernel computes with.
        stop: set by another thread, it kills the kernel too.

    Returns:
        The record; its status is "ran" or "failed", and its error is "" or a few lines.

    Raises:
        CancelledError: it was stopped before its end; its record has no status then.
    """
    path, executed = record_path(root, name, start["profile"]), executed_path(root, name, start["profile"])
    cached = weights()
    write_record(path, {**start, "made_of": made_of(root, name), "weights": cached})
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # we say ourselves how it went
    executed.parent.mkdir(parents=True, exist_ok=True)
    kernel = _kernel(root, name, path, threads)
    stopped = ""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            papermill.execute_notebook,
            root / "book" / f"{name}.ipynb",
            executed,
            parameters=start["parameters"],
            engine_name="steerlib",
            kernel_name="python3",
            language="python",
            km=kernel,
            resources={"metadata": {"path": str(root / "book")}},  # where it runs; cwd= would move all of this process
            progress_bar=False,
            progress=progress,
            patience=int(max(60 * stall, START)),
        )
        while wait([running], timeout=0.2).not_done:
            progress.memory = max(progress.memory, _memory(kernel))
            limit = 60 * stall if progress.cell else max(60 * stall, START)
            if not stopped and time.monotonic() - progress.moved > limit:
                stopped = f"stopped in {progress.where()}: nothing was printed, no bar moved and no cell ended for "
                stopped += f"{stall:g} minutes; `--stall {2 * stall:g}` waits longer"
            if stopped or stop.is_set():
                _kill(kernel)  # more than once: it may have been about to start
        _kill(kernel)  # papermill leaves it running, with all its memory
    problem = running.exception()
    if problem and stop.is_set():
        raise CancelledError
    error = "" if problem is None else stopped or _few_lines(problem, progress)
    try:
        record = read_record(path)
    except SteerlibError as damage:  # by the chapter itself
        record, error = dict(start), error or str(damage)
    error = error or "\n".join(record.get("faults", []))  # refused by `claim`, though the notebook went on
    record |= {
        "status": "failed" if error else "ran",
        "error": error,
        "seconds": round(progress.elapsed, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(root, threads),
        "weights": weights() | cached,  # with those that it fetched; one that was replaced meanwhile makes it stale
        "executed": file_hash(executed) if executed.is_file() else "",
    }
    write_record(path, record)
    return record


def environment(root: Path, threads: int) -> dict[str, str]:
    """Where a run took place: commit, versions, machine, and the threads that each chapter had."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        git = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        commit = git.stdout.strip() if git.returncode == 0 else ""
    except OSError:
        commit = ""
    packages = ("torch", "transformers", "numpy")
    card = gpu()
    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count() or 1),
        "threads": str(threads),
        **({"gpu": f"{card['gpus']} x {card['gpu']}"} if card else {}),
    }


def _kernel(root: Path, name: str, record: Path, threads: int) -> AsyncKernelManager:
    """A kernel of the running Python and steerlib, without the user's own IPython settings."""
    home = record.parent.parent / "ipython" / name
    home.mkdir(parents=True, exist_ok=True)
    variables = {
        "STEERLIB_RUN": str(record),
        "STEERLIB_LEDGER": str(root / "data" / "claims.yml"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures, whatever is set outside
        "MATPLOTLIBRC": str(Path(__file__).with_name("figures.mplstyle")),
        "IPYTHONDIR": str(home),
        "OMP_NUM_THREADS": str(threads),
    }
    command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR"]
    command += ["--InlineBackend.figure_formats={'svg', 'retina'}"]  # lines for pages; pixels for Colab and for print
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


def _memory(kernel: AsyncKernelManager) -> float:
    """Bytes that the kernel holds now."""
    process = kernel.provisioner
    if not isinstance(process, LocalProvisioner) or process.process is None:
        return 0.0
    try:
        return float(psutil.Process(process.process.pid).memory_info().rss)
    except psutil.Error:
        return 0.0


def _few_lines(problem: BaseException, progress: Progress) -> str:
    """What went wrong in a chapter: the cell, the error, the line."""
    if isinstance(problem, DeadKernelError):
        return (
            f"the kernel died in {progress.where()}; it held {progress.memory / 1e9:.1f} GB of the machine's "
            f"{psutil.virtual_memory().total / 1e9:.1f} GB\nif the memory ran out, `--jobs 1` runs one chapter at a time"
        )
    if not isinstance(problem, papermill.PapermillExecutionError):
        return f"{type(problem).__name__} in {progress.where()}: {' '.join(str(problem).split())[:300]}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(problem.traceback))
    arrow = re.search(r"^-+> *\d+ (.*)$", plain, re.MULTILINE)
    where = f"\nat: {arrow[1].strip()}" if arrow else ""
    return f"cell [{problem.exec_count}] raised {problem.ename}: {problem.evalue[:300]}{where}"
