"""`steerlib train` and `steerlib measure`: what they write is what the library gives, and what they refuse, they refuse in a sentence."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import steerlib as sl
from steerlib.__main__ import main
from steerlib.commands import measure, train
from steerlib.commands.asked import NAMED, task_of
from steerlib.errors import SteerlibError
from steerlib.models.model import weights_hash
from tests import tiny
from tests.helpers import fire, same

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflow"
JOBS = "job;stereotype\nplumber;man\nnurse;woman\npilot;man\nlibrarian;woman\n"
TASK = {
    "templates": ["The {job} said", "A {job} who"],
    "cluster": "job",
    "options": {"man": " a", "woman": " b"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and a task."""
    made = tmp_path_factory.mktemp("commands")
    tiny.save("llama", made / "model")
    (made / "jobs.csv").write_text(JOBS)
    (made / "texts.txt").write_text("Rain fell\nall night.\n\nThe cat slept.\n")
    return made


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


def words(folder: Path, *more: str) -> list[str]:
    """Model and task, as words of a command."""
    options = [f"--task-option={key}={json.dumps(value)}" for key, value in TASK.items()]
    return [str(folder / "model"), "--task", str(folder / "jobs.csv"), *options, *more]


def mine(folder: Path) -> Any:
    return sl.tasks.from_csv(folder / "jobs.csv", **TASK)


def test_what_is_measured_is_what_the_library_measures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm, out = sl.load(folder / "model"), folder / "out.json"
    steering = sl.Steering({"residual.1": sl.Add(tiny.vector())}, {"method": "hand", "seed": 3})
    steering.save(folder / "hand.safetensors")
    more = ["--steering", str(folder / "hand.safetensors"), "--strength", "0.5", "--seed", "7", "--resamples", "60"]
    texts = ["--texts", str(folder / "texts.txt"), "--out", str(out)]
    assert main(["measure", *words(folder, *more, *texts)]) == 0
    said = capsys.readouterr().out
    read = ["Rain fell all night.", "The cat slept."]
    with sl.steer(lm, steering, 0.5):
        bias = sl.decision_bias(lm, mine(folder), resamples=60, seed=7)
        inside = sl.perplexity(lm, read, batch_size=32, resamples=60, seed=7)
    ratio = sl.perplexity_ratio(lm, steering, 0.5, texts=read, batch_size=32, resamples=60, seed=7)
    found = json.loads(out.read_text())
    expected = {name: getattr(bias, name) for name in measure.METRICS} | {
        "perplexity": inside,
        "perplexity_ratio": ratio,
    }
    plain = {name: None if one is None else asdict(one) for name, one in expected.items()}
    assert found["numbers"] == json.loads(json.dumps(plain).replace("NaN", "null"))  # an interval over two texts
    assert f"{bias.per_occupation_bias.value:.6f}" in said and "perplexity ratio" in said
    assert (found["strength"], found["seed"], found["processes"]) == (0.5, 7, 1)
    assert found["task"]["items"] == len(mine(folder)) == 8
    digest = hashlib.sha256((folder / "hand.safetensors").read_bytes()).hexdigest()
    assert found["steering"]["sha256"] == digest and found["steering"]["seed"] == 3
    assert found["weights"] == weights_hash(lm) and found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("method", ["dso", "contrastive", "leace", "iti", "reft"])
def test_what_is_made_is_what_the_library_makes(folder: Path, tmp_path: Path, method: str) -> None:
    lm, task, out = sl.load(folder / "model"), mine(folder), tmp_path / "made.safetensors"
    learned = ["--epochs", "1", "--batch-size", "4", "--seed", "2", "--method-option", "kl_target=5"]
    how = sl.Training(epochs=1, batch_size=4, seed=2, kl_target=5)
    sides = train.sides(task)
    more, expected = {
        "dso": (learned, lambda: sl.dso(lm, task, how, progress=False)),
        "reft": (
            [*learned, "--method-option", "where=residual.1"],
            lambda: sl.reft(lm, task, how, where=sl.Site("residual", 1), progress=False),
        ),
        "contrastive": (
            ["--method-option", "layers=[0, 1]", "--method-option", "operation=add"],
            lambda: sl.contrastive(lm, *sides, layers=[0, 1], operation="add", progress=False),
        ),
        "leace": (["--method-option", "layers=1"], lambda: sl.leace(lm, *sides, layers=1)),
        "iti": (
            ["--method-option", "heads=2", "--seed", "1"],
            lambda: sl.iti(lm, task, heads=2, seed=1, progress=False),
        ),
    }[method]
    assert main(["train", *words(folder, "--method", method, "--out", str(out), *more)]) == 0
    made = sl.load_steering(out)
    assert same(made, expected()) and made.provenance["method"] == method
    facts = {
        "task": "jobs",
        "asked": str(folder / "jobs.csv"),
        "seed": {"iti": 1}.get(method, 2 if "--seed" in more else 0),
    }
    assert {key: made.provenance[key] for key in facts} == facts
    assert [path.name for path in tmp_path.iterdir()] == ["made.safetensors"]


