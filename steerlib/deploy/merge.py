"""`merge`: a plain checkpoint that does by its weights what a Steering does by hooks, or a refusal that says why there is none.

    norm(h) -> (1 + s a) norm(h) + s b   is   norm' with weight w (1 + s a), and W x + c -> W x + c + W (s b) in all that reads it
    h -> h + s v at a block's end        is   + s v in the bias of the map that ends the block

A merged model is one of the classes of transformers, which every engine serves without steerlib. Biases are made where its
configuration has a setting for them (`attention_bias`, `mlp_bias`); where it has none and the network does a Llama's
arithmetic, the model becomes a Llama. Nothing is taken on trust: at the end the logits of the merged model are compared with
those of the hooked one, in float32.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steerlib.deploy.fold import Fold, MapEdit, fold
from steerlib.errors import SteerlibError
from steerlib.models.holds import difference, has_bias, logits, matrix, probes, rebuilt, switches, with_settings
from steerlib.models.layout import changed
from steerlib.models.model import Model
from steerlib.models.retype import as_llama
from steerlib.models.sites import Site
from steerlib.steering.apply import steer
from steerlib.steering.operations import Steering

TOLERANCE = 1e-5
"""How far the logits of a merged model may be from those under hooks, in float32, relative to the largest."""


def merge(model: Model, steering: Steering, strength: float = 1.0) -> Model:
    """A plain model whose weights do what the steering does at all tokens; exact, or refused.

    The merge is computed and proven in float32, on text, and then rounded to the type of the model's weights.

    Args:
        model: left as it was.
        steering: what a method made, or a Steering by hand.
        strength: as in `steer`; it is fixed in the weights.

    Returns:
        A Model of a class of transformers: `save` writes it, and any engine serves it.

    Raises:
        SteerlibError: the steering does not fit the model, an operation has no place in the weights of its class, or the logits
            of the merged model are not those of the steered one.

    Example:
        >>> import steerlib as sl, torch
        >>> lm = sl.load("smollm2", device="cpu")
        >>> add = sl.Steering({"residual.12": sl.Add(0.5 * torch.ones(576))})
        >>> merged = sl.merge(lm, add, strength=0.5)
        >>> with sl.steer(lm, add, strength=0.5):
        ...     steered = lm.choose("The nurse said that", [" he", " she"])
        >>> plain = merged.choose("The nurse said that", [" he", " she"])
        >>> type(merged.hf).__name__, bool((plain - steered).abs().max() < 1e-4)
        ('LlamaForCausalLM', True)
        >>> found = sl.audit(merged, lm)
        >>> found.verdict, float(found.steering["residual.12"].vector[0])
        ('a steering and nothing else', 0.25)
    """
    check_plain(model, steering, "merge")
    wide = model.hf if model.hf.dtype == torch.float32 else copy.deepcopy(model.hf).float()
    ids = probes(wide)
    with steer(replace(model, hf=wide), steering, strength):  # which refuses what does not fit
        wanted = logits(wide, ids)
    hf = merged_weights(wide, steering, strength)
    off = difference(logits(hf, ids), wanted)
    if off > TOLERANCE:
        raise SteerlibError(
            f"the merged '{model.name}' does not give the logits of the steered one (they differ by {off:.1e} of the largest): "
            "something in this network reads or writes past its norms and maps, so steer it with hooks."
        )
    facts = {key: steering.provenance[key] for key in ("method", "model", "weights") if key in steering.provenance}
    hf.config.steering = {**facts, "strength": float(strength), "merged_by": "steerlib"}
    return replace(model, name=f"{model.name} (merged)", hf=hf.to(model.hf.dtype))


def check_plain(model: Any, steering: Any, verb: str) -> None:
    """Refuse what is not a plain Model and a Steering.

    Raises:
        SteerlibError: the model is changed now or has no plain weights, or something else was given.
    """
    if not isinstance(model, Model) or not isinstance(steering, Steering):
        raise SteerlibError(
            f"{verb} takes a Model and a Steering, not {type(model).__name__} and {type(steering).__name__}."
        )
    if now := changed(model.hf):
        raise SteerlibError(
            f"{verb} needs the model as it was loaded, and {now} changes it now: leave that `with` first."
        )
    if any(not weight.is_floating_point() for weight in model.hf.parameters()):
        raise SteerlibError(f"the weights of '{model.name}' are quantised: load it in float32 or bfloat16 to {verb}.")


def merged_weights(hf: Any, steering: Steering, strength: float) -> Any:
    """A network of its own class, or a Llama, with the steering in its weights; not yet compared with the steered one."""
    if strength == 0:
        return rebuilt(hf, type(hf), copy.deepcopy(hf.config), _cloned(hf.state_dict()))
    made = fold(hf, steering, strength)
    flags, missing = _settings(hf, made)
    if missing:
        llama = as_llama(hf)
        if llama is None:
            raise SteerlibError(_why(hf, missing, made))
        hf, made = llama, fold(llama, steering, strength)
        flags, still = _settings(hf, made)
        if still:
            raise SteerlibError(_why(hf, still, made))
    state = _edited(hf, made)
    config = with_settings(hf.config, flags)
    if any(edit.scale is not None or edit.low for name, edit in made.maps.items() if _tied(hf, name)):
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    for name in set(_empty_biases(hf, config)) - set(state):
        state[name] = torch.zeros(len(matrix(hf.get_submodule(name[:-5]))), device=hf.device)
    return rebuilt(hf, type(hf), config, state)


def _settings(hf: Any, made: Fold) -> tuple[list[str], dict[str, MapEdit]]:
    """The settings that give all biases that are needed, and the maps that no setting gives one."""
    needed = {name: edit for name, edit in made.maps.items() if edit.shift is not None and not has_bias(hf, name)}
    if not needed:
        return [], {}
    offered = switches(hf)
    flags = [flag for flag, names in offered.items() if any(f"{name}.bias" in names for name in needed)]
    given = frozenset[str]().union(*(offered[flag] for flag in flags))
    return flags, {name: edit for name, edit in needed.items() if f"{name}.bias" not in given}


def _why(hf: Any, missing: dict[str, MapEdit], made: Fold) -> str:
    """Why there is no merged model, in one sentence."""
    sites_ = sorted({site for edit in missing.values() for site in edit.sites})
    shown = ", ".join(map(str, sites_[:3])) + (f" and {len(sites_) - 3} more" if len(sites_) > 3 else "")
    maps = ", ".join(sorted({name.rpartition(".")[2] for name in missing}))
    family = type(hf).__name__
    if sites_ == [Site("norm", -1)]:
        size = max(float(edit.shift.abs().max()) for edit in missing.values() if edit.shift is not None)
        return (
            f"the shift at norm.final moves logits by up to {size:.3g}, and {maps} of a {family} has no bias to hold it: train with "
            "dso(where='mergeable'), export a PEFT adapter, or steer with hooks."
        )
    return (
        f"what is added at {shown} needs biases in {maps}, which a {family} does not have: train with dso(where='mergeable'), export "
        "a PEFT adapter, or steer with hooks."
    )


def _edited(hf: Any, made: Fold) -> dict[str, Tensor]:
    """A copy of the weights with the edits made."""
    state = _cloned(hf.state_dict())
    for name, (weight, bias) in made.norms.items():
        state[f"{name}.weight"] = weight.clone()
        if bias is not None:
            state[f"{name}.bias"] = bias.clone()
    for name, edit in made.maps.items():
        module = hf.get_submodule(name)
        if edit.scale is not None or edit.low:
            changed_ = edit.apply(matrix(module).float())
            state[f"{name}.weight"] = (changed_ if isinstance(module, nn.Linear) else changed_.T).contiguous()
        if edit.shift is not None:
            own = getattr(module, "bias", None)
            state[f"{name}.bias"] = edit.shift.clone() if own is None else own.float() + edit.shift
    return state


def _cloned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy in which what shares memory (tied embeddings) still does."""
    copies: dict[tuple[int, torch.Size], Tensor] = {}
    return {name: copies.setdefault((t.data_ptr(), t.shape), t.detach().clone()) for name, t in state.items()}


def _tied(hf: Any, name: str) -> bool:
    """Whether a map shares its weight with the embeddings."""
    return hf.get_submodule(name).weight is hf.get_input_embeddings().weight


def _empty_biases(hf: Any, config: Any) -> list[str]:
    """The biases that a network of this configuration has."""
    with torch.device("meta"):
        return [name for name in type(hf)(config).state_dict() if name.endswith(".bias")]
