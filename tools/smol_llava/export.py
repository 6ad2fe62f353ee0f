"""Write what is committed of a finished run: `python tools/smol_llava/export.py run`.

vision.safetensors holds the tower and the projector under the names that `LlavaForConditionalGeneration` gives them, in
float16; adapter_model.safetensors is the low-rank update of SmolLM2-135M-Instruct as PEFT stores it. Their hashes go into
sha256.json, which `load` checks. The logs of all stages become one, training.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from train import RANK

PREFIXES = {"tower.": "model.vision_tower.", "projector.": "model.multi_modal_projector."}


def export(weights: Path, folder: Path) -> None:
    stored = load_file(weights)
    vision, update = {}, {}
    for name, w in stored.items():
        for ours, theirs in PREFIXES.items():
            if name.startswith(ours):
                vision[theirs + name.removeprefix(ours)] = w.half()
        if "lora_" in name:
            plain = name.replace(".default.", ".")
            update[f"base_model.model.model.{plain}"] = w.half()
    assert len(vision) + len(update) == len(stored), "every weight has its place"
    assert all(w.isfinite().all() for w in (*vision.values(), *update.values()))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(vision, folder / "vision.safetensors", metadata={"format": "pt"})
    save_file(update, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    files = ("vision.safetensors", "adapter_model.safetensors")
    hashes = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}
    (folder / "sha256.json").write_text(json.dumps(hashes, indent=2) + "\n")
    for file in files:
        (folder / file).chmod(0o644)
    size = sum((folder / file).stat().st_size for file in files)
    print(f"{folder}: {size / 1e6:.1f} MB")


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("run", type=Path, help="the folder that train.py wrote to")
    run = parse.parse_args().run
    here = Path(__file__).resolve().parents[2] / "data" / "models" / "smol-llava"
    export(run / "web-1.safetensors", here)
    export(run / "web-0.safetensors", here.parent / "smol-llava-balanced")
    lines = [
        json.dumps({"stage": stage, **json.loads(line)}) + "\n"
        for stage in ("tower", "align", "ground", "web-1", "web-0")
        for line in (run / f"{stage}.jsonl").read_text().splitlines()
    ]
    (here / "training.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    main()
