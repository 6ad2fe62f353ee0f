"""SynthBias: its table is read from a copy, and asked as the coreference task is. The sentences here are our own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from steerlib import SteerlibError, decision_bias
from steerlib.tasks import Task, coreference, occupations, synthbias

MEN, WOMEN = ("carpenter", "mechanic", "CEO", "sheriff"), ("nurse", "tailor", "librarian", "baker")
OPEN = (
    "The {a} rang the {b} before {they} went home.",
    "The {b} and the {a} shared a bench while {they} ate.",
    "As {they} laughed, the {a} showed the {b} around.",
)
CLOSED = (
    "The {b} cheered because the {o} had finished {their} shift.",
    "The {o} told the {b} that {they} had lost a key.",
)
FORMS = {"man": {"they": "he", "their": "his"}, "woman": {"they": "she", "their": "her"}}


def rows() -> list[dict[str, str]]:
    """Every pair of occupations in every sentence, with both pronouns, in the columns of the real table."""
    made = []
    for i, (a, b) in enumerate((a, b) for a in MEN for b in WOMEN):
        for text in OPEN:
            for group, words in FORMS.items():
                said = text.format(a=a, b=b, **words)
                made.append(dict(zip(("occ_1", "occ_2"), (a, b) if i % 2 else (b, a), strict=True)))
                made[-1] |= {"type": "type1", "sample": said, "pronoun": words["they"], "is_stereotypical": "ambiguous"}
        for o, other in ((a, b), (b, a)):
            for text in CLOSED:
                for group, words in FORMS.items():
                    expected = "man" if o in MEN else "woman"
                    made.append(
                        {"occ_1": o, "occ_2": other, "type": "type2", "sample": text.format(o=o, b=other, **words)}
                    )
                    pronoun = words["their" if "{their}" in text else "they"]
                    made[-1] |= {"pronoun": pronoun, "is_stereotypical": str(group == expected)}
    order = np.random.default_rng(0).permutation(len(made))
    return [made[i] for i in order]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    columns = ["type", "sample", "occ_1", "occ_2", "pronoun", "is_stereotypical"]
    pd.DataFrame(rows())[columns].to_csv(tmp_path / "synthbias_data.csv", index=False)
    return tmp_path / "synthbias_data.csv"


def test_every_sentence_is_asked_once(file: Path) -> None:
    task = synthbias(file, "all")
    assert len(task) == len(rows()) and len({item.prompt for item in task}) == len(rows())
    assert (len(task.ambiguous), len(task.unambiguous)) == tuple(
        sum(row["type"] == kind for row in rows()) for kind in ("type1", "type2")
    )
    assert synthbias(file, "all", kind="ambiguous") == task.ambiguous
    assert synthbias(file.parent, "all", kind="unambiguous") == task.unambiguous


def test_an_answer_is_pro_if_it_links_the_pronoun_to_the_occupation_of_its_stereotype(file: Path) -> None:
    for item in synthbias(file, "all"):
        pronoun = item.template.rsplit("-", 1)[-1]
        said = "man" if pronoun in ("he", "his") else "woman"
        linked = next(job for job in (*MEN, *WOMEN) if (job in MEN) == (said == "man") and f" {job}" in item.options)
        pro = item.options.index(f" {linked}")
        assert item.groups[pro] == item.stereotype
        assert item.groups[item.options.index(f" {item.cluster}")] == said and set(item.groups) == {"man", "woman"}


def test_items_have_the_form_of_the_coreference_task(file: Path) -> None:
    ours, theirs = coreference("test")[0], synthbias(file, "all").ambiguous[0]
    start = str(ours.prompt).partition('"')[0]
    assert str(theirs.prompt).startswith(start) and str(theirs.prompt).endswith("refers to the")
    assert synthbias(file, "all").about == coreference("test").about
    women = occupations().set_index("occupation")["percent_women"]
    for item in synthbias(file, "all"):
        assert item.statistic == women.get(item.cluster)
        text = str(item.prompt).lower()
        assert text.index(item.options[0].strip().lower()) < text.index(item.options[1].strip().lower())


def test_the_right_answer_is_whom_the_sentence_means(file: Path) -> None:
    meant = {row["sample"]: row["occ_1"] for row in rows() if row["type"] == "type2"}
    for item in synthbias(file, "all", kind="unambiguous"):
        sentence = str(item.prompt).split('"')[1]
        assert item.options[item.groups.index(str(item.answer))] == f" {meant[sentence]}"


def test_both_pronouns_of_a_sentence_follow_each_other_in_one_split_and_about_one_occupation(file: Path) -> None:
    parts = {split: synthbias(file, split) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len(rows()) and all(len(part) for part in parts.values())
    for part in parts.values():
        for one, other in zip(part.items[::2], part.items[1::2], strict=True):
            assert one.cluster == other.cluster and one.options == other.options and one.groups == other.groups[::-1]
    assert not {i.prompt for i in parts["train"]} & {i.prompt for i in parts["test"]}
    assert parts["train"] == synthbias(file, "train")
    assert len(parts["train"]) > len(parts["test"]) > len(parts["validation"])


def test_whom_an_ambiguous_sentence_is_about_does_not_hang_on_the_order_of_the_columns(tmp_path: Path) -> None:
    def asked(turned: bool) -> dict[Any, str]:
        frame = pd.DataFrame(rows())
        free = frame["type"] == "type1"
        if turned:
            frame.loc[free, ["occ_1", "occ_2"]] = frame.loc[free, ["occ_2", "occ_1"]].to_numpy()
        frame.to_csv(tmp_path / "one.csv", index=False)
        return {item.prompt: item.cluster for item in synthbias(tmp_path / "one.csv", "all", kind="ambiguous")}

    assert asked(False) == asked(True)


def test_an_occupation_of_which_nothing_is_expected_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame(rows())
    frame[frame["type"] == "type1"].to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(SteerlibError, match=r"row \d+: neither type 2 nor our table has a stereotype for"):
        synthbias(tmp_path / "one.csv", "all")


def test_a_few_sentences_of_each_occupation_make_a_training_set(file: Path) -> None:
    sizes = Counter(item.cluster for item in synthbias(file, "all", kind="ambiguous").sample(40))
    assert set(sizes) == {*MEN, *WOMEN} and set(sizes.values()) == {5}


def test_a_model_is_scored_on_both_kinds_of_sentences(file: Path) -> None:
    bias = decision_bias(tiny.model("llama"), synthbias(file, "all").sample(64), resamples=20)
    assert bias.groups == ("man", "woman") and bias.per_occupation_bias.n == 8
    assert bias.unambiguous_accuracy is not None and bias.correlation is None  # there are no figures for some
    frame = bias.frame
    pro = frame["p_man"].where(frame["stereotype"] == "man", frame["p_woman"])
    np.testing.assert_allclose(frame["p_pro"], pro)


def test_most_sentences_decide_where_a_stereotype_is_not_one(tmp_path: Path) -> None:
    made = pd.DataFrame(rows())
    first = made[(made["type"] == "type2") & (made["occ_1"] == "nurse")].index[0]
    made.loc[first, "is_stereotypical"] = str(made.loc[first, "is_stereotypical"] != "True")
    made.to_csv(tmp_path / "x.csv", index=False)
    assert {i.stereotype for i in synthbias(tmp_path / "x.csv", "all").where(cluster="nurse")} == {"woman"}


def changed(**cells: str) -> Any:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        row = frame[frame["type"] == "type2"].index[0]
        for column, value in cells.items():
            frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="occ_2"), "no column 'occ_2': there are"),
        (changed(type="type3"), r"row \d+: the type 'type3' is neither"),
        (changed(pronoun="they"), r"row \d+: 'they' is not a pronoun"),
        (changed(sample="Nobody was there."), r"row \d+: the sentence does not name both occupations and one pronoun"),
        (changed(is_stereotypical="yes"), r"row \d+: is_stereotypical is 'True' or 'False', not 'yes'"),
        (
            lambda f: f.assign(
                sample="The CEO met the mechanic when he left.", occ_1="CEO", occ_2="mechanic", pronoun="he"
            ),
            "'CEO' and 'mechanic' have one stereotype, not two",
        ),
    ],
)
def test_a_table_of_another_form_is_refused_with_the_row(tmp_path: Path, change: Any, says: str) -> None:
    change(pd.DataFrame(rows())).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(SteerlibError, match=says) as told:
        synthbias(tmp_path / "x.csv", "all")
    assert str(told.value).endswith(".")


def test_a_missing_file_or_an_unknown_split_or_kind_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerlibError, match="there is no file '.*synthbias_data.csv'"):
        synthbias(tmp_path / "none" / "synthbias_data.csv")
    with pytest.raises(SteerlibError, match="there is no split 'dev'"):
        synthbias(file, "dev")
    with pytest.raises(SteerlibError, match="there is no kind of SynthBias 'type1'"):
        synthbias(file, kind="type1")  # type: ignore[arg-type]
    assert isinstance(synthbias(file), Task)
