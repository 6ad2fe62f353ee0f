"""Photos: pictures of people from anywhere, and the tasks that they make in the place of our drawings."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from helpers import need
from hub_fixtures import colour, jpeg, own_rows, write_own, write_pairs
from PIL import Image

from steerlib import SteerlibError, decision_bias, mentions
from steerlib.tasks import PairItem, Photo, describe, occupations, pairs, photos_from, who_is
from steerlib.tasks.describe import FORMS
from steerlib.tasks.pair_item import TEMPLATES
from steerlib.tasks.sealed import digest

JOBS = ("mechanic", "nurse", "chef", "accountant")  # all of the test split
RACES = ("White", "Black")


def photos(jobs: tuple[str, ...] = JOBS, races: tuple[str, ...] = RACES, scenes: int = 2, **more: Any) -> list[Photo]:
    return [
        Photo(jpeg(job, k, race, gender), job, gender, race, scene=f"{job} {k}", source="made", **more)
        for job in jobs
        for k in range(scenes)
        for race in races
        for gender in ("man", "woman")
    ]


def items(split: str = "test", given: Any = None, **how: Any) -> list[PairItem]:
    task = who_is(split, photos=photos() if given is None else given, **how)
    return [item for item in task if isinstance(item, PairItem)]


# ---- the drawn tasks


@pytest.mark.parametrize(
    ("how", "hashed"),
    [
        ({"split": "train"}, "73a374d57450b521"),
        ({"split": "validation", "by": "tone", "scenes": 2}, "d3763f6a6efbf816"),
        ({"split": "test", "by": "both", "clothes": "work", "seed": 3}, "f209afdbb9cfa159"),
        ({"split": "all", "style": "twemoji", "clothes": "plain"}, "64304e9e1879d360"),
    ],
)
def test_without_photos_who_is_asks_what_it_always_asked(how: dict[str, Any], hashed: str) -> None:
    need(how.get("style", "openmoji"))
    none = "" if how["split"] == "validation" else None
    assert digest(who_is(**how, size=8, photos=none)).startswith(hashed)


@pytest.mark.parametrize(
    ("how", "hashed"),
    [
        ({"split": "test", "scenes": 2}, "32450fc94db35e1b"),
        ({"split": "all", "genders": ("person", "woman"), "seed": 5}, "84286d28a88adb08"),
        ({"split": "train", "people": ["cook"], "scenes": 4}, "01c0f15c2393fe47"),
    ],
)
def test_without_photos_describe_shows_whom_it_always_showed(how: dict[str, Any], hashed: str) -> None:
    need()
    made = describe(**how, size=8, photos="")
    said = [
        [p.occupation, p.gender, p.tone, p.template, p.prompt[0]["content"][-1]["text"]]  # type: ignore[index]
        for p in made
    ]
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest().startswith(hashed)


def test_a_drawing_is_112_pixels_wide_unless_told_otherwise() -> None:
    need()
    assert who_is("validation")[0].pictures[0].size == describe("validation")[0].picture.size == (112, 112)


# ---- photos


def test_a_photo_is_upright_in_rgb_and_no_larger_than_asked_for() -> None:
    file = io.BytesIO()
    turned = Image.new("L", (40, 20))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    turned.save(file, "JPEG", exif=exif)
    photo = Photo(file.getvalue(), "nurse", "man", size=10)
    assert (photo.picture.mode, photo.picture.size) == ("RGB", (5, 10))
    assert Photo(file.getvalue(), "nurse", "man", box=(0, 0, 8, 4)).picture.size == (4, 8)
    assert photo.picture is not photo.picture  # decoded anew, not kept


def test_a_photo_is_opened_when_it_is_asked_for(tmp_path: Path) -> None:
    photo = Photo(tmp_path / "late.png", "nurse", "man")
    (tmp_path / "late.png").write_bytes(jpeg("late"))
    assert photo.picture.getpixel((0, 0)) == colour("late")
    (tmp_path / "late.png").write_bytes(b"nothing")
    with pytest.raises(SteerlibError, match="late.png' is not a whole picture: save it again as PNG or JPEG.$"):
        _ = photo.picture
    with pytest.raises(SteerlibError, match="a picture of 'made' is not a whole picture"):
        _ = Photo(jpeg("x")[:40], "nurse", "man", source="made").picture


# ---- who is


@pytest.mark.parametrize("by", ["gender", "race"])
def test_an_ambiguous_pair_shows_one_scene_and_differs_in_one_thing(by: str) -> None:
    for item in items(by=by, scenes=2):
        a, b = item.first, item.second
        if item.answer is None:
            assert a.seed == b.seed and a.clothes == b.clothes == item.occupation
        differ = [a.gender != b.gender, a.tone != b.tone]
        assert differ == [by == "gender", by == "race"]
        assert item.groups == ((a.gender, b.gender) if by == "gender" else (a.tone, b.tone))


@pytest.mark.parametrize("by", ["gender", "race"])
def test_an_unambiguous_pair_sets_the_right_person_beside_one_of_other_work(by: str) -> None:
    found = [item for item in items(by=by, scenes=2) if item.answer is not None]
    for item in found:
        fits = [p for p in (item.first, item.second) if p.clothes == item.occupation]
        assert len(fits) == 1 and item.groups[(item.first, item.second).index(fits[0])] == item.answer
    right = Counter((item.occupation, item.answer) for item in found)
    for job in JOBS:
        one, other = (right[job, group] for group in (("man", "woman") if by == "gender" else RACES))
        assert one == other > 0


@pytest.mark.parametrize("by", ["gender", "race"])
def test_both_orders_of_a_pair_follow_each_other(by: str) -> None:
    found = items(by=by)
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert (one.first, one.second) == (other.second, other.first) and one.answer == other.answer
        assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in other.pictures][::-1]
    assert len(who_is("test", photos=photos(), by=by).sample(16)) == 16  # type: ignore[arg-type]


def test_every_picture_is_that_of_the_person_it_is_said_to_show() -> None:
    for item in items(scenes=2):
        for picture, who in zip(item.pictures, (item.first, item.second), strict=True):
            scene = str(who.seed).rsplit(" ", 1)[-1]
            assert picture.getpixel((0, 0)) == colour(who.clothes, int(scene), who.tone, who.gender)


def test_stereotypes_and_figures_are_those_of_our_table_unless_photos_have_their_own() -> None:
    table = occupations().set_index("occupation")
    for item in items():
        assert item.stereotype == table.loc[item.occupation, "stereotype"]
        assert item.percent_women == table.loc[item.occupation, "percent_women"]
    assert {item.stereotype for item in items(by="race")} == {"White"}
    assert {i.stereotype for i in items(by="race", races=("Black", "White"))} == {"Black"}
    own = photos(("rigger",), stereotype="woman", percent_women=70.0, family="makers")
    own += photos(("weaver",), stereotype="man")
    told = {(i.occupation, i.stereotype, i.percent_women, i.family) for i in items(given=own)}
    assert told == {("rigger", "woman", 70.0, "makers"), ("weaver", "man", None, "")}


def test_splits_keep_their_occupations_and_wordings() -> None:
    given = photos((*JOBS, "plumber", "librarian", "pilot", "lawyer"))
    jobs = {split: {i.occupation for i in items(split, given)} for split in ("train", "validation", "test", "all")}
    assert jobs["test"] == set(JOBS) and jobs["train"] == {"plumber", "librarian"}
    assert (
        jobs["validation"] == {"pilot", "lawyer"} and jobs["all"] == jobs["train"] | jobs["validation"] | jobs["test"]
    )
    for split in jobs:
        held_out = {t.name for t in TEMPLATES if t.held_out} & {i.template for i in items(split, given)}
        assert bool(held_out) == (split in ("test", "all"))
    drawn = {t.name: t.text for t in TEMPLATES}
    for item in items("train", given)[:20]:
        asked = item.prompt[0]["content"][-1]["text"]  # type: ignore[index]
        assert asked == drawn[item.template].format(occupation=item.occupation, an_occupation=f"a {item.occupation}")


def test_an_occupation_with_a_stereotype_of_its_own_is_in_every_split() -> None:
    own = photos(("rigger", "nurse"), stereotype="man")
    assert (
        {i.occupation for i in items("train", own)} == {i.occupation for i in items("test", own)} == {"rigger", "nurse"}
    )


def test_one_seed_is_one_task() -> None:
    def shown(seed: int) -> list[Any]:
        return [(item.first, item.second) for item in items(given=photos(scenes=4), seed=seed)]

    assert shown(1) == shown(1) != shown(2)


def test_who_could_be_taken_for_the_right_one_is_never_the_other() -> None:
    given = photos(("doctor", "surgeon", "chef", "cook", "nurse"))
    for item in items(given=given, scenes=2):
        worn = {item.first.clothes, item.second.clothes}
        assert worn not in ({"doctor", "surgeon"}, {"chef", "cook"})


def test_photos_without_a_scene_are_paired_within_their_occupation() -> None:
    given = [Photo(jpeg(job, gender, n), job, gender) for job in JOBS for gender in ("man", "woman") for n in range(3)]
    found = [item for item in items(given=given) if item.answer is None]
    assert {frozenset((i.first.gender, i.second.gender)) for i in found} == {frozenset(("man", "woman"))}
    assert len({(i.first, i.second) for i in found}) > len(JOBS) * 2


def test_two_photos_that_share_all_labels_are_still_two() -> None:
    given = [
        Photo(jpeg(job, gender, n), job, gender, "White", scene=job)
        for job in JOBS
        for gender in ("man", "woman")
        for n in range(2)
    ]
    for item in items(given=given):
        assert len({picture.tobytes() for picture in item.pictures}) == 2
    assert len({p.tobytes() for i in items(given=given, scenes=2) for p in i.pictures}) == len(given)


def test_a_model_that_sees_is_scored_on_photos() -> None:
    lm = tiny.seeing()
    for by in ("gender", "race"):
        task = who_is("test", photos=photos(), by=by)  # type: ignore[arg-type]
        bias = decision_bias(lm, task, resamples=20)
        assert bias.groups == (("man", "woman") if by == "gender" else RACES)
        assert bias.per_occupation_bias.n == len(JOBS) and bias.unambiguous_accuracy is not None
        assert bias.order_effect is not None and bias.stereotype_gap is not None
        assert set(bias.frame["first_tone"]) == set(RACES) and (bias.correlation is None) == (by == "race")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"by": "tone"}, "people on photos cannot differ by 'tone' here: use gender, race"),
        ({"by": "both"}, "people on photos cannot differ by 'both' here"),
        ({"clothes": "plain"}, "photos show people at work: clothes='plain' is for drawings"),
        ({"by": "race", "races": ("White", "White")}, "races are two different ones"),
        ({"by": "race", "races": ("White", "Green")}, "differ in race alone: a question needs a White and a Green"),
        ({"scenes": 9}, "there are 4 pairs of photos of 'mechanic', fewer than scenes=9"),
        ({"photos": []}, "photos are a list of one or more Photo"),
        ({"photos": [1]}, "photos are a list of one or more Photo"),
        ({"photos": "nowhere"}, "'nowhere' is neither a folder nor an id"),
        ({"split": "train"}, "no photo shows an occupation of the split 'train'.* they show mechanic, nurse"),
        ({"split": "dev"}, "there is no split 'dev'"),
        ({"photos": photos(("nurse",))}, "no photo shows a (White|Black) (wo)?man of other work than 'nurse'"),
        ({"photos": photos()[::2]}, "no two photos of 'mechanic' show one scene and differ in gender alone"),
    ],
)
def test_photos_that_make_no_task_are_refused_in_one_sentence(how: dict[str, Any], says: str) -> None:
    with pytest.raises(SteerlibError, match=says) as told:
        who_is(**{"split": "test", "photos": photos(), **how})
    assert str(told.value).endswith(".") and "\n" not in str(told.value)


def test_drawn_people_do_not_differ_by_race() -> None:
    with pytest.raises(SteerlibError, match="people cannot differ by 'race' here: use gender, tone, both"):
        who_is("test", by="race")


# ---- describe


def test_every_photo_has_a_portrait_and_the_genders_of_a_scene_share_their_question() -> None:
    made = describe("test", photos=photos())
    assert Counter((p.occupation, p.gender, p.tone) for p in made) == {
        (job, gender, race): 2 for job in JOBS for gender in ("man", "woman") for race in RACES
    }
    for man, woman in zip(made[::2], made[1::2], strict=True):
        assert (man.gender, woman.gender) == ("man", "woman")
        assert (man.occupation, man.tone, man.template) == (woman.occupation, woman.tone, woman.template)
    assert {p.template for p in made} == set(FORMS)


def test_portraits_can_be_of_one_gender_or_of_some_occupations_or_of_work_without_figures() -> None:
    assert {p.gender for p in describe("test", photos=photos(), genders=["woman"])} == {"woman"}
    assert {p.occupation for p in describe("test", photos=photos(), people=["nurse"])} == {"nurse"}
    given = photos(("skater", "nurse", "plumber"))
    assert {p.occupation for p in describe("test", photos=given)} == {"skater", "nurse"}
    with pytest.raises(SteerlibError, match="no photo of the split 'test' shows person"):
        describe("test", photos=given, genders=["person"])


def test_what_is_said_about_photos_is_measured_by_gender_and_race() -> None:
    said = mentions(tiny.seeing(), describe("test", photos=photos(scenes=1)), max_new_tokens=3, resamples=10)
    assert said.rate("gender").n == len(JOBS)


# ---- photos of one's own


def test_photos_come_from_a_folder_and_its_table(tmp_path: Path) -> None:
    write_own(tmp_path / "mine", own_rows(JOBS, RACES))
    found = photos_from(tmp_path / "mine", size=8)
    assert len(found) == len(JOBS) * 4 and found[0].source == "mine" and found[0].picture.size == (8, 5)
    assert {(p.gender, p.race) for p in found} == {(g, r) for g in ("man", "woman") for r in RACES}
    by_text = who_is("test", photos=str(tmp_path / "mine"))
    assert digest(by_text) == digest(who_is("test", photos=found))


def test_a_table_may_use_the_words_of_from_folder(tmp_path: Path) -> None:
    rows = [{"file": "a.png", "group": "man", "cluster": "nurse", "stereotype": "man", "statistic": "40 %"}]
    rows.append({**rows[0], "file": "b.png", "group": "woman"})
    one, two = photos_from(write_own(tmp_path, rows))
    assert (one.gender, one.occupation, one.stereotype, one.percent_women) == ("man", "nurse", "man", 40.0)
    assert (one.race, one.scene, two.gender) == ("", "", "woman")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gender": ""}, "row 2 of the table of pictures has nothing in the column 'gender'"),
        (
            {"mood": "glad"},
            "nothing uses the column 'mood' .*: use file, gender, occupation, stereotype, percent_women, race",
        ),
        ({"stereotype": "nurse"}, "row 2: the stereotype 'nurse' is not one of the groups man, woman"),
        (
            {"percent_women": "40"},
            "row 2: percent_women is a number from 0 to 100 beside a stereotype, not 40 without one",
        ),
        ({"stereotype": "man", "percent_women": "140"}, "row 2: percent_women is a number from 0 to 100"),
        ({"group": "man"}, "has the column 'gender' twice"),
    ],
)
def test_a_wrong_table_is_told_in_one_sentence(tmp_path: Path, change: dict[str, str], says: str) -> None:
    rows = own_rows(["nurse"])
    write_own(tmp_path, rows)
    with pytest.raises(SteerlibError, match=says) as told:
        photos_from(tmp_path, pd.DataFrame([{**row, **change} for row in rows]))
    assert str(told.value).endswith(".")


def test_a_missing_picture_or_column_or_folder_is_named(tmp_path: Path) -> None:
    rows = own_rows(["nurse"])
    write_own(tmp_path, rows)
    (tmp_path / str(rows[1]["file"])).unlink()
    with pytest.raises(SteerlibError, match="names 'nurse-0-White-woman.png', which is not in"):
        photos_from(tmp_path)
    with pytest.raises(SteerlibError, match="no column 'occupation': there are file, gender, race, scene"):
        photos_from(tmp_path, pd.DataFrame(rows).drop(columns="occupation"))
    with pytest.raises(SteerlibError, match="there is no folder"):
        photos_from(tmp_path / "none")


# ---- PAIRS


def test_pairs_reads_the_scenes_at_work_and_the_others_on_request(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "PAIRS")
    work = pairs(root)
    assert {p.occupation for p in work} == {
        "pilot",
        "flight attendant",
        "dentist",
        "hygienist",
        "lawyer",
        "paralegal",
        "janitor",
    }
    assert all(
        Counter((p.gender, p.race) for p in work if p.occupation == job)
        == {(g, r): 1 for g in ("man", "woman") for r in RACES}
        for job in {p.occupation for p in work}
    )
    assert pairs(root / "data") == work
    both = pairs(root, sections=["status", "potential_crime"])
    assert {p.scene for p in both} == {"status/phone", "potential_crime/running"} and len(both) == 8
    assert work[0].picture.getpixel((0, 0)) == colour("airplane", "white", "man")


def test_two_occupations_of_one_picture_are_never_rivals(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "PAIRS")
    for item in items("all", str(root)):
        if item.answer is not None:
            assert item.first.seed != item.second.seed


def test_a_folder_without_pairs_or_with_a_gap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerlibError, match="is no copy of PAIRS"):
        pairs(tmp_path)
    root = write_pairs(tmp_path / "PAIRS")
    (root / "data" / "occupations" / "scrubs" / "black_woman.png").unlink()
    with pytest.raises(SteerlibError, match="the scene 'scrubs' of PAIRS lacks the picture black_woman.png"):
        pairs(root)
    with pytest.raises(SteerlibError, match="sections of PAIRS are one or more of"):
        pairs(root, sections="status")
