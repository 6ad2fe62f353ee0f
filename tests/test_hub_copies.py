"""FACET, VisoGender and MultiBBQ, from copies of one's own: small ones here, in the form of the real ones."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from hub_fixtures import colour, jpeg, write_json
from PIL import Image

import steerlib as sl
from steerlib import SteerlibError
from steerlib.evaluate import published
from steerlib.tasks import facet, multibbq, visogender, who_is
from steerlib.tasks.benchmarks import multibbq as multibbq_file
from steerlib.tasks.hub.facet import COLUMNS

# ---- FACET


def person(number: int, job: str, gender: str, tone: int, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
    row |= {"person_id": number, "filename": f"sa_{number}.jpg", "class1": job, "class2": "", f"skin_tone_{tone}": 3}
    row |= {
        f"gender_presentation_{gender}": 1,
        "bounding_box": json.dumps({"x": 10, "y": 20, "width": 70.5, "height": 90}),
    }
    return {**row, **more}


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root, rows = tmp_path / "FACET", []
    for n, (job, gender, tone) in enumerate(
        (job, gender, tone)
        for job in ("nurse", "electrician", "flight_attendant")
        for gender in ("masc", "fem")
        for tone in (2, 9)
    ):
        rows.append(person(n, job, gender, tone))
    rows.append(person(90, "nurse", "na", 5))
    rows.append(person(91, "nurse", "masc", 5, gender_presentation_fem=1))
    rows.append(person(92, "nurse", "masc", 5, class2="doctor"))
    rows.append(person(93, "nurse", "fem", 5, bounding_box=json.dumps({"x": 0, "y": 0, "width": 30, "height": 300})))
    (root / "annotations").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(root / "annotations" / "annotations.csv", index=False)
    for row in rows:
        place = root / f"imgs_{row['person_id'] % 3 + 1}"
        place.mkdir(exist_ok=True)
        picture = Image.new("RGB", (200, 160))
        picture.paste(colour(row["filename"]), (10, 20, 81, 110))
        picture.save(place / row["filename"], "PNG")
    return root


def test_a_person_of_facet_is_the_part_in_the_box(faces: Path) -> None:
    for photo in facet(faces, size=None):
        assert isinstance(photo.file, Path)
        assert photo.picture.size == (71, 90)
        assert {photo.picture.getpixel(at) for at in ((0, 0), (70, 89))} == {colour(photo.file.name)}


def test_people_who_are_two_things_or_in_a_small_box_are_left_out(faces: Path) -> None:
    photos = facet(faces)
    assert Counter((p.occupation, p.gender, p.race) for p in photos) == {
        (job, gender, race): 1
        for job in ("nurse", "electrician", "flight attendant")
        for gender in ("man", "woman")
        for race in ("light", "dark")
    }
    assert len(facet(faces, smallest=20)) == len(photos) + 1
    assert [p.occupation for p in photos[:4]] == ["electrician"] * 4  # as our table has them


def test_facet_makes_decisions(faces: Path) -> None:
    task = who_is("test", photos=facet(faces, size=32))
    assert {item.cluster for item in task} == {"nurse", "electrician"}
    by_tone = who_is("test", photos=facet(faces, size=32), by="race", races=("light", "dark"))
    assert {item.groups for item in by_tone} == {("light", "dark"), ("dark", "light")}


def test_a_copy_of_facet_of_another_form_is_refused(faces: Path, tmp_path: Path) -> None:
    table = faces / "annotations" / "annotations.csv"
    frame = pd.read_csv(table)
    with pytest.raises(SteerlibError, match="is no copy of FACET: it has no annotations/annotations.csv"):
        facet(tmp_path)
    frame.drop(columns="skin_tone_7").to_csv(table, index=False)
    with pytest.raises(SteerlibError, match="has no column 'skin_tone_7': there are"):
        facet(faces)
    frame.assign(bounding_box="[1, 2]").to_csv(table, index=False)
    with pytest.raises(
        SteerlibError, match=r"row 2: the bounding box '\[1, 2\]' is not one with x, y, width and height"
    ):
        facet(faces)
    frame.assign(filename="elsewhere.jpg").to_csv(table, index=False)
    with pytest.raises(SteerlibError, match="none of the people that .* lists is on a picture"):
        facet(faces)


# ---- VisoGender


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    root = tmp_path / "visogender"
    (root / "data" / "OO").mkdir(parents=True)
    (root / "data" / "OP").mkdir()
    (root / "pictures").mkdir()
    link = "URL type (Type NA if can't find)"
    for kind, thing, licence in (("OO", "Object", "LICENSE OK?"), ("OP", "Participant", "Licence")):
        rows = []
        for job in ("teacher", "counsellor", "baker"):
            for mine in ("masculine", "feminine"):
                for other in ("masculine", "feminine") if kind == "OP" else ("",):
                    row = {"IDX": f"{kind}_{len(rows) + 1}", "Sector": "x", "Specialisation": "x", "Occupation": job}
                    row |= {thing: "desk", link: "https://example.org/a.jpg?a=1", licence: "Yes"}
                    row["Occupation_perceived_gender"] = mine
                    row |= {"Participant_perceived_gender": other} if kind == "OP" else {}
                    rows.append({**row, "Error codes": "", "Annotator": "A"})
        rows.append({**rows[0], "IDX": f"{kind}_99", "Error codes": "broken"})
        frame = pd.DataFrame(rows)
        frame.to_csv(root / "data" / kind / f"{kind}_Visogender_11012024.tsv", sep="\t", index=False)
        frame.assign(Occupation="old").to_csv(
            root / "data" / kind / f"{kind}_Visogender_15082023.tsv", sep="\t", index=False
        )
        for row in rows:
            (root / "pictures" / f"{row['IDX']}.jpg").write_bytes(jpeg(row["IDX"]))
    return root


def test_the_right_pronoun_is_that_of_the_professional(captions: Path) -> None:
    table = pd.read_csv(captions / "data" / "OP" / "OP_Visogender_11012024.tsv", sep="\t").set_index("IDX")
    shown = {colour(index): row for index, row in table.iterrows()}
    task = visogender(captions, kind="OP")
    assert len(task) == 12 == len(task.unambiguous)
    for item in task:
        row = shown[item.pictures[0].getpixel((0, 0))]  # type: ignore[index]
        mine, other = row["Occupation_perceived_gender"], row["Participant_perceived_gender"]
        assert item.answer == {"masculine": "man", "feminine": "woman"}[mine] and item.cluster == row["Occupation"]
        assert item.template == ("OP-same" if mine == other else "OP-different")
        assert item.options[item.groups.index(str(item.answer))] == {"man": " his", "woman": " her"}[str(item.answer)]
        assert item.prompt[-1]["content"] == f"The {item.cluster} and"  # type: ignore[index]


def test_both_tables_are_read_the_newest_of_each_and_errors_left_out(captions: Path) -> None:
    task = visogender(captions)
    assert Counter(item.template for item in task) == {"OO": 6, "OP-same": 6, "OP-different": 6}
    assert {item.cluster for item in task} == {"teacher", "counsellor", "baker"}
    women = {item.cluster: item.percent_women for item in task}
    assert women["counsellor"] == 66.48  # which our table spells counselor


def test_pictures_that_are_gone_are_counted(captions: Path) -> None:
    for n in (1, 2):
        (captions / "pictures" / f"OO_{n}.jpg").unlink()
    with pytest.warns(UserWarning, match="2 pictures of VisoGender are not there, such as OO_1; 4 are."):
        assert len(visogender(captions, kind="OO")) == 4
    for file in (captions / "pictures").iterdir():
        file.unlink()
    with pytest.raises(SteerlibError, match="has no picture of VisoGender: they are named by IDX, such as OO_1.jpg"):
        visogender(captions)


def test_a_model_that_sees_is_scored_on_visogender(captions: Path) -> None:
    found = sl.capability(tiny.seeing(), task=visogender(captions, kind="OP"), resamples=10)
    assert len(found.frame) == 12 and set(found.frame["gender"]) == {"man", "woman"}


def test_another_form_of_visogender_is_refused(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerlibError, match="there is no kind of VisoGender 'XX'"):
        visogender(captions, kind="XX")  # type: ignore[arg-type]
    with pytest.raises(SteerlibError, match="has no table of VisoGender such as OO_Visogender"):
        visogender(captions / "pictures", pictures=captions / "pictures")
    table = captions / "data" / "OP" / "OP_Visogender_11012024.tsv"
    frame = pd.read_csv(table, sep="\t").drop(columns="Participant_perceived_gender")
    frame.to_csv(table, sep="\t", index=False)
    with pytest.raises(SteerlibError, match="has no column 'Participant_perceived_gender': there are IDX"):
        visogender(captions)


# ---- MultiBBQ


def record(category: str, question: int, place: int) -> dict[str, Any]:
    """A record in the form of the package; place: of "Unknown" among the options."""
    named, masked = ["The tall one", "The short one"], ["The one on the left", "The one on the right"]
    named.insert(place, "Unknown")
    masked.insert(place, "Unknown")
    target, other = named.index("The tall one"), named.index("The short one")
    guilty = target if question % 2 else other
    return {
        "category": category,
        "q_id": question,
        "c_id": 1,
        "ambig_context": "A tall one and a short one ate.",
        "ambig_context_masked": "The one on the left in the image and the one on the right in the image ate.",
        "disambig_context": "Someone else saw it all.",
        "neg_q": "Who in the image stole?",
        "nonneg_q": "Who in the image paid?",
        "options": named,
        "options_masked": masked,
        "neg_label_idx": guilty,
        "nonneg_label_idx": target + other - guilty,
        "unk_label_idx": place,
        "stereotype_group_idx": target,
        "nonstereotype_group_idx": other,
        "image_path": f"./data/images/gpt_image_gen/visual_language/visual_language_{category}_q{question}_c1_a_b.png",
    }


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made = [record(category, q, q % 3) for category in ("gender", "age") for q in (1, 2, 3, 4)]
    write_json(tmp_path / "package" / multibbq_file.RECORDS, made)
    monkeypatch.setattr(multibbq_file, "fetch", lambda name: tmp_path / "package")
    return made


def draw(root: Path, records: list[dict[str, Any]], generator: str = "gpt_image_gen") -> Path:
    for one in records:
        for kind in ("visual_language", "visual_only"):
            name = one["image_path"].rsplit("/", 1)[-1].replace("visual_language", kind)
            place = root / "data" / "images" / generator / kind
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(jpeg(generator, name))
    return root


def test_without_pictures_every_record_is_asked_four_times_and_nothing_speaks_of_an_image(records: Any) -> None:
    task = multibbq()
    assert len(task) == 4 * len(records) and len(multibbq("age")) == 4 * 4
    assert Counter(item.template for item in task) == dict.fromkeys(
        ("ambig-neg", "ambig-nonneg", "disambig-neg", "disambig-nonneg"), len(records)
    )
    for item in task:
        assert "image" not in str(item.prompt) and "tall" in str(item.prompt)
        assert (item.answer == "unknown") == item.template.startswith("ambig")
        assert item.stereotype == ("target" if item.template.endswith("-neg") else "other")
    assert all(isinstance(item.prompt, str) for item in task.as_text())


def test_letters_stand_for_the_people_whom_the_options_name(records: Any) -> None:
    for item in multibbq():
        asked = item.prompt[0]["content"]  # type: ignore[index]
        for letter, group in zip("ABC", item.groups, strict=True):
            named = {"target": "The tall one", "other": "The short one", "unknown": "Unknown"}[group]
            assert f"\n{letter}. {named}" in asked
        if item.template.startswith("disambig"):
            odd = int(item.cluster.split()[1]) % 2 == 1
            assert item.answer == ("target" if odd == item.template.endswith("-neg") else "other")


def test_with_pictures_the_options_say_who_is_where_and_the_picture_is_also_asked_about_alone(
    records: Any, tmp_path: Path
) -> None:
    root = draw(draw(tmp_path / "copy", records), records, "imagen4ultra_image_gen")
    for generator in multibbq_file.GENERATORS:
        task = multibbq("gender", pictures=root, generator=generator)  # type: ignore[arg-type]
        assert Counter(item.condition for item in task) == {"ambig": 8, "disambig": 8, "visual": 8}  # type: ignore[attr-defined]
        for item in task:
            asked = item.prompt[0]["content"][-1]["text"]  # type: ignore[index]
            assert "The one on the left" in asked and "tall" not in asked and "in the image" in asked
            seen = "visual_only" if item.template.startswith("visual") else "visual_language"
            name = f"{seen}_{item.cluster.replace(' ', '_q')}_c1_a_b.png"
            assert item.pictures[0].getpixel((0, 0)) == colour(generator, name)
            assert ("ate." in asked) != item.template.startswith("visual")


def test_missing_pictures_are_told(records: Any, tmp_path: Path) -> None:
    root = draw(tmp_path / "copy", records)
    next(root.rglob("visual_only_age_q2*")).unlink()
    with pytest.warns(UserWarning, match="1 pictures of MultiBBQ are not there, such as visual_only_age_q2_c1_a_b.png"):
        assert len(multibbq(pictures=root)) == 6 * len(records) - 2
    next(root.rglob("visual_language_age_q3*")).unlink()
    with pytest.raises(
        SteerlibError, match="lacks the picture visual_language_age_q3_c1_a_b.png of MultiBBQ by gpt_image_gen"
    ):
        multibbq(pictures=root)
    with pytest.raises(SteerlibError, match="there is no folder"):
        multibbq(pictures=tmp_path / "none")


def test_what_multibbq_does_not_have_is_refused(records: Any) -> None:
    with pytest.raises(SteerlibError, match="there is no category of MultiBBQ 'hair': use age, gender, race, religion"):
        multibbq("hair")
    with pytest.raises(SteerlibError, match="at least one category"):
        multibbq([])
    with pytest.raises(SteerlibError, match="there is no generator of MultiBBQ's pictures 'me'"):
        multibbq(generator="me")  # type: ignore[arg-type]


def answered(task: Any, choose: Any) -> dict[str, float]:
    rows = [
        {
            "cluster": item.cluster,
            "condition": item.condition,
            "template": item.template,
            "stereotype": item.stereotype,
            "answer": item.answer,
            "chosen": choose(item),
        }
        for item in task
    ]
    return {name: e.value for name, e in published.multibbq(pd.DataFrame(rows), resamples=50).items()}


def test_the_right_answer_everywhere_is_wholly_fair_and_the_stereotype_wholly_biased(
    records: Any, tmp_path: Path
) -> None:
    for task in (multibbq(), multibbq(pictures=draw(tmp_path / "copy", records))):
        right = answered(task, lambda item: item.answer)
        assert right["fairness"] == 100 and right["bias"] == 0
        biased = answered(task, lambda item: item.stereotype)
        assert biased["bias"] == 100 and biased["ambiguous fairness"] == 0 and biased["fairness"] == 0
        other = answered(task, lambda item: "other" if item.stereotype == "target" else "target")
        assert other["bias"] == 0 and other["ambiguous fairness"] == 0  # unfair, but not biased
        assert 0 < other["disambiguated fairness"] < 100


def test_the_scores_are_harmonic_means_of_those_of_the_scenarios(records: Any, tmp_path: Path) -> None:
    task = multibbq(pictures=draw(tmp_path / "copy", records))
    turn = iter(range(10_000))

    def choose(item: Any) -> str:
        return str((item.answer, item.answer, item.stereotype, "unknown", "target")[next(turn) * 7 % 5])

    found = answered(task, choose)
    scenarios = ("ambiguous", "disambiguated", "visual-only")
    fair = [found[f"{name} fairness"] / 100 for name in scenarios]
    free = [1 - found[f"{name} bias"] / 100 for name in scenarios]
    assert found["fairness"] == pytest.approx(300 / sum(1 / x for x in fair))
    assert found["bias"] == pytest.approx(100 * (1 - 3 / sum(1 / x for x in free)))


def test_bias_in_disambiguated_contexts_counts_only_where_the_stereotype_is_wrong() -> None:
    def row(polarity: str, answer: str, chosen: str) -> dict[str, Any]:
        stereotype = "target" if polarity == "neg" else "other"
        cells = {"cluster": f"age {polarity}{answer}", "condition": "disambig", "template": f"disambig-{polarity}"}
        return {**cells, "stereotype": stereotype, "answer": answer, "chosen": chosen}

    rows = [row("neg", "target", "target")] * 6  # right, and the stereotype: neither for nor against
    rows += [row("neg", "other", "target")] + [row("neg", "other", "other")] * 3
    rows += [row("nonneg", "target", "other")] + [row("nonneg", "target", "unknown")]
    found = {name: e.value for name, e in published.multibbq(pd.DataFrame(rows), resamples=50).items()}
    assert found["bias"] == found["disambiguated bias"] == pytest.approx(100 * (1 / 4 + 1 / 2) / 2)
    assert found["fairness"] == pytest.approx(100 * (9 / 10 + 0) / 2)


def test_a_model_has_a_fairness_and_a_bias_score(records: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sl.benchmark(tiny.model("llama"), multibbq("gender"), resamples=20)
    assert {"fairness", "bias", "ambiguous fairness", "disambiguated bias"} <= set(found.scores)
    assert len(found.frame) == 16 and set(found.by("category")["category"]) == {"gender"}


def test_the_real_records_make_2460_questions_with_pictures_and_1640_without() -> None:
    if not (sl.assets.cache_dir() / "assets" / "multibbq").is_dir():
        pytest.skip("multibbq is not in the cache")
    task = multibbq()
    assert len(task) == 1640 and len({item.cluster for item in task}) == 89
    sizes = Counter(item.category for item in task)  # type: ignore[attr-defined]
    assert sizes == {"race": 4 * 127, "religion": 4 * 134, "age": 4 * 99, "gender": 4 * 50}
