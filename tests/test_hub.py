"""Data of the hub: a copy in a folder is read as the hub is, labels first; and whatever goes wrong is told in one sentence."""

from __future__ import annotations

import builtins
import importlib.util
import random
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import tiny
from hub_fixtures import COMMIT, RACES, colour, counterfactual_rows, write_shards
from huggingface_hub import errors as hub

from steerlib import SteerlibError, decision_bias
from steerlib.tasks import describe, occupations, social_counterfactuals, who_is
from steerlib.tasks.hub import repository
from steerlib.tasks.hub import social_counterfactuals as reader

pytest.importorskip("datasets")

JOBS = (("mechanic", 3), ("Nurse", 4), ("chef", 2), ("plumber", 3), ("computer programmer", 2), ("Handball Player", 3))
NAME = "Intel/SocialCounterfactuals"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the data set, small, its rows in no order."""
    rows = counterfactual_rows(JOBS)
    random.Random(0).shuffle(rows)
    return write_shards(tmp_path_factory.mktemp("copy") / "SocialCounterfactuals", rows)


@pytest.fixture
def online(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The hub, which has the copy; the list says which shards were read."""
    import datasets

    read: list[str] = []
    files = [SimpleNamespace(rfilename=f.relative_to(copy).as_posix()) for f in sorted(copy.rglob("*.parquet"))]
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename="README.md"), *files])
    real = datasets.load_dataset

    def load(kind: str, *, data_files: Any, **how: Any) -> Any:
        (address,) = data_files["rows"]
        read.append(address)
        assert address.startswith(f"hf://datasets/{NAME}@{COMMIT}/data/")
        return real(kind, data_files={"rows": [str(copy / "data" / address.rsplit("/", 1)[-1])]}, **how)

    monkeypatch.setenv("STEERLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision=None: info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    repository._say_commit.cache_clear()
    return read


# ---- SocialCounterfactuals


def test_sets_are_whole_and_of_the_occupations_of_the_split(copy: Path) -> None:
    photos = social_counterfactuals("test", source=copy)
    assert set(Counter(photo.scene for photo in photos).values()) == {12}
    assert Counter(photo.occupation for photo in photos) == {"mechanic": 24, "nurse": 24, "chef": 24, "programmer": 24}
    assert {(p.race, p.gender) for p in photos} == {(race, gender) for race in RACES for gender in ("man", "woman")}
    assert {photo.occupation for photo in social_counterfactuals("train", source=copy)} == {"plumber"}
    order = [photo.occupation for photo in photos[::24]]
    assert order == [job for job in occupations("test")["occupation"] if job in order]
    assert all((a.gender, b.gender) == ("man", "woman") and a.race == b.race for a, b in zip(photos[::2], photos[1::2]))


def test_a_photo_shows_whom_its_labels_name(copy: Path) -> None:
    said = {"nurse": "Nurse", "programmer": "computer programmer"}
    for photo in social_counterfactuals("test", source=copy, size=None):
        job, number = said.get(photo.occupation, photo.occupation), int(photo.scene.rsplit("_", 1)[-1])
        word = {"man": "male", "woman": "female"}[photo.gender]
        assert photo.picture.getpixel((0, 0)) == colour(job, number, photo.race, word)
        assert photo.picture.size == (24, 16)
    assert social_counterfactuals("test", source=copy, size=12)[0].picture.size == (12, 8)


def test_races_are_chosen_without_another_choice_of_sets(copy: Path) -> None:
    every, some = (social_counterfactuals("test", source=copy, races=races) for races in (None, ["Black", "White"]))
    assert [p for p in every if p.race in ("White", "Black")] == list(some)


def test_one_seed_is_one_choice_and_more_sets_keep_the_fewer(copy: Path) -> None:
    def scenes(**how: Any) -> set[str]:
        own = pd.DataFrame({"occupation": ["mechanic", "nurse"], "stereotype": ["man", "woman"]})
        return {p.scene for p in social_counterfactuals(source=copy, occupations=own, **how)}

    one = [scenes(sets=1, seed=seed) for seed in (0, 1, 2, 1)]
    assert one[1] == one[3] and any(other != one[1] for other in one)
    assert one[0] < scenes(sets=2) < scenes(sets=3)


def test_occupations_with_too_few_sets_are_left_out_and_named(copy: Path) -> None:
    with pytest.warns(UserWarning, match=r"fewer than 3 sets and are left out: programmer \(2\), chef \(2\)\.$"):
        photos = social_counterfactuals("test", source=copy, sets=3)
    assert {photo.occupation for photo in photos} == {"mechanic", "nurse"}
    with pytest.raises(SteerlibError, match=r"no occupation has 9 sets in '.*': there are mechanic \(3\)"):
        social_counterfactuals("test", source=copy, sets=9)


def test_occupations_of_ones_own_take_the_place_of_the_splits(copy: Path) -> None:
    own = pd.DataFrame(
        {"occupation": ["handball player", "plumber"], "stereotype": ["man", "man"], "percent_women": [30, 1]}
    )
    photos = social_counterfactuals("test", source=copy, occupations=own)
    assert {(p.occupation, p.stereotype, p.percent_women) for p in photos} == {
        ("handball player", "man", 30.0),
        ("plumber", "man", 1.0),
    }
    assert {item.cluster for item in who_is("test", photos=photos)} == {"handball player", "plumber"}


@pytest.mark.parametrize("head", ["A photo of a", "a", "An image of an"])
def test_captions_may_begin_in_several_ways(tmp_path: Path, head: str) -> None:
    write_shards(tmp_path, counterfactual_rows([("Mechanic", 2), ("nurse", 2)], head=head), shards=1)
    assert {p.occupation for p in social_counterfactuals("test", source=tmp_path)} == {"mechanic", "nurse"}


# ---- reading little


def test_only_shards_with_chosen_sets_are_read_and_nothing_is_read_twice(online: list[str]) -> None:
    with pytest.warns(UserWarning, match=f"newest commit of '{NAME}' is read: give revision='{COMMIT}'"):
        first = social_counterfactuals("test", sets=1)
    assert {photo.source for photo in first} == {f"{NAME}@{COMMIT}"}
    online.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        again = social_counterfactuals("test", sets=1)
    assert again == first and online == []
    more = social_counterfactuals("test", sets=2)
    assert set(first) < set(more) and online
    online.clear()
    assert social_counterfactuals("test", sets=2, size=100) and online == []


def test_a_shard_without_a_chosen_set_is_not_opened(tmp_path: Path) -> None:
    write_shards(tmp_path, counterfactual_rows([("mechanic", 1), ("nurse", 1), ("plumber", 2)]), shards=4)
    found = repository.find(tmp_path)
    table = pd.concat([repository.rows_of(found, s, reader.LABELS).assign(shard=s) for s in found.shards])
    needed = set(table[table["counterfactual_set"].isin(["mechanic_0", "nurse_0"])]["shard"])
    assert needed < set(found.shards)
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reader,
            "rows_of",
            lambda r, shard, columns, **w: (
                read.append((shard, tuple(columns))) or repository.rows_of(r, shard, columns, **w)
            ),
        )
        social_counterfactuals("test", source=tmp_path, sets=1)
    assert {shard for shard, columns in read if "image" in columns} == needed
    assert {shard for shard, columns in read if "image" not in columns} == set(found.shards)


