"""Make a release: check that its tag is what the files say, and pack what is handed out with it.

python tools/release.py --check v0.2.0      version, citation, change log and the address that readers install agree with the tag
python tools/release.py --pack v0.2.0       _build/release: the site and the Colab edition as archives, the PDF, SHA256SUMS
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EPOCH = (2020, 1, 1, 0, 0, 0)  # the time of every file in an archive: the same site is the same archive


def disagreements(root: Path, tag: str) -> list[str]:
    """The files that speak of another release than a tag.

    Args:
        root: the checkout.
        tag: such as v0.2.0.
    """

    def found(path: str, pattern: str) -> str:
        match = re.search(pattern, (root / path).read_text(encoding="utf-8"), re.MULTILINE)
        return match[1] if match else "none"

    with open(root / "pyproject.toml", "rb") as file:
        said = {"pyproject.toml": tomllib.load(file)["project"]["version"]}
    said["steerlib/__init__.py"] = found("steerlib/__init__.py", r'^__version__ = "([^"]+)"')
    said["CITATION.cff"] = found("CITATION.cff", r"^version: \"?([^\"\s]+)")
    said[".zenodo.json"] = str(json.loads((root / ".zenodo.json").read_text(encoding="utf-8")).get("version", "none"))
    said["steerlib/reproduce/address.py"] = found("steerlib/reproduce/address.py", r'^RELEASE = "v([^"]+)"')
    said["CHANGELOG.md"] = found("CHANGELOG.md", rf"^## \[?({re.escape(tag.removeprefix('v'))})\b")
    return [f"{path} says {version}, the tag {tag}" for path, version in said.items() if f"v{version}" != tag]


def archive(folder: Path, path: Path) -> None:
    """Write a folder as a zip file, whose bytes depend on its files alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            about = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EPOCH)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.external_attr = 0o644 << 16
            packed.writestr(about, file.read_bytes())


def pack(root: Path, tag: str) -> Path:
    """Put everything that is handed out with a release into _build/release, with checksums.

    Raises:
        FileNotFoundError: the site or the Colab edition was not built.
    """
    release = root / "_build" / "release"
    release.mkdir(parents=True, exist_ok=True)
    for name, folder in (("site", root / "_build" / "html"), ("colab", root / "_build" / "colab")):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} was not built: run `make reproduce` first")
        archive(folder, release / f"steering-away-from-bias-{tag}-{name}.zip")
    pdf = root / "_build" / "book.pdf"
    if pdf.is_file():
        shutil.copyfile(pdf, release / f"steering-away-from-bias-{tag}.pdf")
    files = sorted(one for one in release.rglob("*") if one.is_file() and one.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.relative_to(release).as_posix()}" for one in files]
    (release / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
    return release


def main() -> int:
    """Check, or pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", metavar="TAG")
    what.add_argument("--pack", metavar="TAG")
    asked = parser.parse_args()
    if asked.check:
        wrong = disagreements(ROOT, asked.check)
        print("\n".join(wrong) or f"every file is of {asked.check}")
        return 1 if wrong else 0
    print(pack(ROOT, asked.pack))
    return 0


if __name__ == "__main__":
    sys.exit(main())
