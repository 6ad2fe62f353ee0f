"""Inside of Colab's own image: does installing the library leave every package there as it was, and does a chapter run?

    docker run --rm -v "$PWD:/book" -w /book us-docker.pkg.dev/colab-images/public/cpu-runtime python tools/in_colab.py decisions-in-text

The packages before and after are compared as `pip freeze` lists them. What may be added is what Colab lacks, and nothing else may
change. The chapters are then run as Colab would, in a kernel of that Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ADDED = {"gguf", "resvg-py", "steerlib", "vadersentiment"}


def frozen(text: str) -> dict[str, str]:
    """What `pip freeze` says, by package: a version, or where it came from.

    >>> frozen("A_b==1\\ntorch @ https://x/torch.whl\\n-e git+https://y#egg=z\\n")
    {'a-b': '1', 'torch': 'https://x/torch.whl'}
    """
    found = {}
    for line in text.splitlines():
        name, sign, version = line.partition("==" if "==" in line else " @ ")
        if sign and not line.startswith(("#", "-")):
            found[name.strip().lower().replace("_", "-")] = version.strip()
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What installing must not have done, one line each.

    >>> changes({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "gguf": "1", "d": "1"})
    ['b was 1 and is 2', 'c was 1 and is gone', 'd 1 was added']
    """
    wrong = [f"{n} was {v} and is {after.get(n, 'gone')}" for n, v in sorted(before.items()) if after.get(n) != v]
    return wrong + [f"{n} {v} was added" for n, v in sorted(after.items()) if n not in before and n not in ADDED]


def main() -> int:
    """Install, compare, and run chapters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chapters", nargs="*", help="file stems of book/; none only installs and compares")
    parser.add_argument("--install", default=str(ROOT), help="what pip installs: this checkout, or git+https://...@tag")
    asked = parser.parse_args()
    pip = [sys.executable, "-m", "pip"]
    before = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*pip, "install", "--quiet", asked.install], check=True)
    after = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    wrong = changes(frozen(before), frozen(after))
    print("\n".join(wrong) or "every package is as it was")
    for name in asked.chapters:
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "/tmp/colab"]
        command += ["--ExecutePreprocessor.timeout=-1", str(ROOT / "book" / f"{name}.ipynb")]
        ran = subprocess.run(command, check=False).returncode == 0
        print(f"{name}: {'ran' if ran else 'failed'}")
        wrong += [] if ran else [name]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
