"""Run a profile on a GPU rented from Modal, and bring the evidence back to this machine.

    pip install modal && modal setup
    modal run tools/modal_run.py --profile gpu --gpu A100-40GB

What runs there is tools/on_a_gpu.sh, on a copy of this checkout with its commit; run.json and all else come back to _build/modal/.
Models are kept in a volume of your account, `steerlib-cache`, for the next run. A token in HF_TOKEN here is handed on.
"""

import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import modal

HERE = Path(__file__).resolve().parents[1]
THERE = "/checkout"
LEFT_OUT = ["_build", "**/_build", ".venv", "**/__pycache__", "dist", ".*_cache"]
HOURS = 6

image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", "make")
    .env({"HF_HOME": "/cache/huggingface", "STEERLIB_CACHE": "/cache/steerlib", "PIP_CACHE_DIR": "/cache/pip"})
    .add_local_dir(HERE, THERE, ignore=LEFT_OUT)
)
app = modal.App("steerlib", image=image)
token = modal.Secret.from_dict({"HF_TOKEN": os.environ["HF_TOKEN"]} if os.environ.get("HF_TOKEN") else {})
cache = modal.Volume.from_name("steerlib-cache", create_if_missing=True)


@app.function(timeout=HOURS * 3600, volumes={"/cache": cache}, secrets=[token])  # type: ignore[untyped-decorator]  # modal is not in the lock
def evidence(profile: str, chapters: list[str], by: str) -> tuple[int, bytes]:
    """Run it there: the exit status of tools/on_a_gpu.sh, and the folder it left, packed."""
    work, left = Path("/tmp/work"), Path("/tmp/evidence")
    shutil.copytree(THERE, work)  # what is mounted need not be writable
    subprocess.run(["git", "config", "--global", "--add", "safe.directory", str(work)], check=True)
    command = ["bash", "tools/on_a_gpu.sh", profile, str(left), *chapters]
    made = subprocess.run(command, cwd=work, env=os.environ | {"RUN_BY": by}, check=False)
    cache.commit()
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(left, arcname=".")
    return made.returncode, packed.getvalue()


@app.local_entrypoint()  # type: ignore[untyped-decorator]
def main(profile: str = "gpu-small", gpu: str = "T4", chapters: str = "", by: str = "") -> None:
    """Rent the GPU, run, and unpack what came back."""
    target = HERE / "_build" / "modal"
    status, packed = evidence.with_options(gpu=gpu).remote(profile, chapters.split(), by)
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    print(f"exit status {status}; the run record, the table of claims and the chapters are in {target}")
    if status:
        raise SystemExit(status)
