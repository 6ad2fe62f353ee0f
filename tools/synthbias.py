"""Fetch your own copy of SynthBias, which may be used and not passed on (CC BY-NC-ND 4.0).

    python tools/synthbias.py       into _build/synthbias/, unless it is there already

From its authors' repository, at a commit, and checked byte for byte. It stays out of git and out of every package.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

COMMIT = "6db30ffb573178f578df60c5a604a205e47f8d56"
SHA256 = "6bf346256a12eeb959dfbe610948694e8da26c74306bb202c2f6cd177af84588"
FROM = f"https://raw.githubusercontent.com/apple/ml-synthbias/{COMMIT}/data/synthbias_data.csv"
FILE = Path(__file__).resolve().parents[1] / "_build" / "synthbias" / "synthbias_data.csv"


def main() -> int:
    """Fetch the file if it is not there; return the exit status."""
    if FILE.is_file():
        print(f"SynthBias is at {FILE}")
        return 0
    print("fetching SynthBias: CC BY-NC-ND 4.0, not for commercial use, and not to be passed on")
    try:
        with urllib.request.urlopen(FROM, timeout=60) as answer:
            data = answer.read()
    except (urllib.error.URLError, TimeoutError) as problem:
        print(f"SynthBias could not be fetched ({problem}): put a copy at {FILE}.", file=sys.stderr)
        return 1
    if hashlib.sha256(data).hexdigest() != SHA256:
        print("what came is not the SynthBias that this book was written for: its hash differs.", file=sys.stderr)
        return 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    scratch = FILE.with_suffix(".new")
    scratch.write_bytes(data)
    os.replace(scratch, FILE)
    print(f"SynthBias is at {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
