"""A Steering inside an engine that serves: what no plain checkpoint holds, SGLang applies by its forward hooks.

    python -m sglang.launch_server --model-path MODEL --forward-hooks "$(cat hooks.json)"

SGLang hangs one hook, made by a factory from a JSON config, on every module whose name matches. Two of its habits matter. A norm
that is handed a residual returns (normalised, residual), of which the first is the site. And a block returns its last output and
the residual that it has not added yet, so that the site is their sum. Tokens lie in one row, (tokens, width), without
padding.

vLLM has no such hooks: give it the folder of a merged model (`merge`, `save`), whose biases it reads (`attention_bias`, `mlp_bias`).
An engine whose Llama has no biases in its MLP, as SGLang's had none when this was written, should get the plain model and hooks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.steering.apply import steer
from steerlib.steering.operations import load_steering

FACTORY = "steerlib.deploy.engines:hook_factory"


def sglang_hooks(
    model: Model, file: str | Path, strength: float = 1.0, *, decoder: str = "model"
) -> list[dict[str, Any]]:
    """The value of SGLang's `--forward-hooks` for a steering, one entry per site; `json.dumps` makes it text.

    Args:
        model: the same model as the server's, loaded here to find the sites' modules.
        file: a steering file, which the server must find under the same path.
        strength: as in `steer`.
        decoder: the name of the text decoder in SGLang's own class: "model" for text models, "language_model.model" for most that
            see.

    Returns:
        Mappings with name, target_modules, hook_factory and config, as SGLang documents them.

    Raises:
        SteerlibError: the file is not a steering, it does not fit the model, or it has heads, which a served model may split.

    Example:
        >>> import steerlib as sl
        >>> path = sl.data_path("steerings", "dso-smollm2-pronoun-0.safetensors")
        >>> hooks = sl.deploy.sglang_hooks(sl.load("smollm2", device="cpu"), path, strength=0.4)
        >>> len(hooks), hooks[0]["target_modules"], sorted(hooks[0]["config"])
        (61, ['model.layers.0.input_layernorm'], ['file', 'site', 'strength'])
    """
    steering = load_steering(file)
    with steer(model, steering, strength):  # refuses what does not fit
        pass
    names = {id(module): name for name, module in sites.decoder(model.hf).named_modules()}
    made = []
    for site in steering.operations:
        if site.kind == "head":
            raise SteerlibError(
                f"{site} is a head, and a server may split heads over processors: merge the steering instead."
            )
        where = f"{decoder}.{names[id(sites.find(model.hf, site).module)]}"
        config = {"file": str(Path(file).expanduser().resolve()), "site": str(site), "strength": float(strength)}
        made.append({"name": f"steerlib {site}", "target_modules": [where], "hook_factory": FACTORY, "config": config})
    return made


def hook_factory(config: Mapping[str, Any]) -> Callable[[Any, Any, Any], Any]:
    """The forward hook of one site, as SGLang asks a factory for it; it works on any module of torch.

    Args:
        config: file (of the steering), site (its name), strength.

    Returns:
        A hook (module, inputs, output) -> output. An output may be a tensor, or a pair as at the top of this file.

    Raises:
        SteerlibError: the config lacks a key, the file is not a steering, or it has nothing at the site.

    Example:
        >>> import steerlib as sl, tempfile, torch
        >>> file = tempfile.mkdtemp() + "/add.safetensors"
        >>> sl.Steering({"residual.0": sl.Add(torch.ones(2))}).save(file)
        >>> layer = torch.nn.Identity()
        >>> config = {"file": file, "site": "residual.0", "strength": 0.5}
        >>> handle = layer.register_forward_hook(sl.deploy.hook_factory(config))
        >>> layer(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    if missing := [key for key in ("file", "site", "strength") if key not in config]:
        raise SteerlibError(
            f"the config of a hook lacks {', '.join(missing)}: {json.dumps(dict(config), default=str)}."
        )
    site, strength = sites.parse(str(config["site"])), float(config["strength"])
    operation = load_steering(config["file"])[site]
    moved: dict[torch.device, Any] = {}  # made before a graph is captured, which runs the model once

    def changed(h: Tensor) -> Tensor:
        if h.device not in moved:
            moved[h.device] = operation.map(lambda vector: vector.to(h.device, torch.float32), fixed=True)
        result: Tensor = moved[h.device](h.float(), strength).to(h.dtype)
        return result

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return changed(output)
        first, *rest = output
        if site.kind == "norm" or not rest or not isinstance(rest[0], Tensor) or rest[0].shape != first.shape:
            return (changed(first), *rest)
        whole = first.float() + rest[0].float()  # a block's last output, and the residual that it belongs to
        return ((first.float() + changed(whole) - whole).to(first.dtype), *rest)

    return hook
