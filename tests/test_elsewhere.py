"""What was scored elsewhere: the files are those of the script, agree with the log, and with one another."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import steerlib as sl
from steerlib.reproduce.sealed import read_log
from steerlib.tasks.sealed import DIGESTS

FOLDER = sl.data_path("elsewhere")
SEALED = [
    (kind, model, which)
    for kind, model in (("pronoun", "smollm2"), ("pronoun", "gemma3-270m"), ("pictures", "smol-llava"))
    for which in ("plain", "0", "1", "2")
]
SETS = ("winobias", "winogender", "stereoset", "crows-pairs", "bbq")


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "model", "which"), SEALED)
def test_the_numbers_of_a_sealed_set_follow_from_its_cells_and_are_in_the_log(
    kind: str, model: str, which: str
) -> None:
    found = read(f"sealed-{kind}-{model}-{which}")
    table = pd.DataFrame(found["cells"], index=found["wordings"]).T
    bias = (2 * table.mean(axis=1) - 1).abs().mean()
    assert bias == pytest.approx(found["per_occupation_bias"]["value"], abs=1e-5)
    assert found["two_way"]["value"] == pytest.approx(bias, abs=1e-5)
    assert found["two_way"]["high"] - found["two_way"]["low"] > 0
    shape = (24, 24) if kind == "pronoun" else (7, 6)
    assert table.shape == shape and found["model"] == model
    digest = DIGESTS["who-is" if kind == "pictures" else "pronoun"][:12]
    logged = [
        line["bias"]
        for line in read_log()
        if (line["items"], line["model"], line["seed"]) == (digest, model, 0 if which == "plain" else int(which))
        and line["method"] == ("nothing" if which == "plain" else "DSO as shipped")
    ]
    assert any(one == pytest.approx(found["per_occupation_bias"]["value"], abs=1e-5) for one in logged)


@pytest.mark.parametrize("model", ["smollm2", "gemma3-270m"])
@pytest.mark.parametrize("name", SETS)
def test_a_benchmark_has_the_same_scores_plain_and_steered_and_they_are_percentages(name: str, model: str) -> None:
    found = read(f"{name}-{model}")
    assert found["plain"].keys() == found["steered"].keys() and found["model"] == model and found["items"] >= 200
    for which in ("plain", "steered"):
        for score, ends in found[which].items():
            low, value, high = (ends[key] for key in ("low", "value", "high"))
            assert -100 <= low <= value <= high <= 100, score
    assert -1 <= found["change"]["low"] <= found["change"]["value"] <= found["change"]["high"] <= 1


def test_the_part_of_a_benchmark_is_the_same_every_time_in_order_and_random() -> None:
    import importlib.util

    path = FOLDER.parent.parent / "tools" / "elsewhere.py"
    if not path.is_file():
        pytest.skip("the scripts are in the repository only")
    spec = importlib.util.spec_from_file_location("elsewhere", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    task = sl.tasks.pronoun("all")
    one, two = script.part(task, 50), script.part(task, 50)
    places = [task.items.index(item) for item in one]
    assert one.items == two.items and places == sorted(places) and len(set(places)) == 50
    assert len(set(np.diff(places))) > 5  # not every n-th item, which would follow the order of the set
    assert len(script.part(task, 10**6)) == len(task)