def test_a_training_that_was_killed_goes_on_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = ["--method", "dso", "--epochs", "3", "--batch-size", "4", "--method-option", "kl_target=5"]
    passes: list[int] = []

    def run(out: Path, stop: int | None = None) -> tuple[int, int]:
        """The exit status, and how many passes the model made. stop: at which of them it is killed."""
        passes.clear()

        def loading(*args: Any, **how: Any) -> Any:
            lm = sl.load(*args, **how)
            lm.hf.get_output_embeddings().register_forward_hook(lambda *got: passes.append(1))
            if stop is not None:
                fire(lm, stop, KeyboardInterrupt())
            return lm

        with monkeypatch.context() as patch:
            patch.setattr("steerlib.commands.start.load", loading)
            status = main(["train", *words(folder, *learned, "--out", str(out))])
        return status, len(passes)

    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    status, count = run(whole)
    assert status == 0
    assert run(cut, stop=count - 2)[0] == 130
    assert not cut.exists() and (tmp_path / "cut.safetensors.checkpoint").is_file()
    status, rest = run(cut)
    assert status == 0 and rest < count  # it did not begin again
    assert same(sl.load_steering(cut), sl.load_steering(whole))
    assert sorted(path.name for path in tmp_path.iterdir()) == [cut.name, whole.name]