def test_a_filter_leaves_the_other_row_groups_unread(tmp_path: Path) -> None:
    rows = counterfactual_rows([("mechanic", 4)])
    write_shards(tmp_path, rows, shards=1, group=12)
    found = repository.find(tmp_path)
    (shard,) = found.shards
    import pyarrow.parquet as pq

    spoilt = bytearray(Path(shard).read_bytes())
    start = pq.ParquetFile(shard).metadata.row_group(2).column(0).data_page_offset  # pictures of the third set
    spoilt[start : start + 40] = bytes(40)
    Path(shard).write_bytes(bytes(spoilt))
    part = repository.rows_of(found, shard, ("counterfactual_set", "image"), counterfactual_set=["mechanic_0"])
    assert len(part) == 12
    with pytest.raises(SteerlibError, match="is damaged or cut short|cannot be read"):
        repository.rows_of(found, shard, ("counterfactual_set", "image"))


def test_a_pinned_commit_that_was_read_before_needs_no_network(
    online: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = social_counterfactuals("test", revision=COMMIT)

    def silent(*given: Any, **how: Any) -> Any:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", silent)
    online.clear()
    assert social_counterfactuals("test", revision=COMMIT) == first and online == []


def test_a_damaged_file_of_the_cache_is_made_again(online: list[str], tmp_path: Path) -> None:
    first = social_counterfactuals("test", revision=COMMIT)
    kept = sorted((tmp_path / "cache" / "hub").rglob("*.parquet"))
    assert len(kept) == 1 + len({photo.scene for photo in first})
    for file in kept:
        file.write_bytes(file.read_bytes()[:50])
    assert social_counterfactuals("test", revision=COMMIT) == first
    assert not list((tmp_path / "cache" / "hub").rglob("*.part"))


# ---- tasks


def test_a_text_is_enough_to_ask_the_decisions_of_a_data_set(online: list[str]) -> None:
    task = who_is("test", photos=f"{NAME}@{COMMIT}", size=16)
    assert {item.cluster for item in task} == {"mechanic", "nurse", "chef", "programmer"} and len(task) == 4 * 6 * 4
    assert {max(picture.size) for item in task for picture in item.pictures} == {16}
    assert {
        item.groups[0] for item in who_is("test", photos=f"{NAME}@{COMMIT}", by="race", races=("Asian", "Latino"))
    } == {
        "Asian",
        "Latino",
    }
    assert len(describe("test", photos=f"{NAME}@{COMMIT}")) == 4 * 12


def test_a_model_that_sees_is_scored_on_a_copy(copy: Path) -> None:
    few = who_is("test", photos=copy, size=16).sample(32)
    bias = decision_bias(tiny.seeing(), few, resamples=10)
    assert bias.per_occupation_bias.n == 4 and set(bias.frame["first_tone"]) <= set(RACES)


# ---- what goes wrong


http: Any = importlib.import_module(
    "httpx2" if importlib.util.find_spec("httpx2") else "httpx"
)  # as huggingface_hub does


def response(status: int) -> Any:
    return http.Response(status, request=http.Request("GET", "https://huggingface.co/x"))


def raised(kind: str) -> Exception:
    """The real errors, as the hub and datasets raise them."""
    from datasets.exceptions import DatasetNotFoundError

    made: dict[str, Exception] = {
        "gated": hub.GatedRepoError("403 Client Error. Access to dataset is restricted.", response=response(403)),
        "gated set": DatasetNotFoundError(
            f"Dataset '{NAME}' is a gated dataset on the Hub. You must be authenticated."
        ),
        "missing": hub.RepositoryNotFoundError("404 Client Error.", response=response(404)),
        "missing set": DatasetNotFoundError(f"Dataset '{NAME}' doesn't exist on the Hub or cannot be accessed."),
        "revision": hub.RevisionNotFoundError("404 Client Error.", response=response(404)),
        "script": RuntimeError("Dataset scripts are no longer supported, but found SocialCounterfactuals.py"),
        "offline": hub.OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled."),
        "connection": http.ConnectError("[Errno -2] Name or service not known"),
        "timeout": http.ReadTimeout("The read operation timed out"),
        "unreached": ConnectionError(f"Couldn't reach '{NAME}' on the Hub (ConnectError)"),
        "server": hub.HfHubHTTPError("500 Server Error", response=response(500)),
    }
    return made[kind]


SAYS = {
    "gated": "it is gated: accept its terms at https://huggingface.co/datasets/Intel/SocialCounterfactuals, .* token is needed",
    "gated set": "it is gated: accept its terms at .* token is needed",
    "missing": "the hub has no such data set, or it is private",
    "missing set": "the hub has no such data set, or it is private",
    "revision": "it has no such revision",
    "script": "it asks to run code of its own, a loading script, which steerlib never does",
    "offline": "HF_HUB_OFFLINE keeps from asking the network",
    "connection": "the hub does not answer: .*Name or service not known",
    "timeout": "the hub does not answer: .*timed out",
    "unreached": "the hub does not answer: .*Couldn't reach",
    "server": "the hub does not answer: .*500",
}


@pytest.mark.parametrize("kind", SAYS)
@pytest.mark.parametrize("place", ["finding", "reading"])
def test_an_error_of_the_hub_becomes_one_sentence(
    online: list[str], monkeypatch: pytest.MonkeyPatch, kind: str, place: str
) -> None:
    import datasets

    def fails(*given: Any, **how: Any) -> Any:
        raise raised(kind)

    monkeypatch.setattr(
        *((huggingface_hub.HfApi, "dataset_info") if place == "finding" else (datasets, "load_dataset")), fails
    )
    with pytest.raises(SteerlibError, match=SAYS[kind]) as told:
        social_counterfactuals("test", revision="main")
    text = str(told.value)
    assert text.startswith(f"could not read the data set '{NAME}': ") and text.endswith(".") and "\n" not in text


def test_a_set_with_a_script_and_no_parquet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    info = SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename="SocialCounterfactuals.py")])
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, revision=None: info)
    with pytest.raises(SteerlibError, match="it asks to run code of its own"):
        repository.find(NAME, revision="main")


