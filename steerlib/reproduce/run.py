"""Run the book: every chapter from top to bottom, then its claims, then its pages.

The one idea: everything about a run is in plain files, of which each chapter writes only its own, so that two can run
side by side, and a run that was interrupted goes on:

    _build/executed/NAME.ipynb    the executed copy, which the book shows
    _build/run/NAME.json          its record: claims, parameters, status, seconds, environment
    _build/run/run.json           the last run as a whole, with every verdict
    _build/html/index.html        the book
    _build/profiles/PROFILE/      the same of another profile than the book's own, without pages
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import psutil
import torch

from steerlib.errors import SteerlibError
from steerlib.reproduce.checkout import (
    choose,
    expected_seconds,
    notebooks,
    read_ledger,
    read_records,
    record_path,
    run_folder,
)
from steerlib.reproduce.fingerprint import expectations, stale
from steerlib.reproduce.kernel import environment, run_chapter
from steerlib.reproduce.pages import build
from steerlib.reproduce.parameters import other_parameters, plain
from steerlib.reproduce.profiles import USUAL, prepare, read_profile
from steerlib.reproduce.progress import Progress, Screen
from steerlib.reproduce.record import Record, read_record, write_json
from steerlib.reproduce.rules import Claim
from steerlib.reproduce.verdicts import Outcome, Verdict, check, conclude, table

MEMORY = 3e9  # bytes that one chapter may need


def usual_jobs() -> int:
    """How many chapters to run side by side: one per core, but at most two, each with 3 GB; one with a GPU.

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
    profile: str = USUAL,
    parameters: Mapping[str, object] | None = None,
    resume: bool = False,
    stall: float = 30.0,
    jobs: int | None = None,
) -> Outcome:
    """Run chapters, judge their claims, build the book, and print how each of these went.

    Args:
        root: the checkout.
        chapters: stems or numbers; all that the profile has when empty.
        profile: of profiles/: models, data and sample sizes, and whose numbers are judged. The book is built of its own.
        parameters: for the notebooks' `parameters` cells. Where one differs from the profile's, the chapter's claims are
            reported but not judged.
        resume: keep a chapter that ran whole, if nothing that its numbers or its badges depend on has changed since.
        stall: minutes without any progress after which a chapter is stopped.
        jobs: how many chapters run side by side, each with its share of the threads; None is `usual_jobs()`. If it is
            more than one, the chapter that takes longest begins first.

    Returns:
        What it came to; its `status` is the exit status of the command.

    Raises:
        SteerlibError: an unknown chapter or parameter, a faulty ledger, no job, no time, the damaged record of a chapter
            that is not run, a book that is not built.
    """
    if jobs is not None and jobs < 1:
        raise SteerlibError(f"chapters run 1 or more side by side, not {jobs}.")
    if not stall > 0:
        raise SteerlibError(f"a chapter may stand still for more than 0 minutes, not {stall:g}.")
    ledger, known = read_ledger(root), notebooks(root)
    chosen = read_profile(root, profile, known)
    names = choose(chapters, list(chosen.chapters) if profile != USUAL else known, root)
    read_records(
        root, [name for name in known if name not in names], profile
    )  # a damaged one is refused before the work
    asked = dict(parameters or {})
    values, other = {}, {}
    for name in names:
        own = dict(chosen.chapters.get(name, {}))
        values[name] = own | asked
        differs = other_parameters(root, name, values[name])
        other[name] = differs if profile == USUAL else plain(values[name]) != plain(own)
    if profile != USUAL:
        print(f"{profile}: {chosen.about}. It takes {chosen.needs or 'no more than the book'}.", flush=True)
    prepare(root, chosen)
    seconds, screen = expected_seconds(root, profile), Screen()
    label = {name: f"[{number}/{len(names)}] {name}" for number, name in enumerate(names, start=1)}
    current = _current(root, names, values, ledger, profile) if resume else {}
    for name, record in current.items():
        screen.say(f"{label[name]}: unchanged since it ran on {record['date']}")
    waiting = [name for name in names if name not in current]
    jobs = min(jobs or usual_jobs(), max(1, len(waiting)))
    threads = max(1, torch.get_num_threads() // jobs)
    stop = Event()

    def run(name: str) -> None:
        progress = Progress(label[name], seconds.get(name))
        screen.start(progress)
        start = {"profile": profile, "parameters": values[name], "other_parameters": other[name]}
        start["expectations"] = expectations(ledger, name)
        try:
            record = run_chapter(root, name, start, progress=progress, stall=stall, threads=threads, stop=stop)
        finally:
            screen.end(progress)
        error = "\n" * bool(record["error"]) + record["error"]
        screen.say(f"{label[name]}: {record['status']}, {record['seconds']:.0f} s" + error.replace("\n", "\n    "))

    pool = ThreadPoolExecutor(jobs)
    try:
        for running in [pool.submit(run, name) for name in in_order(waiting, seconds, jobs)]:
            while wait([running], timeout=0.2).not_done:  # in short naps: on Windows a long one is deaf to Ctrl-C
                screen.tick()
            running.result()
    finally:  # also after Ctrl-C
        stop.set()
        pool.shutdown(cancel_futures=True)
        screen.close()

    records = read_records(root, profile=profile)
    old = stale(root, records)
    verdicts = check(ledger, records, stale=old, profile=profile, rehearses=chosen.rehearses)
    _write_run(root, profile, records, verdicts, threads)
    outcome = conclude(verdicts, records, old, names, asked=any(other.values()))
    print(f"\n{table(outcome.verdicts)}\n\n{outcome}")
    if outcome.failed:
        print("when it is mended, `steerlib reproduce --resume` runs only what is left")
    if profile == USUAL:
        print(f"the book: {build(root, ledger, records, known)}", flush=True)
    else:
        print(f"the executed chapters: {run_folder(root, profile) / 'executed'}", flush=True)
    return outcome


def in_order(names: Sequence[str], seconds: Mapping[str, float], jobs: int) -> list[str]:
    """The order to run chapters in: side by side the longest first, because the last to begin is then a short one.

    Args:
        names: the chapters, in the book's order.
        seconds: how long each should take; one that is not known counts as long.
        jobs: how many run side by side.

    >>> in_order(["01", "02", "03"], {"01": 10, "02": 30, "03": 20}, jobs=2)
    ['02', '03', '01']
    """
    return sorted(names, key=lambda name: -seconds.get(name, float("inf"))) if jobs > 1 else list(names)


def _current(
    root: Path,
    names: Sequence[str],
    values: Mapping[str, Mapping[str, object]],
    ledger: Mapping[str, Claim],
    profile: str,
) -> dict[str, Record]:
    """The records of chapters that ran whole with these parameters, and of which nothing has changed since."""
    found = {}
    for name in names:
        try:
            record = read_record(record_path(root, name, profile))
        except SteerlibError:  # none, or one that is damaged: the chapter runs again
            continue
        same = record.get("parameters") == json.loads(json.dumps(values[name]))
        if record.get("status") == "ran" and same and record.get("expectations") == expectations(ledger, name):
            found[name] = record
    old = stale(root, found)
    return {name: record for name, record in found.items() if name not in old}


def _write_run(
    root: Path, profile: str, records: Mapping[str, Record], verdicts: Sequence[Verdict], threads: int
) -> None:
    keep = ("status", "error", "seconds", "date", "parameters", "environment")
    run = {
        "profile": profile,
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
    write_json(run_folder(root, profile) / "run" / "run.json", run)