REFUSED = {
    "measure --task pronom": "there is no task 'pronom': give pronoun",
    "measure --task pronoun:tset": "there is no split 'tset'",
    "measure --task who-is --task-option scene=2": "the task 'who-is' has no option 'scene' for --task-option: it has by, clothes",
    "measure --task winogender:test": "the task 'winogender' has no splits",
    "measure --task synthbias:test": "the task 'synthbias' needs to know where your copy is: add --task-option path=PATH",
    "measure --task synthbias --task-option path=nowhere.csv": "nowhere.csv",
    "measure --task who-is --task-option photos=nowhere --task-option by=race": "nowhere",
    "measure --task pronoun --task-option scenes": "--task-option takes KEY=VALUE, not 'scenes'",
    "measure --task nowhere.csv": "there is no file",
    "measure --task pronoun --strength 1": "--strength is that of a steering",
    "measure --task pronoun --steering nowhere.safetensors": "there is no steering file",
    "measure --task pronoun --out nowhere/x.json": "name a file in a folder that exists",
    "measure --task pronoun --load-option device=cpu": "loading a model has no option 'device'",
    "measure --task pronoun --texts nowhere.txt": "the texts in nowhere.txt cannot be read",
    "train --task pronoun --out x --method dso --samples 4": "--samples has no effect on the exact estimator",
    "train --task pronoun --out x --method dso --epochs 0": "epochs must be a whole number of at least 1",
    "train --task pronoun --out x --method dso --method-option rewards=prompt": "dso has no option 'rewards'",
    "train --task pronoun --out x --method iti --epochs 2": "iti takes no --epochs",
    "train --task pronoun --out x --method reft": "reft needs the site of its map",
    "train --task pronoun --out nowhere/x --method dso": "name a file in a folder that exists",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_sentence_before_the_model_is_loaded(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *rest = shlex.split(line)
    assert main([command, "no/such/model", *rest]) == 2
    said = capsys.readouterr().err.strip()
    assert REFUSED[line] in said and said.endswith(".") and "\n" not in said


def test_every_task_that_is_named_can_be_asked_for() -> None:
    for name in NAMED:
        assert callable(getattr(sl.tasks, name.replace("-", "_")))
    assert task_of("coreference:validation", {}) == sl.tasks.coreference("validation")
    with pytest.raises(SteerlibError, match="the options of the task 'pronoun' are not of the kind"):
        task_of("pronoun", {"templates": 3})


# The sweep


def rules() -> dict[str, str]:
    """The shell command of every rule of the workflow that has one."""
    text = (WORKFLOW / "Snakefile").read_text()
    found = {}
    for part in re.split(r"(?m)^rule ", text)[1:]:
        if "shell:" in part:
            found[part.partition(":")[0]] = "".join(re.findall(r'"([^"]*)"', part.partition("shell:")[2]))
    return found


def test_the_sweep_gives_its_commands_options_that_they_have() -> None:
    config = yaml.safe_load((WORKFLOW / "config.yml").read_text())
    fields = {"params.model:q": "smollm2", "params.task": "pronoun", "wildcards.seed": "1", "wildcards.strength": "0.5"}
    fields |= {"output:q": "out", "input:q": "in", "log:q": "log", "params.launch": "python -m steerlib"}
    asked = []
    for name, shell in rules().items():
        for method in config["methods"].values():
            options = method.get("options", "") if name == "steering" else config["options"]
            values = {**fields, "params.method": method["method"], "params.options": options}
            line = re.sub(r"\{([\w.:]+)\}", lambda match, values=values: values.get(match[1], "x"), shell)
            asked.append(shlex.split(line.partition(" > ")[0]))
    commands = [line[3:] for line in asked if line[:3] == ["python", "-m", "steerlib"]]
    assert {line[0] for line in commands} == {"train", "measure"} and len(commands) == 3 * len(config["methods"])
    for line in commands:
        parser = argparse.ArgumentParser(exit_on_error=False)
        inside = parser.add_subparsers(dest="command")
        train.add(inside)
        measure.add(inside)
        chosen = parser.parse_args(line)  # exits on a word that the command does not have
        given = train.settings(getattr(chosen, "method_option", []), "--method-option")
        if line[0] == "train":
            (train.learning if chosen.method in train.LEARNED else train.reading)(chosen, given)


def test_measurements_become_one_table(folder: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("collect", WORKFLOW / "collect.py")
    assert spec is not None and spec.loader is not None
    collect = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(collect)
    outs = [tmp_path / "plain.json", tmp_path / "hand.json"]
    sl.Steering({"residual.1": sl.Add(tiny.vector())}, {"method": "hand", "seed": 3}).save(tmp_path / "h.safetensors")
    more = ["--resamples", "20"]
    assert main(["measure", *words(folder, *more, "--out", str(outs[0]))]) == 0
    assert (
        main(["measure", *words(folder, *more, "--steering", str(tmp_path / "h.safetensors"), "--out", str(outs[1]))])
        == 0
    )
    assert collect.main(["--out", str(tmp_path / "table.csv"), *map(str, outs)]) == 0
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["items"].tolist() == [8, 8] and table["train_seed"].fillna(-1).tolist() == [-1, 3]
    for number, out in enumerate(outs):
        value = json.loads(out.read_text())["numbers"]["per_occupation_bias"]
        assert table.loc[number, ["per_occupation_bias", "per_occupation_bias_low"]].tolist() == pytest.approx(
            [value["value"], value["low"]]
        )
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit, match="was not written by"):
        collect.main(["--out", str(tmp_path / "table.csv"), str(tmp_path / "other.json")])


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_snakemake_reads_the_sweep_and_plans_every_job_of_it(tmp_path: Path) -> None:
    config = yaml.safe_load((WORKFLOW / "config.yml").read_text())
    line = ["snakemake", "--snakefile", str(WORKFLOW / "Snakefile"), "--cores", "1", "-n", "--quiet", "rules"]
    done = subprocess.run([*line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = {name: int(n) for name, n in re.findall(r"(?m)^(\w+)\s+(\d+)$", done.stdout + done.stderr)}
    steerings = sum(len(method.get("seeds", config["seeds"])) for method in config["methods"].values())
    assert counts["steering"] == steerings and counts["measure"] == steerings * len(config["strengths"])
    assert counts["plain"] == len(config["models"])
