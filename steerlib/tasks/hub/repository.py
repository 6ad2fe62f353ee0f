"""A data set of the hub, or a copy of it in a folder: its parquet files, and the columns and rows that are wanted of them.

A set comes as shards, data/train-00000-of-00061.parquet and so on. `rows_of` reads a few columns of one shard by the package
`datasets`, which streams only the byte ranges that hold them; with a filter, only the row groups in which a row may pass. Parquet is
all that is read: no code of a repository ever runs. A set of the hub is known by its commit, so that it can be read again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
from huggingface_hub import errors as hub

from steerlib.errors import SteerlibError

NEEDED = "reading data sets needs the package datasets: install it with `pip install 'steerlib[hub]'`."
COMMIT = r"[0-9a-f]{40}"
NETWORK = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
"""Packages that talk to the hub, whose errors say that it was not reached."""


@dataclass(frozen=True)
class Repository:
    """Where the shards of a split lie.

    Attributes:
        name: The id of a set of the hub, or the folder of a copy.
        commit: Of the hub; "" for a folder.
        shards: The address or path of each parquet file, in order.
    """

    name: str
    commit: str
    shards: tuple[str, ...]

    @property
    def source(self) -> str:
        """What says where its rows come from."""
        return f"{self.name}@{self.commit}" if self.commit else Path(self.name).name


def find(source: str | Path, *, split: str = "train", revision: str | None = None) -> Repository:
    """The shards of a split, of a set of the hub or of a copy in a folder.

    Args:
        source: An id such as "Intel/SocialCounterfactuals", or a folder with the same files.
        split: The split, by which the files begin.
        revision: A commit, branch or tag of the hub. None takes the newest commit, and warns which one that is.

    Returns:
        The repository, whose commit is always a full one for a set of the hub.

    Raises:
        SteerlibError: If there is no such set, split or revision, or the set cannot be had.
    """
    check_installed()
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise SteerlibError(f"the folder '{source}' has no revisions: leave revision={revision!r} out.")
        there = {file.relative_to(folder).as_posix(): str(file) for file in sorted(folder.rglob("*.parquet"))}
        scripts = [file.name for file in folder.glob("*.py")]
        return Repository(str(folder), "", _split(str(source), there, scripts, split))
    if not is_id(source):
        raise SteerlibError(
            f"'{source}' is neither a folder nor the id of a data set of the hub, such as 'Intel/SocialCounterfactuals'."
        )
    name = str(source)
    try:
        info = huggingface_hub.HfApi().dataset_info(name, revision=revision)
    except Exception as error:
        raise SteerlibError(explain(name, error)) from error
    if not info.sha:
        raise SteerlibError(
            f"the hub does not say which commit of the data set '{name}' is its newest: name a revision."
        )
    files = [file.rfilename for file in info.siblings or []]
    there = {file: f"hf://datasets/{name}@{info.sha}/{file}" for file in files if file.endswith(".parquet")}
    found = Repository(name, info.sha, _split(name, there, [file for file in files if file.endswith(".py")], split))
    if revision is None:
        _say_commit(name, info.sha)
    return found


def rows_of(repository: Repository, shard: str, columns: Sequence[str], **wanted: Sequence[str]) -> pd.DataFrame:
    """Some columns of one shard.

    Args:
        repository: The set.
        shard: One of its shards.
        columns: Their names.
        **wanted: A column and the values of which one must be in it; rows without one of them are not read.

    Returns:
        A frame; a picture is a mapping with its "bytes".

    Raises:
        SteerlibError: If a column is missing, or the shard cannot be read.
    """
    check_installed()
    import datasets

    filters = [(column, "in", list(values)) for column, values in wanted.items()] or None
    options: dict[str, Any] = {"data_files": {"rows": [shard]}, "split": "rows", "streaming": True}
    try:
        stream = datasets.load_dataset("parquet", columns=list(columns), filters=filters, **options)
        if missing := [column for column in columns if column not in stream.features]:
            every = ", ".join(datasets.load_dataset("parquet", **options).features)
            raise SteerlibError(f"the data set '{repository.name}' has no column '{missing[0]}': there are {every}.")
        tables = [table.to_pandas() for table in stream.with_format("arrow").iter(batch_size=1000)]
    except SteerlibError:
        raise
    except Exception as error:
        raise SteerlibError(explain(repository.name, error, shard)) from error
    return pd.concat(tables, ignore_index=True)[list(columns)] if tables else pd.DataFrame(columns=list(columns))


def is_id(source: str | Path) -> bool:
    """Whether a text can be the id of a set of the hub.

    >>> is_id("Intel/SocialCounterfactuals"), is_id("C:/pictures/mine"), is_id("pictures")
    (True, False, False)
    """
    return isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None


def check_installed() -> None:
    """Raise SteerlibError unless the package `datasets` is there."""
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise SteerlibError(NEEDED) from error


def explain(name: str, error: BaseException, shard: str = "") -> str:
    """The sentence for an error that the hub, datasets or pyarrow raised.

    Args:
        name: Of the set.
        error: What was raised.
        shard: The file that was being read, if one was.

    Returns:
        One sentence with what to do about it.
    """
    chain = list(_causes(error))
    everything = " ".join(" ".join(str(link).split()) for link in chain)
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    modules = {type(link).__module__.split(".")[0] for link in chain}
    if "GatedRepoError" in kinds or "gated dataset" in everything:
        what = (
            f"it is gated: accept its terms at https://huggingface.co/datasets/{name}, then log in with `hf auth login`, since a "
            "token is needed"
        )
    elif "Dataset scripts are no longer supported" in everything or "trust_remote_code" in everything:
        what = "it asks to run code of its own, a loading script, which steerlib never does: take a copy of it as parquet files"
    elif any(isinstance(link, hub.RevisionNotFoundError) for link in chain):
        what = "it has no such revision: give a branch, a tag or a commit that its page on the hub lists"
    elif kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"}:
        what = "the hub has no such data set, or it is private: check the id, or log in with `hf auth login`"
    elif "OfflineModeIsEnabled" in kinds or "offline mode is enabled" in everything.lower():
        what = "HF_HUB_OFFLINE keeps from asking the network: unset it, or give the folder of a copy as source"
    elif kinds & {"ConnectionError", "TimeoutError", "HfHubHTTPError"} or modules & NETWORK:
        what = f"the hub does not answer: try again, or give the folder of a copy as source ({_short(str(error))})"
    elif "pyarrow" in modules:
        what = f"its file {shard.rsplit('/', 1)[-1]} is damaged or cut short: fetch it again ({_short(str(error))})"
    else:
        what = f"its files cannot be read ({_short(str(error))})"
    return f"could not read the data set '{name}': {what}."


def _split(name: str, there: dict[str, str], scripts: list[str], split: str) -> tuple[str, ...]:
    """The files of a split, in order. there: the address of each parquet file by its path below the set."""
    shape = re.compile(r"(?:.*/)?([A-Za-z]\w*)-\d+-of-\d+(?:-\w+)?\.parquet")
    splits: dict[str, list[str]] = {}
    for path in sorted(there):
        if found := shape.fullmatch(path):
            splits.setdefault(found[1], []).append(there[path])
    if split in splits:
        return tuple(splits[split])
    if splits:
        raise SteerlibError(f"the data set '{name}' has no split '{split}': there are {', '.join(splits)}.")
    if scripts:
        refused = RuntimeError(f"Dataset scripts are no longer supported, but found {scripts[0]}")
        raise SteerlibError(explain(name, refused))
    raise SteerlibError(f"the data set '{name}' has no parquet files such as data/{split}-00000-of-00001.parquet.")


@cache
def _say_commit(name: str, commit: str) -> None:
    """Tell once which commit was the newest."""
    warnings.warn(
        f"the newest commit of '{name}' is read: give revision='{commit}' to read the same pictures another time.",
        stacklevel=5,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _short(text: str, most: int = 160) -> str:
    text = " ".join(text.split())
    return (text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} ...").rstrip(".")