def test_a_missing_split_is_told_with_those_that_there_are(copy: Path) -> None:
    with pytest.raises(SteerlibError, match="has no split 'test': there are train.$"):
        repository.find(copy, split="test")


def test_a_missing_column_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "a1a2"} for row in counterfactual_rows([("nurse", 2)])]
    write_shards(tmp_path, rows)
    with pytest.raises(
        SteerlibError, match="has no column 'a1a2': there are image, caption, counterfactual_set, a1_type"
    ):
        social_counterfactuals("test", source=tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, counterfactual_rows([("nurse", 2)]), shards=1)
    (shard,) = (tmp_path / "data").iterdir()
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(SteerlibError, match=f"its file {shard.name} is damaged or cut short"):
        social_counterfactuals("test", source=tmp_path)


def test_a_picture_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    rows = counterfactual_rows([("nurse", 2)])
    for row in rows:
        row["image"] = {"bytes": None, "path": "nurse.png"}
    write_shards(tmp_path, rows, shards=1)
    with pytest.raises(SteerlibError, match="holds no picture in the column 'image' of the set 'nurse_"):
        social_counterfactuals("test", source=tmp_path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"source": "nowhere"}, "'nowhere' is neither a folder nor the id of a data set of the hub"),
        ({"revision": "main"}, "has no revisions: leave revision='main' out"),
        ({"split": "validation"}, "no caption of '.*' names an occupation of the split 'validation', such as"),
        ({"races": ["Green"]}, "has no race 'Green': there are Asian, Black, Indian"),
        ({"races": "White"}, "races is a list of one or more"),
        ({"races": []}, "races is a list of one or more"),
        ({"sets": 0}, "sets must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"split": "dev"}, "there is no split 'dev'"),
        (
            {"occupations": pd.DataFrame({"occupation": ["poet"], "stereotype": ["man"]})},
            "an occupation of yours, such as 'poet'",
        ),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(copy: Path, how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        social_counterfactuals(**{"source": copy, **how})
    assert str(told.value).endswith(".") and "\n" not in str(told.value)


def test_a_folder_without_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerlibError, match="has no parquet files such as data/train-00000-of-00001.parquet"):
        social_counterfactuals("test", source=tmp_path)


def test_without_the_package_datasets_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, copy: Path
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **how: Any) -> Any:
        if name.split(".")[0] == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'", name="datasets")
        return real(name, *rest, **how)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        SteerlibError, match=r"^reading data sets needs the package datasets: .*pip install 'steerlib\[hub\]'`\.$"
    ):
        social_counterfactuals("test", source=copy)
