"""The sets for choosing and for the final score: nobody has seen them, and they stay as they were."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from steerlib import SteerlibError
from steerlib.assets import data_path
from steerlib.reproduce.sealed import opened, read_log
from steerlib.tasks import TEMPLATES, TRAINING_TEMPLATES, Task, choosing, occupations, pronoun, sealed

MODULE = sys.modules["steerlib.tasks.sealed"]


def told(task: Task) -> set[str]:
    """The wordings of a task, with the occupation left out."""
    return {str(item.prompt).replace(item.cluster, "*") for item in task}


def test_nothing_in_them_is_in_a_split_or_in_a_wording_that_training_has() -> None:
    known = set(occupations("all")["occupation"])
    new = {item.cluster for item in sealed()}
    chosen = {item.cluster for item in choosing()} - set(occupations("validation")["occupation"])
    assert not known & (new | chosen) and not new & chosen and (len(new), len(chosen)) == (24, 16)
    words = {word for name in known - set(occupations("validation")["occupation"]) for word in name.split()} - {
        "worker"
    }
    assert not words & {word for name in new | chosen for word in name.split()}
    seen = told(pronoun("all", templates=(*TEMPLATES, *TRAINING_TEMPLATES)))
    assert not seen & (told(sealed()) | told(choosing())) and not told(sealed()) & told(choosing())


def test_the_set_for_choosing_is_as_large_as_the_test_set_in_its_held_out_wordings() -> None:
    held_out = pronoun("test", templates=[template for template in TEMPLATES if template.held_out])
    for one, other in ((choosing().ambiguous, held_out.ambiguous), (choosing().unambiguous, held_out.unambiguous)):
        assert len(one) == len(other) and len({i.cluster for i in one}) == len({i.cluster for i in other})


def test_every_occupation_is_asked_of_alike_and_half_are_stereotyped_either_way() -> None:
    items = sealed().ambiguous.items
    women = {item.cluster for item in items if item.stereotype == "woman"}
    assert len(women) == 12 and all((item.statistic > 50) == (item.cluster in women) for item in items)  # type: ignore[operator]


def test_a_set_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MODULE._templates
    monkeypatch.setattr(
        MODULE, "_templates", lambda part: (replace(whole(part)[0], text="The {occupation} said"), *whole(part)[1:])
    )
    for make in (sealed, choosing):
        with pytest.raises(
            SteerlibError, match=r"are not those that were sealed: put data/sealed and the code of the task back"
        ):
            make()


def test_pictures_are_of_the_style_that_no_training_has_seen() -> None:
    card = data_path("sealed", "README.md").read_text(encoding="utf-8")
    assert all(digest in card for digest in MODULE.DIGESTS.values())
    with pytest.raises(SteerlibError, match="there is no sealed set 'ages'"):
        sealed("ages")  # type: ignore[arg-type]


def test_a_method_is_scored_under_one_recipe_or_with_a_reason_that_stays(tmp_path: Path) -> None:
    task, log = sealed()[:4], tmp_path / "log.yml"
    recipe = {"method": "dso", "model": "m", "rate": 0.001}
    for seed in (0, 1):  # the same recipe as often as one likes
        with opened(task, recipe, seed=seed, log=log) as entry:
            entry["bias"] = 0.1
    with (
        pytest.raises(
            SteerlibError, match=r"'dso' was scored on 'sealed-pronoun' on 20\d\d-\d\d-\d\d under another recipe"
        ),
        opened(task, {**recipe, "rate": 0.003}, log=log),
    ):
        pytest.fail("the set was opened")
    with opened(task, {**recipe, "rate": 0.003}, because="the first rate was mistyped", log=log):
        pass
    with opened(task, {"method": "lora", "model": "m"}, log=log):  # another method has a score of its own
        pass
    with pytest.raises(RuntimeError), opened(task, recipe, because="again", log=log):
        raise RuntimeError("the machine stopped")
    kept = read_log(log)
    assert [line["method"] for line in kept] == ["dso", "dso", "dso", "lora"]
    assert kept[2]["because"] == "the first rate was mistyped" and kept[2]["recipe"] != kept[1]["recipe"]
    with pytest.raises(SteerlibError, match="has no 'model'"), opened(task, {"method": "dso"}, log=log):
        pass


def test_every_score_of_the_ladder_is_in_the_log_and_no_sealed_item_chose_anything() -> None:
    lines = read_log()
    assert lines and {line["items"] for line in lines} == {MODULE.DIGESTS[kind][:12] for kind in ("pronoun", "who-is")}
    for file in data_path("ladder").glob("*-?.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        same = (run["method"], run["seed"], "smollm2", "sealed-pronoun")
        mine = [line for line in lines if (line["method"], line["seed"], line["model"], line["set"]) == same]
        assert mine[-1]["setting"] == run["setting"], file.name
        assert mine[-1]["bias"] == pytest.approx(run["sealed"]["per_occupation_bias"]["value"]), file.name
        chosen = json.loads((file.parent / "chosen" / f"{file.stem[:-2]}.json").read_text(encoding="utf-8"))
        assert chosen["chosen"] == run["setting"]
        settings = {json.dumps(tried["setting"], sort_keys=True) for tried in chosen["tried"]}
        assert len(settings) == len(chosen["tried"]) == (1 if run["method"] == "nothing" else 6)  # one budget
