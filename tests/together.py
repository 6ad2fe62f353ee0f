"""What test_parallel.py starts as two processes: everything is done twice as one, and what each process saw goes into a folder.

python -m torch.distributed.run --nproc_per_node 2 tests/together.py FOLDER
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import steerlib as sl
from steerlib.__main__ import main
from steerlib.models.model import Model
from steerlib.models.parallel import once, parallel
from steerlib.steering.operations import Steering
from tests import tiny
from tests.helpers import fire, letters, quick, vectors

SEVEN = [*tiny.PROMPTS, "The pilot", "A librarian who was late"]
HOW: dict[str, dict[str, Any]] = {  # trainings, by what is peculiar to them
    "exact": {"l1": 1e-3},
    "by prompt": {"reward": "prompt", "batch_size": 6},
    "reinforce": {"estimator": "reinforce"},
    "ppo": {"estimator": "ppo"},
    "one row a step": {"batch_size": 1, "epochs": 1},
}


def answers(lm: Model) -> dict[str, Any]:
    """Every question that one can ask a model, about numbers of items that two processes cannot divide evenly."""
    chosen, mass = lm.choose(SEVEN, [" a", " bc", " d"], score="token", return_mass=True)
    eyes = tiny.seeing()
    looks = [sl.chat("Who is this?", pictures=tiny.picture(i)) for i in range(3)]
    return {
        "choose": chosen,
        "mass": mass,
        "one item": lm.choose(["A nurse"], [" a", " b"]),
        "one prompt": lm.choose("A nurse", [" a", " b"]),
        "pictures": eyes.choose(looks, [" a", " b"]),
        "loglik": torch.cat(lm.loglik(SEVEN[2:])),
        "written": lm.generate([*SEVEN, "A", "A", "A"], max_new_tokens=6, temperature=1.0, seed=3),
        "greedy": lm.generate(SEVEN, max_new_tokens=6),
    }


def trained(lm: Model, name: str, **more: Any) -> Steering:
    anchors: Any = () if name == "one row a step" else None
    return sl.dso(lm, letters(), quick(**HOW[name]), anchors=anchors, progress=False, **more)


def curve(lm: Model, path: Path) -> Any:
    """A tradeoff whose points go into a file."""
    pushed = sl.Steering({"residual.1": sl.Add(tiny.vector())}, {})

    def measure(steered: Model) -> tuple[dict[str, float], dict[str, float]]:
        p = steered.choose(SEVEN, [" a", " b"])[:, 0].tolist()
        return dict(zip(map(str, range(7)), p, strict=True)), dict(zip(map(str, range(7)), p[::-1], strict=True))

    return sl.tradeoff(lm, {"push": pushed}, [0.5, 1.0], measure=measure, resamples=20, path=path).frame


def attempt(work: Callable[[], Any]) -> str:
    """The kind and the text of what is raised."""
    try:
        work()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def broken(lm: Model, rank: int, folder: Path) -> dict[str, str]:
    """What each process is told when something goes wrong in one of them."""
    found: dict[str, str] = {}

    def inside(name: str, work: Callable[[], Any]) -> None:
        def all_of_it() -> None:
            with parallel():
                work()

        found[name] = attempt(all_of_it)

    def goes_on() -> None:
        found["refused"] = attempt(lambda: lm.loglik(["Two words", "x", "Three more words"]))  # number 1 is too short
        found["and after that"] = str(tuple(lm.choose(SEVEN, [" a", " b"]).shape))

    def dies() -> None:
        if rank == 1:
            raise RuntimeError("no memory")
        lm.choose(SEVEN, [" a", " b"])

    def dies_in_a_step() -> None:
        handle = fire(lm, 7, RuntimeError("no memory")) if rank == 1 else None
        try:
            trained(lm, "exact")
        finally:
            if handle is not None:
                handle.remove()

    inside("went on", goes_on)
    inside("died", dies)
    inside("died in a step", dies_in_a_step)
    inside("other questions", lambda: lm.choose([f"Number {rank}", "A", "B"], [" a", " b"]))
    inside("left early", lambda: None if rank else lm.choose(SEVEN, [" a", " b"]))
    inside("cannot write", lambda: once(lambda: sl.Steering({"residual.1": sl.Add(tiny.vector())}, {}).save(folder)))
    return found


def commands(folder: Path, rank: int) -> dict[str, Any]:
    """The exit status and the words of commands on a model in a folder."""
    found: dict[str, Any] = {}
    model, task = str(folder / "model"), str(folder / "jobs.csv")
    asked = [
        "--task", task, "--task-option", "templates=['The {job} said', 'A {job} who']", "--task-option", "cluster=job",
        "--task-option", "options={man: a, woman: b}",
    ]  # fmt: skip
    made, out = str(folder / "two.safetensors"), str(folder / "two.json")
    train = ["train", model, *asked, "--method", "dso", "--epochs", "2", "--batch-size", "6", "--out", made]
    for name, words in {
        "train": [*train, "--method-option", "kl_target=5"],
        "measure": ["measure", model, *asked, "--steering", made, "--resamples", "50", "--out", out],
        "nowhere": [*train[:-1], str(folder / "nowhere" / "x.safetensors")],
    }.items():
        said, wrong = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = [main(words), said.getvalue(), "steerlib: " in wrong.getvalue()]
    return found


def run(folder: Path) -> None:
    warnings.simplefilter("ignore")
    lm = tiny.fresh("llama")
    seen: dict[str, Any] = {}
    with parallel() as here:
        seen["world"] = here.world
        seen["answers"] = answers(lm)
        made = {name: trained(lm, name) for name in HOW}
        seen["trained"] = {name: vectors(steering) for name, steering in made.items()}
        seen["history"] = {name: steering.provenance["history"] for name, steering in made.items()}
        seen["curve"] = curve(lm, folder / "points.jsonl").to_dict()
    rank, path = here.rank, folder / "run.checkpoint"

    def stopped() -> None:
        handle = fire(lm, 11, RuntimeError("stop"))
        try:
            with parallel():
                trained(lm, "exact", checkpoint=path)
        finally:
            handle.remove()

    seen["stopped"] = attempt(stopped)
    if rank == 0:
        (folder / "stopped.checkpoint").write_bytes(path.read_bytes())
    with parallel():
        seen["resumed"] = vectors(trained(lm, "exact", checkpoint=path))
    seen["broken"] = broken(lm, rank, folder)
    seen["alone again"] = lm.choose(SEVEN[:2], [" a", f" {rank}"])  # outside, everybody asks for itself
    seen["commands"] = commands(folder, rank)
    torch.save(seen, folder / f"rank{rank}.pt")
    print(json.dumps({"rank": rank, "done": True}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
