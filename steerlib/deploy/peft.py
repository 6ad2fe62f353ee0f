"""A Steering as a PEFT adapter, which holds more than a checkpoint of the family can, and leaves the model's own files alone.

    W x  ->  W x + B A x + beta      beta: (out,) the bias of B, which stands for W (s b); A = B = 0 where only a shift is needed
    norms with other weights         as "modules to save"

So the shift of the final norm has a place, too: as a bias of the head, which stays as it is. transformers and peft load such an
adapter; engines that know low-rank updates only (vLLM, llama.cpp) do not. Its strength is fixed: peft's own scaling does
not reach the norms.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from steerlib.deploy.fold import Fold, fold, folded_logits
from steerlib.deploy.merge import TOLERANCE, check_plain
from steerlib.deploy.save import whole_folder
from steerlib.errors import SteerlibError
from steerlib.models.holds import difference, is_map, logits, matrix, probes
from steerlib.models.model import Model
from steerlib.steering.apply import steer
from steerlib.steering.operations import Steering


def save_adapter(
    model: Model,
    steering: Steering,
    folder: str | Path,
    strength: float = 1.0,
    *,
    base: str | None = None,
    card: str = "",
) -> Path:
    """Write a steering as a PEFT adapter of the plain model; exact, or refused.

    Load it without steerlib by `peft.PeftModel.from_pretrained(model, folder)`.

    Args:
        model: the plain model, left as it was.
        steering: what a method made, or a Steering by hand.
        folder: a new one, in a folder that exists.
        strength: as in `steer`; not 0.
        base: the plain model's name on the hub or its folder, which is written into the adapter; None takes the model's name.
        card: the text of its README.md; without one there is none.

    Returns:
        The folder.

    Raises:
        SteerlibError: the steering does not fit the model, no adapter can do what it does, or the folder cannot be written.

    Example:
        >>> import steerlib as sl, tempfile, torch
        >>> lm = sl.load("smollm2", device="cpu")
        >>> shift = sl.Steering({"norm.final": sl.Affine(torch.zeros(576), 0.1 * torch.ones(576))})
        >>> path = sl.deploy.save_adapter(lm, shift, tempfile.mkdtemp() + "/adapter")
        >>> sorted(file.name for file in path.iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    check_plain(model, steering, "save_adapter")
    if strength == 0:
        raise SteerlibError("at strength 0 a steering does nothing, so there is no adapter to write.")
    wide = model.hf if model.hf.dtype == torch.float32 else copy.deepcopy(model.hf).float()
    ids = probes(wide)
    with steer(replace(model, hf=wide), steering, strength):
        wanted = logits(wide, ids)
    made = fold(wide, steering, strength)
    if names := sorted(name for name, edit in made.maps.items() if edit.scale is not None):
        raise SteerlibError(
            f"a low-rank update cannot multiply the columns of {names[0]} by factors of their own: merge instead."
        )
    off = difference(folded_logits(wide, made, ids), wanted)
    if off > TOLERANCE:
        raise SteerlibError(
            f"an adapter of '{model.name}' would not give the logits of the steered model (they would differ by {off:.1e} of the "
            "largest): steer it with hooks."
        )
    config, tensors = _adapter(wide, made, base or model.name)
    with whole_folder(folder) as scratch:
        (scratch / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        save_file(tensors, str(scratch / "adapter_model.safetensors"), metadata={"format": "pt"})
        if card:
            (scratch / "README.md").write_text(card, encoding="utf-8")
    return Path(folder).expanduser()


def _adapter(hf: object, made: Fold, base: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The two files of an adapter: its settings, and its tensors by the names that peft gives them."""
    modules = dict(hf.named_modules())  # type: ignore[attr-defined]
    norms = {name: both for name, both in made.norms.items() if not _same(modules[name], both)}
    edits = dict(made.maps)
    if not edits:  # peft wants a map to update
        edits[next(name for name, module in modules.items() if ".0." in name and is_map(module))] = made.map("")
    rank = max([1, *(len(edit.low) for edit in edits.values())])
    shifts = any(edit.shift is not None for edit in edits.values())
    tensors: dict[str, Tensor] = {}
    for name, edit in edits.items():
        out, inside = matrix(modules[name]).shape
        a, b = torch.zeros(rank, inside), torch.zeros(out, rank)
        for i, (left, right) in enumerate(edit.low):
            a[i], b[:, i] = right.cpu(), left.cpu()
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        if shifts:
            shift = torch.zeros(out) if edit.shift is None else edit.shift.cpu()
            tensors[f"base_model.model.{name}.lora_B.bias"] = shift.contiguous()
    for name, (weight, bias) in norms.items():
        tensors[f"base_model.model.{name}.weight"] = weight.cpu().clone()
        if bias is not None:
            tensors[f"base_model.model.{name}.bias"] = bias.cpu().clone()
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # so that updates count once
        "lora_dropout": 0.0,
        "lora_bias": shifts,
        "bias": "none",
        "fan_in_fan_out": any(not isinstance(modules[name], torch.nn.Linear) for name in edits),
        "inference_mode": True,
        "target_modules": sorted(edits),
        "modules_to_save": sorted(norms) or None,
    }
    return config, tensors


def _same(norm: object, both: tuple[Tensor, Tensor | None]) -> bool:
    weight, bias = both
    same = torch.equal(norm.weight.float(), weight)  # type: ignore[attr-defined]
    return same and (bias is None or torch.equal(norm.bias.float(), bias))  # type: ignore[attr-defined]
