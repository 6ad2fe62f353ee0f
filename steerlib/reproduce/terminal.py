"""Text for any terminal: what its encoding lacks is written in signs that it has.

A table says "0.600 ± 0.02"; a terminal that only knows ASCII gets "0.600 +/- 0.02" instead of an error.
"""

from __future__ import annotations

import codecs
import io
from typing import IO

SIGNS = {"±": "+/-", "−": "-", "–": "-", "—": "-", "…": "...", "“": '"', "”": '"', "’": "'", "≤": "<=", "≥": ">="}


def _degrade(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("steerlib", _degrade)


def printable(text: str, encoding: str | None) -> str:
    """The text with signs that the encoding has; None is UTF-8.

    >>> printable("0.600 ± 0.02", "ascii")
    '0.600 +/- 0.02'
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "steerlib").decode(encoding)


def degrade(*streams: IO[str]) -> None:
    """Let these streams write signs that they have in place of those that they lack, from now on."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="steerlib")
