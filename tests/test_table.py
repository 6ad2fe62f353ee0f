"""Tasks of one's own: from a frame, a CSV file as spreadsheets save it, a folder of pictures, or own occupations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from steerlib import SteerlibError, chat
from steerlib.tasks import coreference, describe, from_csv, from_folder, from_frame, pronoun
from steerlib.tasks.pronoun import GROUPS, Template

JOBS = pd.DataFrame({"person": ["nurse", "engineer"], "stereotype": ["woman", "man"]})
HE_SHE = {"man": "he", "woman": " she "}
DONE = pd.DataFrame(
    {
        "prompt": ["Who is late? The", "Who forgot it? The"],
        "young": ["young one", "girl of ten"],
        "old": ["old one", "woman of ninety"],
        "cluster": ["late", "memory"],
        "stereotype": ["young", "old"],
        "answer": ["", "old"],
        "statistic": ["90 %", "12,5"],
    }
)


def test_three_lines_are_enough_for_own_words() -> None:
    task = from_frame(JOBS, templates=["The {person} said that"], options=HE_SHE, cluster="person")
    assert [item.prompt for item in task] == ["The nurse said that", "The engineer said that"]
    assert all(item.options == (" he", " she") and item.groups == ("man", "woman") for item in task)
    assert [(i.cluster, i.stereotype, i.statistic, i.answer) for i in task] == [
        ("nurse", "woman", None, None),
        ("engineer", "man", None, None),
    ]
    assert (task.name, task.about) == ("mine", "person")


def test_finished_questions_have_an_option_in_the_column_of_its_group() -> None:
    first, second = from_frame(DONE, name="age")
    assert first.options == (" young one", " old one") and first.groups == ("young", "old")
    assert second.options == (" girl of ten", " woman of ninety")
    assert [(i.answer, i.statistic, i.stereotype) for i in (first, second)] == [
        (None, 90, "young"),
        ("old", 12.5, "old"),
    ]


def test_a_wording_that_names_first_and_second_comes_in_both_orders() -> None:
    frame = pd.DataFrame({"did": ["sang"], "cluster": ["song"]})
    task = from_frame(
        frame,
        templates={"ask": ("{an_first} person and {an_second} one {did}. Which one {did}?", "The")},
        options={"young": "young", "old": "old"},
        stereotype="young",
    )
    assert [item.groups for item in task] == [("young", "old"), ("old", "young")]
    assert [item.options for item in task] == [(" young", " old"), (" old", " young")]
    assert task[1].prompt == chat("An old person and a young one sang. Which one sang?", "The")
    assert {item.template for item in task} == {"ask"} and {item.stereotype for item in task} == {"young"}


def test_options_have_one_blank_where_they_continue_and_none_where_they_begin() -> None:
    options = {"man": "  a man", "woman": "a woman "}
    for prompt, blank in (("Who?", " "), (chat("Who?", "It is"), " "), (chat("Who?"), "")):
        frame = pd.DataFrame({"prompt": [prompt], "cluster": ["x"]})
        assert from_frame(frame, options=options)[0].options == (f"{blank}a man", f"{blank}a woman")


def test_the_items_can_be_asked() -> None:
    lm = tiny.model("llama")
    task = from_frame(DONE)
    p = lm.choose([item.prompt for item in task], [item.options for item in task])
    assert p.shape == (2, 2) and np.allclose(p.sum(-1), 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_a_file_is_read_however_a_spreadsheet_saved_it(tmp_path: Path, sep: str, encoding: str) -> None:
    path = tmp_path / "Jobs.csv"
    lines = [["person", " Stereotype "], ["fiancé maker ", "woman"], ["pilot", "man"]]
    path.write_bytes("\r\n".join(sep.join(line) for line in lines).encode(encoding))
    task = from_csv(path, templates=["I met {an_person}, and"], options=HE_SHE, cluster="person")
    assert [item.cluster for item in task] == ["fiancé maker", "pilot"] and task.name == "Jobs"
    assert task[0].prompt == "I met a fiancé maker, and"


def wide(**columns: Any) -> pd.DataFrame:
    return DONE.assign(**columns)


def made(**how: Any) -> Any:
    return from_frame(
        how.pop("frame", JOBS), **{"templates": ["The {person} sat"], "options": HE_SHE, "cluster": "person", **how}
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: from_frame([1]), "a table is a pandas DataFrame, not list"),  # type: ignore[arg-type]
        (lambda: from_frame(DONE.iloc[:0]), "the table has no rows"),
        (lambda: from_frame(wide(young=["a", " "])), "row 3 of the table has nothing in the column 'young'"),
        (lambda: from_frame(wide(prompt=[np.nan, "x"])), "row 2 of the table has no text in the column 'prompt'"),
        (lambda: from_frame(wide(cluster=[None, "x"])), "row 2 of the table has nothing in the column 'cluster'"),
        (
            lambda: from_frame(wide(stereotype=["Young", "old"])),
            "row 2: the stereotype 'Young' is not one of the groups young, old",
        ),
        (lambda: from_frame(wide(answer=["", "woman"])), "row 3: the answer 'woman' is not one of the groups"),
        (lambda: from_frame(wide(statistic=["many", "1"])), "row 2: the statistic 'many' is not a number"),
        (lambda: from_frame(wide(statistic=["inf", "1"])), "row 2: the statistic 'inf' is not a number"),
        (lambda: from_frame(wide(notes="x"), groups=["young", "old"]), "nothing uses the column 'notes'"),
        (lambda: from_frame(DONE, groups=["young", "aged"]), "no column 'aged' with the options"),
        (lambda: from_frame(DONE, groups="young"), "groups is a list of the columns"),
        (lambda: from_frame(DONE.drop(columns="old")), "two options or more, and the groups are young"),
        (lambda: from_frame(DONE.drop(columns="cluster")), "the table has no column 'cluster'"),
        (lambda: from_frame(DONE, templates=["x"]), "a column 'prompt' or from templates"),
        (lambda: made(templates=None), "a column 'prompt' or from templates"),
        (lambda: made(templates="The {person} sat"), "templates are a list of texts, not one text"),
        (lambda: made(templates=[]), "there are no templates"),
        (lambda: made(templates=[3]), "a template is a text"),
        (
            lambda: made(templates=["The {job} sat"]),
            "a template names {job}, and the table has only person, stereotype",
        ),
        (lambda: made(templates=["The {first} {person} sat"]), "go together"),
        (
            lambda: made(frame=JOBS.assign(person=["nurse", ""])),
            "row 3 of the table has nothing in the column 'person'",
        ),
        (lambda: made(options="he"), "options are a text for each group"),
        (lambda: made(options={"man": "he"}), "two options or more"),
        (lambda: made(stereotype="Woman"), "the stereotype 'Woman' is not one of the groups man, woman"),
        (lambda: made(frame=JOBS.set_axis(["person", "person"], axis=1)), "the column 'person' twice"),
        (lambda: from_csv("/no/such.csv"), "there is no file '/no/such.csv'"),
    ],
)
def test_what_cannot_be_a_task_is_told_with_its_row_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=re.escape(says)) as told:
        call()
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    for name, data in (("a.xlsx", b"PK\3\4"), ("b.csv", b""), ("c.csv", b"a\0b"), ("d.csv", b'a,b\n"1,2\n3')):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SteerlibError, match="is not a table") as told:
            from_csv(tmp_path / name)
        assert "\n" not in str(told.value) and str(told.value).endswith(".")


OWN = pd.DataFrame(
    {"occupation": ["HR manager", "Engineer"], "stereotype": ["woman", "man"], "percent_women": ["74 %", 13.1]}
)


def test_own_occupations_are_asked_about_with_their_article(tmp_path: Path) -> None:
    wording = [Template("x", "My neighbour is {an_occupation}. On Sundays")]
    task = pronoun(templates=wording, people=OWN)
    assert [item.prompt for item in task] == [
        "My neighbour is an HR manager. On Sundays",
        "My neighbour is an Engineer. On Sundays",
    ]
    assert [item.statistic for item in task] == [74, 13.1]
    bare = OWN.drop(columns="percent_women")
    assert all(item.statistic is None for item in (*pronoun(people=bare), *coreference(people=bare)))
    bare.to_csv(tmp_path / "own.csv", index=False, encoding="utf-8-sig")
    assert pronoun(templates=wording, people=tmp_path / "own.csv") == pronoun(templates=wording, people=bare)


def own(**columns: Any) -> pd.DataFrame:
    return OWN.assign(**columns)


@pytest.mark.parametrize("task", [pronoun, coreference])
@pytest.mark.parametrize(
    ("people", "says"),
    [
        (own(percent_women=["many", 1]), "occupation 'HR manager': the percentage of women 'many' is not a number"),
        (own(percent_women=[np.nan, 1]), "occupation 'HR manager' has percent_women nan: it is a number from 0 to 100"),
        (own(percent_women=[120, 1]), "has percent_women 120"),
        (own(percent_women=[0.9, 0.1]), "percent_women holds shares from 0 to 1: multiply them by 100"),
        (own(occupation=["", "nurse"]), "row 2 of the table of occupations names no occupation"),
        (own(occupation=["nurse", None]), "row 3 of the table of occupations names no occupation"),
        (
            own(stereotype=["Woman", "man"]),
            "occupation 'HR manager' has the stereotype 'Woman': it must be 'man' or 'woman'",
        ),
        (own(stereotype=[np.nan, "man"]), "has the stereotype nan"),
        (OWN.iloc[:0], "no rows: give at least one occupation"),
        (["nurse"], "people is a frame with the columns occupation, stereotype and percent_women, or the path"),
        ("/no/such.csv", "there is no file '/no/such.csv'"),
    ],
)
def test_bad_occupations_are_told_in_one_sentence(task: Any, people: Any, says: str) -> None:
    with pytest.raises(SteerlibError, match=re.escape(says)) as told:
        task(people=people)
    assert "\n" not in str(told.value) and str(told.value).endswith(".")


def test_wordings_that_are_texts_are_refused() -> None:
    for wrong in ("The {occupation} sat", ["The {occupation} sat"], Template("x", "The {occupation} sat")):
        with pytest.raises(SteerlibError, match="templates are a list of steerlib.tasks.Template"):
            pronoun(templates=wrong)  # type: ignore[arg-type]
    with pytest.raises(SteerlibError, match="sentences are a list of steerlib.tasks.Sentence"):
        coreference(sentences=["The {a} saw the {b}."])  # type: ignore[list-item]
    for wrong in ("cook", [], ["wizard"]):
        with pytest.raises(SteerlibError, match="people is a list of pictured|no picture of 'wizard'"):
            describe(people=wrong)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate("abcd"):
        tiny.picture(i, (24, 16)).save(tmp_path / f"{name}.png")
    rows = ["file;group;cluster;stereotype;statistic", "a.png;man;nurse;woman;87%", "b.png;woman;nurse;woman;87%"]
    rows += ["c.png;man;pilot;man;5", "d.png;woman;pilot;man;5"]
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    return tmp_path


def test_a_folder_makes_pairs_in_both_orders(folder: Path) -> None:
    task = from_folder(folder, about="occupation")
    assert len(task) == 4 and task.about == "occupation" and {item.statistic for item in task} == {87, 5}
    first, second = task[:2]
    assert first.groups == ("man", "woman") and second.groups == ("woman", "man") and first.answer is None
    assert [p.tobytes() for p in first.pictures] == [p.tobytes() for p in second.pictures[::-1]]
    assert first.pictures[0].tobytes() == tiny.picture(0, (24, 16)).tobytes()
    assert first.prompt[0]["content"][-1]["text"] == "Who is the nurse, the first or the second?"  # type: ignore[index]


def test_with_options_every_picture_is_asked_about_alone(folder: Path) -> None:
    task = from_folder(
        folder,
        templates=[("What does {an_cluster} say of the desk?", "It is")],
        options={"man": "his", "woman": "hers"},
    )
    assert [item.answer for item in task] == ["man", "woman"] * 2
    assert all(item.options == (" his", " hers") and len(item.pictures) == 1 for item in task)
    lm = tiny.seeing()
    assert lm.choose([i.prompt for i in task], [i.options for i in task]).shape == (4, 2)


def test_photos_are_turned_upright_and_made_smaller(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tiny.picture(1, (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    tiny.picture(2, (40, 20)).save(tmp_path / "b.jpg")
    table = pd.DataFrame({"file": ["a.jpg", "b.jpg"], "group": ["man", "woman"], "cluster": "cook"})
    assert [p.size for p in from_folder(tmp_path, table=table)[0].pictures] == [(20, 40), (40, 20)]
    assert [p.size for p in from_folder(tmp_path, table=table, size=20)[0].pictures] == [(10, 20), (20, 10)]


def test_pictures_that_make_no_task_are_told_in_one_sentence(folder: Path) -> None:
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:200])
    base = {"file": ["a.png", "b.png"], "group": ["man", "woman"], "cluster": ["nurse", "nurse"]}
    for change, says in (
        ({"file": ["a.png", "no.png"]}, "names 'no.png', which is not in"),
        ({"file": ["a.png", "torn.png"]}, "is not a whole picture"),
        ({"group": ["man", "man"]}, "the pictures of 'nurse' all show one group, 'man'"),
        ({"group": ["man", ""]}, "row 3 of the table of pictures has nothing in the column 'group'"),
        ({"stereotype": ["Man", "man"]}, "row 2: the stereotype 'Man' is not one of the groups man, woman"),
        ({"who": ["x", "y"]}, "nothing uses the column 'who'"),
    ):
        with pytest.raises(SteerlibError, match=re.escape(says)) as told:
            from_folder(folder, table=pd.DataFrame({**base, **change}))
        assert "\n" not in str(told.value) and str(told.value).endswith(".")
    with pytest.raises(SteerlibError, match="has no column 'cluster'"):
        from_folder(folder, table=pd.DataFrame(base).drop(columns="cluster"))
    with pytest.raises(SteerlibError, match="there is no folder"):
        from_folder(folder / "nowhere")


def test_groups_of_the_pronoun_task_are_the_usual_ones() -> None:
    assert GROUPS == ("man", "woman")
