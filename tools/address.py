"""Change the address of the project, or the release that readers install, everywhere at once.

    python tools/address.py --check                                  does every file agree with steerlib/reproduce/address.py?
    python tools/address.py --release v0.2.0                         readers of Colab install that tag
    python tools/address.py --repository https://github.com/a/b --site https://a.github.io/b/

Files that tell of the past, such as data/records, keep the address that was true then.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path("steerlib/reproduce/address.py")
PAST = ("data/records/", "tests/test_records.py")  # and tests of it
INSTALLS = re.compile(r"%pip install --quiet [^\\\n\"]*git\+https://[^\\\n\"]*")
COMES_ALONG = {"gguf", "resvg-py", "vadersentiment"}  # dependencies of the library, which pip brings by itself
TEXT = {".py", ".md", ".ipynb", ".yml", ".yaml", ".toml", ".cff", ".js", ".css", ".json", ".c", ".sh", ""}


def constants() -> dict[str, str]:
    """The repository, the site and the release, as PLACE has them."""
    source = (ROOT / PLACE).read_text(encoding="utf-8")
    return {name.lower(): value for name, value in re.findall(r'(?m)^(REPOSITORY|SITE|RELEASE) = "([^"]+)"', source)}


def files() -> list[Path]:
    """The text files that git tracks and that speak of the present."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith(PAST)]
    return [ROOT / name for name in names if Path(name).suffix in TEXT and (ROOT / name).is_file()]


def moved(text: str, old: dict[str, str], new: dict[str, str]) -> str:
    """A text with the new addresses in place of the old ones, and with what its notebooks install.

    >>> old = {"repository": "https://github.com/a/b", "site": "https://a.github.io/b/", "release": "v1"}
    >>> new = {"repository": "https://github.com/c/d", "site": "https://d.org/", "release": "v2"}
    >>> moved("https://github.com/a/b/issues, https://a.github.io/b/x.html, %pip install --quiet git+https://github.com/a/b", old, new)
    'https://github.com/c/d/issues, https://d.org/x.html, %pip install --quiet git+https://github.com/c/d@v2'
    """
    for key in ("site", "repository"):
        text = text.replace(old[key], new[key])
    short = {key: one["repository"].removeprefix("https://github.com/") for key, one in (("old", old), ("new", new))}
    text = re.sub(rf"(?<=github/){re.escape(short['old'])}\b", short["new"], text)
    text = re.sub(rf"blob/colab-{re.escape(old['release'])}/", f"blob/colab-{new['release']}/", text)
    return INSTALLS.sub(lambda match: install(match[0], new), text)


def install(line: str, now: dict[str, str]) -> str:
    """A line of a notebook's first cell that installs the release, and what else the chapter needs and the library does not."""
    others = [
        word for word in line.split()[3:] if not word.startswith(("git+", "-")) and word.lower() not in COMES_ALONG
    ]
    return " ".join(["%pip install --quiet", *others, f"git+{now['repository']}@{now['release']}"])


def strays(text: str, now: dict[str, str]) -> list[str]:
    """The addresses in a text that look like the project's and are not: another owner, another site, another release."""
    name = now["repository"].rsplit("/", 1)[1]
    found = [m[0] for m in re.finditer(rf"https://(?:github\.com|[\w.-]+\.github\.io)(?:/[\w.-]+)?/{name}\b", text)]
    wrong = [one for one in found if not now["repository"].startswith(one) and not now["site"].startswith(one)]
    wrong += [m[0] for m in INSTALLS.finditer(text) if m[0] != install(m[0], now)]
    return wrong + [m[0] for m in re.finditer(r"blob/colab-v[\d.]+/", text) if m[0] != f"blob/colab-{now['release']}/"]


def main() -> int:
    """Check, or change, every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a file disagrees")
    for name in ("repository", "site", "release"):
        parser.add_argument(f"--{name}")
    asked = parser.parse_args()
    old = constants()
    new = old | {key: value for key, value in vars(asked).items() if key in old and value}
    if (
        not new["site"].endswith("/")
        or new["repository"].endswith("/")
        or not re.fullmatch(r"v\d+(\.\d+)*\w*", new["release"])
    ):
        print(
            "the site ends with a slash, the repository does not, and a release is a tag such as v0.2.0",
            file=sys.stderr,
        )
        return 2
    wrong = 0
    for path in files():
        if path in (ROOT / "tools" / "address.py", ROOT / "tests" / "test_colab.py"):  # which speak of strays
            continue
        text = path.read_text(encoding="utf-8")
        if asked.check:
            for stray in strays(text, old):
                wrong += 1
                print(f"{path.relative_to(ROOT)}: {stray}")
            continue
        if path == ROOT / PLACE:
            changed = text
            for key, value in new.items():
                changed = re.sub(rf'(?m)^({key.upper()} = )"[^"]+"', rf'\g<1>"{value}"', changed)
            changed = changed.replace(f"colab-{old['release']}", f"colab-{new['release']}")
            changed = changed.replace(
                old["repository"].removeprefix("https://github.com/"),
                new["repository"].removeprefix("https://github.com/"),
            )
        else:
            changed = moved(text, old, new)
        if changed != text:
            path.write_text(changed, encoding="utf-8")
            print(f"changed {path.relative_to(ROOT)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
