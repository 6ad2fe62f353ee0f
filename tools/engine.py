"""Compile the engine of the page that steers: engine/engine.c to engine/engine.wasm.

    python tools/engine.py            write engine.wasm
    python tools/engine.py --check    compile, and compare with the engine.wasm that is there

The compiler is clang as the Python package ziglang brings it (400 MB once unpacked, so nothing else here needs it):

    pip install ziglang==0.17.1

With this version the file is the same to the byte wherever it is made.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "engine"
COMPILER = "0.17.1"
FLAGS = [
    *("-target", "wasm32-freestanding", "-O3", "-s", "-Wall", "-Wextra", "-Werror"),
    *("-msimd128", "-mbulk-memory", "-nostdlib", "-ffreestanding", "-fno-sanitize=all"),
    *(
        "-ffp-contract=off",
        "-fno-math-errno",
    ),  # every product is rounded, as in PyTorch; square roots are one instruction
    # 2 MiB at first, 384 MiB at most: what a phone's browser gives a page
    *("-Wl,--no-entry", "-Wl,-z,stack-size=65536", "-Wl,--initial-memory=2097152", "-Wl,--max-memory=402653184"),
]


def compiled(into: Path) -> None:
    """Compile the engine.

    Args:
        into: the file to write.
    """
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "engine.c", "-o", str(into)]
    subprocess.run(command, cwd=FOLDER, check=True)


def main() -> int:
    """What the command line asks for; the exit status says whether the two files are the same."""
    parser = argparse.ArgumentParser(description="Compile engine/engine.c to WebAssembly.")
    parser.add_argument("--check", action="store_true", help="compare with engine/engine.wasm, and write nothing")
    check = parser.parse_args().check
    try:
        found = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        found = "missing"
    if found != COMPILER:
        print(f"this needs the compiler of ziglang {COMPILER}, which is {found}: pip install ziglang=={COMPILER}")
        return 2
    kept = FOLDER / "engine.wasm"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "engine.wasm")
        compiled(made)
        new = made.read_bytes()
    digest = hashlib.sha256(new).hexdigest()
    if not check:
        kept.write_bytes(new)
        print(f"engine.wasm: {len(new)} bytes, SHA-256 {digest}")
        return 0
    same = kept.is_file() and kept.read_bytes() == new
    print(f"engine.wasm {'is' if same else 'IS NOT'} what engine.c compiles to ({digest})")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
