"""How far each chapter is, while it runs: a live line in a terminal, a plain line every few minutes in a log.

[3/10] a-direction-inside: cell 14 of 40, 2 min of about 4
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from threading import Lock

from steerlib.reproduce.terminal import printable

EVERY = 120.0  # seconds between two plain lines of one chapter


@dataclass
class Progress:
    """How far one chapter is; its kernel's thread writes it, the main thread reads it.

    `expected` is in seconds, None where it is not known; `moved` is when something last moved: a cell, a line, a bar.
    `memory` is the most that the kernel was seen to hold, in bytes.
    """

    label: str
    expected: float | None = None
    began: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    cell: int = 0
    cells: int = 0
    line: str = ""
    memory: float = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the chapter began."""
        return time.monotonic() - self.began

    def begin(self, source: str) -> None:
        """Note that the next cell begins."""
        self.cell += 1
        self.line = next((line.strip() for line in source.splitlines() if line.strip()), "")
        self.move()

    def move(self) -> None:
        """Note that something moved."""
        self.moved = time.monotonic()

    def where(self) -> str:
        """The cell that runs: "cell 14 of 40 (`z = ...`)"."""
        return f"cell {self.cell} of {self.cells} (`{self.line[:60]}`)" if self.cell else "the start, before any cell"

    def __str__(self) -> str:
        cell = f"cell {self.cell} of {self.cells}" if self.cell else "starting"
        about = f" of about {minutes(self.expected)}" if self.expected else ""
        return f"{self.label}: {cell}, {minutes(self.elapsed)}{about}"


def minutes(seconds: float) -> str:
    """A duration as a person says it.

    >>> minutes(11), minutes(349)
    ('11 s', '6 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Screen:
    """Prints lines at once, and in a terminal one live line below them."""

    def __init__(self) -> None:
        self.running: list[Progress] = []
        self.lock = Lock()
        self.live = sys.stderr.isatty()
        self.shown = ""

    def say(self, text: str) -> None:
        """Print lines, above the live line."""
        with self.lock:
            self._clear()
            print(text + "\n", end="", flush=True)  # in one piece: others print at the same time

    def start(self, progress: Progress) -> None:
        """Begin to report on a chapter."""
        about = f", about {minutes(progress.expected)}" if progress.expected else ""
        self.say(f"{progress.label}: running{about}")
        self.running.append(progress)

    def end(self, progress: Progress) -> None:
        """Report on it no more."""
        self.running.remove(progress)

    def tick(self) -> None:
        """Say how far the chapters are, if it is time to."""
        running = list(self.running)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            line = printable(" | ".join(map(str, running)), sys.stderr.encoding)[:width]
            with self.lock:
                if line != self.shown:
                    self._clear()
                    sys.stderr.write(line)
                    sys.stderr.flush()
                    self.shown = line
            return
        for progress in running:
            if time.monotonic() - progress.told >= EVERY:
                progress.told = time.monotonic()
                self.say(str(progress))

    def close(self) -> None:
        """Take the live line away."""
        with self.lock:
            self._clear()

    def _clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r" + " " * len(self.shown) + "\r")
            sys.stderr.flush()
            self.shown = ""
