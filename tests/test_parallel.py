"""Two processes give the numbers of one, up to rounding, and stop together when one of them cannot go on.

Both are started once, by the file together.py, which does everything that is looked at here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import steerlib as sl
from steerlib.models import parallel as processes
from steerlib.models.parallel import Processes, added, exchange, once, parallel, share, spread
from steerlib.steering.operations import load_steering
from tests import tiny, together
from tests.helpers import vectors

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
}
JOBS = "job;stereotype\nplumber;man\nnurse;woman\npilot;man\nlibrarian;woman\ncook;woman\n"


def start(*words: str) -> subprocess.CompletedProcess[str]:
    """Two processes; a deadlock ends the test."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [*launch, *words], capture_output=True, text=True, timeout=200, check=False, env=ENVIRONMENT, cwd=ROOT
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes left."""
    made = tmp_path_factory.mktemp("together")
    tiny.save("llama", made / "model")
    (made / "jobs.csv").write_text(JOBS)
    done = start(str(ROOT / "tests" / "together.py"), str(made))
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    """What each of the two processes saw."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


def test_two_processes_answer_as_one_does_however_the_questions_divide(both: list[dict[str, Any]]) -> None:
    alone = together.answers(tiny.fresh("llama"))
    for seen in both:
        assert seen["world"] == 2
        for name, value in alone.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(seen["answers"][name], value, rtol=1e-5, atol=1e-5)
            else:
                assert seen["answers"][name] == value
    assert len(set(alone["written"][-3:])) == 3  # one prompt, asked three times, was drawn three times


@pytest.mark.parametrize("name", together.HOW)
def test_two_processes_learn_what_one_learns(both: list[dict[str, Any]], name: str) -> None:
    alone = together.trained(tiny.fresh("llama"), name)
    expected = vectors(alone)
    assert max(float(value.abs().max()) for value in expected.values()) > 0.01
    for seen in both:
        for key, value in expected.items():
            torch.testing.assert_close(seen["trained"][name][key], value, rtol=1e-4, atol=1e-5)
        for key, values in alone.provenance["history"].items():
            ours, theirs = (np.array(x, dtype=float) for x in (seen["history"][name][key], values))
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_both_processes_have_learned_the_same_to_the_bit(both: list[dict[str, Any]]) -> None:
    for name in together.HOW:
        one, other = (seen["trained"][name] for seen in both)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_that_was_stopped_goes_on_with_any_number_of_processes(
    folder: Path, both: list[dict[str, Any]]
) -> None:
    assert both[0]["stopped"].startswith("RuntimeError: stop")
    whole = both[0]["trained"]["exact"]
    for seen in both:
        assert all(torch.equal(seen["resumed"][key], whole[key]) for key in whole)
    resumed = vectors(together.trained(tiny.fresh("llama"), "exact", checkpoint=folder / "stopped.checkpoint"))
    for key, value in resumed.items():
        torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-5)


def test_a_tradeoff_is_written_once_and_read_by_all(folder: Path, both: list[dict[str, Any]], tmp_path: Path) -> None:
    alone = together.curve(tiny.fresh("llama"), tmp_path / "points.jsonl").to_dict()
    for seen in both:
        for column in ("bias", "capability", "bias_low", "bias_high"):
            assert list(seen["curve"][column].values()) == pytest.approx(list(alone[column].values()), abs=1e-5)
    lines = [len((place / "points.jsonl").read_text().splitlines()) for place in (folder, tmp_path)]
    assert lines == [4, 4]  # a header and three points


def test_a_refusal_in_one_process_is_that_of_all_and_they_go_on(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert seen["broken"]["refused"] == (
            "SteerlibError: prompt 1 is too short: there is no token to score after a first one."
        )
        assert seen["broken"]["and after that"] == "(7, 2)" and seen["broken"]["went on"] == "nothing"


@pytest.mark.parametrize("name", ["died", "died in a step"])
def test_a_process_that_dies_does_not_leave_the_others_waiting(both: list[dict[str, Any]], name: str) -> None:
    first, second = (seen["broken"][name] for seen in both)
    assert second == "RuntimeError: no memory"
    assert first == "SteerlibError: process 1 stopped: RuntimeError('no memory')."


def test_processes_that_do_not_ask_the_same_are_stopped(both: list[dict[str, Any]]) -> None:
    for seen in both:
        assert "the processes do not ask the same" in seen["broken"]["other questions"]
        assert "process 1 left the `with parallel()`" in seen["broken"]["left early"]


def test_what_the_first_process_cannot_write_stops_all(both: list[dict[str, Any]]) -> None:
    told = {seen["broken"]["cannot write"] for seen in both}
    assert len(told) == 1 and "cannot be written" in told.pop()


def test_outside_of_the_with_everybody_asks_for_itself(both: list[dict[str, Any]]) -> None:
    lm = tiny.fresh("llama")
    for rank, seen in enumerate(both):
        assert torch.equal(seen["alone again"], lm.choose(together.SEVEN[:2], [" a", f" {rank}"]))


def test_the_commands_write_what_one_process_writes_and_only_the_first_one_speaks(
    folder: Path, both: list[dict[str, Any]], tmp_path: Path
) -> None:
    for name in ("model", "jobs.csv"):
        (tmp_path / name).symlink_to(folder / name)
    alone = together.commands(tmp_path, 0)
    for rank, seen in enumerate(both):
        assert [seen["commands"][name][0] for name in alone] == [alone[name][0] for name in alone] == [0, 0, 2]
        spoke = [bool(said) or wrong for _, said, wrong in seen["commands"].values()]
        assert spoke == [rank == 0] * 3
    two, one = (vectors(load_steering(place / "two.safetensors")) for place in (folder, tmp_path))
    assert two.keys() == one.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-4, atol=1e-5)
    measured = [json.loads((place / "two.json").read_text()) for place in (folder, tmp_path)]
    assert [one["processes"] for one in measured] == [2, 1]
    assert measured[0]["task"] == {**measured[1]["task"], "asked": measured[0]["task"]["asked"]}
    assert measured[0]["task"]["items"] == 10
    assert measured[0]["weights"] == measured[1]["weights"]
    for name, expected in measured[1]["numbers"].items():
        got = measured[0]["numbers"][name]
        assert got == (None if expected is None else pytest.approx(expected, abs=1e-5)), name
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_one_process_makes_no_group_and_divides_nothing() -> None:
    lm = tiny.model("llama")
    before = lm.choose(together.SEVEN, [" a", " b"])
    with parallel() as here:
        assert here == Processes(0, 1, None) and here.first
        assert torch.equal(lm.choose(together.SEVEN, [" a", " b"]), before)
        assert share([1, 2, 3]) == [1, 2, 3] and exchange("x", 5) == [5] and once(lambda: 7) == 7
        assert spread(lambda part: [-n for n in part], [1, 2], "x") == [-1, -2]
        assert added([None, before], [before, before]) == [None, before]
    assert not torch.distributed.is_initialized()


def test_several_processes_that_accelerate_does_not_see_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "PartialState", lambda **how: SimpleNamespace(num_processes=1))
    with pytest.raises(sl.SteerlibError, match="2 processes were started, but Accelerate sees 1"), parallel():
        pass
